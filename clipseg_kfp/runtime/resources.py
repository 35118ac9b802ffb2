"""What this process may use: the container's CPU limit, not the node's cores."""

from __future__ import annotations

import math
import os
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")
_CPUINFO = Path("/proc/cpuinfo")


def cpu_limit(cgroup: Path = _CGROUP) -> int:
    """Returns the number of CPUs that the process may keep busy, at least 1.

    The smaller of the scheduler's affinity mask and the cgroup quota (v2 ``cpu.max``, v1 ``cpu.cfs_quota_us``),
    rounded up: a pod limited to 1.5 CPUs works best with two threads.
    """
    # macOS has no affinity masks
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cpus, math.ceil(_quota(cgroup) or cpus)))


def has_bfloat16(cpuinfo: Path = _CPUINFO) -> bool:
    """Whether the CPU has instructions for bfloat16 (AVX-512 BF16, AMX or ARM's), according to Linux."""
    try:
        words = set(cpuinfo.read_text().split())
    except OSError:
        return False
    return not words.isdisjoint({"avx512_bf16", "amx_bf16", "bf16"})


def _quota(cgroup: Path) -> float | None:
    """CPUs that the cgroup allows; ``None`` without a limit, or with one in an unknown form."""
    v1 = cgroup / "cpu"
    for files in ([cgroup / "cpu.max"], [v1 / "cpu.cfs_quota_us", v1 / "cpu.cfs_period_us"]):
        try:
            quota, period = " ".join(file.read_text() for file in files).split()
            return int(quota) / int(period) if int(quota) > 0 else None
        except (OSError, ValueError, ZeroDivisionError):  # "max" included
            continue
    return None
