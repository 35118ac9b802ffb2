"""preprocess_images: one bad object never costs its neighbours, and large images wait for each other."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from codes import fails
from encoded import write_encoded
from grouped import grouped
from minio.error import S3Error
from steps_chain import picture

from clipseg_kfp import records
from clipseg_kfp.engine.checkpoint import ModelFacts
from clipseg_kfp.errors import StorageError
from clipseg_kfp.steps import preprocess_images
from clipseg_kfp.steps.artifacts import Listing, PackedViews
from clipseg_kfp.steps.preprocess_images import Budget
from clipseg_kfp.storage import open_object
from clipseg_kfp.storage.s3 import S3Folder

FACTS = ModelFacts("digest", 32, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), 16)


class Shard:
    """A shard of given objects, and what becomes of it."""

    def __init__(self, work: Path) -> None:
        self.work = write_encoded(work, FACTS, ["thing"])

    def run(self, sources: list[dict[str, Any]], **options: Any) -> dict[str, dict[str, Any]]:
        records.write_parquet(Listing(self.work).shard_path("a"), records.SOURCES, sources)
        preprocess_images.run(
            dataset=self.work,
            shard="a",
            encoded_prompts=self.work,
            views=self.work / "out",
            **grouped(**options),
        )
        rows = records.read_parquet(PackedViews(self.work / "out").images_path)
        return {row["key"]: row for row in rows}


@pytest.fixture
def shard(tmp_path: Path) -> Shard:
    return Shard(tmp_path / "work")


def put(root: str, key: str, data: bytes) -> dict[str, Any]:
    uri = f"{root}/{key}"
    folder, name = open_object(uri)
    folder.write(name, data)
    entry = folder.stat(name)
    assert entry is not None
    return {"source": uri, "key": key, "uri": uri, "version": entry.version, "size": entry.size,
            "ground_truth": []}  # fmt: skip


def refusal(code: str, status: int) -> S3Error:
    class Response:
        pass

    response: Any = Response()
    response.status = status
    return S3Error(response, code, f"{code} it is", "r", "1", "h")


def test_files_that_cannot_be_read_are_set_aside(
    shard: Shard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = str(tmp_path / "in")
    sources = [put(root, f"{name}.png", picture(i)) for i, name in enumerate(("good", "locked", "folder"))]
    (tmp_path / "in" / "folder.png").unlink()
    (tmp_path / "in" / "folder.png").mkdir()
    sources.append({**sources[0], "key": "long.png", "uri": f"{root}/{'x' * 300}.png"})
    sources.append({**sources[0], "key": "nul.png", "uri": f"{root}/a\0b.png"})
    real = Path.open

    def refuse(self: Path, *arguments: Any, **options: Any) -> Any:  # permissions do not stop root
        if self.name == "locked.png":
            raise PermissionError(13, "Permission denied", str(self))
        return real(self, *arguments, **options)

    monkeypatch.setattr(Path, "open", refuse)
    rows = shard.run(sources)
    assert rows["good.png"]["status"] == "done"
    assert {key: row["reason"] for key, row in rows.items() if key != "good.png"} == {
        "locked.png": "unreadable",
        "folder.png": "unreadable",
        "long.png": "unreadable",
        "nul.png": "unreadable",
    }
    assert "locked.png: Permission denied." in rows["locked.png"]["detail"]


@pytest.mark.parametrize(
    ("code", "status"), [("AccessDenied", 403), ("InvalidObjectState", 403), ("MethodNotAllowed", 405)]
)
def test_an_object_that_the_store_refuses_is_set_aside(
    code: str, status: int, shard: Shard, bucket: str, s3_env: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = [put(f"s3://{bucket}/in", f"{name}.png", picture(i)) for i, name in enumerate(("good", "bad"))]
    sources.append({**sources[0], "key": "odd", "uri": f"s3://{bucket}/a/../b.png"})
    real = S3Folder._opened

    def refuse(self: S3Folder, key: str, version: str | None = None) -> Any:
        if key.endswith("bad.png"):
            raise refusal(code, status)
        if ".." in key:  # what minio-py says to keys that it will not send
            raise ValueError("object name with '..' is not supported")
        return real(self, key, version)

    monkeypatch.setattr(S3Folder, "_opened", refuse)
    rows = shard.run(sources)
    assert rows["good.png"]["status"] == "done"
    assert (rows["bad.png"]["status"], rows["bad.png"]["reason"]) == ("quarantined", "unreadable")
    assert "in/bad.png" in rows["bad.png"]["detail"]
    assert rows["odd"]["reason"] == "unreadable" and "Rename the object." in rows["odd"]["detail"]


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("NoSuchBucket", 404),
        ("InvalidAccessKeyId", 403),
        ("ExpiredToken", 400),
        ("RequestTimeTooSkewed", 403),
    ],
)
def test_a_store_that_fails_as_a_whole_ends_the_run(
    code: str, status: int, shard: Shard, bucket: str, s3_env: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = put(f"s3://{bucket}/in", "a.png", picture(0))

    def refuse(*_: Any) -> Any:
        raise refusal(code, status)

    monkeypatch.setattr(S3Folder, "_opened", refuse)
    with pytest.raises(StorageError):
        shard.run([source])


def test_details_name_the_limit_to_raise(shard: Shard, tmp_path: Path) -> None:
    sources = [put(str(tmp_path / "in"), "a.png", picture(0, 40, 30))]
    row = shard.run(sources, max_megapixels=0.001)["a.png"]
    assert row["reason"] == "too_large"
    assert "40 x 30" in row["detail"] and "max_megapixels" in row["detail"]
    row = shard.run(sources, max_megabytes=0.001)["a.png"]
    assert row["reason"] == "too_large" and "max_megabytes" in row["detail"]
    lying = [{**sources[0], "size": 1}]
    row = shard.run(lying, max_megabytes=0.001)["a.png"]
    assert row["reason"] == "too_large" and "max_megabytes" in row["detail"]


def test_a_budget_is_never_exceeded_and_one_too_large_runs_alone() -> None:
    budget, lock = Budget(100), threading.Lock()
    held: list[int] = []
    worst: list[tuple[int, int]] = []

    def work(cost: int) -> None:
        for _ in range(20):
            with budget.taken(cost):
                with lock:
                    held.append(cost)
                    worst.append((sum(held), len(held)))
                with lock:
                    held.remove(cost)

    threads = [threading.Thread(target=work, args=(cost,)) for cost in (30, 60, 70, 1000, 10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert not any(thread.is_alive() for thread in threads)
    assert len(worst) == 100
    assert all(total <= 100 or count == 1 for total, count in worst)


MEASURE = """
import json, sys
from pathlib import Path
from clipseg_kfp.steps import preprocess_images as step
work = Path(sys.argv[1])
# Of this program alone; ru_maxrss would begin with what the parent had.
peak = lambda pid="self": 1024 * int(
    next(line.split()[1] for line in open(f"/proc/{pid}/status") if line.startswith("VmHWM:"))
)
before = peak()
views = step.run(dataset=work, shard="a", encoded_prompts=work, views=work / "out")
workers = [pid for path in Path("/proc/self/task").glob("*/children") for pid in path.read_text().split()]
print(json.dumps({"views": views, "grown": peak() - before, "workers": [peak(pid) for pid in workers]}))
"""


def test_four_large_images_stay_within_the_pods_memory(tmp_path: Path) -> None:
    """CMYK with a rotation: 100 MB of pixels, a converted and a turned copy each, two at a time."""
    import io

    from PIL import Image
    from PIL.ExifTags import Base

    exif = Image.Exif()
    exif[Base.Orientation] = 6
    buffer = io.BytesIO()
    Image.new("CMYK", (6000, 4000), (10, 200, 30, 0)).save(buffer, "JPEG", exif=exif)
    sources = [put(str(tmp_path / "in"), f"{i}.jpg", buffer.getvalue()) for i in range(4)]
    write_encoded(tmp_path, FACTS, ["thing"])
    records.write_parquet(Listing(tmp_path).shard_path("a"), records.SOURCES, sources)
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(tmp_path)], capture_output=True, text=True, timeout=60, check=True
    )
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["views"] == 4
    assert found["workers"] and all(peak > 200_000_000 for peak in found["workers"][:1])  # it is measured
    assert found["grown"] + sum(found["workers"]) < preprocess_images.PIXEL_BYTES, found


def test_an_image_whose_maps_would_not_fit_is_set_aside(
    shard: Shard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two prompts on 32 pixels: 2,048 bytes of maps a view."""
    monkeypatch.setattr(preprocess_images, "MAP_BYTES", 2048 * 10)
    write_encoded(shard.work, FACTS, ["thing 0", "thing 1"], **grouped(tile_size=32, tile_overlap=0.0))
    sources = [put(str(tmp_path / "in"), f"{w}.png", picture(0, w, 96)) for w in (96, 128)]
    rows = shard.run(sources)
    assert rows["96.png"]["status"] == "done"  # nine tiles and the whole
    assert rows["128.png"]["reason"] == "too_large"
    assert "13 views" in rows["128.png"]["detail"] and "fewer prompts" in rows["128.png"]["detail"]


@pytest.mark.parametrize("text", ["soon", "0", "-1", "inf", "nan"])
def test_a_time_limit_that_is_none_is_named(
    text: str, shard: Shard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLIPSEG_KFP_DECODE_SECONDS", text)
    with fails("setting_invalid", where="CLIPSEG_KFP_DECODE_SECONDS"):
        shard.run([put(str(tmp_path / "in"), "a.png", picture(0))])
