"""curves.png: how a run went, in three panels."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ingle.files import write_whole

__all__ = ["draw_curves", "smooth"]

_POINTS = 2000  # more can't be seen
_TRAIN, _HELD_OUT = "#c2571a", "#1f4e79"


def draw_curves(records: Sequence[Mapping[str, Any]], path: Path, title: str) -> None:
    """Draw the records of a log to the PNG `path`, which is replaced when the new one is whole. Raises OSError."""
    steps = [record for record in records if record.get("event") == "step"]
    if len(steps) < 2:
        return
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter

    steps = steps[:: max(1, len(steps) // _POINTS)]
    scores = [record for record in records if record.get("event") == "validation"]
    figure = Figure(figsize=(8, 8.5), layout="constrained")
    FigureCanvasAgg(figure)
    loss, speed, mfu = figure.subplots(3, 1, sharex=True, height_ratios=(3, 1, 1))
    x = _column(steps, "tokens")
    raw = _column(steps, "loss")
    loss.plot(x, raw, color=_TRAIN, alpha=0.25, linewidth=0.8)
    loss.plot(x, smooth(raw), color=_TRAIN, linewidth=1.8, label=f"training (last {smooth(raw)[-1]:.3f})")
    if scores:
        held_out = _column(scores, "loss")
        label = f"validation (last {held_out[-1]:.3f})"
        loss.plot(_column(scores, "tokens"), held_out, "o-", color=_HELD_OUT, markersize=4, linewidth=1, label=label)
    loss.set_ylabel("loss (nats per token)")
    loss.set_title(title)
    loss.legend(frameon=False)
    top = raw[len(raw) // 50 :].max()  # the first steps are far above, and would flatten the rest
    bottom = min(raw.min(), *(record["loss"] for record in scores)) if scores else raw.min()
    if top > bottom:
        loss.set_ylim(bottom - 0.04 * (top - bottom), top + 0.04 * (top - bottom))
    _band(speed, x, _column(steps, "tokens_per_s"))
    speed.set_ylabel("tokens/s")
    speed.yaxis.set_major_formatter(FuncFormatter(lambda value, at: _short(value)))
    shares = _column(steps, "mfu")
    if np.isfinite(shares).any():
        _band(mfu, x, 100 * shares)
    mfu.set_ylabel("MFU (%)")
    mfu.set_xlabel("tokens trained on")
    mfu.xaxis.set_major_formatter(FuncFormatter(lambda value, at: _short(value)))
    for panel in (loss, speed, mfu):
        panel.grid(alpha=0.3, linewidth=0.6)
        panel.spines[["top", "right"]].set_visible(False)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=120)
    write_whole(path, picture.getvalue())


def smooth(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mean of each value and its neighbours, a hundredth of all [n] in width; at the ends of those there are."""
    half = len(values) // 200
    total = np.concatenate(([0.0], np.cumsum(values)))
    at = np.arange(len(values))
    begins, ends = np.maximum(at - half, 0), np.minimum(at + half + 1, len(values))
    mean: NDArray[np.float64] = (total[ends] - total[begins]) / (ends - begins)
    return mean


def _band(panel: Any, x: NDArray[np.float64], y: NDArray[np.float64]) -> None:
    panel.plot(x, y, color=_TRAIN, alpha=0.25, linewidth=0.8)
    known = np.isfinite(y)
    half = len(y[known]) // 200
    near = np.lib.stride_tricks.sliding_window_view(np.pad(y[known], half, "edge"), 2 * half + 1)
    panel.plot(x[known], np.median(near, -1), color=_TRAIN, linewidth=1.8)  # a pause is no slower training
    panel.set_ylim(0, 1.1 * float(np.quantile(y[known], 0.99)) or 1)


def _column(records: Sequence[Mapping[str, Any]], name: str) -> NDArray[np.float64]:
    return np.array([float("nan") if record[name] is None else record[name] for record in records], np.float64)


def _short(value: float) -> str:
    for limit, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:.3g}{unit}"
    return f"{value:.3g}"
