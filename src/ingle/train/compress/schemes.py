"""Computing as if quantised: what a decoder's weights and inputs become, while gradients pass.

| scheme | weights | inputs of the matrices |
|---|---|---|
| w8a8 | int8, one scale for each output channel, symmetric | int8 for each token, by its minimum and maximum |
| q8_0 | GGUF Q8_0: int8, one scale for 32 weights | as they are |
| q4_0 | GGUF Q4_0: 4 bits, one scale for 32 weights | as they are |
| q4_1 | GGUF Q4_1: 4 bits, scale and minimum for 32 weights | as they are |

w8a8 is the post-training quantisation of MobileLLM (Liu et al., arXiv 2402.14905, "W8A8 per-token min-max"). The paper
leaves open how the weights are scaled; here by output channel, symmetrically, which is what int8 matrix products allow.
In a GGUF file w8a8 is Q8_0 whose blocks repeat the scale of their row, so the file holds exactly these integers.
Ingle's native core rounds the inputs of every quantised matrix to int8 while decoding, in blocks of 32; that is finer
than per token, and is not part of what the q schemes show.

The embedding and the output matrix are Q8_0 in the q4 schemes. A matrix whose rows are not whole blocks of 32 is kept
as float16. `plan` says which type each tensor has, and every figure is of exactly those weights.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from ingle.errors import UsageError
from ingle.gguf import TensorType
from ingle.train.compress.blocks import BLOCK, GRIDS, half, reciprocal
from ingle.train.decoder import Decoder
from ingle.train.linear import FakeQuant, Linear

__all__ = [
    "SCHEMES",
    "W8A8",
    "Blockwise",
    "HalfWeights",
    "Scheme",
    "apply_scheme",
    "plan",
    "quantize_activation",
    "quantize_channels",
    "remove_scheme",
]

Scheme = Literal["w8a8", "q8_0", "q4_0", "q4_1"]
SCHEMES: tuple[Scheme, ...] = get_args(Scheme)

_BASE = {"w8a8": TensorType.Q8_0, "q8_0": TensorType.Q8_0, "q4_0": TensorType.Q4_0, "q4_1": TensorType.Q4_1}


def _through(x: Tensor, value: Tensor, inside: Tensor | None = None) -> Tensor:
    """`value`, with the gradient of `x` where x was not clipped (the straight-through estimator of Bengio et al., arXiv
    1308.3432). What is added is exactly 0."""
    nothing = x - x.detach()
    return (value + (nothing if inside is None else nothing * inside)).to(x.dtype)


class Blockwise:
    """Weights as `ingle.gguf` writes and reads them in a type of blocks; inputs as they are."""

    def __init__(self, type: TensorType) -> None:
        self.grid = GRIDS[type]

    def weight(self, weight: Tensor) -> Tensor:
        """[out, in], `in` whole blocks -> dequantize(quantize(weight)), bit for bit where not compiled."""
        with torch.no_grad():
            blocks = weight.detach().float().view(*weight.shape[:-1], -1, BLOCK)
            fitted = self.grid.round_to_nearest(blocks)
            inside = None
            if self.grid.type is TensorType.Q4_0:  # the others reach a block's largest weights on both sides
                inside = (blocks * reciprocal(fitted.scale) < self.grid.high + 0.5).flatten(-2)
        return _through(weight, fitted.weights.flatten(-2), inside)

    def activation(self, x: Tensor) -> Tensor:
        return x


class HalfWeights:
    """Weights as float16, which a file has for rows that are not whole blocks; inputs as they are."""

    def weight(self, weight: Tensor) -> Tensor:
        return _through(weight, half(weight.detach()))

    def activation(self, x: Tensor) -> Tensor:
        return x


class W8A8:
    """8-bit weights by output channel, 8-bit inputs by token."""

    def weight(self, weight: Tensor) -> Tensor:
        with torch.no_grad():
            integers, scale = quantize_channels(weight.detach())
        return _through(weight, integers * scale)

    def activation(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            integers, scale, zero = quantize_activation(x.detach())
        return _through(x, (integers - zero) * scale)


def quantize_channels(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Integers [out, in] from -127 to 127, kept as float32, and scales [out, 1], float32 that a float16 holds."""
    weight = weight.float()
    scale = half(weight.abs().amax(-1, keepdim=True) / 127)
    return (weight * reciprocal(scale)).round().clamp(-127, 127), scale


def quantize_activation(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Integers [..., in] from -128 to 127, and scale and zero point [..., 1] of each token, all as float32.

    The range of a token is from its minimum to its maximum and contains 0, which is represented exactly (Jacob et al.,
    arXiv 1712.05877).
    """
    x = x.float()
    low, high = x.aminmax(dim=-1, keepdim=True)
    low, high = low.clamp(max=0), high.clamp(min=0)
    scale = ((high - low) / 255).clamp(min=torch.finfo(torch.float32).eps)
    zero = (-128 - (low / scale).round()).clamp(-128, 127)
    return ((x * (1 / scale)).round() + zero).clamp(-128, 127), scale, zero


def plan(decoder: Decoder, scheme: Scheme) -> dict[str, TensorType]:
    """The type of each tensor in a file of this scheme, by GGUF's names."""
    types = {}
    for name, parameter in decoder.named_parameters():
        if parameter.ndim < 2:
            types[name] = TensorType.F32
        elif parameter.shape[-1] % BLOCK:
            types[name] = TensorType.F16
        else:
            types[name] = TensorType.Q8_0 if name in ("token_embd.weight", "output.weight") else _BASE[scheme]
    return types


def apply_scheme(decoder: Decoder, scheme: str, head: bool = True) -> None:
    """Make every matrix of `decoder` compute as if quantised by `scheme`, from now on, in place.

    `head`: the embedding and the output matrix too; a shared matrix is rounded in both uses. The parameters stay float
    and keep their names, and gradients pass, so the decoder can be trained so (quantisation-aware training). Another
    scheme replaces the one before. Raises UsageError for an unknown scheme.
    """
    if scheme not in SCHEMES:
        raise UsageError(f'There is no quantisation scheme "{scheme}"; choose one of {", ".join(SCHEMES)}.')
    remove_scheme(decoder)
    types = plan(decoder, scheme)
    for name, module in decoder.named_modules():
        if isinstance(module, Linear) and name != "output":
            module.fake_quant = _fake_quant(scheme, types[f"{name}.weight"])
    if head:
        kind = types["token_embd.weight"]
        decoder.head_fake_quant = _fake_quant(scheme, kind)
        decoder.token_embd.register_forward_hook(_RoundedRows(_fake_quant(scheme, kind)))


def remove_scheme(decoder: Decoder) -> None:
    """Make `decoder` compute with its float weights again."""
    for module in decoder.modules():
        if isinstance(module, Linear):
            module.fake_quant = None
    decoder.head_fake_quant = None
    hooks = decoder.token_embd._forward_hooks
    for key in [key for key, hook in hooks.items() if isinstance(hook, _RoundedRows)]:
        del hooks[key]


class _RoundedRows:
    """A forward hook of the embedding: every scheme rounds a row by itself, so what is looked up is what is rounded."""

    def __init__(self, fake_quant: FakeQuant) -> None:
        self.fake_quant = fake_quant

    def __call__(self, module: object, inputs: object, rows: Tensor) -> Tensor:
        return self.fake_quant.weight(rows)


def _fake_quant(scheme: str, kind: TensorType) -> FakeQuant:
    if scheme == "w8a8":
        return W8A8()
    return HalfWeights() if kind is TensorType.F16 else Blockwise(kind)
