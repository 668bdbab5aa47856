"""Recipes: how a decoder is optimised, as numbers and words. `RECIPES` has MobileLLM's and ours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, get_args

from ingle.errors import UsageError
from ingle.train.tables import hint

__all__ = ["RECIPES", "Init", "Optimizer", "Recipe", "Schedule"]

Optimizer = Literal["adamw", "muon"]
Schedule = Literal["cosine", "wsd"]
Init = Literal["normal", "zero_residual"]

_WORDS: dict[str, tuple[str, ...]] = {
    "optimizer": get_args(Optimizer),
    "schedule": get_args(Schedule),
    "init": get_args(Init),
}


@dataclass(frozen=True, slots=True)
class Recipe:
    """How the weights change.

    optimizer: "adamw" for all weights, or "muon" for the matrices of the layers and AdamW for the rest.
    lr, betas, eps, weight_decay: AdamW's (Loshchilov & Hutter, arXiv 1711.05101); lr is the peak.
    muon_lr, muon_momentum, muon_weight_decay: Muon's (Jordan et al., 2024); unused with "adamw".
    cautious: weights decay only where the update moves them towards zero too (Chen et al., arXiv 2510.12402).
    decay_embeddings: whether AdamW's weight decay holds for the embedding and the output; norms never decay.
    schedule, warmup, decay, final: the peak is reached after `warmup` of the run (a share); "cosine" falls from there
    to `final` times the peak, "wsd" stays and falls linearly over the last `decay` of the run (a share).
    clip: the largest norm of the gradient; 0 does not clip. init: how weights begin, as in `decoder.Decoder`.
    """

    optimizer: Optimizer = "adamw"
    lr: float = 2e-3
    muon_lr: float = 0.02
    muon_momentum: float = 0.95
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    weight_decay: float = 0.1
    muon_weight_decay: float = 0.05
    cautious: bool = False
    decay_embeddings: bool = True
    schedule: Schedule = "cosine"
    warmup: float = 0.01
    decay: float = 0.7
    final: float = 0.1
    clip: float = 1.0
    init: Init = "normal"

    def __post_init__(self) -> None:
        for name, words in _WORDS.items():
            if getattr(self, name) not in words:
                raise UsageError(f"{name} is {getattr(self, name)!r}; expected one of {', '.join(words)}.")
        for name in ("lr", "muon_lr", "eps"):
            if not 0 < getattr(self, name) < 100:
                raise UsageError(f"{name} is {getattr(self, name)!r}; expected a number above 0 and below 100.")
        if not 0 <= self.muon_momentum < 1:
            raise UsageError(f"muon_momentum is {self.muon_momentum!r}; expected a number from 0 to below 1.")
        if len(self.betas) != 2 or not all(type(beta) in (int, float) and 0 <= beta < 1 for beta in self.betas):
            raise UsageError(f"betas is {list(self.betas)!r}; expected two numbers from 0 to below 1.")
        for name in ("warmup", "decay", "final"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"{name} is {getattr(self, name)!r}; expected a share from 0 to 1.")
        for name in ("weight_decay", "muon_weight_decay", "clip"):
            if not 0 <= getattr(self, name) < 1e6:
                raise UsageError(f"{name} is {getattr(self, name)!r}; expected 0 or a positive number.")

    def to_dict(self) -> dict[str, Any]:
        """Every field, ready for JSON or TOML."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Recipe:
        """The recipe `values["recipe"]` ("ingle" without one) with the other values set. Raises UsageError."""
        values = dict(values)
        name = values.pop("recipe", "ingle")
        if not isinstance(name, str) or name not in RECIPES:
            raise UsageError(f"There is no recipe {name!r}; Ingle knows {', '.join(RECIPES)}.")
        known = {field.name: type(field.default) for field in fields(cls)}
        for key, value in values.items():
            if key not in known:
                raise UsageError(f"A recipe has no setting {key!r}; {hint(key, known)}")
            kind = known[key]
            if kind is float and type(value) is int:
                values[key] = float(value)
            elif kind is tuple and type(value) in (list, tuple):
                values[key] = tuple(value)
            elif type(value) is not kind:
                words = {float: "a number", bool: "true or false", str: "a word in quotes", tuple: "two numbers"}
                raise UsageError(f"{key} is {value!r}; expected {words[kind]}.")
        return replace(RECIPES[name], **values)


#: "paper": MobileLLM's (its section 4 and its published script). "ingle": Muon and AdamW, a long linear decay.
RECIPES: dict[str, Recipe] = {
    "paper": Recipe(),
    "ingle": Recipe(
        optimizer="muon",
        lr=1e-2,
        weight_decay=0.01,
        schedule="wsd",
        final=0.0,
        init="zero_residual",
    ),
}
