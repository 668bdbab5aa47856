"""What a decoder pretends to be: the weights of a GGUF file, bit for bit, with gradients that pass."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ingle.errors import UsageError
from ingle.gguf import TensorType, dequantize, quantize
from ingle.train.compress.blocks import BLOCK, GRIDS, half, pack
from ingle.train.compress.schemes import (
    SCHEMES,
    W8A8,
    Blockwise,
    HalfWeights,
    apply_scheme,
    plan,
    quantize_activation,
    quantize_channels,
    remove_scheme,
)
from ingle.train.decoder import Decoder
from ingle.train.shape import Shape

SMALL = Shape(vocabulary=64, width=32, layers=2, heads=2, kv_heads=1, hidden=64, context=32)
TYPES = sorted(GRIDS, key=lambda kind: kind.name)


def rows(kind: str) -> torch.Tensor:
    """[24, 64] of weights that are hard on rounding."""
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(24, 64, generator=generator) * 0.05
    match kind:
        case "ties":  # the largest magnitude with both signs, and integers and halves of the scale
            x = (x * 40).round() / 16
        case "zeros":
            x[:, :32] = 0
        case "constant":
            x = x[:, :1].expand(-1, 64).clone()
        case "small":
            x = x * 1e-6
        case "tiny":
            x = x * 1e-38
        case "wide":
            x = x.exp2() * 1000 * x.sign()
    return x


@pytest.mark.parametrize("kind", ["usual", "ties", "zeros", "constant", "small", "tiny", "wide"])
@pytest.mark.parametrize("type", TYPES, ids=lambda kind: kind.name)
def test_fake_weights_are_the_weights_of_the_file(type: TensorType, kind: str) -> None:
    weight = rows(kind)
    expected = dequantize(quantize(weight.numpy(), type), type, weight.shape)
    assert np.array_equal(Blockwise(type).weight(weight).numpy(), expected)


@pytest.mark.parametrize("type", TYPES, ids=lambda kind: kind.name)
@given(st.lists(st.floats(-1e4, 1e4, width=32), min_size=BLOCK, max_size=BLOCK))
@settings(max_examples=60, deadline=None)
def test_fake_weights_of_any_block(type: TensorType, values: list[float]) -> None:
    weight = torch.tensor([values])
    expected = dequantize(quantize(weight.numpy(), type), type, weight.shape)
    assert np.array_equal(Blockwise(type).weight(weight).numpy(), expected)


def test_half_rounds_as_float16_does() -> None:
    every = torch.arange(2**16 - 1).to(torch.int32).to(torch.uint16).view(torch.float16).float()
    every = every[every.isfinite()]
    between = (every[:-1] + every[1:]) / 2
    near = torch.cat([every, between, between.nextafter(torch.tensor(9e9)), between.nextafter(torch.tensor(-9e9))])
    near = torch.cat([near, near * 1.0001, torch.tensor([1e-10, -1e-30])])
    near = near[near.abs() <= 65504]
    assert torch.equal(half(near), near.half().float())


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
def test_compiled_it_is_the_same() -> None:
    weight, x = rows("usual"), rows("wide") + 3

    def everything(weight: torch.Tensor, x: torch.Tensor) -> list[torch.Tensor]:
        weights = [Blockwise(kind).weight(weight) for kind in TYPES]
        return [*weights, HalfWeights().weight(weight), W8A8().weight(weight), W8A8().activation(x)]

    compiled = torch.compile(everything, fullgraph=True)(weight, x)
    for found, expected in zip(compiled, everything(weight, x), strict=True):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("kind", ["usual", "zeros", "wide"])
@pytest.mark.parametrize("type", TYPES, ids=lambda kind: kind.name)
def test_packed_bytes_are_those_of_the_quantizer(type: TensorType, kind: str) -> None:
    weight = rows(kind)
    fitted = GRIDS[type].round_to_nearest(weight.view(24, 2, BLOCK))
    if kind != "zeros":  # the integers of a block of zeros are anybody's choice
        assert np.array_equal(pack(fitted, type), quantize(weight.numpy(), type))
    assert np.array_equal(dequantize(pack(fitted, type), type, weight.shape), fitted.weights.view(24, 64).numpy())


@pytest.mark.parametrize("type", TYPES, ids=lambda kind: kind.name)
def test_nearest_is_nowhere_farther_than_half_a_step(type: TensorType) -> None:
    blocks = rows("usual").view(24, 2, BLOCK)
    grid = GRIDS[type]
    scale, minimum = grid.extent(blocks)
    fitted = grid.nearest(blocks, scale, minimum)
    assert torch.equal(fitted.scale, fitted.scale.half().float())
    error = (fitted.weights - blocks).abs()
    inside = (fitted.integers > grid.low) & (fitted.integers < grid.high)
    assert (error <= fitted.scale.abs() * 0.5001)[inside].all()


def test_gradients_pass_where_nothing_was_clipped() -> None:
    block = torch.zeros(1, 32)
    block[0, :4] = torch.tensor([-8.0, 7.9, 7.4, 1.3])  # the grid of scale 1 ends at 7
    weight = block.requires_grad_()
    Blockwise(TensorType.Q4_0).weight(weight).sum().backward()
    assert weight.grad is not None
    assert weight.grad[0].tolist() == [1, 0, 1, 1] + [1] * 28


@pytest.mark.parametrize("type", [TensorType.Q4_1, TensorType.Q8_0], ids=lambda kind: kind.name)
def test_other_types_clip_nothing(type: TensorType) -> None:
    weight = rows("usual").requires_grad_()
    (Blockwise(type).weight(weight) * 3).sum().backward()
    assert weight.grad is not None
    assert (weight.grad == 3).all()


def test_channels_have_integers_and_scales_that_fit_a_file() -> None:
    weight = rows("usual")
    integers, scale = quantize_channels(weight)
    assert integers.abs().max() == 127
    assert torch.equal(integers, integers.round())
    assert torch.equal(scale, scale.half().float())
    assert ((integers * scale - weight).abs() <= scale * 0.57).all()  # half a step, and the rounding of the scale
    assert torch.equal(quantize_channels(torch.zeros(2, 32))[0], torch.zeros(2, 32))


def test_activations_keep_zero_and_their_range() -> None:
    x = torch.tensor([[-1.0, 0.0, 0.5, 3.0], [2.0, 4.0, 0.0, 1.0], [0.0, 0.0, 0.0, 0.0], [-3.0, -1.0, -2.0, 0.0]])
    integers, scale, zero = quantize_activation(x)
    value = (integers - zero) * scale
    assert integers.min() >= -128
    assert integers.max() <= 127
    assert (value[x == 0] == 0).all()
    assert ((value - x).abs() <= scale).all()
    assert scale[0] == pytest.approx(4 / 255)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("tied", [True, False])
def test_a_scheme_enters_every_matrix_and_leaves(scheme: str, tied: bool) -> None:
    torch.manual_seed(0)
    decoder = Decoder(Shape(**SMALL.to_dict() | {"tied": tied, "head_dim": 16}))
    tokens = torch.randint(64, (2, 16))
    before, names = decoder.logits(tokens), list(decoder.state_dict())
    apply_scheme(decoder, scheme)
    apply_scheme(decoder, scheme)  # replaces itself
    assert list(decoder.state_dict()) == names
    after = decoder.logits(tokens)
    assert not torch.equal(before, after)
    loss = decoder(tokens, tokens)
    loss.backward()
    for name, parameter in decoder.named_parameters():
        assert parameter.grad is not None
        assert parameter.grad.abs().sum() > 0, name
    remove_scheme(decoder)
    assert torch.equal(decoder.logits(tokens), before)


@pytest.mark.parametrize("scheme", ["q8_0", "q4_0", "q4_1"])
@pytest.mark.parametrize("tied", [True, False])
def test_the_file_has_the_weights_that_were_trained_with(scheme: str, tied: bool) -> None:
    """A decoder with the dequantised weights of a file computes what the pretending one computes, bit for bit."""
    torch.manual_seed(0)
    shape = Shape(**SMALL.to_dict() | {"tied": tied, "sharing": "immediate", "repeat": 2, "width": 64, "hidden": 100})
    decoder, read = Decoder(shape), Decoder(shape)
    types = plan(decoder, scheme)  # type: ignore[arg-type]
    assert types["blk.0.ffn_down.weight"] is TensorType.F16  # 100 is not a multiple of 32
    with torch.no_grad():
        for name, parameter in decoder.named_parameters():
            data = quantize(parameter.detach().reshape(-1, parameter.shape[-1]).numpy(), types[name])
            weights = torch.from_numpy(dequantize(data, types[name], parameter.shape))
            read.get_parameter(name).copy_(weights)
    apply_scheme(decoder, scheme)
    tokens = torch.randint(64, (2, 16))
    assert torch.equal(decoder.logits(tokens), read.logits(tokens))
    assert decoder(tokens, tokens).item() == read(tokens, tokens).item()


def test_only_the_layers_without_head() -> None:
    decoder = Decoder(SMALL)
    apply_scheme(decoder, "q4_0", head=False)
    assert decoder.head_fake_quant is None
    assert torch.equal(decoder.token_embd(torch.tensor([3])), decoder.token_embd.weight[3:4])


def test_half_weights() -> None:
    weight = torch.tensor([[1.0, 1.0001, 1 / 3]], requires_grad=True)
    rounded = HalfWeights().weight(weight)
    assert torch.equal(rounded, weight.half().float())
    rounded.sum().backward()
    assert weight.grad is not None
    assert (weight.grad == 1).all()


def test_unknown_scheme() -> None:
    with pytest.raises(UsageError, match="no quantisation scheme"):
        apply_scheme(Decoder(SMALL), "q3")
