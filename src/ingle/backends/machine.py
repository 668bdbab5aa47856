"""What this machine lends a process: processor cores and memory. Read from Linux; elsewhere as much as Python knows."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

__all__ = ["available_bytes", "default_threads", "group_bytes", "system_bytes"]

_CGROUPS = Path("/sys/fs/cgroup")


def default_threads() -> int:
    """Threads that compute best: one for each physical core this process may use, within its processor quota.

    Two threads on one core share its arithmetic units and gain nothing in kernels that keep those busy.
    """
    cores = _physical_cores()
    quota = min(_cpu_quotas(), default=float(cores))
    return max(1, min(cores, int(quota)))


def available_bytes() -> int | None:
    """Bytes a new allocation can have without swapping, or None where the system does not say (Linux does)."""
    return min((n for n in (system_bytes(), group_bytes()) if n is not None), default=None)


def system_bytes() -> int | None:
    """Bytes that the system can give to programs without swapping, or None where it does not say."""
    return _meminfo_available()


def group_bytes() -> int | None:
    """Bytes that the limits of this process's control groups leave; None where there are none."""
    room = [_cgroup_room(folder) for folder in _cgroup_folders("memory")]
    return min((n for n in room if n is not None), default=None)


def _physical_cores() -> int:
    """Distinct cores among the processors that the scheduler may give this process."""
    if not hasattr(os, "sched_getaffinity"):
        return os.cpu_count() or 1
    processors = os.sched_getaffinity(0)
    cores = set()
    for processor in processors:
        topology = Path(f"/sys/devices/system/cpu/cpu{processor}/topology")
        siblings = _read(topology / "core_cpus_list") or _read(topology / "thread_siblings_list")
        cores.add(siblings or str(processor))
    return len(cores) or 1


def _cpu_quotas() -> Iterator[float]:
    """Processors' worth of time that each enclosing control group allows."""
    for folder in _cgroup_folders("cpu"):
        quota, _, period = _read(folder / "cpu.max").partition(" ")  # v2: "200000 100000" or "max 100000"
        quota = quota or _read(folder / "cpu.cfs_quota_us")  # v1: -1 = none
        period = period or _read(folder / "cpu.cfs_period_us")
        if quota.isdigit() and period.isdigit() and int(period) > 0:
            yield int(quota) / int(period)


def _cgroup_folders(controller: str) -> Iterator[Path]:
    """This process's control group and those around it, for v2 and for v1's folder of a controller."""
    for line in _read("/proc/self/cgroup").splitlines():
        _, controllers, group = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        root = _CGROUPS / controllers if controllers else _CGROUPS
        folder = root / group.lstrip("/")
        yield folder
        # In a container the path may be the host's: then only the root is there, and it is ours.
        yield from (parent for parent in folder.parents if parent.is_relative_to(root))


def _meminfo_available() -> int | None:
    for line in _read("/proc/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def _cgroup_room(folder: Path) -> int | None:
    """Bytes below a group's limit; page cache that can be dropped counts as room."""
    limit = _read(folder / "memory.max") or _read(folder / "memory.limit_in_bytes")
    used = _read(folder / "memory.current") or _read(folder / "memory.usage_in_bytes")
    if not limit.isdigit() or not used.isdigit():
        return None
    statistics = dict(line.split(" ", 1) for line in _read(folder / "memory.stat").splitlines() if " " in line)
    cached = statistics.get("total_inactive_file") or statistics.get("inactive_file") or "0"
    return max(0, int(limit) - int(used) + int(cached))


def _read(path: str | Path) -> str:
    try:
        return Path(path).read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""
