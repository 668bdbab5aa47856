"""One suite over every backend. A backend is done when this is green."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backends.decoders import (
    HALF,
    INTERLEAVED,
    SPECS,
    Loaded,
    changed,
    error,
    random_decoder,
    random_tokens,
    rms_error,
    spec_of,
)
from ingle import _core
from ingle.backends import open_backend
from ingle.backends.base import Rows
from ingle.backends.reference import ReferenceBackend, rounded
from ingle.errors import BackendError, MemoryLimitError
from ingle.gguf import TensorType, dequantize, quantize
from ingle.models.spec import Experts, Rope, Spec
from ingle.models.tensor import Tensor

EXACT = 1e-5  # float32 weights and cache: sums in another order
# Keys and values rounded to 11 bits or to codes. With matrix tiles (AMX), queries, keys, values and weights of many
# rows have 8 bits; then a number of the next layer may get another code, a step away, and a step of q4 is an eighth.
CACHE = {"f32": EXACT, "f16": 2e-3, "q8": 2e-3, "q4": 2e-3}
if _core.isa() == "amx":
    CACHE |= {"f16": 2e-2, "q8": 2e-2, "q4": 1e-1}
HALVES = 5e-5  # many rows of 16-bit floats on a matrix unit: 2^-16 of each product
# Root mean square. Quantised weights are read without loss, but multiply activations rounded to int8 with a scale for
# every 32: half a percent for normally distributed ones, 2 % for products of a gate, whose groups have larger outliers.
QUANTISED = 0.05

EXAMPLES = int(os.environ.get("INGLE_TEST_EXAMPLES", "60"))  # more look further, at random

Make = Callable[[Spec], Any]


@pytest.fixture(params=["reference", "native"])
def make(request: pytest.FixtureRequest) -> Make:
    """Makes a backend for a spec."""
    return lambda spec, threads=2: open_backend(request.param, spec, threads)


@pytest.fixture
def native() -> Callable[..., Any]:
    return lambda spec, threads=2: open_backend("native", spec, threads)


def run_both(
    native: Make,
    spec: Spec,
    calls: list[int],
    *,
    n_slots: int = 1,
    kv_type: Any = "f32",
    measure: Callable[[Any, Any], float] = error,
    **options: Any,
) -> float:
    """The worst error of native logits and deltas over calls of so many rows each, against the reference."""
    decoder = random_decoder(spec, **options)
    ours, right = Loaded(native(spec), decoder), Loaded(ReferenceBackend(spec), decoder)
    context = sum(calls)
    caches = ours.cache(n_slots, context, kv_type), right.cache(n_slots, context, kv_type)
    tokens = random_tokens(spec, context)
    worst, start = 0.0, 0
    for n in calls:
        rows = Rows.of_slot(n_slots - 1, start, tokens[start : start + n])
        got, expected = ours.forward(rows, caches[0]), right.forward(rows, caches[1])
        worst = max(worst, measure(got, expected))
        worst = max(worst, *(measure(a, b) for a, b in zip(ours.deltas, right.deltas, strict=True)))
        start += n
    return worst


@pytest.mark.parametrize("biases", [False, True], ids=["", "biases"])
@pytest.mark.parametrize("name", SPECS)
def test_native_equals_reference(native: Make, name: str, biases: bool) -> None:
    assert run_both(native, SPECS[name], [9, 1, 1, 3], biases=biases and SPECS[name].experts is None) < EXACT


@pytest.mark.parametrize("kv_type", ["f16", "q8", "q4"])
@pytest.mark.parametrize("name", ["plain", "window", "alibi", "head of 80", "many heads for one", "gemma 2"])
def test_rounded_cache(native: Make, name: str, kv_type: str) -> None:
    assert run_both(native, SPECS[name], [9, 1, 1, 3], kv_type=kv_type) < CACHE[kv_type]


@pytest.mark.parametrize("kv_type", ["q8", "q4"])
@pytest.mark.parametrize("head_dim", [1, 10, 16, 31, 32, 33, 48, 50, 80, 128])
def test_codes_of_the_cache(native: Make, head_dim: int, kv_type: str) -> None:
    """The same codes and scales as the reference, to the bit: few rows are computed with floats."""
    spec = spec_of(head_dim=head_dim, n_heads=2, rope=None, schedule=(0,))
    assert run_both(native, spec, [1, 1, 1], kv_type=kv_type) < EXACT
    assert run_both(native, spec, [1, 1, 1], kv_type=kv_type, seed=1) < EXACT


def test_rounding_is_that_of_ggml() -> None:
    """Of heads of whole blocks; the codes of the file format decide."""
    x = np.random.default_rng(5).standard_normal((7, 3, 96), dtype=np.float32)
    x[0, 0, :32], x[1, 1], x[2, 2, 0] = 0, 1e-33, -1e4
    for kv_type, type in (("q8", TensorType.Q8_0), ("q4", TensorType.Q4_0)):
        expected = dequantize(quantize(x.reshape(-1, 96), type), type, x.shape)
        assert np.array_equal(rounded(x, kv_type), expected)  # type: ignore[arg-type]


@pytest.mark.parametrize("kv_type", ["f32", "f16", "q8", "q4"])
@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_stays_none(make: Make, kv_type: Any, wrong: float) -> None:
    spec = spec_of(rope=None)
    model = Loaded(make(spec), random_decoder(spec))
    cache = model.cache(2, 10, kv_type)
    hidden = np.ones((1, spec.n_embd), np.float32)
    zeros = np.zeros(1, np.int32)
    with np.errstate(all="ignore"):
        bad = model.forward(Rows(zeros, zeros, hidden=hidden * wrong), cache)
    assert np.isnan(bad).all()
    assert np.isfinite(model.forward(Rows(zeros + 1, zeros, hidden=hidden), cache)).all()
    assert np.isfinite(model.forward(Rows(zeros, zeros, hidden=hidden), cache)).all()  # in its place


def test_qk_norm_for_each_head(native: Make) -> None:
    assert run_both(native, SPECS["qk norm"], [5, 1], wide_qk_norm=True) < EXACT


@pytest.mark.parametrize("kv_type", ["f32", "f16", "q8", "q4"])
@pytest.mark.parametrize("name", ["plain", "heads alone", "many heads for one", "head of 80", "alibi and cap"])
@pytest.mark.parametrize("window", [0, 70])
def test_many_positions(native: Make, name: str, window: int, kv_type: str) -> None:
    """Contexts of several cache pages, in one call and row by row at the borders of pages."""
    spec = replace(SPECS[name], window=window, schedule=(0,))
    assert run_both(native, spec, [63, 1, 1, 100, 27, 1], n_slots=2, kv_type=kv_type) < CACHE[kv_type]


@pytest.mark.parametrize("type", [t for t in TensorType if t is not TensorType.MXFP4], ids=lambda t: t.name)
@pytest.mark.parametrize("rows", [1, 40])
def test_quantised_weights(native: Make, type: TensorType, rows: int) -> None:
    spec = spec_of(n_embd=256, n_ff=256, n_heads=4, head_dim=64, n_vocab=67)
    limit = QUANTISED if type.is_quantized else EXACT if type is TensorType.F32 else HALVES
    assert run_both(native, spec, [rows, 1], type=type, measure=rms_error) < limit


def test_quantised_experts(native: Make) -> None:
    spec = spec_of(n_embd=64, experts=Experts(4, 2, 96), head_dim=32, n_heads=2)
    assert run_both(native, spec, [6, 1], type=TensorType.Q8_0, measure=rms_error) < QUANTISED


@pytest.mark.parametrize("name", SPECS)
def test_chunked_is_whole(make: Make, name: str) -> None:
    spec = SPECS[name]
    model = Loaded(make(spec), random_decoder(spec))
    tokens = random_tokens(spec, 12)
    whole = model.forward(Rows.of_slot(0, 0, tokens), model.cache())
    cache = model.cache()
    cuts = [(0, 5), (5, 6), (6, 12)]
    parts = [model.forward(Rows.of_slot(0, a, tokens[a:b]), cache) for a, b in cuts]
    assert error(np.concatenate(parts), whole) < EXACT


@pytest.mark.parametrize("name", ["plain", "window", "experts", "parallel", "alibi", "post norm"])
def test_slots_in_one_call_are_separate(make: Make, name: str) -> None:
    spec = SPECS[name]
    model = Loaded(make(spec), random_decoder(spec))
    lengths = [7, 1, 3]
    texts = [random_tokens(spec, n, seed=n) for n in lengths]
    apart = [model.forward(Rows.of_slot(0, 0, text), model.cache()) for text in texts]
    slots = [2, 0, 3]
    cache = model.cache(n_slots=4)
    together = model.forward(Rows.join([Rows.of_slot(s, 0, t) for s, t in zip(slots, texts, strict=True)]), cache)
    assert error(together, np.concatenate(apart)) < EXACT
    # And they go on from different positions in one call.
    step = Rows.join([Rows.of_slot(s, n, [5]) for s, n in zip(slots, lengths, strict=True)])
    expected = [model.forward(Rows.of_slot(0, 0, [*text, 5]), model.cache())[-1:] for text in texts]
    assert error(model.forward(step, cache), np.concatenate(expected)) < EXACT


@pytest.mark.parametrize("kv_type", ["f32", "f16", "q8", "q4"])
@pytest.mark.parametrize("n", [1, 10, 64, 70, 90])
def test_copy_shares_a_prefix(make: Make, n: int, kv_type: Any) -> None:
    spec = replace(SPECS["plain"], schedule=(0, 1, 0))
    model = Loaded(make(spec), random_decoder(spec))
    tokens = random_tokens(spec, 91)
    cache = model.cache(3, 100, kv_type)
    whole = model.forward(Rows.of_slot(2, 0, tokens), cache)
    model.forward(Rows.of_slot(0, 0, random_tokens(spec, 95, seed=9)), cache)
    cache.copy(2, 0, n)
    rest = model.forward(Rows.of_slot(0, n, tokens[n:]), cache)
    assert error(rest, whole[n:]) < CACHE[kv_type]
    again = model.forward(Rows.of_slot(2, 90, tokens[90:]), cache)  # the source is untouched
    assert error(again, whole[90:]) < CACHE[kv_type]


@pytest.mark.parametrize("name", SPECS)
def test_threads_do_not_change_a_bit(native: Callable[..., Any], name: str) -> None:
    spec = SPECS[name]
    decoder = random_decoder(spec)
    tokens = random_tokens(spec, 20)
    results = []
    for threads in (1, 2, 3):
        model = Loaded(native(spec, threads), decoder)
        assert model.backend.n_threads == threads
        cache = model.cache(kv_type="f16")
        rows = Rows.of_slot(0, 0, tokens[:19]), Rows.of_slot(0, 19, tokens[19:])
        results.append(np.concatenate([model.forward(r, cache) for r in rows]))
    assert np.array_equal(results[0], results[1])
    assert np.array_equal(results[0], results[2])


@pytest.mark.parametrize("type", [TensorType.Q4_0, TensorType.Q8_0, TensorType.Q6_K])
def test_threads_do_not_change_a_bit_of_quantised_weights(native: Callable[..., Any], type: TensorType) -> None:
    spec = spec_of(n_embd=256, n_ff=512, n_heads=8, head_dim=32, n_vocab=67)
    decoder = random_decoder(spec, type=type)
    rows = Rows.of_slot(0, 0, random_tokens(spec, 40))
    results = []
    for threads in (1, 2, 3):
        model = Loaded(native(spec, threads), decoder)
        results.append(model.forward(rows, model.cache()))
    assert np.array_equal(results[0], results[1])
    assert np.array_equal(results[0], results[2])


@pytest.mark.parametrize("name", ["plain", "parallel", "parallel experts"])
def test_delta_is_summed_over_devices(make: Make, name: str) -> None:
    """Two devices with the same weights are one with doubled weights in the last matrix of each block."""
    spec = SPECS[name]
    decoder = random_decoder(spec)

    def double(delta: Any) -> None:
        delta *= 2

    summed = Loaded(make(spec), decoder, comm=double)
    down = "down" if spec.experts is None else "down_experts"
    doubled = replace(
        decoder,
        attention=[changed(block, "o", 2) for block in decoder.attention],
        feed_forward=[changed(block, down, 2) for block in decoder.feed_forward],
    )
    rows = Rows.of_slot(0, 0, random_tokens(spec, 6))
    expected = Loaded(make(spec), doubled)
    assert error(summed.forward(rows, summed.cache()), expected.forward(rows, expected.cache())) < EXACT
    alone = Loaded(make(spec), decoder)
    assert error(summed.forward(rows, summed.cache()), alone.forward(rows, alone.cache())) > 0.01


@pytest.mark.parametrize("name", ["plain", "post norm", "parallel"])
def test_what_is_added_to_delta_joins_the_residual(make: Make, name: str) -> None:
    """Something added to delta is as good as a bias of the block's last matrix; a norm of outputs comes after it."""
    spec = SPECS[name]
    decoder = random_decoder(spec)
    other = np.random.default_rng(3).standard_normal(spec.n_embd, dtype=np.float32)

    def add(delta: Any) -> None:
        delta += other

    added = Loaded(make(spec), decoder, comm=add)
    bias = Tensor.from_float32("bias", other)
    biased = replace(decoder, feed_forward=[block | {"down.bias": bias} for block in decoder.feed_forward])
    if not spec.parallel:
        biased = replace(biased, attention=[block | {"o.bias": bias} for block in decoder.attention])
    rows = Rows.of_slot(0, 0, random_tokens(spec, 6))
    expected = Loaded(make(spec), biased)
    assert error(added.forward(rows, added.cache()), expected.forward(rows, expected.cache())) < EXACT
    alone = Loaded(make(spec), decoder)
    assert error(added.forward(rows, added.cache()), alone.forward(rows, alone.cache())) > 0.01


