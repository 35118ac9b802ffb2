"""Reading and listing the input, and reading, listing and writing the output, is enough."""

from __future__ import annotations

import io
import json
import re
import tarfile
from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
from fixtures import picture
from minio.error import S3Error
from recording import Call, Recorder
from security_store import BUCKET, LEAST, RIGHTS, ROOT, MarkedRun
from steps_chain import Chain

from clipseg_kfp.errors import StorageError
from clipseg_kfp.local.store import EmbeddedStore
from clipseg_kfp.results import Results, ledger
from clipseg_kfp.storage import open_folder
from clipseg_kfp.storage.s3 import connect
from tests.codes import fails

POLICY, SEAWEED = (
    json.loads(block)
    for block in re.findall(
        r"```json\n(.*?)```", (ROOT / "docs/permissions.md").read_text("utf-8"), re.DOTALL
    )
)


def allowing(call: Call) -> list[str]:
    """The statements of the documented policy that allow a call."""
    found = []
    for statement in POLICY["Statement"]:
        resource = f"arn:aws:s3:::{call.bucket}" + (f"/{call.key}" if call.key else "")
        wanted = statement.get("Condition", {}).get("StringLike", {}).get("s3:prefix", ["*"])
        if (
            call.action in statement["Action"]
            and any(fnmatchcase(resource, pattern) for pattern in statement["Resource"])
            and any(fnmatchcase(call.query.get("prefix", ""), pattern) for pattern in wanted)
        ):
            found.append(statement["Sid"])
    return found


