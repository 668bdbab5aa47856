"""The roofline of `engine.py`: how near decode is to the bandwidth and prefill to the multiplier, ours and theirs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
from engine_figures import PEER, SHAPES, median, of, speed, values
from engine_results import FLOOR, NATIVE, OURS, Cell, File, Results

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.lines import Line2D

COLOURS = ("tab:blue", "tab:green", "tab:orange", "tab:purple", "tab:red", "tab:brown", "tab:pink", "tab:gray")
MARKERS = {"Q4_0": "o", "Q8_0": "s", "Q4_K_M": "^"}


def operations(file: File, cell: Cell, work: str) -> tuple[float, float]:
    """Of a decoded token or a whole prompt: operations, and operations for each byte of weights that has to be read."""
    if work == "decode":
        return 2.0 * file.weights_per_token, 2.0 * file.weights_per_token / file.bytes_per_token
    n = file.prompt_operations(cell.prompt)
    return n / cell.prompt, n / file.bytes_per_token


def roofs(results: Results, cells: list[Cell]) -> tuple[float, float, float] | None:
    """Bandwidth in GB/s over the largest working set, the multiplier in GOP/s, and that working set in MB."""
    found = []
    for cell in cells:
        rounds, file = results.rounds(cell), results.files[cell.file]
        limits = [median(values(rounds, of(FLOOR, key))) for key in ("gb_per_s", "gop_per_s")]
        if limits[0] is not None and limits[1] is not None:
            found.append((file.bytes_per_token, limits[0], limits[1]))
    if not found:
        return None
    size, bandwidth, _ = max(found)
    return bandwidth, max(each[2] for each in found), size / 1e6


def draw_panel(axes: Any, results: Results, cells: list[Cell], title: str) -> None:
    """The roofs and points of one number of threads."""
    limits = roofs(results, cells)
    if limits is not None:
        bandwidth, multiplier, size = limits
        ridge = multiplier / bandwidth
        axes.plot([0.8, ridge, 1e5], [0.8 * bandwidth, multiplier, multiplier], color="black", linewidth=1.4, zorder=1)
        note = {"fontsize": 8, "color": "black"}
        axes.text(1e5 * 0.8, multiplier * 1.12, f"multiplier {multiplier:,.0f} GOP/s", ha="right", va="bottom", **note)
        axes.text(
            14, 14 * bandwidth * 1.5, f"memory {bandwidth:.0f} GB/s\n({size:,.0f} MB)", ha="right", va="bottom", **note
        )
    shapes = list(dict.fromkeys(file.shape for file in results.files.values()))
    for cell in cells:
        file = results.files[cell.file]
        colour = COLOURS[shapes.index(file.shape) % len(COLOURS)]
        for work, size in (("decode", cell.decode), ("prefill", cell.prompt)):
            for who, filled in ((PEER, False), (OURS, True)):
                rate = median(values(results.rounds(cell), speed(who, work)))
                if not size or rate is None:
                    continue
                each, intensity = operations(file, cell, work)
                axes.plot(
                    intensity,
                    rate * each / 1e9,
                    marker=MARKERS.get(file.type, "D"),
                    markersize=7,
                    markerfacecolor=colour if filled else "white",
                    markeredgecolor=colour,
                    markeredgewidth=1.2,
                    alpha=0.9,
                    linestyle="none",
                    zorder=3 if filled else 2,
                )
    axes.set(xscale="log", yscale="log", title=title, xlabel="operations for each byte of weights read")
    axes.set_xlim(0.8, 1e5)
    axes.grid(visible=True, which="major", alpha=0.3)


def draw_roofline(results: Results, path: Path) -> None:
    """One panel for each number of threads, of the cells that decode natively. Writes `path` (a PNG)."""
    cells = [cell for cell in results.attempts if cell.isa == NATIVE and not cell.sequences and cell.decode]
    threads = sorted({cell.threads for cell in cells}) or [1]
    figure, panels = plt.subplots(1, len(threads), figsize=(5.2 * len(threads), 5.4), sharey=True, squeeze=False)
    for axes, n in zip(panels[0], threads, strict=True):
        some = [cell for cell in cells if cell.threads == n]
        draw_panel(axes, results, some, f"{n} thread{'s' * (n > 1)}")
    panels[0][0].set_ylabel("GOP/s")
    files = [results.files[name] for name in dict.fromkeys(cell.file for cell in cells)]
    shapes = list(dict.fromkeys(file.shape for file in results.files.values()))

    def entry(label: str, marker: str, colour: str, face: str) -> Line2D:
        return Line2D([], [], linestyle="none", marker=marker, color=colour, markerfacecolor=face, label=label)

    used = [shape for shape in shapes if shape in {file.shape for file in files}]
    entries = [
        entry(SHAPES.get(shape, shape), "o", COLOURS[shapes.index(shape) % len(COLOURS)], "white") for shape in used
    ]
    entries += [
        entry(kind, MARKERS.get(kind, "D"), "black", "white") for kind in dict.fromkeys(file.type for file in files)
    ]
    entries += [entry("Ingle", "o", "black", "black"), entry(PEER, "o", "black", "white")]
    figure.legend(handles=entries, loc="lower center", ncols=5, fontsize=9, frameon=False)
    figure.tight_layout(rect=(0, 0.11, 1, 1))
    figure.savefig(path, dpi=130)
    plt.close(figure)