def test_hidden_states_stand_in_for_tokens(make: Make) -> None:
    """A worker begins with hidden states, and needs no embedding."""
    spec = SPECS["plain"]
    decoder = random_decoder(spec)
    model = Loaded(make(spec), decoder)
    tokens = random_tokens(spec, 5)
    expected = model.forward(Rows.of_slot(0, 0, tokens), model.cache())
    rows = Rows.of_slot(0, 0, tokens)
    model.embedding = None
    hidden = replace(rows, tokens=None, hidden=decoder.embedding["weight"].float32()[tokens])
    assert error(model.forward(hidden, model.cache()), expected) < EXACT


def test_logits_of_wanted_rows(make: Make) -> None:
    spec = SPECS["plain"]
    model = Loaded(make(spec), random_decoder(spec))
    rows = Rows.of_slot(0, 0, random_tokens(spec, 5))
    every = model.forward(rows, model.cache())
    state = model.backend.embed(model.embedding, rows, model.cache())
    for p in range(2):
        model.backend.attention(model.attention[p], state, p)
        model.backend.feed_forward(model.feed_forward[p], state, p)
    for wanted in ([4], [3, 0], []):  # asking again changes nothing
        logits = model.backend.logits(model.output, state, np.asarray(wanted, np.int32))
        assert logits.shape == (len(wanted), spec.n_vocab)
        assert logits.dtype == np.float32
        assert np.allclose(logits, every[wanted], rtol=1e-4, atol=1e-5)