def png(seed: int) -> bytes:
    buffer = io.BytesIO()
    picture(80, 60, seed).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def chain(least: Recorder, tiny_checkpoint: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Chain:
    """The pipeline's steps under the login of least rights; each test has its own prefixes."""
    name = re.sub(r"\W", "-", request.node.name)
    return Chain(
        tmp_path, tiny_checkpoint, f"s3://{BUCKET}/in/{name}", f"s3://{BUCKET}/out/{name}", views_seen=[]
    )


@pytest.fixture
def put(guarded: EmbeddedStore, chain: Chain) -> Callable[[str, bytes], None]:
    """Puts an object below the input, which the login of least rights cannot."""
    place = chain.source.removeprefix(f"s3://{BUCKET}/")

    def write(key: str, data: bytes) -> None:
        guarded.client().put_object(BUCKET, f"{place}/{key}", io.BytesIO(data), len(data))

    return write


@pytest.mark.parametrize(
    "attempt",
    [
        lambda c: list(c.list_buckets()) or c.make_bucket("made"),
        lambda c: c.bucket_exists(BUCKET),
        lambda c: c._execute("GET", BUCKET, query_params={"location": ""}),
        lambda c: list(c.list_objects(BUCKET)),
        lambda c: list(c.list_objects(BUCKET, "private/")),
        lambda c: list(c.list_objects("other")),
        lambda c: c.get_object(BUCKET, "private/x"),
        lambda c: c.get_object(BUCKET, "input/x"),
        lambda c: c.get_object("other", "in/x"),
        lambda c: c.put_object(BUCKET, "in/x", io.BytesIO(b"x"), 1),
        lambda c: c.put_object(BUCKET, "x", io.BytesIO(b"x"), 1),
        lambda c: c.remove_object(BUCKET, "in/x"),
    ],
)
def test_the_login_is_refused_all_else(guarded: EmbeddedStore, attempt: Callable[[Any], Any]) -> None:
    owner = guarded.client()
    for bucket, key in ((BUCKET, "private/x"), (BUCKET, "input/x"), (BUCKET, "in/x"), ("other", "in/x")):
        owner.put_object(bucket, key, io.BytesIO(b"x"), 1)
    with pytest.raises(S3Error) as caught:
        attempt(guarded.client(LEAST))
    assert caught.value.code == "AccessDenied"


def passed(call: Call) -> bool:
    """Whether the login was allowed: what is not there, or is there already, is no refusal."""
    return call.status in (200, 404) or (call.conditional and call.status == 412)


def test_the_documented_rights_are_those_tested() -> None:
    assert sorted(SEAWEED["actions"]) == sorted(RIGHTS)


def test_the_whole_pipeline_passes(marked_run: MarkedRun) -> None:
    """Model, prompt file and images from the store, by the command line and kfp's runner."""
    assert marked_run.status == 0, marked_run.console
    for call in marked_run.calls:
        assert passed(call), call
        assert allowing(call), f"not in docs/permissions.md: {call}"
    named = {action for statement in POLICY["Statement"] for action in statement["Action"]}
    parts = {"s3:AbortMultipartUpload"}  # large files only; see below
    assert {call.action for call in marked_run.calls} == named - parts, "a right that nothing needs"
    used = {statement for call in marked_run.calls for statement in allowing(call)}
    assert used == {statement["Sid"] for statement in POLICY["Statement"]}


@pytest.mark.parametrize("hide_missing", [False, True])
def test_two_runs_pass_where_the_second_reads_the_ledger(
    chain: Chain, put: Callable[[str, bytes], None], least: Recorder, hide_missing: bool
) -> None:
    """Also where a missing object gets the answer of AWS: 403, since the right to list has a prefix."""
    for i in range(2):
        put(f"images/{i}.png", png(i))
    put("images/broken.png", b"no image")
    least.hide_missing = hide_missing
    first = chain(run_id="one")
    assert (first.manifest["counts"]["done"], first.manifest["counts"]["quarantined"]) == (2, 1)
    put("images/new.png", png(7))
    second = chain(run_id="two")
    assert (second.manifest["counts"]["skipped"], second.manifest["counts"]["done"]) == (2, 1)
    assert any(call.status == 403 for call in least.calls) == hide_missing
    assert all(allowing(call) for call in least.calls)


def test_the_probe_the_claim_and_the_manifest_are_conditional(
    chain: Chain, put: Callable[[str, bytes], None], least: Recorder
) -> None:
    """What keeps two attempts apart needs no right to delete, and the input stays untouched."""
    put("images/0.png", png(0))
    run = chain(run_id="one")
    asked = {call.key.rpartition("/")[2]: call.status for call in least.calls if call.conditional}
    assert asked == {"configuration.json": 412, "attempt.json": 200, "manifest.json": 200}
    assert Results(open_folder(chain.output), run.config).fenced
    writes = [call for call in least.calls if call.method not in ("GET", "HEAD")]
    assert {call.method for call in writes} == {"PUT"}
    place = chain.output.removeprefix(f"s3://{BUCKET}/")
    assert all(call.key.startswith(f"{place}/") for call in writes)


def test_the_ledger_is_gathered_without_the_right_to_delete(
    chain: Chain, put: Callable[[str, bytes], None], least: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Old snapshots stay then, and all that is done is known all the same."""
    monkeypatch.setattr(ledger, "UNCOVERED_RUNS", -1)  # a snapshot after each run
    least.refuse_deletion = True
    for i in range(3):
        put(f"images/{i}.png", png(i))
        counts = chain(run_id=f"run-{i}").manifest["counts"]
        assert (counts["done"], counts["skipped"]) == (1, i)
    snapshots = [call for call in least.calls if call.method == "PUT" and "/ledger/" in call.key]
    assert len(snapshots) == 3
    refused = [call for call in least.calls if call.method == "DELETE"]
    assert refused and all(call.status == 403 and "/ledger/" in call.key for call in refused)
    assert all(call in refused or allowing(call) for call in least.calls)


def test_an_archive_and_a_manifest_pass(
    chain: Chain, put: Callable[[str, bytes], None], least: Recorder
) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        member = tarfile.TarInfo("a.png")
        member.size = len(png(1))
        archive.addfile(member, io.BytesIO(png(1)))
    put("set.tar", buffer.getvalue())
    put("b.png", png(2))
    put("set.csv", b"uri\nb.png\n")
    for name in ("set.tar", "set.tar", "set.csv"):
        run = chain(source=f"{chain.source}/{name}")
        assert run.dataset.listed == 1
    assert all(passed(call) and allowing(call) for call in least.calls)


def test_large_results_are_written_in_parts_with_the_same_rights(
    chain: Chain, least: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A part that fails for good cancels the upload; another one then begins anew."""
    (tmp_path / "large").write_bytes(bytes(11 << 20))
    least.fail_part = True
    monkeypatch.setenv("CLIPSEG_KFP_S3_TRIES", "1")
    connect.cache_clear()
    with pytest.raises(StorageError):
        open_folder(chain.output).upload("large", tmp_path / "large")
    assert not least.fail_part
    open_folder(chain.output).upload("large", tmp_path / "large")
    assert {"uploads", "uploadId"} <= {name for call in least.calls for name in call.query}
    assert {call.action for call in least.calls} == {
        "s3:PutObject", "s3:AbortMultipartUpload", "s3:GetObject",  # how large it is in the end
    }  # fmt: skip
    assert all(allowing(call) for call in least.calls)


def test_a_place_outside_is_refused_by_name(least: Recorder) -> None:
    """A refusal stays one, also where the question is whether something is missing."""
    folder = open_folder(f"s3://{BUCKET}/private")
    for call in (folder.stat, folder.read):
        with fails("access_denied", where="s3://shared/private/x"):
            call("x")
