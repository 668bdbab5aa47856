"""A memory limit that the kernel keeps for a program and all that it makes: a control group (v1 or v2) of Linux.

Everything counts: the memory of the processes, the pages of files that they read or map, and what the kernel keeps for
them. Pages of files are dropped before the limit is passed; where that is not enough, the kernel kills. Making groups
needs root.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

SYSTEM = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Names:
    """The files of one version: the limit, the most that was used, where kills are counted, and what forbids swap."""

    limit: str
    peak: str
    kills: str
    swap: str
    no_swap: str = "0"


V1 = Names("memory.limit_in_bytes", "memory.max_usage_in_bytes", "memory.oom_control", "memory.swappiness")
V2 = Names("memory.max", "memory.peak", "memory.events", "memory.swap.max")


def controller(system: Path = SYSTEM) -> tuple[Path, Names]:
    """Where groups with a memory limit are made. Ends the program where there is no such place, or it is not ours."""
    if (system / "memory" / V1.limit).exists():
        folder, names = system / "memory", V1
    elif "memory" in _read(system / "cgroup.controllers").split():
        folder, names = system, V2
    else:
        sys.exit(f"{system} has no memory controller; run this on Linux with memory control groups.")
    if os.geteuid() != 0:
        sys.exit("A memory limit needs a control group, and making one needs root; run this as root.")
    if names is V2 and "memory" not in _read(folder / "cgroup.subtree_control").split():
        (folder / "cgroup.subtree_control").write_text("+memory")
    return folder, names


def _read(path: Path) -> str:
    return path.read_text() if path.exists() else ""


class Group:
    """A group while the `with` lasts. Programs that were started in it must have ended by then."""

    def __init__(self, folder: Path, names: Names, limit_bytes: int) -> None:
        self.path = folder / f"ingle-benchmark-{os.getpid()}"
        self._names = names
        self._limit = limit_bytes

    def __enter__(self) -> Group:
        self.path.mkdir()
        try:
            (self.path / self._names.limit).write_text(str(self._limit))
            if (self.path / self._names.swap).exists():
                (self.path / self._names.swap).write_text(self._names.no_swap)
        except BaseException:
            self.path.rmdir()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for attempt in range(50):  # a process that was killed is in it until the kernel has taken it apart
            try:
                return self.path.rmdir()
            except OSError:
                if attempt == 49:
                    raise
                time.sleep(0.1)

    def command(self, words: Sequence[str]) -> list[str]:
        """What runs `words` inside the group: a shell enters it and becomes them."""
        return ["sh", "-c", 'echo $$ > "$0" && exec "$@"', str(self.path / "cgroup.procs"), *words]

    @property
    def peak_bytes(self) -> int | None:
        """The most that was charged to it; None where the kernel does not say (v2 before Linux 5.19)."""
        text = _read(self.path / self._names.peak)
        return int(text) if text else None

    @property
    def killed(self) -> bool:
        """Whether the kernel has killed for this limit."""
        fields = dict(line.split() for line in _read(self.path / self._names.kills).splitlines())
        return int(fields.get("oom_kill", 0)) > 0


def drop_page_cache() -> None:
    """Let the system forget every page of a file that is not in use."""
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3")
