"""Hostile images through the real step: no crash, no hang, memory bounded, and their neighbors unharmed."""

from __future__ import annotations

import ctypes
import io
import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import hostile_decoders
import numpy as np
import pytest
from conftest import Tally
from encoded import write_encoded
from grouped import grouped
from hostile_images import corpus, encode, many_scans, picture
from PIL import Image

from clipseg_kfp import records
from clipseg_kfp.engine.checkpoint import ModelFacts
from clipseg_kfp.errors import ParameterError
from clipseg_kfp.images import guarded as decoding
from clipseg_kfp.images.decode import ImageRejectedError, decode_image, to_model_input
from clipseg_kfp.images.guarded import decode_mask
from clipseg_kfp.options import Views
from clipseg_kfp.prompts.files import mask_like
from clipseg_kfp.runtime import messages, workers
from clipseg_kfp.runtime import worker_main as worker
from clipseg_kfp.runtime.resources import cpu_limit
from clipseg_kfp.steps import preprocess_images, timing
from clipseg_kfp.steps.artifacts import Listing, PackedViews
from clipseg_kfp.truth import GroundTruth, Reader, UnusableTruthError

SIDE, DOZEN = 32, 12
CODES = {
    *("empty", "not_an_image", "mislabelled", "unsupported_format", "truncated", "too_large", "damaged"),
    *("crashed", "timeout"),
}
WORKER_BYTES = 700_000_000  # of one worker at its peak, with 50 megapixels allowed
STEP_BYTES = 1_000_000_000  # of the process that feeds them
LANDLOCK = sys.platform == "linux" and ctypes.CDLL(None).syscall(444, None, ctypes.c_size_t(0), 1) > 0
CPU_SECONDS = 30  # of one image

PROGRAM = """
import sys
from pathlib import Path
import hostile_decoders
from clipseg_kfp.steps import preprocess_images
work, name = Path(sys.argv[1]), sys.argv[2]
preprocess_images.prepare = getattr(hostile_decoders, name)
preprocess_images.run(dataset=work, shard="a", encoded_prompts=work, views=work / "out")
print(hostile_decoders.peak_bytes())
"""


def write_shard(work: Path, files: dict[str, bytes], views: Views | None = None) -> None:
    """Writes what the step takes: a folder of images, the shard's table, encoded prompts."""
    facts = ModelFacts("digest", SIDE, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), 4)
    (work / "in").mkdir(parents=True)
    write_encoded(work, facts, ["a thing"], views=views)
    sources = []
    for name, data in files.items():
        (work / "in" / name).write_bytes(data)
        entry = preprocess_images.open_object(str(work / "in" / name))[0].stat(name)
        assert entry is not None
        uri = str(work / "in" / name)
        sources.append({"source": uri, "key": name, "uri": uri, "version": entry.version, "size": entry.size,
                        "ground_truth": []})  # fmt: skip
    records.write_parquet(Listing(work).shard_path("a"), records.SOURCES, sources)


def run(work: Path, **options: Any) -> tuple[list[dict[str, Any]], dict[int, np.ndarray]]:
    """Runs the step; returns its rows, and the first view of each image that is done."""
    preprocess_images.run(
        dataset=work, shard="a", encoded_prompts=work, views=work / "out", **grouped(**options)
    )
    return results(work)


def start(work: Path, prepare: str, seconds: int) -> subprocess.Popen[str]:
    """Starts the step in a process group of its own, with one of the hostile decoders."""
    path = os.pathsep.join(filter(None, [str(Path(__file__).parent), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path, decoding.SECONDS_VARIABLE: str(seconds)}
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(work), prepare],
        env=environment,
        start_new_session=True,
        stdout=subprocess.PIPE,
        text=True,
    )


def results(work: Path) -> tuple[list[dict[str, Any]], dict[int, np.ndarray]]:
    rows = list(records.read_parquet(PackedViews(work / "out").images_path))
    views: dict[int, np.ndarray] = {}
    for batch in records.read_arrow(PackedViews(work / "out").views_path):
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


