"""Tokens a second by the number of clients, ours and theirs: the picture of `serve.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
from engine_figures import median, name_of, of, threads_of, values
from engine_results import OURS, Results
from serve_report import groups, peers_of

matplotlib.use("Agg")
from matplotlib import pyplot as plt

COLOURS = ("tab:blue", "tab:orange", "tab:green", "tab:red", "tab:purple")


def draw_rates(results: Results, path: Path) -> None:
    """A panel for each file and number of threads. Writes `path` (a PNG)."""
    found = groups(results)
    figure, panels = plt.subplots(1, len(found), figsize=(4.6 * len(found) + 0.4, 4.2), squeeze=False)
    for axes, cells in zip(panels[0], found.values(), strict=True):
        clients = [str(cell.clients) for cell in cells]
        for index, name in enumerate((OURS, *peers_of(results, cells))):
            rates = [median(values(results.rounds(cell), of(name, "tokens_per_s"))) for cell in cells]
            ours = name == OURS
            style: dict[str, Any] = {"linewidth": 2.0} if ours else {"markerfacecolor": "white", "linewidth": 1.2}
            style["color"] = COLOURS[index % len(COLOURS)]
            axes.plot(clients, rates, marker="o", label="Ingle" if ours else name, **style)
        axes.set_title(f"{name_of(results.files[cells[0].file])}, {threads_of(cells[0])}")
        axes.set_xlabel("clients at once")
        axes.set_ylim(bottom=0)
        axes.grid(visible=True, axis="y", alpha=0.3)
    panels[0][0].set_ylabel("tokens/s of all answers")
    panels[0][0].legend(frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
