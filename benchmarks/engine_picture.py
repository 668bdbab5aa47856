"""The roofline of `engine.py`: how near decode is to the bandwidth and prefill to the multiplier, ours and theirs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
from engine_figures import PEER, SHAPES, Value, median, of, speed, values
from engine_results import FLOOR, NATIVE, OURS, Cell, File, Results

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.lines import Line2D

COLOURS = ("tab:blue", "tab:green", "tab:orange", "tab:purple", "tab:red", "tab:brown", "tab:pink", "tab:gray")
MARKERS = {"Q4_0": "o", "Q8_0": "s", "Q4_K_M": "^"}  # others: a diamond
LEFT, RIGHT = 0.8, 2e4  # operations a byte


class Picture:
    """Upper row: the rooflines, one panel for each number of threads. Lower row: decode alone, file by file, where the
    roof is the bandwidth over the file's own working set (a small file lives in a cache)."""

    def __init__(self, results: Results) -> None:
        cells = [cell for cell in results.attempts if cell.isa == NATIVE and not cell.sequences and cell.decode]
        self.results = results
        self.files = [file for name, file in results.files.items() if name in {cell.file for cell in cells}]
        self.shapes = list(dict.fromkeys(file.shape for file in self.files))
        self.cells = sorted(cells, key=lambda cell: list(results.files).index(cell.file))
        self.threads = sorted({cell.threads for cell in cells}) or [1]

    def figure(self, cell: Cell, value: Value) -> float | None:
        """The median over the rounds."""
        return median(values(self.results.rounds(cell), value))

    def style(self, file: File, filled: bool) -> dict[str, Any]:
        """Colour says the shape, marker the type, filling the engine."""
        colour = COLOURS[self.shapes.index(file.shape) % len(COLOURS)]
        face = {"markerfacecolor": colour if filled else "white", "markeredgecolor": colour, "markeredgewidth": 1.3}
        marker = MARKERS.get(file.type, "D")
        return face | {"linestyle": "none", "marker": marker, "markersize": 7, "zorder": 4 if filled else 3}

    def roofs(self, axes: Any, cells: list[Cell]) -> None:
        """Bandwidth over the largest working set, and the multiplier."""
        limits = [(self.results.files[c.file].bytes_per_token, self.figure(c, of(FLOOR, "gb_per_s")), c) for c in cells]
        known = [(size, rate, self.figure(c, of(FLOOR, "gop_per_s"))) for size, rate, c in limits if rate]
        if not known:
            return
        size, bandwidth, _ = max(known)
        top = max(each[2] or 0.0 for each in known)
        ridge = top / bandwidth
        axes.plot([LEFT, ridge, RIGHT], [LEFT * bandwidth, top, top], color="black", linewidth=1.4, zorder=1)
        axes.text(RIGHT * 0.8, top * 1.1, f"multiplier: {top:,.0f} GOP/s", ha="right", va="bottom", fontsize=9)
        text = f"memory: {bandwidth:.0f} GB/s\nover {size / 1e6:,.0f} MB"
        axes.text(12, 18 * bandwidth, text, ha="right", va="bottom", fontsize=9)

    def roofline(self, axes: Any, threads: int) -> None:
        """Points of all files: decode on the left, prefill on the right."""
        cells = [cell for cell in self.cells if cell.threads == threads]
        self.roofs(axes, cells)
        for cell in cells:
            file = self.results.files[cell.file]
            works = [("decode", 2.0 * file.weights_per_token, 1)]
            if cell.prompt:
                works += [("prefill", file.prompt_operations(cell.prompt) / cell.prompt, cell.prompt)]
            for work, operations, n_tokens in works:
                for who in (PEER, OURS):
                    if rate := self.figure(cell, speed(who, work)):
                        point = operations * n_tokens / file.bytes_per_token, rate * operations / 1e9
                        axes.plot(*point, **self.style(file, who == OURS))
        axes.set(xscale="log", yscale="log", xlabel="operations for each byte of weights read")
        axes.set_title(f"{threads} thread{'s' * (threads > 1)}")
        axes.set_xlim(LEFT, RIGHT)
        axes.margins(y=0.12)
        axes.grid(visible=True, which="major", alpha=0.3)

    def decode(self, axes: Any, threads: int) -> None:
        """GB/s of weights, file by file, below the bandwidth over as many bytes."""
        for cell in self.cells:
            if cell.threads != threads:
                continue
            file = self.results.files[cell.file]
            x = self.files.index(file)
            if roof := self.figure(cell, of(FLOOR, "gb_per_s")):
                axes.plot([x - 0.4, x + 0.4], [roof, roof], color="black", linewidth=1.4, zorder=1)
            for who in (PEER, OURS):
                if rate := self.figure(cell, speed(who, "decode")):
                    axes.plot(x, rate * file.bytes_per_token / 1e9, **self.style(file, who == OURS))
        short = [f"{SHAPES.get(file.shape, file.shape).rpartition('-')[2]} {file.type}" for file in self.files]
        axes.set_xticks(range(len(short)), short, rotation=40, ha="right", rotation_mode="anchor", fontsize=9)
        axes.set_xlim(-0.6, len(short) - 0.4)
        axes.set_ylim(bottom=0)
        axes.grid(visible=True, axis="y", alpha=0.3)

    def legend(self) -> list[Line2D]:
        """What colours, markers and fillings mean."""

        def entry(text: str, **style: Any) -> Line2D:
            return Line2D([], [], label=text, **({"linestyle": "none", "color": "black"} | style))

        entries = [
            entry(SHAPES.get(shape, shape), marker="s", markersize=9, color=COLOURS[i % len(COLOURS)])
            for i, shape in enumerate(self.shapes)
        ]
        kinds = dict.fromkeys(file.type for file in self.files)
        entries += [entry(kind, marker=MARKERS.get(kind, "D"), markerfacecolor="white") for kind in kinds]
        entries += [entry("filled: Ingle", marker="o"), entry(f"hollow: {PEER}", marker="o", markerfacecolor="white")]
        return [*entries, entry("what the machine can", linestyle="-", linewidth=1.4)]


def draw_roofline(results: Results, path: Path) -> None:
    """Of the cells that decode with the native instruction set. Writes `path` (a PNG)."""
    picture = Picture(results)
    n = len(picture.threads)
    size = {"figsize": (5.4 * n + 0.4, 9.2), "squeeze": False}
    figure, panels = plt.subplots(2, n, height_ratios=(3, 2), **size)
    for column, threads in enumerate(picture.threads):
        panels[0][column].sharey(panels[0][0])
        picture.roofline(panels[0][column], threads)
        picture.decode(panels[1][column], threads)
    panels[0][0].set_ylabel("GOP/s (decode left, prefill right)")
    panels[1][0].set_ylabel("decode: GB/s of weights")
    figure.legend(handles=picture.legend(), loc="lower center", ncols=2 + n, fontsize=9, frameon=False)
    figure.tight_layout(rect=(0, 0.08, 1, 1))
    figure.savefig(path, dpi=110)
    plt.close(figure)
