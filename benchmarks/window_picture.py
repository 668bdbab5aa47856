"""The pictures of `window.py`: seconds a token by the memory that there is, and one pass out of a trace."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib
from engine_figures import median, name_of, values
from engine_results import OURS, Results
from window_report import cells_of, floor, seconds, size
from window_runs import LAYERS, PEER

matplotlib.use("Agg")
from matplotlib import pyplot as plt

WHO = {OURS: ("Ingle --memory", "tab:blue"), PEER: (PEER, "tab:orange"), LAYERS: (LAYERS, "tab:green")}
COLOURS = {"attention": "tab:blue", "feed_forward": "tab:cyan", "logits": "tab:purple", "wait": "tab:red"}
READ = "tab:green"


def draw_seconds(results: Results, path: Path) -> None:
    """Bars for each model and limit, and below them the floor as a line. Writes `path` (a PNG)."""
    cells = cells_of(results, False)
    figure, axes = plt.subplots(figsize=(2.3 * max(len(cells), 2) + 1.4, 4.6))
    width = 0.8 / len(WHO)
    for at, cell in enumerate(cells):
        rounds = results.rounds(cell)
        for index, (who, (_, colour)) in enumerate(WHO.items()):
            x = at + (index - (len(WHO) - 1) / 2) * width
            if (found := median(values(rounds, seconds(who)))) is not None:
                axes.bar(x, found, width * 0.92, color=colour)
                axes.text(x, found * 1.04, f"{found:.2f}", ha="center", va="bottom", fontsize=8)
            elif any(each.runs.get(who, {}).get("killed") for each in rounds):
                axes.text(x, axes.get_ylim()[0], "killed", ha="center", va="bottom", fontsize=8, rotation=90)
        if (least := median(values(rounds, floor))) is not None:
            axes.plot([at - 0.45, at + 0.45], [least, least], color="black", linewidth=1.6)
    labels = [f"{name_of(results.files[cell.file])}\nin {size(cell.limit_bytes)}" for cell in cells]
    axes.set_xticks(range(len(cells)), labels, fontsize=9)
    axes.set_yscale("log")
    axes.set_ylabel("seconds a token (log scale)")
    axes.margins(y=0.12)
    axes.grid(visible=True, axis="y", alpha=0.3)
    for label, colour in WHO.values():
        axes.bar([0], [0], color=colour, label=label)
    axes.plot([], [], color="black", linewidth=1.6, label="floor: what is not kept / disk rate")
    axes.legend(frameon=False, fontsize=9)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def read_trace(path: Path) -> tuple[dict[int, str], list[dict[str, Any]]]:
    """The names of the tracks, and the events that took time (times in ms). Ends the program for another file."""
    try:
        records = json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
        names = {each["tid"]: each["args"]["name"] for each in records if each.get("name") == "thread_name"}
        events = [
            {"kind": each["cat"], "name": each["name"], "track": each["tid"], "at": each["ts"] / 1e3}
            | {"took": each["dur"] / 1e3}
            for each in records
            if each.get("ph") == "X"
        ]
    except (KeyError, TypeError, ValueError):
        sys.exit(f"{path}: expected a trace that `ingle run --profile {path.name}` wrote.")
    return names, events


def one_pass(events: list[dict[str, Any]]) -> tuple[float, float]:
    """From when to when the last whole pass was: between the first blocks of two (ms)."""
    starts = [each["at"] for each in events if each["kind"] == "compute" and each["name"] == "attention 0"]
    if len(starts) >= 2:
        return starts[-2], starts[-1]
    return min(each["at"] for each in events), max(each["at"] + each["took"] for each in events)


def draw_pass(trace: Path, path: Path) -> None:
    """What computed, waited and read during one pass, a row for each track. Writes `path` (a PNG)."""
    names, events = read_trace(trace)
    if not events:
        sys.exit(f"{trace} has no events; trace an answer of some tokens with --memory.")
    begin, end = one_pass(events)
    seen = [each for each in events if each["at"] < end and each["at"] + each["took"] > begin]
    tracks = sorted({each["track"] for each in events})
    figure, axes = plt.subplots(figsize=(11.0, 0.55 * len(tracks) + 1.5))
    for each in seen:
        what = each["name"].split(" ")[0]
        colour = READ if each["kind"] == "read" else COLOURS.get("wait" if each["kind"] == "wait" else what, "gray")
        start, stop = max(each["at"], begin), min(each["at"] + each["took"], end)
        edge = "white" if each["kind"] == "read" else "none"  # one matrix after the other
        row = len(tracks) - 1 - tracks.index(each["track"])
        axes.broken_barh(
            [(start - begin, stop - start)], (row - 0.38, 0.76), facecolors=colour, edgecolor=edge, linewidth=0.3
        )
    axes.set_yticks(range(len(tracks)), [names.get(track, str(track)) for track in reversed(tracks)], fontsize=9)
    axes.set_xlim(0, end - begin)
    axes.set_xlabel("ms of one pass (one token)")
    shown = [name for name in COLOURS if any(colour_of(each) == name for each in seen)]
    for name in shown:
        axes.barh([0], [0], color=COLOURS[name], label="waiting for the disk" if name == "wait" else name)
    axes.barh([0], [0], color=READ, label="reading")
    axes.legend(frameon=False, fontsize=8, ncols=len(shown) + 1, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def colour_of(event: dict[str, Any]) -> str:
    """A key of COLOURS."""
    return "wait" if event["kind"] == "wait" else str(event["name"].split(" ")[0])
