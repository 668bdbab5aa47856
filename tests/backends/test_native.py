"""What is the native backend's alone: its border with Python, its threads, its instruction sets."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backends.decoders import SPECS, Decoder, Loaded, error, random_decoder, random_tokens, spec_of
from ingle.backends import open_backend
from ingle.backends.base import Rows
from ingle.errors import BackendError, UnsupportedError
from ingle.gguf import TensorType
from ingle.models.spec import Spec
from ingle.models.tensor import Tensor

PLAIN = SPECS["plain"]


def native(spec: Spec = PLAIN, threads: int | None = 2) -> Any:
    return open_backend("native", spec, threads)


@pytest.fixture
def model() -> Loaded:
    return Loaded(native(), random_decoder(PLAIN))


def test_import_needs_no_native_core() -> None:
    script = "import sys; import ingle.backends; assert 'ingle._core' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True)


def test_unknown_backend() -> None:
    with pytest.raises(BackendError, match="native, reference"):
        open_backend("cuda", PLAIN)


@pytest.mark.parametrize("threads", [0, -1, 2000, "two"])
def test_impossible_threads(threads: Any) -> None:
    with pytest.raises(BackendError, match="1 to 1024"):
        native(threads=threads)


def test_threads_by_default() -> None:
    assert 1 <= native(threads=None).n_threads <= (os.cpu_count() or 1)


def test_delta_is_no_copy(model: Loaded) -> None:
    state: Any = model.backend.embed(model.embedding, Rows.of_slot(0, 0, [1, 2]), model.cache())
    assert state.delta is state.delta
    assert state.delta.shape == (2, PLAIN.n_embd)
    assert not state.delta.any()
    model.backend.attention(model.attention[0], state, 0)
    assert state.delta.any()


def test_arrays_outlive_what_made_them() -> None:
    model = Loaded(native(), random_decoder(PLAIN))
    cache = model.cache()
    state: Any = model.backend.embed(model.embedding, Rows.of_slot(0, 0, [1, 2]), cache)
    model.backend.attention(model.attention[0], state, 0)
    delta = state.delta
    expected = delta.copy()
    more = Rows.of_slot(0, 2, random_tokens(PLAIN, 50))
    model.backend.embed(model.embedding, more, cache)  # needs a larger buffer
    del model, cache, state
    gc.collect()
    assert np.array_equal(delta, expected)
    delta[:] = 1


def test_a_state_lives_until_the_next_embed(model: Loaded) -> None:
    cache, rows = model.cache(), Rows.of_slot(0, 0, [1])
    past = model.backend.embed(model.embedding, rows, cache)
    state = model.backend.embed(model.embedding, rows, cache)
    other = Loaded(native(), model.decoder)
    foreign = other.backend.embed(other.embedding, rows, other.cache())
    for wrong in (past, foreign):
        with pytest.raises(BackendError, match="state"):
            model.backend.attention(model.attention[0], wrong, 0)
        with pytest.raises(BackendError, match="state"):
            model.backend.feed_forward(model.feed_forward[0], wrong, 0)
        with pytest.raises(BackendError, match="state"):
            model.backend.logits(model.output, wrong, np.zeros(1, np.int32))
    model.backend.attention(model.attention[0], state, 0)


def test_a_refused_call_leaves_no_state_behind(model: Loaded) -> None:
    cache = model.cache()
    state = model.backend.embed(model.embedding, Rows.of_slot(0, 0, [1, 2]), cache)
    with pytest.raises(BackendError):
        model.backend.embed(model.embedding, Rows.of_slot(0, cache.context, [1]), cache)
    with pytest.raises(BackendError, match="state"):
        model.backend.attention(model.attention[0], state, 0)


def test_things_of_another_kind(model: Loaded) -> None:
    b, cache, rows = model.backend, model.cache(), Rows.of_slot(0, 0, [1])
    state = b.embed(model.embedding, rows, cache)
    calls: list[Callable[[], Any]] = [
        lambda: b.embed(model.output, rows, cache),
        lambda: b.embed(None, rows, cache),
        lambda: b.embed(model.embedding, rows, None),
        lambda: b.embed(model.embedding, replace(rows, slots=np.zeros((1, 1), np.int32)), cache),
        lambda: b.embed(model.embedding, replace(rows, slots=np.zeros(1, np.float32)), cache),
        lambda: b.embed(model.embedding, replace(rows, positions=np.full(1, 2**40)), cache),
        lambda: b.attention(model.feed_forward[0], state, 0),
        lambda: b.attention(model.attention[0], None, 0),
        lambda: b.attention(model.attention[0], state, 2),
        lambda: b.attention(model.attention[0], state, -1),
        lambda: b.feed_forward(model.attention[0], state, 0),
        lambda: b.feed_forward(model.feed_forward[0], state, 99),
        lambda: b.logits(model.embedding, state, np.zeros(1, np.int32)),
        lambda: b.logits(model.output, state, np.ones(1, np.int32)),
        lambda: b.logits(model.output, state, np.full(1, -1, np.int32)),
        lambda: b.new_cache(1, 0),
        lambda: b.new_cache(0, 1),
        lambda: b.new_cache(1, 2.5),
        lambda: b.new_cache(1, 8, "f64"),
    ]
    for call in calls:
        with pytest.raises(BackendError):
            call()


def test_blocks_of_another_model(model: Loaded) -> None:
    """A block, an embedding, an output or a cache of other shapes never reaches the arithmetic."""
    other_spec = spec_of(n_embd=16, n_ff=8, n_heads=2, head_dim=4, n_vocab=12, rope=None, schedule=(0,))
    other = Loaded(native(other_spec), random_decoder(other_spec))
    b, rows = model.backend, Rows.of_slot(0, 0, [1])
    state = b.embed(model.embedding, rows, model.cache())
    for call in (
        lambda: b.embed(other.embedding, rows, model.cache()),
        lambda: b.embed(model.embedding, rows, other.cache()),
    ):
        with pytest.raises(BackendError, match="another model"):
            call()
    state = b.embed(model.embedding, rows, model.cache())
    for verb, block in ((b.attention, other.attention[0]), (b.feed_forward, other.feed_forward[0])):
        with pytest.raises(BackendError, match="another model"):
            verb(block, state, 0)
    with pytest.raises(BackendError, match="another model"):
        b.logits(other.output, state, np.zeros(1, np.int32))


def damaged(decoder: Decoder, role: str, tensor: Tensor | None) -> dict[str, Tensor]:
    block = dict(decoder.attention[0])
    if tensor is None:
        del block[role]
    else:
        block[role] = tensor
    return block


@pytest.mark.parametrize(
    ("role", "tensor", "words"),
    [
        ("norm", None, "lacks the vector norm"),
        ("k", None, "lacks the matrix k"),
        ("k", Tensor.from_float32("k", np.zeros((7, 32), np.float32)), r"k of shape \[7, 32\]; expected \[20, 32\]"),
        ("k", Tensor.from_float32("k", np.zeros(640, np.float32)), "expected a matrix for k"),
        ("norm", Tensor.from_float32("norm", np.zeros(31, np.float32)), "31 values; expected 32"),
        ("q.bias", Tensor.from_float32("q.bias", np.zeros(1, np.float32)), "1 values; expected 60"),
        ("q_norm", Tensor.from_float32("q_norm", np.zeros(10, np.float32)), "q_norm that the model's spec does not"),
        ("o", Tensor("o", (32, 60), TensorType.F32, np.zeros(100, np.uint8)), "came with 100 bytes"),
    ],
)
def test_unsound_blocks(role: str, tensor: Tensor | None, words: str) -> None:
    with pytest.raises(BackendError, match=words):
        native().load_attention(damaged(random_decoder(PLAIN), role, tensor))


def test_rows_that_are_no_whole_blocks() -> None:
    tensor = Tensor("o", (32, 60), TensorType.Q4_0, np.zeros(32 * 36, np.uint8))
    with pytest.raises(UnsupportedError):
        native().load_attention(damaged(random_decoder(PLAIN), "o", tensor))


def test_tied_output_shares_the_embedding() -> None:
    spec = SPECS["tied"]
    model: Any = Loaded(native(spec), random_decoder(spec))
    matrix_bytes = spec.n_vocab * spec.n_embd * 4
    assert model.embedding.n_bytes >= matrix_bytes
    assert model.output.n_bytes >= matrix_bytes
    assert model.attention[0].n_bytes > 0
    assert model.feed_forward[0].n_bytes > 0


def test_calls_from_several_threads_take_turns() -> None:
    """Loading goes on beside computing, and computing of one backend never overlaps."""
    decoder = random_decoder(PLAIN)
    model = Loaded(native(), decoder)
    rows = Rows.of_slot(0, 0, random_tokens(PLAIN, 8))
    expected = model.forward(rows, model.cache())
    failures: list[BaseException] = []

    def load() -> None:
        try:
            for _ in range(20):
                model.backend.load_feed_forward(decoder.feed_forward[0])
        except BaseException as failure:
            failures.append(failure)

    loaders = [threading.Thread(target=load) for _ in range(2)]
    for loader in loaders:
        loader.start()
    results = [model.forward(rows, model.cache()) for _ in range(20)]
    for loader in loaders:
        loader.join()
    assert not failures
    assert all(np.array_equal(result, expected) for result in results)


def run_script(script: str, **environment: str) -> None:
    """Run Python with the test folder on its path."""
    path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    env = os.environ | {"PYTHONPATH": path} | environment
    done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("isa", ["portable", "avx2", "avxvnni", "avx512"])
def test_every_instruction_set_is_right(isa: str) -> None:
    """The reference again, on the path that another processor would take (or on this one's best, if that is lower)."""
    run_script(
        """
from backends.decoders import SPECS, Loaded, error, random_decoder, random_tokens
from ingle.backends import open_backend
from ingle.backends.base import Rows
for name in ("plain", "gelu", "gelu_tanh", "qk layer norm", "attention soft cap", "alibi", "window", "head of 80",
             "head of 1", "many heads for one", "experts", "interleaved"):
    spec = SPECS[name]
    decoder = random_decoder(spec)
    for kv_type, limit in (("f32", 1e-5), ("f16", 2e-3), ("q8", 2e-3), ("q4", 2e-3)):
        results = []
        for backend in ("native", "reference"):
            model = Loaded(open_backend(backend, spec, 2), decoder)
            cache, tokens = model.cache(1, 90, kv_type), random_tokens(spec, 81)
            model.forward(Rows.of_slot(0, 0, tokens[:80]), cache)
            results.append(model.forward(Rows.of_slot(0, 80, tokens[80:]), cache))
        assert error(*results) < limit, (name, kv_type)
""",
        INGLE_ISA=isa,
    )


def test_a_forked_process_computes_and_ends() -> None:
    """Threads do not survive a fork: the child's team starts anew, and neither process hangs when it ends."""
    run_script(
        """
import os
import numpy as np
from backends.decoders import SPECS, Loaded, random_decoder, random_tokens
from ingle.backends import open_backend
from ingle.backends.base import Rows
spec = SPECS["plain"]
model = Loaded(open_backend("native", spec, 3), random_decoder(spec))
rows = Rows.of_slot(0, 0, random_tokens(spec, 5))
expected = model.forward(rows, model.cache())
child = os.fork()
same = np.array_equal(model.forward(rows, model.cache()), expected)
if child == 0:
    raise SystemExit(0 if same else 7)
assert same
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
"""
    )


def test_an_idle_team_sleeps() -> None:
    """Workers that wait for the next call use no processor time after a moment."""
    run_script(
        """
import time
from backends.decoders import SPECS, Loaded, random_decoder
from ingle.backends import open_backend
from ingle.backends.base import Rows
spec = SPECS["plain"]
model = Loaded(open_backend("native", spec, 4), random_decoder(spec))
model.forward(Rows.of_slot(0, 0, [1]), model.cache())
time.sleep(0.3)
before = time.process_time()
time.sleep(0.5)
assert time.process_time() - before < 0.1
model.forward(Rows.of_slot(0, 0, [1]), model.cache())
"""
    )


def test_results_do_not_depend_on_earlier_calls() -> None:
    """Buffers are kept between calls; what was in them does not matter."""
    spec = SPECS["gemma 2"]
    model = Loaded(native(spec), random_decoder(spec))
    rows = Rows.of_slot(0, 0, random_tokens(spec, 3))
    first = model.forward(rows, model.cache())
    model.forward(Rows.of_slot(0, 0, random_tokens(spec, 40, seed=8)), model.cache())
    assert np.array_equal(model.forward(rows, model.cache()), first)
    assert error(first, first) == 0