def run_corpus(count: int, tmp_path: Path) -> list[dict[str, Any]]:
    """Runs the step over hostile images in a process of its own, and looks at what it took."""
    files = mixed(dict(corpus(count)))
    write_shard(tmp_path, files)
    step = start(tmp_path, "measured", seconds=1800)
    said, _ = step.communicate()
    assert step.returncode == 0
    rows, views = results(tmp_path)
    check_all(files, rows, views)
    assert int(said.splitlines()[-1]) < STEP_BYTES
    costs = [line.split() for line in (tmp_path / hostile_decoders.COSTS).read_text().splitlines()]
    assert len(costs) >= len(files)  # what wants more memory is asked twice
    assert max(int(peak) for peak, _ in costs) < WORKER_BYTES
    assert max(float(cpu) for _, cpu in costs) < CPU_SECONDS
    return [row for row in rows if not row["key"].startswith("healthy")]


def test_sixty_hostile_images(tmp_path: Path) -> None:
    rows = run_corpus(60, tmp_path)
    assert len(rows) == 60
    assert len({row["reason"] for row in rows}) > 5  # the corpus is no single kind of damage


@pytest.mark.faults
def test_the_corpus_of_hostile_images(tmp_path: Path, tally: Tally) -> None:
    rows = run_corpus(560, tmp_path)
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
        **{"pickle": hostile_decoders.PICKLE},
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
        **{"pickle": "crashed"},
        **{f"segfault-{i}": "crashed" for i in range(6)},
        **{"hang": "timeout", "sleep": "timeout"},
    }
    details = {row["key"]: row["detail"] for row in rows}
    assert "SIGSEGV" in details["segfault"] and "more memory" in details["killed"]
    assert decoding.SECONDS_VARIABLE in details["hang"]
    packed = PackedViews(tmp_path / "again" / "out")
    assert sorted(path.name for path in packed.folder.iterdir()) == [
        packed.images_path.name,
        packed.previews_path.name,
        timing.FILE,
        "shard.txt",
        packed.views_path.name,
    ]


def test_a_real_file_that_takes_for_ever_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tens of thousands of scans over 16 megapixels: a small file, and hours of a sound decoder's time."""
    monkeypatch.setenv(decoding.SECONDS_VARIABLE, "3")
    files = {"healthy-1": healthy(1), "slow.jpg": many_scans(4096, 40_000), "healthy-2": healthy(2)}
    write_shard(tmp_path, files)
    rows, views = run(tmp_path)
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
        monkeypatch.setattr(decoding.decode, name, getattr(hostile_decoders, name))
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
    with pytest.raises(UnusableTruthError) as caught:
        reader.read(truth("bad.png"), 40, 30)
    assert caught.value.code == "crashed" and caught.value.where.endswith("bad.png")
    assert np.array_equal(reader.read(truth("good.png"), 40, 30).mask, things)


def test_a_support_image_that_crashes_its_decoder_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding.decode, "decode_mask", hostile_decoders.decode_mask)
    with pytest.raises(ParameterError, match=r"bolt\.png cannot be used as a mask\. Its decoder crashed"):
        mask_like(hostile_decoders.ABORT + b"...", "bolt.png", picture(1))


# --- workers never outlive the step -----------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_step_that_is_ended_leaves_no_worker(tmp_path: Path, number: signal.Signals) -> None:
    count = cpu_limit()
    write_shard(tmp_path, {f"{i}": hostile_decoders.HANG for i in range(count)})
    step = start(tmp_path, "prepare", seconds=3000)
    found: set[int] = set()

    def busy() -> bool:
        found.update(int(path.suffixes[0][1:]) for path in tmp_path.glob("out/.images/*.busy"))
        return len(found) == count

    wait_until(busy)
    if number == signal.SIGINT:
        os.killpg(step.pid, number)  # as a terminal does; the others reach the step alone
    else:
        step.send_signal(number)
    step.communicate(timeout=300)
    wait_until(lambda: not any(map(is_alive, found)))


