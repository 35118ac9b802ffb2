"""Every fault on every kind of call, between the library and the real store."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from functools import partialmethod
from pathlib import Path

import proxy as faults
import pytest
from conftest import Tally
from minio import Minio

from clipseg_kfp.errors import StorageError
from clipseg_kfp.storage import open_folder, s3
from clipseg_kfp.storage.connection import connect
from clipseg_kfp.storage.s3 import S3Folder
from tests.codes import fails

SMALL = [f"{n} ü.jpg" for n in range(5)]
LARGE = "large.bin"
PARTS_SIZE = 6 << 20  # goes in two parts
SETTINGS = {"TIMEOUT": "30", "MIN_RATE": "1e6", "BACKOFF": "0.01", "TRIES": "4", "DEADLINE": "600"}
#: Faults that show when time is up. Only with these is it short, for calls that come alone and for those of an
#: upload, where calls without a fault have to be in time.
SLOW, SHORT, OF_AN_UPLOAD = ("stall", "stall within", "drip"), "0.5", "2"
CAUSES = {
    "reset": "Connection reset|closed connection",
    "reset within": "reset|IncompleteRead|within the headers",
    "lost answer": "Connection reset|closed connection",
    "hang up": "closed connection",
    "stall": "timed out",
    "stall within": "timed out|took",
    "drip": "timed out|bytes took",
    "429": "status 429",
    "500": "InternalError|status 500",
    "503": "status 503",
    "cut": "IncompleteRead|1,500 of 3,000 bytes|within the headers",
    "damaged": "not an S3 answer|MD5",
    "damaged request": "BadDigest|MalformedXML|InvalidPart|NoSuchUpload|XAmzContentSHA256Mismatch",
    "page": "not an S3 answer|without an ETag",
    "blank": "not an S3 answer|without an ETag",
    "200 error": "not an S3 answer|without an ETag",
}


def applies(call: str, fault: str) -> bool:
    if fault == "damaged request":
        return call in faults.WITH_A_BODY
    if fault == "damaged":
        return call in faults.ANSWERED_WITH_A_BODY
    return not (fault in ("page", "blank", "200 error") and call == "DELETE")  # there 200 is all that is told


PAIRS = [
    pytest.param(call, fault, id=f"{call}-{fault}".replace(" ", "-"))
    for call in faults.CALLS
    if call != "ABORT"
    for fault in faults.FAULTS
    if applies(call, fault)
]


@pytest.fixture
def proxy(s3_env: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[faults.FaultProxy]:
    """A proxy before the store, which the environment names as the endpoint."""
    with faults.running(s3_env["S3_ENDPOINT"]) as running:
        monkeypatch.setenv("S3_ENDPOINT", running.endpoint)
        configure(monkeypatch, **SETTINGS)
        yield running


def configure(monkeypatch: pytest.MonkeyPatch, **settings: str) -> None:
    for name, value in settings.items():
        monkeypatch.setenv(f"CLIPSEG_KFP_S3_{name}", value)
    connect.cache_clear()


def timeout_for(call: str, fault: str) -> str:
    if fault not in SLOW:
        return SETTINGS["TIMEOUT"]
    return SHORT if call in ("LIST", "HEAD", "GET", "PUT", "CREATE", "DELETE") else OF_AN_UPLOAD


class Calls:
    """One call of each kind, and what must be true after it."""

    def __init__(self, bucket: str, proxy: faults.FaultProxy, work: Path) -> None:
        self.proxy, self.work, self.bucket = proxy, work, bucket
        self.data = {key: os.urandom(3000) for key in SMALL}
        for key, data in self.data.items():
            self.folder.write(key, data)

    @property
    def folder(self) -> S3Folder:
        opened = open_folder(f"s3://{self.bucket}/in put")
        assert isinstance(opened, S3Folder)
        return opened

    def make(self, call: str) -> str:
        """Makes a call, checks its result, and returns the key that an error must name."""
        key = SMALL[2]
        if call == "LIST":
            listed = [entry.key for entry in self.folder.entries()]
            assert sorted(listed) == sorted(self.data)
            return ""
        if call == "HEAD":
            entry = self.folder.stat(key)
            assert entry is not None and entry.size == len(self.data[key])
        elif call == "GET":
            assert self.folder.read(key, limit=3000) == self.data[key]
            self.folder.download(key, self.work / "copy")
            assert (self.work / "copy").read_bytes() == self.data[key]
        elif call == "PUT":
            self.data["new"] = os.urandom(3000)
            self.folder.write("new", self.data["new"])
        elif call == "CREATE":
            name = f"claim {len(self.data)}"  # a new one each time: one that is taken is refused at once
            self.data[name] = os.urandom(3000)
            created = self.folder.create(name, self.data[name])
            # Whatever was said, and if an answer was lost: who finds its own bytes has won.
            assert self.folder.read(name) == self.data[name]
            assert created or self.proxy.broken.total(), "nobody else was there"
            assert not self.folder.create(name, b"another's"), "the store ignores conditions"
        elif call == "DELETE":
            self.data.pop(key, None)
            self.folder.delete(key)
        else:
            self.data[LARGE] = os.urandom(PARTS_SIZE)
            (self.work / "large").write_bytes(self.data[LARGE])
            self.folder.upload(LARGE, self.work / "large")
        return key

    def check_store(self) -> tuple[int, int]:
        """Compares every object with what was written; returns the numbers of lost and doubled ones."""
        self.proxy.reset(faults.calm)
        listed = [entry.key for entry in self.folder.entries()]
        right = {key for key in set(listed) & self.data.keys() if self.folder.read(key) == self.data[key]}
        return len(self.data.keys() - right), len(listed) - len(self.data.keys() & set(listed))


@pytest.fixture
def calls(bucket: str, proxy: faults.FaultProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Calls:
    # A listing takes three calls.
    monkeypatch.setattr(s3, "PAGE", 2)
    monkeypatch.setattr(Minio, "_list_objects", partialmethod(Minio._list_objects, max_keys=2))
    return Calls(bucket, proxy, tmp_path)


def survive(calls: Calls, call: str, fault: str, monkeypatch: pytest.MonkeyPatch) -> int:
    """Two faults in a row: the call ends right."""
    configure(monkeypatch, TIMEOUT=timeout_for(call, fault), TRIES="8")
    first = 2 if call == "LIST" else 1  # in the middle of a listing
    calls.proxy.reset(faults.on(call, fault, (first, first + 1)))
    calls.make(call)
    broken = calls.proxy.broken[call, fault]
    assert broken == 2
    configure(monkeypatch, **SETTINGS)
    return broken


def give_up(calls: Calls, call: str, fault: str, monkeypatch: pytest.MonkeyPatch) -> int:
    """The fault never ends: an error names the key, the number of tries and the last cause."""
    configure(monkeypatch, TIMEOUT=timeout_for(call, fault), TRIES="2")
    kept = dict(calls.data)
    calls.proxy.reset(faults.on(call, fault))
    with pytest.raises(StorageError) as caught:
        calls.make(call)
    message = str(caught.value)
    written = {"PUT": "new", "CREATE": "claim", "LIST": ""}
    named = {**written, **dict.fromkeys(("HEAD", "GET", "DELETE"), SMALL[2])}.get(call, LARGE)
    assert f"s3://{calls.bucket}/in put{'/' if named else ''}{named}" in message
    assert "2 attempts" in message
    assert any(cause in message for cause in CAUSES[fault].split("|")), message
    tried = calls.proxy.broken[call, fault]
    assert tried >= 2
    if call != "PART":  # which go three at once
        assert tried == 2
    broken = calls.proxy.broken.total()
    calls.proxy.reset(faults.calm)
    configure(monkeypatch, **SETTINGS)
    for key in kept.keys() | calls.data.keys():
        before, after = kept.get(key), calls.data.get(key)
        if before != after:  # the store has the one or the other, and no mixture
            now = calls.folder.read(key) if calls.folder.stat(key) else None
            assert now in (before, after)
            calls.data.pop(key, None)
            calls.data.update({key: now} if now is not None else {})
    return broken


@pytest.mark.parametrize(
    ("call", "fault"),
    [
        ("LIST", "cut"), ("LIST", "damaged"), ("HEAD", "reset within"), ("GET", "damaged"), ("GET", "drip"),
        ("GET", "cut"), ("PUT", "lost answer"), ("PUT", "damaged request"), ("CREATE", "lost answer"),
        ("PART", "500"), ("COMPLETE", "page"),
    ],
)  # fmt: skip
def test_some_faults(calls: Calls, call: str, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    survive(calls, call, fault, monkeypatch)
    assert calls.check_store() == (0, 0)
    give_up(calls, call, fault, monkeypatch)
    assert calls.check_store() == (0, 0)


def test_a_list_of_parts_without_its_first_bracket_is_sent_again(
    calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SeaweedFS finds no parts in it, and says that there is no such upload."""
    root = b"CompleteMultipartUpload"
    monkeypatch.setattr(faults, "_damaged", lambda content: content.replace(b"<" + root, b"T" + root, 1))
    survive(calls, "COMPLETE", "damaged request", monkeypatch)
    assert calls.check_store() == (0, 0)


