"""What the matrices of a decoder see: the second moments of their inputs over calibration text."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from ingle.train.decoder import Decoder
from ingle.train.linear import Linear

__all__ = ["second_moments"]

#: Matrices with the inputs of another one.
_SAME_INPUTS = {"attn_k": "attn_q", "attn_v": "attn_q", "ffn_gate": "ffn_up"}


class _Recorder:
    """Takes the place of a FakeQuant, changes nothing and adds up x x^T of what comes by."""

    def __init__(self, n_inputs: int, device: torch.device) -> None:
        self.moments = torch.zeros(n_inputs, n_inputs, device=device)
        self.keep: Tensor | None = None  # [B, T], of the batch that comes next

    def weight(self, weight: Tensor) -> Tensor:
        return weight

    def activation(self, x: Tensor) -> Tensor:
        rows = (x if self.keep is None else x[self.keep]).detach().flatten(0, -2).float()
        self.moments.addmm_(rows.T, rows)
        return x


@torch.no_grad()
def second_moments(
    decoder: Decoder, batches: Iterable[tuple[Tensor, Tensor | None, Tensor | None]]
) -> dict[str, Tensor]:
    """The sum of x x^T, float32 [in, in], of the inputs of each matrix of the layers, by its name in GGUF files.

    `batches`: (tokens, documents, positions that count) [B, T]; None for one document, or all positions. A matrix that
    several passes share sees the inputs of all of them. Matrices that read the same inputs share a tensor. Needs
    4 in^2 bytes for each; replaces a scheme on the decoder.
    """
    recorders: dict[str, _Recorder] = {}
    linears = {name: module for name, module in decoder.blk.named_modules(prefix="blk") if isinstance(module, Linear)}
    for name, module in linears.items():
        if name.rpartition(".")[2] not in _SAME_INPUTS:
            module.fake_quant = recorders[name] = _Recorder(module.in_features, module.weight.device)
    try:
        for tokens, documents, keep in batches:
            for recorder in recorders.values():
                recorder.keep = keep
            decoder.hidden(tokens, documents)
    finally:
        for module in linears.values():
            module.fake_quant = None
    moments = {}
    for name in linears:
        layer, _, role = name.rpartition(".")
        moments[f"{name}.weight"] = recorders[f"{layer}.{_SAME_INPUTS.get(role, role)}"].moments
    return moments
