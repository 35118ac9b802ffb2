"""What changes while a run is under way: each ends clearly, and nothing half done is to be seen."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from chain_fixtures import IMAGES, build_tiny, pool, source, task, tiny_model  # noqa: F401 - fixtures
from fixtures import Build
from killed_chain import End, Task, run
from minio.error import S3Error
from places import BucketPlace, FolderPlace, Objects, committed

from clipseg_kfp.local.store import EmbeddedStore, Identity

LISTED, SEGMENTED = 3, 5  # steps that are done: fetch_dataset, and segment_images of the first shard
on_a_bucket = pytest.mark.parametrize("task", ["bucket"], indirect=True)
Runs = Callable[..., End]


@pytest.fixture
def runs(pool: ProcessPoolExecutor) -> Runs:
    """Runs a task, or a number of its steps, in a process of its own."""
    return lambda task, steps=0: pool.submit(run, replace(task, steps=steps)).result()


def failed(end: End, *words: str) -> None:
    """Checks that a process ended with one message and a remedy."""
    assert end.status == 1, end
    assert "Traceback" not in end.error
    first, remedy = end.error.strip().splitlines()
    assert first.startswith("error: ") and remedy.startswith("  remedy: ")
    for word in words:
        assert word in end.error


def counts(objects: Objects) -> dict[str, int]:
    (manifest,) = committed(objects).values()
    return {name: manifest["counts"][name] for name in ("listed", "done", "skipped", "quarantined")}


def quarantine(objects: Objects) -> dict[str, str]:
    (table,) = (data for key, data in objects.items() if key.endswith("/quarantine.parquet"))
    return {row["key"]: row["reason"] for row in pq.read_table(io.BytesIO(table)).to_pylist()}


def in_bucket(task: Task) -> tuple[Task, BucketPlace]:
    """Moves the images of a task into its bucket."""
    assert isinstance(task.output, BucketPlace)
    images = task.output.beside("in")
    images.fill({path.name: path.read_bytes() for path in Path(task.source).iterdir()})
    return replace(task, source=images.uri), images


@on_a_bucket
def test_objects_replaced_and_deleted_after_they_were_listed(task: Task, runs: Runs) -> None:
    task, images = in_bucket(task)
    assert runs(task, LISTED).status == 0
    images.fill({"0.png": (images.read())["1.png"], "new.png": images.read()["2.png"]})
    images._client().remove_object(images.bucket, "in/2.png")
    assert runs(task).status == 0
    found = task.output.read()
    assert counts(found) == {"listed": IMAGES, "done": 1, "skipped": 0, "quarantined": 3}
    assert quarantine(found) == {"0.png": "changed", "2.png": "changed", "damaged.png": "mislabelled"}


@on_a_bucket
def test_a_bucket_emptied_after_it_was_listed(task: Task, runs: Runs) -> None:
    task, images = in_bucket(task)
    assert runs(task, LISTED).status == 0
    remove_all(images)
    end = runs(task)
    assert (end.status, end.views) == (0, 0)
    found = task.output.read()
    assert counts(found) == {"listed": IMAGES, "done": 0, "skipped": 0, "quarantined": IMAGES}
    assert set(quarantine(found).values()) == {"changed"}


def remove_all(place: BucketPlace) -> None:
    client = place._client()
    prefix = f"{place.prefix}/" if place.prefix else None
    for item in list(client.list_objects(place.bucket, prefix, recursive=True)):
        client.remove_object(place.bucket, str(item.object_name))


@on_a_bucket
def test_an_output_bucket_that_is_removed(task: Task, runs: Runs) -> None:
    place = task.output
    assert isinstance(place, BucketPlace)
    assert runs(task, SEGMENTED).status == 0
    remove_all(place.beside(""))
    place._client().remove_bucket(place.bucket)
    failed(runs(task), f"The bucket '{place.bucket}' does not exist", "never creates buckets")
    assert not place._client().bucket_exists(place.bucket)


@on_a_bucket
def test_a_change_of_the_listing_between_two_shards(task: Task, runs: Runs) -> None:
    task, images = in_bucket(task)
    assert runs(task, SEGMENTED + 1).status == 0
    there = images.read()
    images.fill({"new.png": there["0.png"]})
    images._client().remove_object(images.bucket, "in/2.png")
    assert runs(task).status == 0
    found = task.output.read()
    assert counts(found) == {"listed": IMAGES, "done": 2, "skipped": 0, "quarantined": 2}
    assert quarantine(found)["2.png"] == "changed"
    (task.work.parent / "next").mkdir()
    end = runs(replace(task, work=task.work.parent / "next", run_id="next"))
    assert (end.status, end.views) == (0, 1)  # the new one
    assert committed(task.output.read())["next"]["counts"]["done"] == 1


def test_a_model_replaced_where_it_came_from_changes_nothing(
    task: Task,
    runs: Runs,
    build_tiny: Build,
    tmp_path: Path,
) -> None:
    shutil.copytree(task.model, tmp_path / "model")
    task = replace(task, model=tmp_path / "model")
    assert runs(task, 1).status == 0
    shutil.copytree(build_tiny("simple"), tmp_path / "model", dirs_exist_ok=True)
    assert runs(task).status == 0
    assert counts(task.output.read())["done"] == IMAGES - 1


def test_a_model_replaced_between_steps(task: Task, runs: Runs, build_tiny: Build) -> None:
    assert runs(task, SEGMENTED - 1).status == 0
    shutil.copytree(build_tiny("simple"), task.work / "model", dirs_exist_ok=True)
    failed(runs(task), "encoded with another model")
    assert committed(task.output.read()) == {}


@pytest.fixture
def worker(store: EmbeddedStore, bucket: str) -> Iterator[Callable[..., dict[str, str]]]:
    """Gives a login of the real store its rights, then others while it runs."""
    path = store.data / "identities.json"
    before = path.read_text()
    server = int((store.data / "lock").read_text())

    def may(*actions: str, secret: str = "worker-secret-0123456789") -> dict[str, str]:
        identity = Identity("worker", f"worker-{bucket}", secret, ())
        login = {
            "name": f"worker-{bucket}",
            "credentials": [{"accessKey": identity.access_key, "secretKey": secret}],
            "actions": [f"{action}:{bucket}" for action in actions],
        }
        config = json.loads(before)
        config["identities"].append(login)
        path.write_text(json.dumps(config))
        os.kill(server, signal.SIGHUP)  # it reads its file again
        probe, deadline = store.client(identity), time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                probe.put_object(bucket, "probe", io.BytesIO(), 0)
                allowed = True
            except S3Error as error:
                if error.code != "AccessDenied":
                    time.sleep(0.05)
                    continue
                allowed = False
            if allowed == ("Write" in actions):
                return store.environment(identity)
            time.sleep(0.05)
        raise AssertionError("the store did not take the login")

    yield may
    path.write_text(before)
    os.kill(server, signal.SIGHUP)


@on_a_bucket
def test_credentials_that_end_in_the_middle(
    task: Task,
    runs: Runs,
    worker: Callable[..., dict[str, str]],
) -> None:
    assert isinstance(task.output, BucketPlace)
    old = worker("Read", "List", "Write")
    as_worker = replace(task, output=replace(task.output, environment=old))
    assert runs(as_worker, SEGMENTED).status == 0
    new = worker("Read", "List", "Write", secret="another-secret-0123456789")
    failed(runs(as_worker), "rejects the credentials", "s3://", "AWS_ACCESS_KEY_ID")
    assert committed(task.output.read()) == {}
    again = replace(task, output=replace(task.output, environment=new))
    assert runs(again).status == 0
    assert counts(task.output.read())["done"] == IMAGES - 1


@on_a_bucket
def test_an_output_that_may_only_be_read_is_noticed_before_the_inference(
    task: Task,
    runs: Runs,
    worker: Callable[..., dict[str, str]],
) -> None:
    assert isinstance(task.output, BucketPlace)
    as_reader = replace(task, output=replace(task.output, environment=worker("Read", "List")))
    end = runs(as_reader)
    failed(end, f"Access to {task.output.uri}/", "the output read, list and write")
    assert end.views == 0
    assert task.output.read() == {}


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """A small disk of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mounted(options: str) -> Path:
        command = ["mount", "-t", "tmpfs", "-o", options, "clipseg-kfp-test", str(folder)]
        if subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("mounting a small disk needs root")
        return folder

    yield mounted
    subprocess.run(["umount", str(folder)], capture_output=True, check=False)


