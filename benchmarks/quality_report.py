"""The tables and the picture of `quality.py`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ingle.evaluate.rounding import Difference, Evidence
from ingle.gguf import TensorType

if TYPE_CHECKING:
    from quality import Cell

KV_BITS = {"f32": 32.0, "f16": 16.0, "q8": 8.5, "q4": 4.5}
KL_OF_ROUNDING = 1e-7  # nats; below are float sums, which are not predicted one by one
COLOURS = {
    "portable": "#8a8a8a",
    "avx2": "#1f4e79",
    "avxvnni": "#5b9bd5",
    "avx512": "#2e8b57",
    "amx": "#c2571a",
    "neon": "#7b4ea3",
}

_AGREEMENT = ["computed", "predicted KL", "measured KL", "largest KL", "perplexity", "same top-1", "rounding"]
_AGREEMENT += ["not explained"]


def markdown(cells: Sequence[Cell], model: str, text: str, n_tokens: int, window: int) -> str:
    """Tables of what types cost, of how far native code is from the reference by type, and by instruction set."""
    usual = cells[0].kv
    by_type = [cell for cell in cells if cell.kv == usual]
    with_kv = cells[-1].type
    by_kv = sorted((cell for cell in cells if cell.type == with_kv), key=lambda cell: -KV_BITS.get(cell.kv, 0))
    ways = list(dict.fromkeys(way for cell in cells for way in cell.runs))
    parts = [
        "# Quality",
        "What quantising costs, and how far the native backend is from the reference: by rounding alone. Made by "
        "`python benchmarks/quality.py`; [how](../benchmarks/METHOD.md#quality-qualitypy).",
        f"{model}, the first {n_tokens:,} tokens of {text}, in windows of {window}. KL is KL(reference || ours) in "
        "nats a token; after each ± a standard error, over windows.",
        "## What a tensor type costs",
        f"The reference backend on the quantised file with a KV cache of {usual}, beside the same weights in F32 with "
        "one of f32. The bundled model is a Q8_0 file, so what Q8_0 costs cannot be seen on it. Matrices whose rows "
        "are not whole blocks of a type have the one that `ingle convert` gives them: in the bundled model, ffn_down "
        "(704 wide) in the files of K-quants. Perplexity can fall by chance, KL cannot.",
        _table(
            ["type", "bits a weight", "perplexity", "more than F32", "KL", "same top-1"],
            [[cell.type, f"{TensorType[cell.type].bits_per_weight:.4g}", *_cost(cell.cost)] for cell in by_type],
        ),
        "## What a type of KV cache costs",
        f"The reference backend, weights in {with_kv}, beside F32 weights and an F32 cache.",
        _table(
            ["KV cache", "bits a number", "perplexity", "more than F32", "KL", "same top-1"],
            [[cell.kv, f"{KV_BITS.get(cell.kv, 0):g}", *_cost(cell.cost)] for cell in by_kv],
        ),
        "## The native backend beside the reference",
        "Both on the same file with the same cache. Quantised matrices round their inputs to int8; with AMX, tiles of "
        "bf16 multiply many rows, and attend where the cache is not f32. *Predicted*: KL of the model of that "
        "rounding. *Measured*: of native code, the least and most of instruction sets, prompts and steps of few rows. "
        "*Perplexity*: of the furthest run. *Rounding*: how much it changes the output of a block (rms). *Not "
        "explained*: how much native blocks differ from the model (rms, mostly numbers that were rounded the other "
        "way; in brackets, what one row in ten is below).",
        _table(
            ["type", *_AGREEMENT],
            [row for cell in by_type for row in _agreement(cell.type, cell)],
        ),
        f"The same by KV cache, with {with_kv}:",
        _table(
            ["KV cache", *_AGREEMENT],
            [row for cell in by_kv for row in _agreement(cell.kv, cell)],
        ),
        f"By instruction set, over all {len(cells)} files and caches (the ratio: where more than floats are rounded):",
        _table(
            ["instruction set", "computed as", "measured / predicted KL", "perplexity", "same top-1", "not explained"],
            [
                _way(isa, feed, [cell.runs[isa, feed] for cell in cells if (isa, feed) in cell.runs])
                for isa, feed in ways
            ],
        ),
    ]
    return "\n\n".join(parts) + "\n"


def _table(header: list[str], rows: Iterable[list[str]]) -> str:
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cost(cost: Difference) -> list[str]:
    return [f"{cost.perplexity:.2f}", _delta(cost), f"{cost.kl:.2g} ± {cost.kl_stderr:.1g}", f"{100 * cost.top1:.1f}%"]


def _delta(one: Difference) -> str:
    return f"{one.perplexity_delta:+.2g} ± {one.perplexity_stderr:.1g}"


def _agreement(name: str, cell: Cell) -> list[list[str]]:
    """A row for each kind of rounding that the cell's runs have."""
    quantised = TensorType[cell.type].is_quantized
    groups: dict[str, list[Evidence]] = {}
    for (isa, feed), run in cell.runs.items():
        tiles = isa == "amx" and feed == "prompt"
        groups.setdefault("bf16" if tiles else "int8" if quantised else "float", []).append(run)
    rows = []
    for kind, runs in groups.items():
        rows.append(
            [
                name,
                kind,
                _span([run.predicted.kl for run in runs]),
                _span([run.found.kl for run in runs]),
                f"{max(run.found.kl_max for run in runs):.1g}",
                _delta(max((run.found for run in runs), key=lambda one: abs(one.perplexity_delta))),
                f"{100 * min(run.found.top1 for run in runs):.1f}%",
                f"{runs[0].rounding.overall:.0e}",
                _unexplained(runs),
            ]
        )
    return rows


