"""Cores and memory, from files like those of Linux."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ingle.backends import machine

GIB = 1 << 30


@pytest.fixture
def files(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The files that the module sees instead of this machine's."""
    known: dict[str, str] = {}
    monkeypatch.setattr(machine, "_read", lambda path: known.get(str(path), ""))
    return known


def processors(monkeypatch: pytest.MonkeyPatch, files: dict[str, str], siblings: list[str]) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(len(siblings))), raising=False)
    for i, value in enumerate(siblings):
        files[f"/sys/devices/system/cpu/cpu{i}/topology/core_cpus_list"] = value


def test_two_threads_of_a_core_count_once(monkeypatch: pytest.MonkeyPatch, files: dict[str, str]) -> None:
    processors(monkeypatch, files, ["0,2", "1,3", "0,2", "1,3"])
    assert machine.default_threads() == 2


def test_processors_without_topology_count_each(monkeypatch: pytest.MonkeyPatch, files: dict[str, str]) -> None:
    processors(monkeypatch, files, ["", "", ""])
    assert machine.default_threads() == 3


@pytest.mark.parametrize(("quota", "threads"), [("200000 100000", 2), ("50000 100000", 1), ("max 100000", 4)])
def test_quota_of_a_container(monkeypatch: pytest.MonkeyPatch, files: dict[str, str], quota: str, threads: int) -> None:
    processors(monkeypatch, files, ["0", "1", "2", "3"])
    files["/proc/self/cgroup"] = "0::/user/box"
    files["/sys/fs/cgroup/user/cpu.max"] = quota  # that of the group around ours
    assert machine.default_threads() == threads


def test_quota_of_the_old_control_groups(monkeypatch: pytest.MonkeyPatch, files: dict[str, str]) -> None:
    processors(monkeypatch, files, ["0", "1", "2", "3"])
    files["/proc/self/cgroup"] = "4:memory:/box\n3:cpu,cpuacct:/box\n0::/"
    files["/sys/fs/cgroup/cpu,cpuacct/box/cpu.cfs_quota_us"] = "300000"
    files["/sys/fs/cgroup/cpu,cpuacct/box/cpu.cfs_period_us"] = "100000"
    assert machine.default_threads() == 3


def test_memory_is_the_least_room(files: dict[str, str]) -> None:
    assert machine.available_bytes() is None
    files["/proc/meminfo"] = f"MemTotal: 99 kB\nMemAvailable: {8 * GIB // 1024} kB"
    assert machine.available_bytes() == 8 * GIB
    files["/proc/self/cgroup"] = "0::/box"
    files["/sys/fs/cgroup/box/memory.max"] = "max"
    assert machine.available_bytes() == 8 * GIB
    files["/sys/fs/cgroup/memory.max"] = str(4 * GIB)
    files["/sys/fs/cgroup/memory.current"] = str(3 * GIB)
    files["/sys/fs/cgroup/memory.stat"] = f"anon {2 * GIB}\ninactive_file {GIB}"
    assert machine.available_bytes() == 2 * GIB


def test_this_machine() -> None:
    assert machine.default_threads() >= 1
    if Path("/proc/meminfo").exists():
        assert (machine.available_bytes() or 0) > 0