@pytest.mark.faults
@pytest.mark.parametrize(("call", "fault"), PAIRS)
def test_every_fault_on_every_call(
    calls: Calls, call: str, fault: str, monkeypatch: pytest.MonkeyPatch, tally: Tally
) -> None:
    for attack in (survive, give_up):
        tally.add("faults_tried", tried := attack(calls, call, fault, monkeypatch))
        lost, doubled = calls.check_store()
        tally.add("objects_lost", lost)
        tally.add("objects_duplicated", doubled)
        assert (lost, doubled) == (0, 0)
        tally.add("faults_survived", tried)


@pytest.mark.faults
@pytest.mark.parametrize("fault", [fault for fault in faults.FAULTS if applies("ABORT", fault)])
def test_a_failed_upload_tells_why_it_failed(
    calls: Calls, fault: str, monkeypatch: pytest.MonkeyPatch, tally: Tally
) -> None:
    """Whatever happens when its parts are removed."""
    configure(monkeypatch, TIMEOUT=timeout_for("ABORT", fault))
    broken = faults.on("ABORT", fault)
    calls.proxy.reset(lambda call, number: "500" if call == "PART" else broken(call, number))
    with fails("request_refused") as caught:
        calls.make("PART")
    assert caught.value.where.endswith(f"/{LARGE}")
    assert "InternalError" in caught.value.message and "(4 " in caught.value.message
    tally.add("faults_tried", tried := calls.proxy.broken["ABORT", fault])
    del calls.data[LARGE]
    configure(monkeypatch, **SETTINGS)
    assert tried and calls.check_store() == (0, 0)
    tally.add("faults_survived", tried)


