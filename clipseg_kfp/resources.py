"""What this process may use: the container's CPU limit, not the node's cores."""

from __future__ import annotations

import math
import os
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")


def cpu_limit(cgroup: Path = _CGROUP) -> int:
    """Returns the number of CPUs that the process may keep busy, at least 1.

    The smallest of the scheduler's affinity mask and the cgroup quota (v2 ``cpu.max``, v1 ``cpu.cfs_quota_us``),
    rounded up: a pod limited to 1.5 CPUs works best with two threads.
    """
    cpus = len(os.sched_getaffinity(0))
    try:
        quota, period = (cgroup / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            quota = (cgroup / "cpu/cpu.cfs_quota_us").read_text().strip()
            period = (cgroup / "cpu/cpu.cfs_period_us").read_text().strip()
        except OSError:
            return cpus
    if quota == "max" or int(quota) <= 0:
        return cpus
    return max(1, min(cpus, math.ceil(int(quota) / int(period))))