def is_alive(pid: int) -> bool:
    """Whether a process runs; where no init collects the dead, they stay as zombies."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until(true: Callable[[], bool], seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


PIPE: list[Connection] = []
CALLED = threading.Event()


def is_taken_before() -> bool:
    """Whether the worker that runs this has said something before."""
    said = PIPE[0].poll(0)
    CALLED.set()
    return said


def test_the_time_of_a_task_begins_when_its_imports_are_done() -> None:
    """The worker says so in between; until then its caller waits as for a process that starts."""
    ours, theirs = Pipe()
    PIPE.append(ours)
    thread = threading.Thread(target=worker.serve, args=(theirs,))
    thread.start()
    assert ours.recv() == worker.READY
    ours.send((is_taken_before, ()))
    assert CALLED.wait(60)
    assert ours.recv() == worker.TAKEN
    assert ours.recv() == (True, True)
    ours.close()
    thread.join()


def test_nobody_else_reads_the_memory_of_who_feeds_workers() -> None:
    """Not even a worker that was taken over: it would find the credentials there."""
    program = (
        "import ctypes; from clipseg_kfp.runtime.workers import shared; shared(); "
        "print(ctypes.CDLL(None).prctl(3))"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "0"


@pytest.mark.parametrize(
    "answer",
    [
        (True, os.system),
        (True, np.zeros(2)),
        (True, subprocess.Popen),
        (False, "no exception"),
        (False, KeyboardInterrupt()),
        [True],
        b"",
    ],
    ids=["function", "array", "class", "no error", "interrupt", "no pair", "no answer"],
)
def test_an_answer_that_no_decoder_gives(answer: object) -> None:
    with pytest.raises(messages.BadMessageError):
        messages.parse_result(pickle.dumps(answer) if answer else b"")


def test_a_killed_task_is_tried_once_more_alone(tmp_path: Path) -> None:
    pool = workers.Workers(3)
    try:
        with ThreadPoolExecutor(12) as threads:
            tasks = [
                threads.submit(pool.call, hostile_decoders.killed_beside_others, tmp_path, i, seconds=60)
                for i in range(12)
            ]
            assert [task.result() for task in tasks] == list(range(12))
        assert (tmp_path / "tries").read_text().split()[-2:] == ["0", "0"]
        with pytest.raises(workers.WorkerEndedError) as caught:  # killed again: it was the image
            pool.call(hostile_decoders.misbehave, hostile_decoders.KILLED, seconds=60)
        assert caught.value.signal_name == "SIGKILL"
        assert pool.call(abs, -3, seconds=60) == 3
    finally:
        pool.close()


@pytest.mark.skipif(not LANDLOCK, reason="needs Landlock, in Linux 5.13 and later")
def test_workers_cannot_look_into_any_other_process() -> None:
    """Whose environment may hold credentials: the parent, its parent, and a process of the same user."""
    version = ctypes.CDLL(None).syscall(444, None, ctypes.c_size_t(0), 1)
    allowed = set() if version >= 6 else {"signal"}
    with subprocess.Popen(["sleep", "60"]) as other:
        pool = workers.Workers(1)
        try:
            for process in (os.getpid(), os.getppid(), other.pid):
                assert set(pool.call(hostile_decoders.look_into, process, seconds=60)) <= allowed
        finally:
            pool.close()
            other.kill()


@pytest.mark.parametrize(
    "name",
    [
        "LANGCHAIN_API_KEY",
        "LC_TOKEN",
        "PYTHON_KEYRING_PASSWORD",
        "TMP_SECRET",
        "LD_API_KEY",
        "HOMEBREW_TOKEN",
    ],
)
def test_only_variables_of_exact_names_reach_a_worker(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "marked")
    assert name not in workers._environment()


def test_workers_know_no_secret_and_import_nothing_heavy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "marked")
    pool = workers.Workers(1)
    try:
        environment, modules = pool.call(hostile_decoders.look_around, seconds=60)
    finally:
        pool.close()
    assert "marked" not in json.dumps(environment)
    assert not {"torch", "kfp", "pyarrow", "transformers"} & set(modules)