def test_an_output_on_a_full_disk(task: Task, runs: Runs, disk: Callable[[str], Path]) -> None:
    small = disk("size=24k")
    task = replace(task, output=FolderPlace(small / "out"))
    failed(runs(task), f"{small}/out/", "No space left on device", "free space")
    found = task.output.read()
    assert committed(found) == {}
    assert not [key for key in found if ".part-" in key]
    subprocess.run(["mount", "-o", "remount,size=10m", str(small)], check=True)
    assert runs(task).status == 0
    assert counts(task.output.read())["done"] == IMAGES - 1


def test_a_full_disk_under_the_steps(task: Task, runs: Runs, disk: Callable[[str], Path]) -> None:
    size = sum(path.stat().st_size for path in task.model.iterdir())
    small = disk(f"size={size + 64_000}")
    (small / "work").mkdir()
    task = replace(task, work=small / "work")
    end = runs(task)
    failed(end, f"{small}/work/", "No space left on device", "free space")
    assert committed(task.output.read()) == {}


def test_a_folder_that_may_only_be_read(task: Task, runs: Runs, disk: Callable[[str], Path]) -> None:
    task = replace(task, output=FolderPlace(disk("ro") / "out"))
    end = runs(task)
    failed(end, str(task.output.uri), "Read-only file system", "permissions")
    assert end.views == 0
