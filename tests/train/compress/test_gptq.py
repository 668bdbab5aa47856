"""GPTQ: each rounding error is made up for by what is not rounded yet; the result lies on the grid of the file."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from compress_decoders import decoder_of, tokens_of

from ingle.errors import TrainingError
from ingle.gguf import TensorType, dequantize
from ingle.train.compress.blocks import BLOCK, GRIDS, pack
from ingle.train.compress.calibrate import second_moments
from ingle.train.compress.gptq import gptq, round_columns, search_scales
from ingle.train.compress.int4 import hqq

Q4 = [TensorType.Q4_0, TensorType.Q4_1]


def problem(inputs: int = 128) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights [24, inputs] and inputs [400, inputs] that go together, some of them large."""
    generator = torch.Generator().manual_seed(11)
    weight = torch.randn(24, inputs, generator=generator) * 0.1
    mix = torch.randn(inputs // 4, inputs, generator=generator)
    x = torch.randn(400, inputs // 4, generator=generator) @ mix + 0.3 * torch.randn(400, inputs, generator=generator)
    return weight, x * torch.logspace(-1, 1, inputs)[torch.randperm(inputs, generator=generator)]


def error(weight: torch.Tensor, found: torch.Tensor, x: torch.Tensor) -> float:
    return float((x @ (weight - found).T).norm())


@pytest.mark.parametrize("type", Q4, ids=lambda kind: kind.name)
def test_outputs_change_less_than_by_rounding(type: TensorType) -> None:
    weight, x = problem()
    grid = GRIDS[type]
    nearest = grid.round_to_nearest(weight.view(24, -1, BLOCK)).weights.view_as(weight)
    found = gptq(weight, x.T @ x, grid).weights.view_as(weight)
    assert error(weight, found, x) < 0.5 * error(weight, nearest, x)
    assert (weight - found).norm() > (weight - nearest).norm()  # it is the outputs that count


@pytest.mark.parametrize("method", ["hqq", "gptq"])
@pytest.mark.parametrize("type", Q4, ids=lambda kind: kind.name)
def test_the_bytes_are_the_weights(type: TensorType, method: str) -> None:
    weight, x = problem()
    fitted = hqq(weight, GRIDS[type]) if method == "hqq" else gptq(weight, x.T @ x, GRIDS[type])
    values = dequantize(pack(fitted, type), type, weight.shape)
    assert np.array_equal(values, fitted.weights.view_as(weight).numpy())
    assert fitted.integers.unique().numel() == 16


@pytest.mark.parametrize("type", Q4, ids=lambda kind: kind.name)
def test_hqq_is_nearer_than_rounding(type: TensorType) -> None:
    generator = torch.Generator().manual_seed(5)
    weight = torch.randn(64, 128, generator=generator)
    nearest = GRIDS[type].round_to_nearest(weight.view(64, -1, BLOCK)).weights.view_as(weight)
    found = hqq(weight, GRIDS[type]).weights.view_as(weight)
    assert (weight - found).square().mean() < 0.97 * (weight - nearest).square().mean()


def test_hqq_of_zeros_and_of_one_sign() -> None:
    weight = torch.zeros(2, 64)
    weight[1] = torch.linspace(0.1, 1, 64)
    for type in Q4:
        found = hqq(weight, GRIDS[type]).weights.view_as(weight)
        assert (found[0] == 0).all()
        assert (found[1] - weight[1]).abs().max() < 0.1


def test_searched_scales_are_no_worse_than_the_full_range() -> None:
    weight, x = problem()
    blocks, importance = weight.view(24, -1, BLOCK), x.square().sum(0).view(-1, BLOCK)
    for type in Q4:
        grid = GRIDS[type]

        def weighted(scales: tuple[torch.Tensor, torch.Tensor | None], grid=grid) -> torch.Tensor:  # type: ignore[no-untyped-def]
            return ((grid.nearest(blocks, *scales).weights - blocks).square() * importance).sum(-1)

        full, searched = weighted(grid.extent(blocks)), weighted(search_scales(blocks, importance, grid))
        assert (searched <= full).all()
        assert searched.sum() < 0.9 * full.sum()


def test_two_columns_by_hand() -> None:
    """The best rounding of two columns that always come together, found by trying them all."""
    weight, moments = torch.tensor([[0.4, 0.4]]), torch.tensor([[1.0, 0.999], [0.999, 1.0]])
    found = round_columns(weight, moments, lambda column, _: column.round(), torch.tensor([0, 1]), damping=1e-6)
    best = min(
        (torch.tensor([pair], dtype=torch.float32) for pair in itertools.product((-1, 0, 1), repeat=2)),
        key=lambda q: float((weight - q) @ moments @ (weight - q).T),
    )
    assert torch.equal(found, torch.tensor([[0.0, 1.0]]))  # nearest would be 0, 0
    assert sorted(found[0].tolist()) == sorted(best[0].tolist())


@pytest.mark.parametrize("inputs", [40, 160], ids=["one batch of columns", "two"])
def test_columns_are_those_of_the_definition(inputs: int) -> None:
    """Against Optimal Brain Quantization (Frantar et al., arXiv 2208.11580) written out: after each column, those that
    are left become the exact least-squares answer to what is fixed."""
    weight, x = problem(inputs)
    moments = (x.T @ x).double()
    moments += 0.01 * moments.diagonal().mean() * torch.eye(inputs)
    order = torch.randperm(inputs, generator=torch.Generator().manual_seed(2))
    step = 0.02
    expected, left = weight.double(), order.tolist()
    while left:
        at = left[0]
        inverse = moments[left][:, left].inverse()
        value = (expected[:, at] / step).round() * step
        expected[:, left] -= (expected[:, at] - value)[:, None] / inverse[0, 0] * inverse[0]
        expected[:, at] = value
        left.pop(0)

    found = round_columns(weight, x.T @ x, lambda column, _: (column / step).round() * step, order)
    # Sums in another order put a value now and then on the other side of an edge, and what follows elsewhere.
    assert ((found - expected).abs() > step / 2).float().mean() < 0.03
    assert error(weight, found, x) == pytest.approx(error(weight, expected.float(), x), rel=0.02)


def test_inputs_that_never_are_do_not_matter() -> None:
    weight, x = problem()
    x[:, 40:50] = 0
    found = gptq(weight, x.T @ x, GRIDS[TensorType.Q4_0]).weights.view_as(weight)
    assert found.isfinite().all()
    silent = gptq(weight, torch.zeros(128, 128), GRIDS[TensorType.Q4_0]).weights
    assert silent.isfinite().all()


def test_moments_that_are_not_numbers() -> None:
    weight, x = problem()
    x[0, 0] = float("nan")
    with pytest.raises(TrainingError, match="calibrate with more text"):
        gptq(weight, x.T @ x, GRIDS[TensorType.Q4_0])


@pytest.mark.parametrize("sharing", ["none", "immediate", "repeat", "reverse"])
def test_moments_are_of_all_passes(sharing: str) -> None:
    """Against inputs collected by hooks; with layer sharing a matrix sees each of its passes."""
    decoder = decoder_of(sharing=sharing, feed_forward="swiglu")
    seen: dict[str, torch.Tensor] = {}

    def hook(name: str):  # type: ignore[no-untyped-def]
        def add(module, inputs) -> None:  # type: ignore[no-untyped-def]
            x = inputs[0].detach().flatten(0, 1)
            seen[name] = seen.get(name, 0) + x.T @ x

        return add

    handles = [
        module.register_forward_pre_hook(hook(f"{name}.weight"))
        for name, module in decoder.named_modules()
        if name.startswith("blk.") and hasattr(module, "fake_quant")
    ]
    documents = torch.zeros(4, 32, dtype=torch.int32)
    moments = second_moments(decoder, [(tokens_of(), documents, None), (tokens_of(seed=2), None, None)])
    for handle in handles:
        handle.remove()
    assert moments.keys() == seen.keys()
    for name, expected in seen.items():
        assert torch.allclose(moments[name], expected, rtol=1e-4, atol=1e-3), name
    assert all(module.fake_quant is None for module in decoder.modules() if hasattr(module, "fake_quant"))


def test_padding_does_not_count() -> None:
    decoder = decoder_of()
    tokens, keep = tokens_of(), torch.ones(4, 32, dtype=torch.bool)
    keep[:, 20:] = False
    padded = second_moments(decoder, [(tokens, None, keep)])
    short = second_moments(decoder, [(tokens[:, :20], None, None)])
    for name in short:
        assert torch.allclose(padded[name], short[name], rtol=1e-4, atol=1e-3)
