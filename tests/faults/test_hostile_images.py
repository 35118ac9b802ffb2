"""Hostile images through the real step: no crash, no hang, memory bounded, and their neighbors unharmed."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import hostile_decoders
import numpy as np
import pytest
from conftest import Tally
from hostile_images import corpus, encode, many_scans, picture
from PIL import Image

from clipseg_kfp import decoding, records, workers
from clipseg_kfp.decoding import decode_mask
from clipseg_kfp.errors import ParameterError
from clipseg_kfp.images import ImageRejectedError, decode_image, to_model_input
from clipseg_kfp.model import ModelFacts
from clipseg_kfp.prompts import Files, gather, parse_prompts, write_table
from clipseg_kfp.prompts.files import mask_like
from clipseg_kfp.results import json_bytes
from clipseg_kfp.settings import Settings
from clipseg_kfp.steps import encode_prompts, preprocess_images
from clipseg_kfp.truth import GroundTruth, Reader, UnusableTruthError

SIDE, DOZEN = 32, 12
CODES = {
    *("empty", "not_an_image", "mislabelled", "unsupported_format", "truncated", "too_large", "damaged"),
    *("crashed", "timeout"),
}
WORKER_BYTES = 700_000_000  # of one worker at its peak, with 50 megapixels allowed


def write_shard(work: Path, files: dict[str, bytes], settings: Settings | None = None) -> None:
    """Writes what the step takes: a folder of images, the shard's table, encoded prompts."""
    facts = ModelFacts("digest", SIDE, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), 4)
    (work / "in").mkdir(parents=True)
    (work / encode_prompts.FACTS).write_bytes(json_bytes(facts.to_json()))
    prompts = gather(parse_prompts(["a thing"]), facts, 0.5, Files("", ""))
    write_table(work / encode_prompts.TABLE, prompts, np.zeros((1, 4), np.float32))
    (settings or Settings()).write(work)
    sources = []
    for name, data in files.items():
        (work / "in" / name).write_bytes(data)
        entry = preprocess_images.open_object(str(work / "in" / name))[0].stat(name)
        assert entry is not None
        uri = str(work / "in" / name)
        sources.append({"source": uri, "key": name, "uri": uri, "version": entry.version, "size": entry.size,
                        "ground_truth": []})  # fmt: skip
    records.write_parquet(work / "shards" / "a.parquet", records.SOURCES, sources)


def run(work: Path, **options: Any) -> tuple[list[dict[str, Any]], dict[int, np.ndarray]]:
    """Runs the step; returns its rows, and the first view of each image that is done."""
    preprocess_images.run(dataset=work, shard="a", prompts=work, target=work / "out", **options)
    rows = list(records.read_parquet(work / "out" / preprocess_images.IMAGES))
    views: dict[int, np.ndarray] = {}
    for batch in records.read_arrow(work / "out" / preprocess_images.VIEWS):
        for image, pixels in zip(batch["image"].to_pylist(), batch["pixels"].to_pylist(), strict=True):
            views.setdefault(image, np.frombuffer(pixels, np.uint8).reshape(SIDE, SIDE, 3))
    return rows, views


def healthy(seed: int) -> bytes:
    return encode(picture(seed), "PNG")


def mixed(hostile: dict[str, bytes]) -> dict[str, bytes]:
    """Puts a healthy image before each dozen, and one at the end."""
    files: dict[str, bytes] = {}
    for i, (name, data) in enumerate(hostile.items()):
        if i % DOZEN == 0:
            files[f"healthy-{i}.png"] = healthy(i)
        files[f"{name}.jpg"] = data
    files["healthy-last.png"] = healthy(10**6)
    return files