def _span(values: Sequence[float]) -> str:
    low, high = (f"{end(values):.2g}" for end in (min, max))
    return low if low == high else f"{low} to {high}"


def _unexplained(runs: Sequence[Evidence]) -> str:
    return f"{max(r.blocks.overall for r in runs):.0e} ({max(r.blocks.typical.max() for r in runs):.0e})"


def _way(isa: str, feed: str, runs: Sequence[Evidence]) -> list[str]:
    ratios = [run.found.kl / run.predicted.kl for run in runs if run.predicted.kl > KL_OF_ROUNDING]
    furthest = max((run.found for run in runs), key=lambda one: abs(one.perplexity_delta))
    top1 = min(run.found.top1 for run in runs)
    return [isa, feed, _span(ratios) if ratios else "-", _delta(furthest), f"{100 * top1:.1f}%", _unexplained(runs)]


def draw(cells: Sequence[Cell], path: Path) -> None:
    """KL by type on a logarithmic scale: of quantising, predicted of rounding, measured by instruction set."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = [cell.type if cell.kv == cells[0].kv else f"{cell.type}, KV {cell.kv}" for cell in cells]
    figure, axes = pyplot.subplots(figsize=(8, 0.34 * len(cells) + 1.2), layout="constrained")
    isas = list(dict.fromkeys(isa for cell in cells for isa, _ in cell.runs))
    for row, cell in enumerate(cells):
        if cell.cost.kl > 0:
            axes.plot(cell.cost.kl, row, "D", color="#222222", label="quantising, beside F32" if row == 0 else None)
        for kl in {run.predicted.kl for run in cell.runs.values()}:
            axes.plot([kl, kl], [row - 0.38, row + 0.38], color="#222222", linewidth=1, label="_")
        for (isa, feed), run in cell.runs.items():
            offset = 0.5 * (isas.index(isa) / max(1, len(isas) - 1) - 0.5)
            marker = "o" if feed == "prompt" else "x"
            axes.plot(run.found.kl, row + offset, marker, color=COLOURS[isa], markersize=4)
    axes.set(xscale="log", xlabel="KL to the reference, nats a token", yticks=range(len(cells)), yticklabels=names)
    axes.set_ylim(len(cells) - 0.4, -0.6)
    axes.grid(axis="x", color="#dddddd")
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    marks = [
        pyplot.Line2D([], [], color=COLOURS[isa], marker="o", linestyle="", label=f"{isa}, prompt") for isa in isas
    ]
    marks.append(pyplot.Line2D([], [], color="#555555", marker="x", linestyle="", label="steps"))
    marks.append(pyplot.Line2D([], [], color="#222222", marker="|", linestyle="", label="rounding, predicted"))
    marks.append(pyplot.Line2D([], [], color="#222222", marker="D", linestyle="", label="quantising, beside F32"))
    figure.legend(handles=marks, loc="outside lower center", ncols=5, frameon=False, fontsize=8)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)
