"""What is asked, and the runs that answer it.

An arm is one model trained one way; an experiment compares arms with its baseline, seed by seed. Arms that appear in
several experiments are trained once. All but those of the recipe experiment train by our recipe, which brings a model
of this size further in the same time. Every arm of an experiment has the same number of parameters to within 2% unless
its note says otherwise, sees the same rows in the same order, and is judged on the same held-out rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from ingle.train.shape import Shape

__all__ = ["EXPERIMENTS", "SCALES", "Arm", "Experiment", "Scale", "arms_of"]


@dataclass(frozen=True)
class Scale:
    """Sizes that fit a machine. Widths are multiples of 32, heads have 32 dimensions (64 at "gpu")."""

    name: str
    shape: Shape  # the baseline: deep and thin, SwiGLU, tied, grouped queries
    depths: tuple[int, ...]
    tokens: int
    batch_tokens: int
    positions: int


SCALES: dict[str, Scale] = {
    scale.name: scale
    for scale in (
        Scale(
            "tiny",
            Shape(vocabulary=2048, width=96, layers=8, heads=3, kv_heads=1, hidden=256, context=256),
            depths=(2, 4, 8, 16),
            tokens=1_000_000,
            batch_tokens=4096,
            positions=256,
        ),
        Scale(
            "gpu",
            Shape(vocabulary=8192, width=384, layers=24, heads=6, kv_heads=2, hidden=1024, context=1024),
            depths=(6, 12, 24, 48),
            tokens=400_000_000,
            batch_tokens=131_072,
            positions=1024,
        ),
    )
}


@dataclass(frozen=True)
class Arm:
    """One way to make a model. `tokens` is the share of the scale's tokens that it trains on."""

    name: str
    shape: Shape
    train: Mapping[str, Any] = field(default_factory=dict)  # changes to the recipe
    tokens: float = 1.0
    note: str = ""

    @property
    def parameters(self) -> int:
        return self.shape.n_parameters


@dataclass(frozen=True)
class Experiment:
    """A claim of the paper, and the arms that test it. `expect`: what the paper found of each arm beside the first."""

    name: str
    claim: str
    arms: tuple[Arm, ...]  # the first is what the others are compared with
    expect: Mapping[str, Literal["better", "worse", "equal"]]
    question: str = ""


def _fit(shape: Shape, parameters: int) -> Shape:
    """The shape with the feed-forward width (a multiple of 8) that brings it nearest to `parameters`."""
    matrices = 3 if shape.feed_forward == "swiglu" else 2
    without = replace(shape, hidden=8).n_parameters - shape.layers * matrices * shape.width * 8
    hidden = max(8, round((parameters - without) / (shape.layers * matrices * shape.width) / 8) * 8)
    return replace(shape, hidden=hidden)


def _of_depth(scale: Scale, layers: int) -> Shape:
    """As many parameters as the baseline in so many layers: the width follows as the root of the change in depth."""
    base, size = scale.shape, scale.shape.head_dim
    if layers == base.layers:
        return base
    group = base.heads // base.kv_heads
    heads = max(1, round(base.width * (base.layers / layers) ** 0.5 / size))
    kv_heads = max(k for k in range(1, heads + 1) if heads % k == 0 and k <= max(1, round(heads / group)))
    shape = replace(base, layers=layers, width=heads * size, heads=heads, kv_heads=kv_heads, head_dim=size)
    return _fit(shape, base.n_parameters)


def experiments(scale: Scale) -> tuple[Experiment, ...]:
    """Every experiment at a scale."""
    shape, n = scale.shape, scale.shape.n_parameters
    base = Arm("base", shape, note="SwiGLU, deep and thin, tied, grouped queries")
    depth = {d: base if d == shape.layers else Arm(f"depth-{d}", _of_depth(scale, d)) for d in scale.depths}
    shallow, *deeper = depth.values()

    def feed_forward(kind: str) -> Arm:
        return Arm(kind, _fit(replace(shape, feed_forward=kind), n))  # type: ignore[arg-type]

    def shared(sharing: str, repeat: int) -> Arm:
        changed = replace(shape, sharing=sharing, repeat=repeat)  # type: ignore[arg-type]
        return Arm(f"{sharing}-x{repeat}", changed, note=f"{repeat} times the work of the baseline per token")

    every_head = _fit(replace(shape, kv_heads=shape.heads), n)
    untied = replace(shape, tied=False)
    fewer = shape.layers - max(1, round(shape.vocabulary * shape.width * shape.layers / shape.n_matrix_parameters))
    sharing = [shared(how, 2) for how in ("immediate", "repeat", "reverse")]
    return (
        Experiment(
            "depth",
            "At equal parameters, deep and thin beats shallow and wide.",
            (shallow, *deeper),
            {arm.name: "better" for arm in deeper},
        ),
        Experiment(
            "feed-forward",
            "SwiGLU beats the plain feed-forward with ReLU at equal parameters.",
            (feed_forward("relu"), base, feed_forward("gelu"), feed_forward("relu2")),
            {"base": "better"},
        ),
        Experiment(
            "tied",
            "Sharing the embedding costs little, and the saved parameters are better spent on layers.",
            (
                Arm("untied", _fit(replace(untied, layers=fewer), n), note=f"{fewer} layers, output matrix of its own"),
                base,
                Arm("untied-larger", untied, note="as many layers as the baseline, so more parameters"),
            ),
            {"base": "better"},
        ),
        Experiment(
            "gqa",
            "Grouped queries with a wider feed-forward are at least as good as a key/value head for every head.",
            (Arm("kv-all", every_head), base),
            {"base": "better"},
        ),
        Experiment(
            "sharing",
            "At equal weights and equal tokens, running each layer twice is better.",
            (base, *sharing, shared("immediate", 3)),
            {arm.name: "better" for arm in sharing},
        ),
        Experiment(
            "sharing-time",
            "At equal time, running each layer twice is worse: the baseline sees more tokens meanwhile.",
            (Arm("base-longer", shape, tokens=LONGER, note="as much processor time as immediate-x2"), sharing[0]),
            {"immediate-x2": "worse"},
            question="Not the paper's: it compares at equal tokens only.",
        ),
        Experiment(
            "recipe",
            "Our recipe needs at most 0.6 of the paper's tokens and seconds to reach the same validation loss.",
            (
                Arm("paper", shape, {"recipe": "paper"}, note="AdamW, peak 2e-3, cosine to a tenth"),
                Arm("adamw-tuned", shape, {"recipe": "paper", "lr": TUNED_LR}, note="its peak tuned for this size"),
                Arm("ours-adamw", shape, {"optimizer": "adamw", "lr": TUNED_LR}, note="our init and schedule, no Muon"),
                base,
            ),
            {"adamw-tuned": "better", "ours-adamw": "better", "base": "better"},
        ),
    )


#: Tokens that the baseline sees in the processor time of "immediate-x2", from one run of each beforehand.
LONGER = 1.85
#: The best of 2e-3, 4e-3 and 8e-3 in runs of 400,000 tokens.
TUNED_LR = 4e-3

EXPERIMENTS = {scale.name: {e.name: e for e in experiments(scale)} for scale in SCALES.values()}


def arms_of(names: tuple[str, ...], scale: str) -> dict[str, Arm]:
    """Every arm of the named experiments (all if none is named), once each."""
    chosen = [EXPERIMENTS[scale][name] for name in names or EXPERIMENTS[scale]]
    return {arm.name: arm for experiment in chosen for arm in experiment.arms}
