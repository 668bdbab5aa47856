"""The arithmetic of `engine.py`'s tables: ratios pair by pair, goals, floors, and what a floor forbids."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence

from engine_results import FLOOR, NATIVE, OURS, Cell, File, Results, Round
from measuring import spread

PEER = "llama.cpp"  # goals are about it
SHAPES = {
    "mobilellm-125m": "MobileLLM-125M",
    "mobilellm-350m": "MobileLLM-350M",
    "tinyllama-1.1b": "TinyLlama-1.1B",
    "llama-3.2-1b": "Llama-3.2-1B",
    "llama-2-7b": "Llama-2-7B",
    "llama-2-70b": "Llama-2-70B",
    "olmoe-1b-7b": "OLMoE-1B-7B",
}
# How many times as fast as the peer we mean to be.
DECODE_GOALS = {
    ("mobilellm-125m", "Q4_0"): 2.0,
    ("mobilellm-125m", "Q8_0"): 1.6,
    ("mobilellm-350m", "Q4_0"): 1.6,
    ("mobilellm-350m", "Q8_0"): 1.4,
    ("tinyllama-1.1b", "Q4_0"): 1.25,
    ("tinyllama-1.1b", "Q8_0"): 1.2,
    ("tinyllama-1.1b", "Q4_K_M"): 1.9,
    ("llama-3.2-1b", "Q4_0"): 1.25,
    ("llama-3.2-1b", "Q8_0"): 1.2,
    ("llama-3.2-1b", "Q4_K_M"): 1.8,
}
PREFILL_GOALS = {"mobilellm-125m": 4.5, "mobilellm-350m": 4.5, "tinyllama-1.1b": 4.5, "llama-3.2-1b": 4.0}
FORCED_GOALS = {"avx2": {"decode": 1.1, "prefill": 1.2}}
LONG, LONG_GOAL = 4096, 4.0  # of the shapes of 1B
SHARE_GOAL = 0.85  # of the streaming bandwidth, from 350M up
SEQUENCES_GOAL, LOAD_GOAL, PEAK_GOAL = 4.0, 1.5, 1.25
LARGE = 512 << 20  # bytes of a file from which on Python itself is no part of the memory worth speaking of
MET, NOT_MET, FORBIDDEN = ", met", ", not met", ", floor forbids"  # what stands behind a figure

Value = Callable[[Round], float | None]


def values(rounds: Sequence[Round], value: Value) -> list[float]:
    """What each round has of it."""
    return [found for each in rounds if (found := value(each)) is not None]


def of(who: str, key: str, unit: float = 1.0) -> Value:
    """One figure of one contender, in units of `unit`."""

    def figure(one: Round) -> float | None:
        found = one.runs.get(who, {}).get(key)
        return None if found is None else found / unit

    return figure


def over(above: Value, below: Value) -> Value:
    """The ratio within a round, of those that have both."""

    def ratio(one: Round) -> float | None:
        a, b = above(one), below(one)
        return None if a is None or b is None else a / b

    return ratio


def speed(who: str, work: str) -> Value:
    """tokens/s of "decode" or "prefill"."""
    return of(who, f"{work}_tokens_per_s")


def limit(file: File, cell: Cell, work: str) -> Value:
    """tokens/s that no engine can pass: reading every weight once a token, or multiplying all the time."""
    if work == "decode":
        return of(FLOOR, "gb_per_s", file.bytes_per_token / 1e9)
    if not cell.prompt:
        return lambda _: None
    return of(FLOOR, "gop_per_s", file.prompt_operations(cell.prompt) / cell.prompt / 1e9)


def goal(file: File, cell: Cell, work: str) -> float | None:
    """How many times as fast as llama.cpp this should be; None where nothing was promised."""
    if cell.isa != NATIVE:
        return FORCED_GOALS.get(cell.isa, {}).get(work)
    if work == "decode":
        return DECODE_GOALS.get((file.shape, file.type))
    if cell.prompt == LONG:
        return LONG_GOAL if file.shape in ("tinyllama-1.1b", "llama-3.2-1b") else None
    return PREFILL_GOALS.get(file.shape) if DECODE_GOALS.get((file.shape, file.type)) else None


def shares_judged(file: File, cell: Cell) -> bool:
    """Whether decode should have SHARE_GOAL of the bandwidth: the known shapes from 350M up."""
    return cell.isa == NATIVE and file.shape in PREFILL_GOALS and file.shape != "mobilellm-125m"


def median(found: Sequence[float]) -> float | None:
    """None of nothing."""
    return statistics.median(found) if found else None


def most(results: Results, cell: Cell, work: str, peer: str) -> float | None:
    """How many times as fast as the peer an engine at the floor would be."""
    rounds = results.rounds(cell)
    return median(values(rounds, over(limit(results.files[cell.file], cell, work), speed(peer, work))))


def verdict(ratio: float, wanted: float | None, possible: float | None) -> str:
    """Of figures as they are printed."""
    if wanted is None:
        return ""
    if round(ratio, 2) >= wanted:
        return MET
    return FORBIDDEN if possible is not None and round(possible, 2) < wanted else NOT_MET


def compared(results: Results, cell: Cell, work: str, peer: str) -> str:
    """The ratio with its spread, and whether the goal is met."""
    rounds = results.rounds(cell)
    ratios = values(rounds, over(speed(OURS, work), speed(peer, work)))
    if not ratios:
        return "-"
    wanted = goal(results.files[cell.file], cell, work) if peer == PEER else None
    quiet = "" if all(each.quiet for each in rounds) else ", NOT QUIET"
    return spread(ratios, 2) + verdict(statistics.median(ratios), wanted, most(results, cell, work, peer)) + quiet


def forbidden(results: Results, cell: Cell, work: str) -> str | None:
    """The arithmetic, where the goal is above what the floor allows any engine."""
    file, possible = results.files[cell.file], most(results, cell, work, PEER)
    wanted = goal(file, cell, work)
    if possible is None or wanted is None or round(possible, 2) >= wanted:
        return None
    rounds = results.rounds(cell)
    theirs = statistics.median(values(rounds, speed(PEER, work)))
    top = statistics.median(values(rounds, limit(file, cell, work)))
    if work == "decode":
        rate = statistics.median(values(rounds, of(FLOOR, "gb_per_s")))
        floor = f"{rate:.1f} GB/s / {file.bytes_per_token / 1e6:.1f} MB of weights a token"
    else:
        rate = statistics.median(values(rounds, of(FLOOR, "gop_per_s")))
        floor = f"{rate:.0f} GOP/s / {file.prompt_operations(cell.prompt) / cell.prompt / 1e9:.3f} GOP a token"
    return (
        f"{name_of(file)}, {work}, {threads_of(cell)}: the floor is {floor} = {top:.1f} tokens/s; {PEER} has "
        f"{theirs:.1f}, so no engine can be more than {possible:.2f} times as fast. The goal is {wanted:g}."
    )


def name_of(file: File) -> str:
    """Shape and type."""
    return f"{SHAPES.get(file.shape, file.shape)} {file.type}"


def threads_of(cell: Cell) -> str:
    return f"{cell.threads} thread{'s' * (cell.threads > 1)}"
