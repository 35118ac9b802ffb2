"""Measures what reading the ledger costs after a thousand runs and a million images.

    .venv/bin/python tests/bench/ledger.py [--runs 1000] [--images 1000] [--s3] [--out ledger.json]

The history is real: tables and manifests, committed one run after the other, without masks. Each measurement
is a process of its own, for its peak memory. Seconds are told beside those of a plain listing of all runs'
files in the same store, since machines and stores differ.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from clipseg_kfp import records
from clipseg_kfp.local.store import EmbeddedStore
from clipseg_kfp.naming import digest
from clipseg_kfp.results import IMAGES, Counts, Results
from clipseg_kfp.results.ledger import DONE, Ledger
from clipseg_kfp.storage import open_folder

CONFIG = "0123456789abcdef"
AT_ONCE = 1000


def key_of(number: int) -> str:
    return f"camera-{number % 97:02d}/2026/image-{number:08d}.jpg"


def build(results: Results, runs: int, images: int) -> None:
    """Commits the history."""
    results.describe({})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, IMAGES)
        for run in range(runs):
            keys = [key_of(run * images + i) for i in range(images)]
            known = {
                "source": [f"s3://in/{key}" for key in keys],
                "key": keys,
                "version": [digest(key, 32) for key in keys],
                "status": ["done"] * images,
            }
            columns = [
                pa.array(known.get(field.name, [None] * images), field.type) for field in records.RUN_IMAGES
            ]
            pq.write_table(pa.table(columns, schema=records.RUN_IMAGES), path, compression="zstd")
            attempt = results.begin(f"run-{run:05d}", run)
            attempt.add(IMAGES, path)
            body = {"source_uri": "s3://in", "dataset_digest": f"{run}", "parts": []}
            attempt.commit(Counts(images, images, 0, 0, 0), body)


def measure(what: str, uri: str, count: int) -> dict[str, float]:
    """One measurement, in this process."""
    results = Results(open_folder(uri), CONFIG)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    if what == "list":
        assert sum(1 for _ in results.folder.names("runs/"))
    elif what == "read":
        ledger = Ledger.read(results)
        assert len(ledger.done) == count
    elif what == "compact":
        Ledger.read(results).compact()
    else:
        ledger = Ledger.read(results)
        assert len(ledger.done) == count
        images = [(key, digest(key, 32)) for key in map(key_of, range(count))]
        start = time.perf_counter()
        for first in range(0, count, AT_ONCE):
            assert set(ledger.states(images[first : first + AT_ONCE])) == {DONE}
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"seconds": seconds, "peak_mb": peak / 1024, "grown_mb": (peak - before) / 1024}


def alone(what: str, uri: str, count: int) -> dict[str, float]:
    """The same in a process of its own."""
    command = [sys.executable, __file__, "--measure", what, "--uri", uri, "--count", str(count)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def bench(uri: str, runs: int, images: int) -> dict[str, Any]:
    """Builds a history and measures it without a snapshot, and with one."""
    results, count = Results(open_folder(uri), CONFIG), runs * images
    start = time.perf_counter()
    build(results, runs, images)
    found: dict[str, Any] = {"runs": runs, "images": count, "build_seconds": time.perf_counter() - start}
    for name, what in (("list", "list"), ("read run by run", "read"), ("gather", "compact"),
                       ("read the snapshot", "read"), ("look up all images", "states")):  # fmt: skip
        found[name] = alone(what, uri, count)
    plain = found["list"]["seconds"]
    for name, row in found.items():
        if isinstance(row, dict):
            row["times_listing"] = row["seconds"] / plain
            print(
                f"{name:<20} {row['seconds']:8.2f} s  {row['times_listing']:7.1f} x listing  "
                f"{row['peak_mb']:6.0f} MB peak, {row['grown_mb']:5.0f} MB of it here",
                flush=True,
            )
    return found


def main() -> None:
    """Reads the command line and measures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--images", type=int, default=1000, help="of each run")
    parser.add_argument("--s3", action="store_true", help="in SeaweedFS instead of a folder")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    parser.add_argument("--uri", help=argparse.SUPPRESS)
    parser.add_argument("--count", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure, options.uri, options.count)))
        return
    with tempfile.TemporaryDirectory() as folder:
        if options.s3:
            import os

            with EmbeddedStore(Path(folder, "store")) as store:
                store.make_bucket("bench")
                os.environ.update(store.environment())
                found = bench("s3://bench/out", options.runs, options.images)
        else:
            found = bench(folder, options.runs, options.images)
    if options.out:
        options.out.write_text(json.dumps(found, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
