"""Optimizers as a recipe asks for them: one object for the weights of a decoder, on one device or many."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ingle.train.decoder import Decoder
from ingle.train.recipes import Recipe

__all__ = ["Optimizers", "build_optimizer", "not_finite"]


class Optimizers:
    """Muon for the matrices of the layers, AdamW for the rest; or AdamW for all."""

    def __init__(self, decoder: Decoder, recipe: Recipe) -> None: ...

    def clip(self) -> float:
        """Scales all gradients so that their norm together is at most the recipe's `clip`; returns the norm before.

        Not a finite number where any gradient is not: then nothing was scaled, and `step` must not be called.
        Every device must call it, and every device gets the same number.
        """
        raise NotImplementedError

    def step(self, lr_factor: float) -> None:
        """Moves the weights, with each group's peak learning rate times `lr_factor`."""

    def zero_grad(self) -> None:
        """Forgets the gradients."""

    def state_dict_flat(self) -> dict[str, Tensor]:
        """All state by names like `exp_avg.token_embd.weight`, whole tensors on the CPU of rank 0, {} elsewhere.

        Every device must call it. The names do not depend on the number of devices, nor on how they share the work.
        """
        raise NotImplementedError

    def load_flat(self, state: Mapping[str, Tensor]) -> None:
        """Takes what `state_dict_flat` gave; only rank 0's `state` counts. Raises TrainingError where it does not fit."""


def build_optimizer(decoder: Decoder, recipe: Recipe) -> Optimizers:
    """The optimizers for `decoder`; after `distributed.wrap`, whose sharding replaces the parameters."""
    return Optimizers(decoder, recipe)


def not_finite(decoder: Decoder) -> list[str]:
    """Names of the parameters whose gradient on this device holds an infinity or NaN."""
    return [n for n, p in decoder.named_parameters() if p.grad is not None and not bool(p.grad.isfinite().all())]
