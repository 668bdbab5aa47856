"""Muon against torch.optim.Muon, AdamW against torch.optim.AdamW, and what surrounds them."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor

from ingle.errors import TrainingError
from ingle.train import muon
from ingle.train.decoder import Decoder
from ingle.train.muon import Muon, orthogonalise
from ingle.train.optim import Optimizers, build_optimizer, not_finite
from ingle.train.recipes import Recipe
from ingle.train.shape import Shape

SHAPE = Shape(vocabulary=40, width=16, layers=2, heads=4, kv_heads=2, hidden=24, qk_norm=True, tied=False, context=8)


def make_decoder() -> Decoder:
    torch.manual_seed(1)
    return Decoder(SHAPE)


def fill_gradients(decoder: Decoder, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for p in decoder.parameters():
        p.grad = torch.randn(p.shape, generator=generator)


def train(decoder: Decoder, optimizers: Optimizers, seeds: range) -> None:
    for seed in seeds:
        fill_gradients(decoder, seed)
        optimizers.clip()
        optimizers.step(0.5)
        optimizers.zero_grad()


def weights(decoder: Decoder) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in decoder.named_parameters()}


@pytest.mark.parametrize("shape", [(12, 12), (8, 20), (20, 8)])
def test_muon_is_torchs(shape: tuple[int, int]) -> None:
    """Three matrices of one shape go in one batch here and one by one there; bfloat16 rounds unlike in the two."""
    torch.manual_seed(0)
    ours = {str(i): torch.randn(shape, requires_grad=True) for i in range(3)}
    theirs = [w.detach().clone().requires_grad_() for w in ours.values()]
    oracle = torch.optim.Muon(theirs, lr=0.1, momentum=0.9, weight_decay=0.2)
    optimizer = Muon(ours, lr=0.2, momentum=0.9, weight_decay=0.2)
    optimizer.dtype = torch.bfloat16
    for _ in range(4):
        before = [w.detach().clone() for w in theirs]
        for w, v in zip(ours.values(), theirs, strict=True):
            w.grad = torch.randn(shape)
            v.grad = w.grad.clone()
        optimizer.step(0.5)
        oracle.step()
        for w, v, b in zip(ours.values(), theirs, before, strict=True):
            moved = (v - b).norm()
            assert (w - v).norm() < 0.02 * moved
            with torch.no_grad():
                w.copy_(v)  # the next step's comparison begins from the same weights


@pytest.mark.parametrize("shape", [(2, 16, 16), (3, 6, 16), (3, 16, 6)])
def test_orthogonalise_brings_singular_values_near_one_and_keeps_directions(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    u, _, vh = torch.linalg.svd(torch.randn(shape), full_matrices=False)
    s = torch.linspace(0.05, 1, min(shape[1:]))  # from 0.01 when divided by the norm of all
    got = orthogonalise(u @ torch.diag(s) @ vh)
    inner = u.mT @ got @ vh.mT  # diagonal where the directions are kept
    diagonal = inner.diagonal(dim1=-2, dim2=-1)
    assert (inner - torch.diag_embed(diagonal)).abs().max() < 1e-3
    assert diagonal.min() > 0.68
    assert diagonal.max() < 1.14
    assert orthogonalise(torch.zeros(shape)).abs().max() == 0


def test_muon_gives_the_same_in_small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    results = []
    for n in (2**24, 300):
        monkeypatch.setattr(muon, "_NUMBERS_AT_ONCE", n)
        decoder = make_decoder()
        optimizers = build_optimizer(decoder, Recipe(optimizer="muon"))
        optimizers.muon.dtype = torch.float32
        train(decoder, optimizers, range(3))
        results.append(weights(decoder))
    for name, weight in results[0].items():
        torch.testing.assert_close(weight, results[1][name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("decay_embeddings", [True, False])
def test_adamw_is_torchs_and_norms_never_decay(decay_embeddings: bool) -> None:
    recipe = Recipe(lr=0.01, weight_decay=0.3, clip=0.0, decay_embeddings=decay_embeddings)
    decoder = make_decoder()
    other = copy.deepcopy(decoder)
    named = list(other.named_parameters())
    decayed = [n for n, p in named if p.ndim == 2 and (decay_embeddings or n.startswith("blk."))]
    oracle = torch.optim.AdamW(
        [
            {"params": [p for n, p in named if n in decayed], "weight_decay": 0.3},
            {"params": [p for n, p in named if n not in decayed], "weight_decay": 0.0},
        ],
        lr=0.005,
        betas=(0.9, 0.95),
    )
    optimizers = build_optimizer(decoder, recipe)
    for seed in range(3):
        for each in (decoder, other):
            fill_gradients(each, seed)
        optimizers.step(0.5)
        oracle.step()
    for name, weight in weights(other).items():
        torch.testing.assert_close(weights(decoder)[name], weight, rtol=1e-5, atol=1e-6)


def test_muon_takes_the_matrices_of_the_layers_and_adamw_the_rest() -> None:
    state = build_optimizer(make_decoder(), Recipe(optimizer="muon")).state_dict_flat()
    of_muon = {n.removeprefix("velocity.") for n in state if n.startswith("velocity.")}
    of_adamw = {n.removeprefix("exp_avg_sq.") for n in state if n.startswith("exp_avg_sq.")}
    parameters = dict(make_decoder().named_parameters())
    assert of_muon == {n for n, p in parameters.items() if n.startswith("blk.") and p.ndim == 2}
    assert of_adamw == set(parameters) - of_muon
    assert {"token_embd.weight", "output.weight", "output_norm.weight", "blk.1.attn_q_norm.weight"} < of_adamw


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_cautious_decay_is_where_weight_and_update_have_one_sign(optimizer: str) -> None:
    """The difference to a run without decay is lr * decay * weight there, and nothing elsewhere."""
    moved = {}
    for decay in (0.0, 0.4):
        recipe = Recipe(optimizer=optimizer, weight_decay=decay, muon_weight_decay=decay, cautious=True, clip=0.0)
        decoder = make_decoder()
        optimizers = build_optimizer(decoder, recipe)
        before = weights(decoder)
        fill_gradients(decoder, 1)
        optimizers.step(1.0)
        moved[decay] = weights(decoder)
    for name, w in before.items():
        update = w - moved[0.0][name]
        lr = recipe.muon_lr if optimizer == "muon" and name.startswith("blk.") else recipe.lr
        decays = w.ndim == 2
        expected = lr * 0.4 * w * (w * update >= 0) if decays else torch.zeros_like(w)
        torch.testing.assert_close(moved[0.0][name] - moved[0.4][name], expected, rtol=0, atol=3e-7)
        assert not decays or 0.2 < (expected != 0).float().mean() < 0.8


def test_clip_returns_the_norm_of_all_gradients_and_scales_to_the_limit() -> None:
    decoder = make_decoder()
    optimizers = build_optimizer(decoder, Recipe(clip=0.5))
    fill_gradients(decoder, 1)
    norm = torch.cat([p.grad.flatten() for p in decoder.parameters() if p.grad is not None]).norm().item()
    assert optimizers.clip() == pytest.approx(norm, rel=1e-6)
    assert optimizers.clip() == pytest.approx(0.5, rel=1e-6)
    before = {n: p.grad.clone() for n, p in decoder.named_parameters() if p.grad is not None}
    for p in decoder.parameters():
        assert p.grad is not None
        p.grad *= 0.9
    optimizers.clip()  # within the limit: as they are
    assert all(torch.equal(p.grad, before[n] * 0.9) for n, p in decoder.named_parameters() if p.grad is not None)
    optimizers.zero_grad()
    with pytest.raises(TrainingError, match="call backward"):
        optimizers.clip()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_gradient_that_is_not_finite_is_seen_named_and_not_spread(bad: float) -> None:
    decoder = make_decoder()
    optimizers = build_optimizer(decoder, Recipe(clip=0.5))
    fill_gradients(decoder, 1)
    gradient = decoder.blk[1].ffn_up.weight.grad
    gradient[3, 4] = bad
    assert not math.isfinite(optimizers.clip())
    assert not_finite(decoder) == ["blk.1.ffn_up.weight"]
    assert gradient.isfinite().sum() == gradient.numel() - 1


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_saved_and_loaded_state_goes_on_to_the_same_bits(optimizer: str) -> None:
    recipe = Recipe(optimizer=optimizer, cautious=True)
    decoder = make_decoder()
    optimizers = build_optimizer(decoder, recipe)
    train(decoder, optimizers, range(3))
    state, middle = optimizers.state_dict_flat(), weights(decoder)
    train(decoder, optimizers, range(3, 5))
    again = Decoder(SHAPE)
    again.load_state_dict(middle, strict=False)
    resumed = build_optimizer(again, recipe)
    resumed.load_flat(state)
    train(again, resumed, range(3, 5))
    assert all(torch.equal(weight, weights(again)[name]) for name, weight in weights(decoder).items())
    ours, theirs = optimizers.state_dict_flat(), resumed.state_dict_flat()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert ours["step"].tolist() == [5]


def test_state_that_does_not_fit_is_refused_and_changes_nothing() -> None:
    decoder = make_decoder()
    optimizers = build_optimizer(decoder, Recipe())
    good = optimizers.state_dict_flat()
    name = "exp_avg.blk.0.attn_q.weight"
    for bad, words in (
        ({n: t for n, t in good.items() if n != name}, "has no tensor 'exp_avg.blk.0.attn_q.weight'"),
        (good | {"exp_avg.blk.9.attn_q.weight": good[name]}, "blk.9.attn_q.weight' that is not expected"),
        (good | {name: torch.ones(3, 4), "step": torch.ones(1)}, r"has the shape \[3, 4\]; expected \[16, 16\]"),
    ):
        with pytest.raises(TrainingError, match=words):
            optimizers.load_flat(bad)
    assert all(torch.equal(tensor, good[n]) for n, tensor in optimizers.state_dict_flat().items())
