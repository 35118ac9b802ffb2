"""Results in the bucket.

``layout`` has the names, ``commit`` writes runs, ``counts`` checks that nothing was lost, ``ledger`` tells what earlier
runs have done, ``shard_tables`` keeps what uncommitted runs have done, ``plan`` tells the progress of a run,
``inventory`` lists the objects of a run, ``verify`` checks them, ``garbage`` removes objects that no run names,
``export`` and ``formats`` write annotation files, and ``summary`` shows a run in a terminal.
"""

from clipseg_kfp.results.commit import Attempt, Results
from clipseg_kfp.results.layout import (
    ALGORITHM,
    IMAGES,
    MANIFEST,
    MASKS,
    QUARANTINE,
    Counts,
    configuration_digest,
    json_bytes,
    now,
)

__all__ = [
    "ALGORITHM",
    "IMAGES",
    "MANIFEST",
    "MASKS",
    "QUARANTINE",
    "Attempt",
    "Counts",
    "Results",
    "configuration_digest",
    "json_bytes",
    "now",
]
