"""Results in the bucket: their layout, how runs become visible, what they remember, and how they are checked.

``layout`` has the names, ``commit`` writes runs, ``accounting`` checks that nothing was lost, ``ledger``
tells what earlier runs have done, ``inventory`` lists what a run consists of, ``verification`` and
``collection`` use that to re-read results and to remove what nothing names.
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
