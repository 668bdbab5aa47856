"""Optimizers as a recipe asks for them: one object for the weights of a decoder, on one device or many."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from ingle.errors import TrainingError
from ingle.train.decoder import Decoder
from ingle.train.muon import Muon, shrink
from ingle.train.recipes import Recipe
from ingle.train.sharding import full_tensors, load_tensors, local, sum_if_sharded

__all__ = ["Optimizers", "build_optimizer", "not_finite"]

_STEP = "step"


class Optimizers:
    """Muon for the matrices of the layers, AdamW for the rest; or AdamW for all.

    AdamW's weight decay leaves out norms, and embedding and output unless the recipe has `decay_embeddings`.
    """

    def __init__(self, decoder: Decoder, recipe: Recipe) -> None:
        self.recipe = recipe
        self.parameters = {name: p for name, p in decoder.named_parameters() if p.requires_grad}
        matrices: dict[str, Tensor] = {}
        if recipe.optimizer == "muon":
            matrices = {n: p for n, p in self.parameters.items() if p.ndim == 2 and n.startswith("blk.")}
        self.muon = Muon(
            matrices,
            lr=recipe.muon_lr,
            momentum=recipe.muon_momentum,
            weight_decay=recipe.muon_weight_decay,
            cautious=recipe.cautious,
        )
        self._adam_names = [n for n in self.parameters if n not in matrices]
        decayed = {n for n in self._adam_names if self._decays(n)}
        # Cautious decay is done here, by hand: PyTorch's kernel knows the plain one only.
        self._cautious = sorted(decayed) if recipe.cautious and recipe.weight_decay else []
        groups = [
            {"params": [self.parameters[n] for n in names], "weight_decay": 0.0 if recipe.cautious else decay}
            for names, decay in (
                ([n for n in self._adam_names if n in decayed], recipe.weight_decay),
                ([n for n in self._adam_names if n not in decayed], 0.0),
            )
            if names
        ]
        self.adamw = torch.optim.AdamW(groups, recipe.lr, recipe.betas, recipe.eps, fused=True)
        for name in self._adam_names:  # all state from the beginning: its names and sizes never depend on the moment
            p = self.parameters[name]
            self.adamw.state[p] = {
                "step": torch.zeros((), device=local(p).device),
                "exp_avg": torch.zeros_like(p),
                "exp_avg_sq": torch.zeros_like(p),
            }

    def _decays(self, name: str) -> bool:
        if self.parameters[name].ndim < 2:
            return False
        return self.recipe.decay_embeddings or name not in ("token_embd.weight", "output.weight")

    @torch.no_grad()
    def clip(self) -> float:
        """Scales all gradients so that their norm together is at most the recipe's `clip`; returns the norm before.

        Not a finite number where any gradient is not: then nothing was scaled, and `step` must not be called.
        Every device must call it, and every device gets the same number.
        """
        gradients = [p.grad for p in self.parameters.values() if p.grad is not None]
        if not gradients:
            raise TrainingError("There is no gradient to clip; call backward on a loss first.")
        parts = [local(g) for g in gradients]
        squares = torch.stack(torch._foreach_norm(parts, 2)).square().sum()
        norm = math.sqrt(sum_if_sharded(squares, gradients[0]).item())
        if self.recipe.clip and math.isfinite(norm) and norm > self.recipe.clip:
            torch._foreach_mul_(parts, self.recipe.clip / norm)
        return norm

    @torch.no_grad()
    def step(self, lr_factor: float) -> None:
        """Moves the weights, with each group's peak learning rate times `lr_factor`."""
        lr = self.recipe.lr * lr_factor
        for name in self._cautious:
            p = self.parameters[name]
            if p.grad is not None:  # Adam's update has the sign of its momentum, also before that is divided
                momentum = local(self.adamw.state[p]["exp_avg"]).lerp(local(p.grad), 1 - self.recipe.betas[0])
                shrink(local(p), momentum, lr * self.recipe.weight_decay, cautious=True)
        for group in self.adamw.param_groups:
            group["lr"] = lr
        self.adamw.step()
        self.muon.step(lr_factor)

    def zero_grad(self) -> None:
        """Forgets the gradients."""
        for p in self.parameters.values():
            p.grad = None

    def _state(self) -> dict[str, Tensor]:
        moments = ("exp_avg", "exp_avg_sq")
        state = {f"{m}.{n}": self.adamw.state[self.parameters[n]][m] for m in moments for n in self._adam_names}
        return state | {f"velocity.{n}": v for n, v in self.muon.velocity.items()}

    def state_dict_flat(self) -> dict[str, Tensor]:
        """All state by names like `exp_avg.token_embd.weight`, whole tensors on the CPU of rank 0, {} elsewhere.

        `exp_avg` and `exp_avg_sq` are AdamW's, `velocity` Muon's, `step` [1] counts the steps. Every device must call
        it. The names do not depend on the number of devices, nor on how they share the work.
        """
        state = full_tensors(self._state())
        return state and {_STEP: self._steps().cpu().reshape(1).clone()} | state

    def load_flat(self, state: Mapping[str, Tensor]) -> None:
        """Takes what `state_dict_flat` gave; only rank 0's counts. Raises TrainingError where it does not fit."""
        steps = torch.zeros(1, device=self._steps().device)
        load_tensors({_STEP: steps} | self._state(), state, "the optimizer's checkpoint")
        for name in self._adam_names:
            self.adamw.state[self.parameters[name]]["step"].copy_(steps[0])

    def _steps(self) -> Tensor:
        steps: Tensor = self.adamw.state[self.parameters[self._adam_names[0]]]["step"]
        return steps


def build_optimizer(decoder: Decoder, recipe: Recipe) -> Optimizers:
    """The optimizers for `decoder`; after `distributed.wrap`, whose sharding replaces the parameters."""
    return Optimizers(decoder, recipe)


def not_finite(decoder: Decoder) -> list[str]:
    """Names of the parameters whose gradient on this device holds an infinity or NaN: for the message that says so."""
    return [n for n, p in decoder.named_parameters() if p.grad is not None and not bool(local(p.grad).isfinite().all())]
