"""An emulated home network: devices around a router, each a network namespace of Linux, with a delay and a rate.

    with HomeNetwork(3, delay_ms=5, rate_mbit=300) as home:
        worker = home.popen(1, ["ingle", "join", home.address(0)])
        home.cut(1)

home_network.cpp does the work; it is compiled when it is first needed. Programs of all kinds run in it as they are: the
kernel's TCP speaks, and only packets are held up. Nothing of it outlasts the `with`, nor this process, if that is
killed. METHOD.md says how exact it is.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any

SOURCE = Path(__file__).with_suffix(".cpp")
PROGRAM = Path(__file__).parents[1] / "build" / "home_network"
FLAGS = ("-std=c++20", "-O2", "-Wall", "-Wextra", "-Werror")
NOT_ALLOWED = 77  # exit status


class NotAllowed(OSError):
    """This machine does not let us make networks; the text says what is missing."""


@dataclass(frozen=True)
class Counts:
    """What became of the packets that a node has sent."""

    delivered: int
    overflowed: int  # a queue was full: its own, or the one before the receiver
    cut_off: int  # it or the receiver was cut off


@cache
def build() -> Path:
    """The compiled program: made where there is none, or an older one."""
    if PROGRAM.exists() and PROGRAM.stat().st_mtime >= SOURCE.stat().st_mtime:
        return PROGRAM
    compiler = shutil.which(os.environ.get("CXX") or "c++")
    if compiler is None:
        raise NotAllowed("a C++ compiler (c++, or what CXX names)")
    PROGRAM.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=PROGRAM.parent) as folder:
        subprocess.run([compiler, *FLAGS, str(SOURCE), "-o", f"{folder}/it"], check=True)
        os.replace(f"{folder}/it", PROGRAM)
    return PROGRAM


@cache
def missing() -> str | None:
    """What this machine lacks for an emulated network; None if it has all."""
    if sys.platform != "linux":
        return "Linux, for an emulated network"
    try:
        with HomeNetwork(1):
            return None
    except NotAllowed as error:
        return f"{error}, for an emulated network"


class HomeNetwork:
    """`n` nodes, 0 to n - 1, from entering to leaving the `with`; each sees the others and its own 127.0.0.1.

    One-way delay and jitter (uniform from 0, order kept) in ms; the rate of each node's link in Mbit/s in each
    direction, 0 for no limit; the queue before each link in KiB. Raises NotAllowed where the machine does not let us.
    """

    def __init__(
        self, n: int, delay_ms: float = 1, rate_mbit: float = 300, jitter_ms: float = 0, queue_kib: float = 1500
    ) -> None:
        if not 1 <= n <= 250:
            raise ValueError(f"A network has 1 to 250 nodes, not {n}.")
        self.n = n
        self._settings = {"delay_ms": delay_ms, "rate_mbit": rate_mbit, "jitter_ms": jitter_ms, "queue_kib": queue_kib}
        self._programs: list[subprocess.Popen[Any]] = []
        self._lock = threading.Lock()

    def __enter__(self) -> HomeNetwork:
        self._network = subprocess.Popen(
            [build(), "run", str(os.getpid()), str(self.n)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C is for us
        )
        try:
            assert self._network.stdout is not None
            assert self._network.stderr is not None
            if self._network.stdout.readline() != "ready\n":
                said = self._network.stderr.read().strip()
                error = NotAllowed if self._network.wait() == NOT_ALLOWED else RuntimeError
                raise error(said)
            self.set(**self._settings)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Kills every program in the network, and takes it apart."""
        for program in self._programs:
            program.kill()
        try:
            self._network.communicate(timeout=30)  # closes its stdin, so it ends
        finally:
            self._network.kill()
            self._network.wait()
            for program in self._programs:
                program.__exit__(None, None, None)  # closes its pipes and waits

    def address(self, node: int) -> str:
        """The IPv4 address of a node."""
        return f"10.88.0.{self._checked(node) + 1}"

    def command(self, node: int, argv: Sequence[str | os.PathLike[str]]) -> list[str | os.PathLike[str]]:
        """What runs `argv` on a node: for those who start programs by themselves."""
        return [build(), "enter", str(self._network.pid), str(self._checked(node)), *argv]

    def popen(self, node: int, argv: Sequence[str | os.PathLike[str]], **options: Any) -> subprocess.Popen[Any]:
        """`subprocess.Popen(argv, **options)` on a node."""
        program = subprocess.Popen(self.command(node, argv), **options)
        self._programs.append(program)
        return program

    def set(self, **settings: float) -> None:
        """Change `delay_ms`, `rate_mbit`, `jitter_ms` or `queue_kib` for packets that are sent from now on."""
        for name, value in settings.items():
            if name not in self._settings:
                raise TypeError(f"A network has {', '.join(self._settings)}, but no {name}.")
            self._ask(f"{name.partition('_')[0]} {value}")

    def cut(self, node: int) -> None:
        """Cut a node off: from now on it neither gets nor sends a packet, those on their way included."""
        self._ask(f"cut {self._checked(node)}")

    def mend(self, node: int) -> None:
        """Undo `cut`."""
        self._ask(f"mend {self._checked(node)}")

    def counts(self) -> list[Counts]:
        """What became of the packets of each node so far."""
        numbers = [int(word) for word in self._ask("counts").split()[1:]]
        return [Counts(*numbers[3 * node : 3 * node + 3]) for node in range(self.n)]

    def _checked(self, node: int) -> int:
        if not 0 <= node < self.n:
            raise ValueError(f"This network has the nodes 0 to {self.n - 1}, but no {node}.")
        return node

    def _ask(self, line: str) -> str:
        assert self._network.stdin is not None
        assert self._network.stdout is not None
        with self._lock:
            self._network.stdin.write(line + "\n")
            self._network.stdin.flush()
            answer = self._network.stdout.readline().strip()
        if not answer.startswith("ok"):
            raise ValueError(answer or "The network has ended.")
        return answer
