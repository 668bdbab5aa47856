"""Rounding is told from faults: whatever else is different shows, everywhere or in few rows."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import toys
from ingle.backends.reference import ReferenceBackend
from ingle.backends.rounded import RoundedBackend
from ingle.evaluate.rounding import Truth, difference, examine, trace, truth_of
from ingle.models.convert import convert

WINDOWS = [np.random.default_rng(size).integers(0, len(toys.vocabulary()), size, dtype=np.int32) for size in (60, 40)]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rounding")
    return convert(toys.toy_gguf(folder / "toy.gguf"), folder / "q8_0.gguf", "q8_0")


@pytest.fixture(scope="module")
def truth(path: Path) -> Truth:
    return truth_of(path, WINDOWS, kv_type="f16", tiles=False)


class Single(RoundedBackend):
    """The model of rounding, as a backend that computes it in float32."""

    def __init__(self, spec: Any) -> None:
        super().__init__(spec, dtype=np.float32)


class Forgetful(Single):
    """Leaves out a head's part of one position."""

    def attention(self, block: Any, state: Any, pass_index: int) -> None:
        super().attention(block, state, pass_index)
        if pass_index == 1:
            state.delta[state.rows.positions == 33] *= 0.9


class Coarse(Single):
    """Is wrong everywhere, by a hundredth of what rounding does."""

    def feed_forward(self, block: Any, state: Any, pass_index: int) -> None:
        super().feed_forward(block, state, pass_index)
        if pass_index == 0:
            state.delta *= 1.0001


class Loud(Single):
    """Predicts something else."""

    def logits(self, output: Any, state: Any, wanted: Any) -> Any:
        return super().logits(output, state, wanted) * np.float32(1.1)


def test_rounding_is_no_fault(path: Path, truth: Truth) -> None:
    for sizes in ((), (1, 2, 5)):
        evidence = examine(path, Single, WINDOWS, truth, kv_type="f16", sizes=sizes)
        assert evidence.faults() == []
        assert evidence.found.kl > 1e-6
        assert evidence.blocks.typical.max() < 1e-6 < 1e-3 < evidence.rounding.typical.min()


def test_faults_are_seen(path: Path, truth: Truth) -> None:
    faults = {kind: examine(path, kind, WINDOWS, truth, kv_type="f16").faults() for kind in (Forgetful, Coarse, Loud)}
    assert [fault.split(" are ")[0] for fault in faults[Forgetful]] == ["Outputs of block 2"]
    assert [fault.split(" by ")[0] for fault in faults[Coarse]] == ["Outputs of block 1 are wrong"]
    assert any("block 4 " in fault for fault in faults[Loud])
    assert any("KL" in fault for fault in faults[Loud])


def test_what_is_not_finite_is_a_fault(path: Path, truth: Truth) -> None:
    evidence = examine(path, Single, WINDOWS, truth, kv_type="f16")
    nothing = np.full_like(evidence.blocks.typical, np.nan)
    broken = replace(
        evidence,
        blocks=replace(evidence.blocks, typical=nothing, rms=nothing),
        found=replace(evidence.found, kl=np.nan),
    )
    assert len(broken.faults()) == len(nothing) + 2


def test_a_trace_is_what_a_model_computes(path: Path) -> None:
    """In one call or several, tapped or not; and what was forced is gone on with."""
    whole = trace(path, ReferenceBackend, WINDOWS, kv_type="f32")
    assert whole.deltas is None
    steps = trace(path, ReferenceBackend, WINDOWS, kv_type="f32", sizes=(1, 7), blocks=True)
    np.testing.assert_allclose(steps.logits, whole.logits, atol=1e-4)
    assert steps.deltas is not None
    assert steps.deltas.shape == (4, 100, 32)
    other = trace(path, ReferenceBackend, WINDOWS, kv_type="f32", forced=np.zeros_like(steps.deltas))
    assert other.deltas is not None
    np.testing.assert_allclose(other.deltas[0], steps.deltas[0], atol=1e-5)
    assert np.abs(other.deltas[1] - steps.deltas[1]).max() > 1e-3


def test_difference_is_by_its_definition() -> None:
    rng = np.random.default_rng(0)
    windows = [np.array([1, 2, 0, 1], np.int32), np.array([0, 2, 1], np.int32)]
    ours, reference = (rng.standard_normal((7, 3)).astype(np.float32) for _ in range(2))
    found = difference(ours, reference, windows)
    q, p = (np.exp(x.astype(float)) / np.exp(x.astype(float)).sum(1, keepdims=True) for x in (ours, reference))
    rows, targets = [0, 1, 2, 4, 5], [2, 0, 1, 2, 1]  # the last of a window predicts nothing
    kl = (p * np.log(p / q)).sum(1)[rows]
    assert found.kl == pytest.approx(kl.mean())
    assert found.kl_max == pytest.approx(kl.max())
    assert found.top1 == (p.argmax(1) == q.argmax(1))[rows].mean()
    perplexity, other = (math.exp(-np.log(x[rows, targets]).mean()) for x in (q, p))
    assert found.perplexity == pytest.approx(perplexity)
    assert found.perplexity_delta == pytest.approx(perplexity - other)
    assert found.perplexity_stderr == pytest.approx(perplexity * found.nats_stderr)
