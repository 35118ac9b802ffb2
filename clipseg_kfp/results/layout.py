"""Names of everything that lies in the bucket.

    <output>/<config>/configuration.json            what the digest <config> stands for
    <output>/<config>/masks/<source key>/<version>/<prompt>.<content>.png
    <output>/<config>/labels/<source key>/<version>.<content>.png
    <output>/<config>/overlays/<source key>/<version>.<content>.jpg
    <output>/<config>/probabilities/<bits>-bit/<source key>/<version>/<prompt>.<content>.png
    <output>/<config>/parts/<part>.images.<content>.parquet     the images of one shard, written after its masks
    <output>/<config>/parts/<part>.parquet          the rows of these masks, last: now the part is whole
    <output>/<config>/runs/<run>/plan.<content>.json, …/shards/<shard>.<content>.json   how far a run is: see ``plan``
    <output>/<config>/runs/<run>/…                  tables, report
    <output>/<config>/runs/<run>/manifest.json      written last: the run exists when, and only when, it does
    <output>/<config>/ledger/<content>.parquet      what many runs did, in one table: it only saves time
    <output>/<config>/latest.json                   for people
    <output>/staging/…                              members of archives

``<config>``, ``<version>``, ``<part>`` and ``<content>`` are digests. The last bits of probabilities differ
from one kind of CPU to another; with the content in its name, a mask that another machine computes again
never takes the place of one that a manifest names. A run's tables cover the images that the run did; images
that an earlier committed run had done are counted as skipped.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import os
import re
from dataclasses import dataclass
from typing import Any

from clipseg_kfp.errors import ParameterError, StorageError
from clipseg_kfp.naming import digest, safe_segment

#: Raised whenever the same inputs would give other pixels, so that old results are not taken for new ones.
ALGORITHM = 5
MANIFEST, CLAIM = "manifest.json", "attempt.json"
MASKS, IMAGES = "masks.parquet", "images.parquet"
QUARANTINE, DELETED = "quarantine.parquet", "deleted.parquet"
CONFIGURATION, LATEST = "configuration.json", "latest.json"
LEDGER, PARTS, RUNS, STAGING = "ledger/", "parts/", "runs/", "staging"
#: What the suite writes below a configuration's folder.
FOLDERS = ("masks/", "labels/", "overlays/", "probabilities/", PARTS, RUNS, LEDGER)

CONTENT_TYPES = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".json": "application/json",
    ".html": "text/html; charset=utf-8",
    ".parquet": "application/vnd.apache.parquet",
}
_CONFIG = re.compile("[0-9a-f]{16}")


def configuration_digest(*, model: str, prompts: list[dict[str, Any]], settings: dict[str, Any]) -> str:
    """Names everything that decides a pixel of a mask.

    Embeddings are left out: their last bits differ from one kind of CPU to another, and with them every
    result would get a new name. Model and texts decide them.

    Args:
        model: digest of the checkpoint, tokenizer included.
        prompts: name, texts and threshold of each prompt, in order.
        settings: parameters of preprocessing and post-processing.

    Returns:
        16 hex digits.
    """
    return digest({"algorithm": ALGORITHM, "model": model, "prompts": prompts, "settings": settings})


@dataclass(frozen=True)
class Counts:
    """The images of a run, by outcome.

    Attributes:
        listed: ``done`` + ``skipped`` + ``quarantined``.
        done: with masks of this run.
        skipped: done or quarantined by an earlier committed run.
        quarantined: by this run.
        masks: of the images that were done.
        left: further images, which no run has seen: more than fit into this run, or than ``limit``.
    """

    listed: int = 0
    done: int = 0
    skipped: int = 0
    quarantined: int = 0
    masks: int = 0
    left: int = 0

    def check(self) -> None:
        """Raises ``StorageError`` unless every listed image is accounted for."""
        if self.listed != self.done + self.skipped + self.quarantined:
            raise StorageError(
                f"The counts do not add up: {self.listed} listed, but {self.done} done, "
                f"{self.skipped} skipped and {self.quarantined} quarantined.",
                "Nothing was committed. Run again. If that does not help, a shard's output is missing.",
                code="counts_do_not_add_up",
            )


def is_configuration(name: str) -> bool:
    """Says whether a folder of the output has the name of a configuration."""
    return _CONFIG.fullmatch(name) is not None


def run_key(run: str, name: str) -> str:
    """The key of a run's file."""
    return f"{RUNS}{safe_segment(run)}/{name}"


def content_key(stem: str, data: bytes, suffix: str) -> str:
    """A name with the content's digest in it: other bytes get another name."""
    return f"{stem}.{digest(data, 12)}{suffix}"


def content_type(key: str) -> str:
    """The MIME type of a key's suffix."""
    return CONTENT_TYPES.get(key[key.rfind(".") :], "application/octet-stream")


def image_id(key: str, version: str = "") -> bytes:
    """16 bytes that stand for a version of an image, or for its key alone."""
    text = f"{len(key)}:{key}{version}".encode("utf-8", "surrogatepass")
    return hashlib.blake2b(text, digest_size=16).digest()


def json_bytes(value: Any) -> bytes:
    """Readable JSON with a newline at its end."""
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()


def now() -> str:
    """The time in UTC, ISO 8601, to the second.

    ``SOURCE_DATE_EPOCH`` (seconds since 1970) takes its place, so that a run can be repeated byte for byte
    (https://reproducible-builds.org/specs/source-date-epoch/).

    Raises:
        ParameterError: the variable is set, but not to a number of seconds.
    """
    name = "SOURCE_DATE_EPOCH"
    epoch = os.environ.get(name, "")
    try:
        time = dt.datetime.fromtimestamp(int(epoch), dt.UTC) if epoch else dt.datetime.now(dt.UTC)
    except (ValueError, OverflowError, OSError) as error:
        raise ParameterError(
            f"{name} is {epoch!r}.", "Give seconds since 1970.", code="not_a_time", where=name
        ) from error
    return time.isoformat(timespec="seconds").replace("+00:00", "Z")
