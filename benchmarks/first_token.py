"""How long a person waits for the first word: from the start of the process to the first byte of the answer.

    python benchmarks/first_token.py [MODEL.gguf] [--prompt TEXT] [--runs 20]

Each run is `ingle run` as a process of its own, its stdout read byte by byte; METHOD.md says how and why.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median


@dataclass(frozen=True)
class Run:
    """first_byte_s: from before the process is made to the first byte of its answer. all_s: until it has ended.
    cpu_s: processor time of the whole process, user and system. faults: pages that had to come from disk."""

    first_byte_s: float
    all_s: float
    cpu_s: float
    faults: int


def run(words: list[str], environment: dict[str, str]) -> Run:
    """One process, of one token: what follows the first byte is little but its end."""
    began = time.perf_counter()
    with subprocess.Popen(
        words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, bufsize=0, env=environment
    ) as process:
        assert process.stdout is not None
        first = process.stdout.read(1)
        first_byte_s = time.perf_counter() - began
        process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    all_s = time.perf_counter() - began
    if process.returncode != 0 or first in (b"", b"\n"):
        raise SystemExit(f"{' '.join(words)} ended with status {process.returncode} and said {first!r} first.")
    return Run(first_byte_s, all_s, usage.ru_utime + usage.ru_stime, usage.ru_majflt)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", help="a GGUF file; without it the bundled model")
    parser.add_argument("--prompt", default="Once upon a time")
    parser.add_argument("--runs", type=int, default=20, help="after the first of all, which is told apart")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--ingle", default=str(Path(sys.executable).with_name("ingle")), help="the program")
    parser.add_argument("--json", type=Path, help="append every run to this file, one JSON object a line")
    arguments = parser.parse_args()
    words = [arguments.ingle, "run", *([arguments.model] if arguments.model else []), arguments.prompt]
    words += ["--max-tokens", "1", "--seed", str(arguments.seed)]
    with tempfile.TemporaryDirectory() as bytecode:
        # Bytecode as a person has it from the second run on, wherever this runs.
        environment = os.environ | {"PYTHONPYCACHEPREFIX": bytecode}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        first = run(words, environment)
        bare = [run_numpy(environment) for _ in range(5)]
        runs = [run(words, environment) for _ in range(arguments.runs)]
    if arguments.json is not None:
        with arguments.json.open("a") as file:
            for each in runs:
                print(json.dumps({"words": words[1:], "load": os.getloadavg()[0], **asdict(each)}), file=file)
    print(f"{' '.join(words[1:])}: {len(runs)} runs, load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} CPUs")
    print(f"  the first run of all, which compiles every Python module: first byte {first.first_byte_s:.3f} s")
    for name, values in (
        ("first byte", [each.first_byte_s for each in runs]),
        ("whole process", [each.all_s for each in runs]),
        ("CPU, user + system", [each.cpu_s for each in runs]),
        ("python -c 'import numpy', CPU", bare),
    ):
        ordered = sorted(values)
        print(f"  {name:<30} median {median(ordered):.3f} s, {ordered[0]:.3f} to {ordered[-1]:.3f}")


def run_numpy(environment: dict[str, str]) -> float:
    """Processor time of Python and NumPy alone: what no program of ours can start without."""
    with subprocess.Popen([sys.executable, "-c", "import numpy"], env=environment) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    main()