def test_an_upload_over_a_slow_line_is_no_fault(
    calls: Calls, proxy: faults.FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its body may take longer than making a connection may."""
    configure(monkeypatch, CONNECT_TIMEOUT="0.2", TIMEOUT="30", TRIES="1")
    monkeypatch.setattr(proxy, "reading_delay", 0.6)
    calls.folder.write("slow", data := os.urandom(12 << 20))  # more than the sockets' buffers hold
    monkeypatch.setattr(proxy, "reading_delay", 0.0)
    assert calls.folder.read("slow") == data


def timed(call: Callable[[], object]) -> float:
    began = time.monotonic()
    call()
    return time.monotonic() - began


def test_retry_after_is_honored_within_the_bound(
    calls: Calls, proxy: faults.FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(faults, "RETRY_AFTER", 1)
    proxy.reset(faults.on("GET", "503", [1]))
    assert timed(lambda: calls.folder.read(SMALL[0])) >= 1
    configure(monkeypatch, DEADLINE="600")
    monkeypatch.setattr(faults, "RETRY_AFTER", 3600)
    proxy.reset(faults.on("GET", "503"))
    with fails("store_busy") as caught:
        calls.folder.read(SMALL[0])
    assert caught.value.where.endswith(f"/{SMALL[0]}")
    assert "3600" in caught.value.message and "(1 " in caught.value.message
    assert "CLIPSEG_KFP_S3_DEADLINE" in caught.value.remedy


def test_a_slow_consumer_is_no_slow_network(calls: Calls, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the waiting for bytes counts against the least rate."""
    calls.folder.write("long", os.urandom(4 << 20))
    configure(monkeypatch, TIMEOUT="1.5")
    with calls.folder._opened("long") as response:
        time.sleep(3.0)  # twice the timeout
        assert len(response.read(decode_content=False)) == 4 << 20
