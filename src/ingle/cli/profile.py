"""The tables of `ingle run --profile`, on stderr."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ingle.cli.console import notes, size

if TYPE_CHECKING:
    from ingle.engine.profile import PhaseWork, Profile, Roof

__all__ = ["print_profile", "verdict"]

# What a line has after its name, and how wide.
COLUMNS = {"calls": 7, "ms": 9, "share": 8, "ms a call": 10, "GB/s": 7, "GOP/s": 9, "floor ms": 10, "reached": 8}


def print_profile(profile: Profile, roof: Roof) -> None:
    """What each kind of block took in each phase, and the floors it is held against."""
    console = notes()
    for name, phase in profile.phases.items():
        floor_s = sum(roof.floor_s(work) for work in phase.kinds.values())
        reached = f" ({floor_s / phase.time_s:.0%})" if phase.time_s > 0 else ""
        console.print(f"\n[bold]{name}[/bold]: {_speed(phase)}; floor {floor_s * 1e3:,.1f} ms{reached}")
        console.print(_line("", list(COLUMNS)), style="dim")
        for line in _lines(phase, roof):
            console.print(line, markup=False)
        console.print(verdict(phase, roof), markup=False)
    console.print(
        f"\nfloors: {roof.read_gb_per_s:,.1f} GB/s (reading {size(roof.read_bytes)}), "
        f"{roof.multiply_gop_per_s:,.0f} GOP/s ({roof.isa}); threads: {roof.threads}",
        markup=False,
    )


def verdict(phase: PhaseWork, roof: Roof) -> str:
    """What bounds a phase, and where the time above its floor went; `waiting` is for weights on their way from disk."""
    works = phase.kinds.values()
    read_s, multiply_s = sum(map(roof.read_s, works)), sum(map(roof.multiply_s, works))
    above: dict[str, float] = {kind: work.time_s - roof.floor_s(work) for kind, work in phase.kinds.items()}
    above |= {"waiting": phase.waited_s, "rest": phase.rest_s}
    # Below its floor is a block whose weights were still in a cache.
    worst = sorted((kind for kind in above if above[kind] > 0), key=lambda kind: -above[kind])
    spent = ", ".join(f"{kind} {above[kind] / phase.steps * 1e3:,.2f}" for kind in worst)
    bound = "memory" if read_s >= multiply_s else "the multiplier"
    return f"bounded by {bound}; above the floor, ms a step: {spent or 'nothing'}"


def _speed(phase: PhaseWork) -> str:
    rate = f", {phase.rows / phase.time_s:,.1f} tokens/s" if phase.time_s > 0 else ""
    steps = "" if phase.steps == phase.rows else f" in {phase.steps} step{'s' if phase.steps > 1 else ''}"
    return f"{phase.rows} tokens{steps}, {phase.time_s * 1e3:,.1f} ms{rate}"


def _lines(phase: PhaseWork, roof: Roof) -> Iterator[str]:
    for kind, work in phase.kinds.items():
        if not work.calls:
            continue
        time_s = max(work.time_s, 1e-9)  # a clock may stand still
        floor_s = roof.floor_s(work)
        cells = [
            f"{work.calls:,}",
            f"{work.time_s * 1e3:,.1f}",
            f"{work.time_s / max(phase.time_s, time_s):.1%}",
            f"{work.time_s / work.calls * 1e3:,.3f}",
            f"{work.n_bytes / time_s * 1e-9:,.1f}",
            f"{work.operations / time_s * 1e-9:,.1f}",
            f"{floor_s * 1e3:,.1f}",
            f"{floor_s / time_s:.0%}",
        ]
        yield _line(kind, cells)
    for name, time_s in {"waiting": phase.waited_s, "rest": phase.rest_s}.items():
        if time_s > 0 or name == "rest":
            share = time_s / phase.time_s if phase.time_s > 0 else 0.0
            yield _line(name, ["", f"{time_s * 1e3:,.1f}", f"{share:.1%}", f"{time_s / phase.steps * 1e3:,.3f}"])


def _line(name: str, cells: list[str]) -> str:
    return f"{name:<12}" + "".join(f"{cell:>{width}}" for cell, width in zip(cells, COLUMNS.values(), strict=False))
