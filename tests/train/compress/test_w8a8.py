"""W8A8: pretending equals integer arithmetic, and both are what torchao computes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from compress_decoders import decoder_of, tokens_of

from ingle.gguf import TensorType, dequantize
from ingle.train.compress.blocks import BLOCK, Fitted, pack
from ingle.train.compress.int4 import torchao
from ingle.train.compress.schemes import W8A8, apply_scheme, quantize_channels
from ingle.train.compress.w8a8 import int8_linear, run_in_int8, to_int8

torchao()  # says nothing


def layer() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(5, 7, 96, generator=generator) + 0.7  # min-max matters where zero is not the middle
    return x, torch.randn(40, 96, generator=generator) * 0.1


def test_integers_give_what_pretending_gives() -> None:
    x, weight = layer()
    fake = W8A8()
    pretended = F.linear(fake.activation(x).double(), fake.weight(weight).double())
    found = int8_linear(x, to_int8(weight))
    assert found.shape == (5, 7, 40)
    assert torch.allclose(found.double(), pretended, rtol=1e-5, atol=1e-5)
    exact = F.linear(x, weight)
    assert 1e-3 < (found - exact).norm() / exact.norm() < 2e-2  # and it is an approximation of the real product


def test_sums_are_integers() -> None:
    """Products of the largest integers, with the zero point, do not overflow or round."""
    x, weight = torch.ones(1, 4096), torch.ones(2, 4096)
    assert int8_linear(x, to_int8(weight)) == pytest.approx(4096, rel=1e-3)
    assert torch.equal(int8_linear(x, to_int8(weight)), int8_linear(x, to_int8(weight)))
    assert int8_linear(-x, to_int8(weight)) == pytest.approx(-4096, rel=1e-3)


@pytest.mark.parametrize("sharing", ["none", "immediate", "repeat", "reverse"])
def test_a_decoder_in_integers(sharing: str) -> None:
    pretending, integers = decoder_of(sharing=sharing), decoder_of(sharing=sharing)
    exact = pretending.logits(tokens_of())
    apply_scheme(pretending, "w8a8")
    run_in_int8(integers)
    pretended, found = pretending.logits(tokens_of()), integers.logits(tokens_of())
    # A sum in another order may push an activation over the edge between two integers.
    assert (found - pretended).norm() < 0.1 * (pretended - exact).norm()
    assert 0 < (pretended - exact).norm() < 0.2 * exact.norm()


def test_activations_are_those_of_torchao() -> None:
    from torchao.quantization.quantize_.workflows.intx.intx_unpacked_to_int8_tensor import (
        _apply_int8_act_asym_per_token_quant_dequant,
    )

    x, _ = layer()
    for scaled in (x, x * 1e-3, x - 5, x.abs(), -x.abs(), x * 0):
        assert torch.equal(W8A8().activation(scaled), _apply_int8_act_asym_per_token_quant_dequant(scaled))


def test_weights_are_those_of_torchao() -> None:
    """Its symmetric mapping with the range -127 to 127; its scales are float32 and ours fit a float16."""
    from torchao.quantization import MappingType, choose_qparams_affine, quantize_affine

    _, weight = layer()
    scale, zero = choose_qparams_affine(weight, MappingType.SYMMETRIC, (1, 96), torch.int8, -127, 127)
    integers, ours = quantize_channels(weight)
    assert torch.allclose(ours[:, 0], scale, rtol=2**-11)
    theirs = quantize_affine(weight, (1, 96), ours[:, 0], zero, torch.int8, -127, 127)
    assert torch.equal(integers.to(torch.int8), theirs)


def test_a_layer_is_that_of_torchao() -> None:
    """Its tensor of our integers and scales, with inputs rounded by its own min-max per token."""
    from torchao.quantization import IntxUnpackedToInt8Tensor
    from torchao.quantization.quantize_.workflows.intx.intx_unpacked_to_int8_tensor import (
        IntxUnpackedToInt8TensorActivationQuantization as Activations,
    )

    x, weight = layer()
    integers, scale = quantize_channels(weight)
    tensor = IntxUnpackedToInt8Tensor(
        integers.to(torch.int8),
        scale,
        torch.zeros_like(scale, dtype=torch.int8),
        torch.int8,
        (1, 96),
        torch.float32,
        Activations.INT8_ASYM_PER_TOKEN,
    )
    assert torch.allclose(int8_linear(x, to_int8(weight)), F.linear(x, tensor), rtol=1e-5, atol=1e-5)


def test_its_own_configuration_is_as_far_from_the_truth() -> None:
    from torchao.quantization import Int8DynamicActivationIntxWeightConfig, PerAxis, quantize_

    x, weight = layer()
    theirs = torch.nn.Sequential(torch.nn.Linear(96, 40, bias=False))
    theirs[0].weight = torch.nn.Parameter(weight)
    quantize_(theirs, Int8DynamicActivationIntxWeightConfig(weight_dtype=torch.int8, weight_granularity=PerAxis(0)))
    exact = F.linear(x, weight)
    error, their_error = (int8_linear(x, to_int8(weight)) - exact).norm(), (theirs(x) - exact).norm()
    assert 0.8 < error / their_error < 1.05


def test_the_file_holds_the_same_integers() -> None:
    _, weight = layer()
    integers, scale = quantize_channels(weight)
    fitted = Fitted(integers.view(40, -1, BLOCK), scale[:, None].expand(-1, 3, -1), None)
    data = pack(fitted, TensorType.Q8_0)
    assert np.array_equal(dequantize(data, TensorType.Q8_0, weight.shape), W8A8().weight(weight).numpy())


def test_the_activations_gradient_passes() -> None:
    x, weight = layer()
    x.requires_grad_()
    F.linear(W8A8().activation(x), weight).sum().backward()
    assert x.grad is not None
    assert torch.allclose(x.grad, weight.sum(0).expand_as(x))