def check_all(files: dict[str, bytes], rows: list[dict[str, Any]], views: dict[int, np.ndarray]) -> None:
    """Every file is done or set aside with a reason, and the healthy ones have the right pixels."""
    assert [row["key"] for row in rows] == list(files)
    done = {i for i, row in enumerate(rows) if row["status"] == "done"}
    assert done == set(views)
    for i, row in enumerate(rows):
        if i in done:
            assert row["width"] > 0 and row["height"] > 0
        else:
            assert row["status"] == "quarantined" and row["reason"] in CODES and row["detail"], row
        if row["key"].startswith("healthy"):
            assert i in done, row
            expected = to_model_input(decode_image(files[row["key"]]), SIDE)
            assert np.array_equal(views[i], expected), row["key"]


def children() -> set[int]:
    found: set[int] = set()
    for path in Path("/proc/self/task").glob("*/children"):
        found.update(map(int, path.read_text().split()))
    return {pid for pid in found if b"clipseg_kfp.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()}


def peak_bytes(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return 1024 * int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:")))


def run_corpus(count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    monkeypatch.setenv(decoding.SECONDS_VARIABLE, "30")
    files = mixed(dict(corpus(count)))
    write_shard(tmp_path, files)
    rows, views = run(tmp_path)
    check_all(files, rows, views)
    for pid in children():
        assert peak_bytes(pid) < WORKER_BYTES
    return [row for row in rows if not row["key"].startswith("healthy")]


def test_sixty_hostile_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = run_corpus(60, tmp_path, monkeypatch)
    assert len(rows) == 60
    assert len({row["reason"] for row in rows}) > 5  # the corpus is no single kind of damage


@pytest.mark.faults
def test_the_corpus_of_hostile_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tally: Tally) -> None:
    rows = run_corpus(560, tmp_path, monkeypatch)
    assert len(rows) == 560
    tally.add("hostile_images", len(rows))
    tally.add("crashes", sum(row["reason"] == "crashed" for row in rows))
    assert not [row for row in rows if row["reason"] in ("crashed", "timeout")]


# --- decoders that really crash or hang -------------------------------------------------------------


def test_a_decoder_that_crashes_or_hangs_costs_its_image_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preprocess_images, "prepare", hostile_decoders.prepare)
    monkeypatch.setenv(decoding.SECONDS_VARIABLE, "6")
    words = {
        **{"segfault": hostile_decoders.SEGFAULT, "abort": hostile_decoders.ABORT},
        **{"leave": hostile_decoders.LEAVE, "hang": hostile_decoders.HANG, "sleep": hostile_decoders.SLEEP},
        **{"bloat": hostile_decoders.BLOAT, "killed": hostile_decoders.KILLED},
    }
    files: dict[str, bytes] = {}
    for name, word in words.items():
        files |= {f"healthy-{name}": healthy(len(files)), name: word}
    files |= {f"segfault-{i}": hostile_decoders.SEGFAULT for i in range(6)}
    files |= {f"healthy-{i}": healthy(i) for i in range(8)}
    write_shard(tmp_path, files)
    with pytest.raises(MemoryError):  # a defect of ours is no damage of the image
        run(tmp_path)
    del files["bloat"]
    write_shard(tmp_path / "again", files)
    rows, views = run(tmp_path / "again")
    check_all(files, rows, views)
    reasons = {row["key"]: row["reason"] for row in rows if row["status"] != "done"}
    assert reasons == {
        **{"segfault": "crashed", "abort": "crashed", "leave": "crashed", "killed": "crashed"},
        **{f"segfault-{i}": "crashed" for i in range(6)},
        **{"hang": "timeout", "sleep": "timeout"},
    }
    details = {row["key"]: row["detail"] for row in rows}
    assert "SIGSEGV" in details["segfault"] and "more memory" in details["killed"]
    assert decoding.SECONDS_VARIABLE in details["hang"]
    assert not list((tmp_path / "again" / "out").glob(".images-*"))


def test_a_real_file_that_takes_for_ever_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tens of thousands of scans over 16 megapixels: a small file, and hours of a sound decoder's time."""
    monkeypatch.setenv(decoding.SECONDS_VARIABLE, "3")
    files = {"healthy-1": healthy(1), "slow.jpg": many_scans(4096, 40_000), "healthy-2": healthy(2)}
    write_shard(tmp_path, files)
    start = time.monotonic()
    rows, views = run(tmp_path)
    assert time.monotonic() - start < 60
    check_all(files, rows, views)
    assert [row["reason"] for row in rows] == ["", "timeout", ""]


def test_masks_are_decoded_in_workers_too() -> None:
    mask = np.zeros((37, 51), bool)
    mask[5:20, 3:40] = True
    buffer = io.BytesIO()
    Image.fromarray(mask.view(np.uint8) * np.uint8(255)).save(buffer, "PNG")
    assert np.array_equal(decode_mask(buffer.getvalue(), "a.png"), mask)
    with pytest.raises(ImageRejectedError, match=r"^mislabelled: The file is named \.png"):
        decode_mask(b"no picture", "a.png")
    colors = picture(1)
    assert decoding.decode_image(encode(colors, "PNG")).tobytes() == colors.tobytes()


@pytest.mark.parametrize("kind", ["mask", "labels"])
def test_ground_truth_that_crashes_its_decoder_is_told_and_harmless(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    for name in ("decode_mask", "decode_labels"):
        monkeypatch.setattr(decoding, f"_{name}", getattr(hostile_decoders, name))
    things = np.zeros((30, 40), bool)
    things[4:9] = True
    Image.fromarray(things.view(np.uint8) * np.uint8(255)).save(tmp_path / "good.png")
    (tmp_path / "bad.png").write_bytes(hostile_decoders.SEGFAULT + b"...")

    def truth(name: str) -> GroundTruth:
        uri = str(tmp_path / name)
        if kind == "labels":
            return GroundTruth.of_labels("a circle", uri, [255])
        return GroundTruth("a circle", uri)

    reader = Reader()
    with pytest.raises(UnusableTruthError, match=r"bad\.png: crashed: Its decoder crashed \(SIGSEGV\)"):
        reader.read(truth("bad.png"), 40, 30)
    assert np.array_equal(reader.read(truth("good.png"), 40, 30).mask, things)


def test_a_support_image_that_crashes_its_decoder_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "_decode_mask", hostile_decoders.decode_mask)
    with pytest.raises(ParameterError, match=r"bolt\.png cannot be used as a mask\. Its decoder crashed"):
        mask_like(hostile_decoders.ABORT + b"...", "bolt.png", picture(1))


# --- workers never outlive the step -----------------------------------------------------------------

PROGRAM = """
import sys
from pathlib import Path
import hostile_decoders
from clipseg_kfp.steps import preprocess_images
preprocess_images.prepare = hostile_decoders.prepare
work = Path(sys.argv[1])
preprocess_images.run(dataset=work, shard="a", prompts=work, target=work / "out")
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_step_that_is_ended_leaves_no_worker(tmp_path: Path, number: signal.Signals) -> None:
    write_shard(tmp_path, {f"{i}": hostile_decoders.HANG for i in range(4)})
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent), decoding.SECONDS_VARIABLE: "300"}
    step = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(tmp_path)], env=environment, start_new_session=True
    )
    found: set[int] = set()

    def busy() -> bool:
        for path in Path(f"/proc/{step.pid}/task").glob("*/children"):
            found.update(map(int, path.read_text().split()))
        return bool(found) and all("sleep" in Path(f"/proc/{pid}/wchan").read_text() for pid in found)

    wait_until(busy, 60)
    if number == signal.SIGINT:
        os.killpg(step.pid, number)  # as a terminal does; the others reach the step alone
    else:
        step.send_signal(number)
    step.wait(30)
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in found), 10)


def wait_until(true: Any, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_workers_know_no_secret_and_import_nothing_heavy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "marked")
    pool = workers.Workers(1)
    try:
        environment, modules = pool.call(hostile_decoders.look_around, seconds=60)
    finally:
        pool.close()
    assert "marked" not in json.dumps(environment)
    assert not {"torch", "kfp", "pyarrow", "transformers"} & set(modules)