@st.composite
def specs(draw: st.DrawFn) -> Spec:
    """Any spec at all, small."""
    n_kv_heads, group, head_dim = draw(st.integers(1, 3)), draw(st.integers(1, 4)), draw(st.integers(1, 20))
    n_heads = n_kv_heads * group
    n_passes = draw(st.integers(1, 3))
    frequencies = tuple(draw(st.lists(st.floats(1e-4, 1.0), min_size=0, max_size=head_dim // 2)))
    rope = draw(st.sampled_from([None, Rope("half", frequencies), Rope("interleaved", frequencies, 0.9)]))
    wide = head_dim >= 8
    boolean = st.booleans()
    return Spec(
        family="random",
        n_vocab=draw(st.integers(1, 40)),
        n_embd=draw(st.integers(1, 70)),
        n_ff=draw(st.integers(1, 70)),
        n_heads=n_heads,
        n_kv_heads=n_kv_heads,
        head_dim=head_dim,
        n_context=32,
        schedule=tuple(
            draw(st.lists(st.integers(0, 1), min_size=n_passes, max_size=n_passes).filter(lambda s: 0 in s))
        ),
        norm=draw(st.sampled_from(["rms", "layer"])),
        norm_eps=0.3,  # the norm of a short vector near zero would magnify its rounding errors
        activation=draw(st.sampled_from(["silu", "gelu", "gelu_tanh", "relu", "relu2"])),
        gated=draw(boolean),
        parallel=draw(boolean),
        post_norm=draw(boolean),
        qk_norm=draw(st.sampled_from(["none", "head"])),
        attention_scale=draw(st.sampled_from([0.0, 0.3])),
        attention_softcap=draw(st.sampled_from([0.0, 2.0])),
        rope=rope,
        rope_local=draw(st.sampled_from([None, HALF, INTERLEAVED])) if wide else None,
        alibi_slopes=draw(st.sampled_from([(), tuple(np.linspace(0.5, 0.1, n_heads).tolist())])),
        window=draw(st.integers(0, 9)),
        local=tuple(draw(st.lists(boolean, min_size=n_passes, max_size=n_passes))) if draw(boolean) else (),
        embed_scale=draw(st.sampled_from([1.0, 3.0])),
        logit_scale=draw(st.sampled_from([1.0, 0.5])),
        logit_softcap=draw(st.sampled_from([0.0, 3.0])),
        tied=draw(boolean),
        experts=draw(st.sampled_from([None, Experts(3, 2, 20), Experts(4, 1, 7, normalised=False)])),
    )


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=EXAMPLES == 60,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(spec=specs(), seed=st.integers(0, 1000), biases=st.booleans())
def test_any_spec(native: Make, spec: Spec, seed: int, biases: bool) -> None:
    assert run_both(native, spec, [5, 1, 2], seed=seed, biases=biases and spec.experts is None) < 3 * EXACT


def test_wrong_rows(make: Make) -> None:
    spec = SPECS["plain"]
    model = Loaded(make(spec), random_decoder(spec))
    cache = model.cache(n_slots=2, context=10)
    for slots, positions, tokens in [
        ([], [], []),
        ([2], [0], [1]),
        ([-1], [0], [1]),
        ([0], [10], [1]),
        ([0], [-1], [1]),
        ([0], [0], [spec.n_vocab]),
        ([0], [0], [-1]),
        ([0, 0], [0, 2], [1, 1]),
        ([0, 0], [1, 0], [1, 1]),
        ([0, 1, 0], [0, 0, 1], [1, 1, 1]),
        ([0, 0], [0], [1, 1]),
        ([0], [0], [1, 1]),
    ]:
        rows = Rows(np.asarray(slots, np.int32), np.asarray(positions, np.int32), np.asarray(tokens, np.int32))
        with pytest.raises(BackendError):
            model.backend.embed(model.embedding, rows, cache)
    bare = Rows(np.zeros(1, np.int32), np.zeros(1, np.int32))
    for hidden in (None, np.zeros((1, spec.n_embd + 1), np.float32), np.zeros((2, spec.n_embd), np.float32)):
        with pytest.raises(BackendError):
            model.backend.embed(model.embedding, replace(bare, hidden=hidden), cache)


@pytest.mark.parametrize("kv_type", ["f32", "f16", "q8", "q4"])
@pytest.mark.parametrize("head_dim", [16, 48, 64, 80])
def test_bytes_of_a_cache(native: Make, head_dim: int, kv_type: Any) -> None:
    """As announced, but for whole pages of 64 positions."""
    spec = spec_of(head_dim=head_dim)
    assert native(spec).new_cache(2, 65, kv_type).n_bytes == 2 * 128 * spec.kv_bytes_per_token(kv_type)


def test_an_unknown_type_of_cache(native: Make) -> None:
    with pytest.raises(BackendError, match='f32, f16, q8 or q4; came "q5"'):
        native(SPECS["plain"]).new_cache(1, 10, "q5")


def test_wrong_copies(make: Make) -> None:
    spec = SPECS["plain"]
    cache = make(spec).new_cache(2, 10)
    assert (cache.n_slots, cache.context) == (2, 10)
    for source, target, n in [(2, 0, 1), (0, 2, 1), (-1, 0, 1), (0, -1, 1), (0, 1, 11), (0, 1, -1)]:
        with pytest.raises(BackendError):
            cache.copy(source, target, n)


def test_a_cache_beyond_memory(make: Make) -> None:
    with pytest.raises(MemoryLimitError, match="smaller context"):
        make(SPECS["plain"]).new_cache(1000, 2**30)
