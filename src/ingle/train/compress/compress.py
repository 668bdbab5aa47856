"""A trained model with fewer bits, after training: every matrix in the type that `schemes.plan` says."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ingle.errors import UsageError
from ingle.gguf import TensorType
from ingle.train.checkpoint import TrainedModel
from ingle.train.compress.blocks import BLOCK, GRIDS, Fitted, half, pack
from ingle.train.compress.calibrate import second_moments
from ingle.train.compress.gptq import gptq
from ingle.train.compress.int4 import METHODS, hqq
from ingle.train.compress.schemes import SCHEMES, apply_scheme, plan, quantize_channels
from ingle.train.data.batches import IGNORED, Batch
from ingle.train.decoder import Decoder

__all__ = ["Measured", "check_method", "compress", "decoder_of", "measure", "size_bytes"]

_ROWS = 4  # of a batch that are computed at once

Progress = Callable[[str, int, int], None]  # (what, done, total)


@dataclass(frozen=True, slots=True)
class Measured:
    """Cross-entropy in nats per token over `n_tokens`."""

    loss: float
    n_tokens: int

    @property
    def perplexity(self) -> float:
        return math.exp(self.loss) if self.loss < 700 else math.inf


def check_method(scheme: str, method: str) -> None:
    """Raise UsageError where there is no such scheme, no such method, or none for the scheme."""
    for kind, value, known in (("quantisation scheme", scheme, SCHEMES), ("method", method, METHODS)):
        if value not in known:
            raise UsageError(f'There is no {kind} "{value}"; choose one of {", ".join(known)}.')
    if method != "rtn" and scheme not in ("q4_0", "q4_1"):
        raise UsageError(f"{method} chooses 4-bit weights; {scheme} has 8 bits, for which rounding (rtn) is enough.")


def decoder_of(model: TrainedModel, device: torch.device | str = "cpu") -> Decoder:
    """A decoder with the model's weights, for evaluation."""
    with torch.random.fork_rng(devices=[]):  # the random weights it begins with are nobody's
        decoder = Decoder(model.shape)
    decoder.load_state_dict(model.tensors)
    return decoder.eval().requires_grad_(False).to(device)


def compress(
    model: TrainedModel,
    scheme: str,
    method: str = "rtn",
    calibration: Batch | None = None,
    *,
    device: torch.device | str = "cpu",
    on_progress: Progress | None = None,
) -> TrainedModel:
    """`model` with the weights of `scheme`: `quantized` has the blocks for a file, `tensors` what they stand for.

    method: how 4-bit weights are chosen (see `int4`); "gptq" needs `calibration`. Embedding, output and matrices whose
    rows are not whole blocks are rounded whatever the method. Raises UsageError for a choice that cannot be.
    """
    check_method(scheme, method)
    if method == "gptq" and calibration is None:
        raise UsageError("gptq calibrates with text; give some (--calibrate), or choose hqq or rtn.")
    decoder = decoder_of(model, device)
    say = on_progress or (lambda what, done, total: None)
    moments: dict[str, Tensor] = {}
    if method == "gptq" and calibration is not None:
        moments = second_moments(decoder, _watched(calibration, device, say))
    types = {name: kind for name, kind in plan(decoder, scheme).items() if kind is not TensorType.F32}  # type: ignore[arg-type]
    tensors, quantized = dict(model.tensors), {}
    for done, (name, kind) in enumerate(types.items()):
        say("rounding", done, len(types))
        weight = decoder.get_parameter(name).detach()
        if kind is TensorType.F16:
            value = _half_of(weight, scheme)
            data = value.half().cpu().numpy().view(np.uint8)
        else:
            fitted = _fit(weight, kind, scheme, method, moments.get(name))
            value, data = fitted.weights.flatten(1), pack(fitted, kind)
        tensors[name] = value.cpu()
        quantized[name] = (kind, data.tobytes())
    say("rounding", len(types), len(types))
    n_tokens = 0 if calibration is None or not moments else int((calibration.targets != IGNORED).sum())
    info = {**model.info, "quantization": {"scheme": scheme, "method": method, "calibration_tokens": n_tokens}}
    return TrainedModel(model.shape, tensors, model.tokenizer_json, info, quantized)


@torch.no_grad()
def measure(
    model: TrainedModel,
    rows: Batch,
    scheme: str | None = None,
    *,
    device: torch.device | str = "cpu",
    on_progress: Progress | None = None,
) -> Measured:
    """The model's loss on `rows`, in float32. With scheme "w8a8" the inputs of its matrices are rounded as well."""
    decoder = decoder_of(model, device)
    if scheme == "w8a8":
        apply_scheme(decoder, scheme)
    total = 0.0
    for done, part in enumerate(parts := rows.split(_ROWS)):
        if on_progress is not None:
            on_progress("measuring", done, len(parts))
        tokens, targets, documents = (
            torch.from_numpy(x).to(device) for x in (part.tokens, part.targets, part.documents)
        )
        total += decoder(tokens, targets, documents).item()
    n_tokens = int((rows.targets != IGNORED).sum())
    return Measured(total / max(1, n_tokens), n_tokens)


def size_bytes(model: TrainedModel) -> int:
    """Bytes of the weights in a file: blocks as they are, and what is in no block as float32."""
    rest = sum(4 * tensor.numel() for name, tensor in model.tensors.items() if name not in model.quantized)
    return rest + sum(len(data) for _, data in model.quantized.values())


def _fit(weight: Tensor, kind: TensorType, scheme: str, method: str, moments: Tensor | None) -> Fitted:
    """`weight` [out, in] as blocks of `kind`."""
    grid, blocks = GRIDS[kind], weight.float().view(len(weight), -1, BLOCK)
    if scheme == "w8a8":
        integers, scale = quantize_channels(weight)
        return Fitted(integers.view_as(blocks), scale[:, None].expand(-1, blocks.shape[1], -1), None)
    if kind is TensorType.Q8_0 or method == "rtn":
        return grid.round_to_nearest(blocks)
    if moments is None:
        return hqq(weight, grid)
    return gptq(weight, moments, grid)


def _half_of(weight: Tensor, scheme: str) -> Tensor:
    if scheme == "w8a8":
        integers, scale = quantize_channels(weight)
        weight = integers * scale
    return half(weight)


def _watched(rows: Batch, device: torch.device | str, say: Progress) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Tokens, documents and which positions are no padding [B, T]."""
    for done, part in enumerate(parts := rows.split(_ROWS)):
        say("calibrating", done, len(parts))
        last = part.documents == part.documents[:, -1:]
        padded = ~((part.targets != IGNORED) & last).any(1, keepdims=True)
        arrays = part.tokens, part.documents, ~(last & padded)
        tokens, documents, keep = (torch.from_numpy(x).to(device) for x in arrays)
        yield tokens, documents, keep
