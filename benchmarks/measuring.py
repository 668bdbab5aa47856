"""A run as a process of its own: what it prints, its peak memory, and how much others used the machine meanwhile.

METHOD.md says why. Nothing here imports more than the standard library: on Linux the peak memory that the kernel counts
for a child begins with that of its parent, so the parent must stay smaller than anything it measures.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

QUIET = 0.05  # a run is disturbed when other programs took more than this share of all processors


class RunFailed(SystemExit):
    """A measured program ended with an error; uncaught, it ends the benchmark with its message."""


def busy_seconds() -> float | None:
    """Processor time that the whole machine has spent working; None where there is no /proc to tell."""
    if not Path("/proc/stat").exists():
        return None
    ticks = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    return (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK")  # without idle and waiting for a disk


def run_process(
    command: Sequence[str], environment: Mapping[str, str] | None = None
) -> tuple[list[dict[str, Any]], int, float | None]:
    """The JSON objects that a program prints, its peak memory in bytes, and the processor share of others meanwhile.

    Objects stand one a line, or in one array. Raises RunFailed for a status other than 0 and where none was printed.
    """
    began, busy_before = time.monotonic(), busy_seconds()
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=errors, env=environment)
        try:
            _, status, usage = os.wait4(process.pid, 0)  # unlike Popen.wait, it tells what this one child used
        except BaseException:
            process.kill()
            process.wait()
            raise
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        errors.seek(0)
        objects = read_objects(output.read())
        if process.returncode or not objects:
            tail = "".join(errors.readlines()[-8:])
            raise RunFailed(f"This command ended with status {process.returncode}:\n  {' '.join(command)}\n{tail}")
    busy_after, available = busy_seconds(), (time.monotonic() - began) * (os.cpu_count() or 1)
    others = None
    if busy_before is not None and busy_after is not None:
        others = max(0.0, busy_after - busy_before - usage.ru_utime - usage.ru_stime) / available
    return objects, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024), others


def read_objects(text: str) -> list[dict[str, Any]]:
    """The objects in a program's output: those of the array that begins a line, else one of each line."""
    lines = text.splitlines()
    for number, line in enumerate(lines):
        if line.startswith("["):
            try:
                return [item for item in json.loads("\n".join(lines[number:])) if isinstance(item, dict)]
            except json.JSONDecodeError:
                continue  # such as "[INFO] ..."
    return [json.loads(line) for line in lines if line.startswith("{")]


def describe_machine() -> dict[str, Any]:
    """What kind of machine this is: never its name."""
    cpuinfo = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    names = [line for line in cpuinfo.splitlines() if line.startswith("model name")]
    model = names[0].split(":", 1)[1].strip() if names else platform.processor() or platform.machine()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    machine = {"processor": model, "n_cpus": os.cpu_count(), "memory_gib": round(memory / 2**30, 1)}
    return machine | {"system": f"{platform.system()} {platform.machine()}", "python": platform.python_version()}


def spread(values: Sequence[float], digits: int) -> str:
    """Median (least-most)."""
    if len(values) == 1:
        return f"{values[0]:.{digits}f}"
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f}-{max(values):.{digits}f})"
