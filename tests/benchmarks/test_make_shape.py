"""benchmarks/make_shape.py: what it draws has the promised size, and its mixtures run."""

from __future__ import annotations

from pathlib import Path

import gguf
import make_shape
import numpy as np
import pytest
from engine_runs import describe_file

import ingle

MIXTURE = make_shape.Shape(2, 64, 2, 1, 32, 512, tied=False, context=64, experts=4, experts_used=2)
DENSE = make_shape.Shape(2, 64, 2, 1, 96, 512, tied=False, context=64)


def test_drawn_codes_have_the_variance_of_quantised_numbers_and_no_mean() -> None:
    shape = (3, 64, 4096)
    numbers = gguf.quants.dequantize(make_shape.drawn("blk.0.ffn_up", shape, [0, 1]), gguf.GGMLQuantizationType.Q4_0)
    assert numbers.shape == shape
    assert numbers.std() == pytest.approx(4096**-0.5, rel=0.01)
    assert abs(numbers.mean()) < 5e-3 * numbers.std()
    kept = gguf.quants.dequantize(make_shape.drawn("attn_output", (64, 4096), [0, 1]), gguf.GGMLQuantizationType.Q4_0)
    assert kept.std() == pytest.approx(0.3 * 4096**-0.5, rel=0.01)


def test_bytes_follow_from_the_seed() -> None:
    first, again, other = (make_shape.drawn("a", (8, 64), [seed, 3]) for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("shape", [DENSE, MIXTURE], ids=["dense", "mixture"])
@pytest.mark.parametrize("drawn_above", [0, 10**9], ids=["drawn", "quantised"])
def test_a_written_file_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shape: make_shape.Shape, drawn_above: int
) -> None:
    monkeypatch.setitem(make_shape.SHAPES, "small", shape)
    monkeypatch.setattr(make_shape, "DRAWN", drawn_above)
    path = tmp_path / "small.gguf"
    make_shape.write("small", path, "q4_0")
    assert [each.name for each in tmp_path.iterdir()] == ["small.gguf"]
    with ingle.load(path, threads=1, context=32) as model:
        assert (model.spec.experts is not None) == (shape.experts > 0)
        tokens = [token.token_id for token in model.generate([3], max_tokens=8, temperature=0.0, ignore_eos=True)]
    assert len(set(tokens)) > 2  # at a wrong scale it says one word for ever


def test_a_token_reads_as_many_experts_as_it_uses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(make_shape.SHAPES, "small", MIXTURE)
    path = tmp_path / "small.gguf"
    make_shape.write("small", path, "q8_0")
    told = describe_file(str(path))
    experts, attention, output = 2 * 3 * 4 * 32 * 64, 2 * (2 * 64 * 64 + 2 * 32 * 64), 512 * 64
    router, norms = 2 * 4 * 64, 2 * (2 * 64 + 2 * 32) + 64
    assert told["weights_per_token"] == experts // 2 + attention + output + router
    assert told["bytes_per_token"] == (experts // 2 + attention + output) * 34 // 32 + 4 * (router + norms)


def test_published_sizes() -> None:
    sizes = {name: sum(int(np.prod(s)) for _, s in make_shape.tensors(of)) for name, of in make_shape.SHAPES.items()}
    assert sizes["llama-2-7b"] == 6_738_415_616
    assert sizes["llama-2-70b"] == 68_976_648_192
    assert sizes["olmoe-1b-7b"] == pytest.approx(6.92e9, rel=0.001)
