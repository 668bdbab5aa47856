"""Time and energy of training, from the logs of its runs: `python energy.py RUN [RUN ...] [--cpu-seconds S]`.

Energy is an estimate, for a machine that does not tell what it takes: core-seconds x watts per core x what the rest of
the machine adds.

* Core-seconds are at most a run's elapsed time x its threads, for other programs had part of the cores; --cpu-seconds
  takes what `time` measured instead, for all runs together. Preparing the data and compiling are not in the log.
* Watts per core: server processors are sold with 350 to 500 W for 56 to 128 cores, 3 to 9 W each. 6 W is taken, and
  half of it and twice as much as limits.
* Memory, power supply and cooling are taken to add a half.

Where Linux has /sys/class/powercap, energy_uj there can be read before and after instead; it counts the whole package,
whoever used it.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RAPL = Path("/sys/class/powercap/intel-rapl:0/energy_uj")


@dataclass(frozen=True)
class Part:
    """What one run took. parameters: of the model; threads: that PyTorch had, on a CPU."""

    name: str
    parameters: int
    tokens: int
    elapsed_s: float
    threads: int
    device: str


def read(folder: Path) -> Part:
    """From the log.jsonl of a run of `ingle train`."""
    last: dict[str, dict[str, Any]] = {}
    try:
        lines = (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise SystemExit(f"{error.filename}: {error.strerror}; give folders of `ingle train`.") from None
    for line in lines:
        record = json.loads(line)
        last[record["event"]] = record
    if not {"start", "step"} <= last.keys():
        raise SystemExit(f"{folder} has no step in its log.jsonl yet.")
    start, step = last["start"], last["step"]
    elapsed_s = max(last[event]["elapsed_s"] for event in ("step", "validation", "end") if event in last)
    threads = (start["threads"] or 1) * start.get("devices", 1)
    return Part(folder.name, start["parameters"], step["tokens"], elapsed_s, threads, start["device"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="folders of `ingle train`")
    parser.add_argument("--cpu-seconds", type=float, help="measured, of all runs together")
    parser.add_argument("--watts-per-core", type=float, default=6.0)
    parser.add_argument("--rest", type=float, default=1.5, help="the machine's power over its processor's")
    arguments = parser.parse_args()
    parts = [read(folder) for folder in arguments.runs]
    if any(part.device != "cpu" for part in parts):
        raise SystemExit("These figures are for runs on a CPU; for a GPU multiply its board's watts by the time.")
    for part in parts:
        print(
            f"{part.name}: {part.parameters:,} parameters, {part.tokens:,} tokens, {part.elapsed_s / 60:.1f} minutes "
            f"on {part.threads} threads, {part.tokens / part.elapsed_s:,.0f} tokens/s"
        )
    tokens = sum(part.tokens for part in parts)
    most_s = sum(part.elapsed_s * part.threads for part in parts)
    cpu_s = most_s if arguments.cpu_seconds is None else arguments.cpu_seconds
    operations = sum(6 * part.parameters * part.tokens for part in parts)
    joules = cpu_s * arguments.watts_per_core * arguments.rest
    known = "at most, as elapsed time x threads" if arguments.cpu_seconds is None else "measured"
    print(f"together: {tokens:,} tokens, {sum(part.elapsed_s for part in parts) / 60:.1f} minutes")
    print(f"core-seconds: {cpu_s:,.0f} ({known}); {operations / 1e15:.2f}e15 operations (6 x parameters x tokens)")
    print(
        f"energy, estimated: {joules / 3.6e6:.4f} kWh ({joules / 7.2e6:.4f} to {joules / 1.8e6:.4f}), "
        f"{1000 * joules / tokens:.2f} mJ/token, from {arguments.watts_per_core:g} W per core x {arguments.rest:g}"
    )
    if RAPL.exists():
        print(f"{RAPL} is there: read it before and after. It counts everything on the machine, not training alone.")


if __name__ == "__main__":
    main()
