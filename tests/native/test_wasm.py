"""The core as WebAssembly: built here, run in Node, and equal to the reference backend."""

from __future__ import annotations

import importlib.util
import runpy
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backends.decoders import SPECS, Loaded, error, random_decoder, random_tokens, rms_error, spec_of
from backends.test_suite import EXACT, QUANTISED
from ingle.backends.base import Rows
from ingle.backends.reference import ReferenceBackend
from ingle.engine.sampling import sample_numpy
from ingle.errors import BackendError, MemoryLimitError, UnsupportedError
from ingle.gguf import TensorType
from ingle.models.spec import Spec
from native.wasm_backend import Module, WasmBackend

NODE = shutil.which("node")
SCRIPT = Path(__file__).parents[2] / "native" / "build_wasm.py"

pytestmark = [
    pytest.mark.skipif(NODE is None, reason="needs Node"),
    pytest.mark.skipif(importlib.util.find_spec("ziglang") is None, reason="needs the compiler of the package ziglang"),
]


def build(path: Path, **options: bool) -> Path:
    runpy.run_path(str(SCRIPT))["build"](path, **options)
    return path


@pytest.fixture(scope="session")
def wasm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("wasm") / "ingle.wasm")


@pytest.fixture(scope="session")
def module(wasm: Path) -> Iterator[Module]:
    module = Module(str(NODE), wasm)
    yield module
    module.close()


def run_both(
    module: Module,
    spec: Spec,
    calls: list[int],
    measure: Callable[..., float] = error,
    *,
    kv_type: str = "f32",
    **options: Any,
) -> float:
    """The worst error of logits and deltas over calls of so many rows each."""
    decoder = random_decoder(spec, **options)
    ours, right = Loaded(WasmBackend(module, spec), decoder), Loaded(ReferenceBackend(spec), decoder)
    caches = [model.cache(2, sum(calls), kv_type) for model in (ours, right)]
    tokens = random_tokens(spec, sum(calls))
    worst, start = 0.0, 0
    for n in calls:
        rows = Rows.of_slot(1, start, tokens[start : start + n])
        got, expected = (model.forward(rows, cache) for model, cache in zip((ours, right), caches, strict=True))
        pairs = [(got, expected), *zip(ours.deltas, right.deltas, strict=True)]
        worst = max(worst, *(measure(*pair) for pair in pairs))
        start += n
    return worst


def test_the_module_wants_nothing_of_its_host(module: Module) -> None:
    assert module.call("imports") == 0


@pytest.mark.parametrize("name", SPECS)
def test_every_option(module: Module, name: str) -> None:
    assert run_both(module, SPECS[name], [9, 1, 1, 3]) < EXACT


@pytest.mark.parametrize("type", [t for t in TensorType if t is not TensorType.MXFP4], ids=lambda t: t.name)
def test_every_tensor_type(module: Module, type: TensorType) -> None:
    spec = spec_of(n_embd=256, n_ff=256, n_heads=4, head_dim=64, n_vocab=67, schedule=(0,))
    limit = QUANTISED if type.is_quantized else EXACT
    assert run_both(module, spec, [21, 2, 1], rms_error, type=type) < limit


#: A module of one function: i8x16.relaxed_swizzle of two constants.
RELAXED = bytes.fromhex(
    "0061736d01000000 010501 6000017b 03020100 0a2b0129 00" + 2 * ("fd0c" + 16 * "00") + "fd8002 0b"
)


def relaxed_options(folder: Path) -> list[str]:
    """What this Node must be told to take relaxed SIMD. Asked with a module that is sound: ours may not be."""
    path = folder / "known.wasm"
    path.write_bytes(RELAXED)
    validate = f"process.exit(WebAssembly.validate(require('fs').readFileSync({str(path)!r})) ? 0 : 1)"
    for options in ([], ["--experimental-wasm-relaxed-simd"]):
        if subprocess.run([str(NODE), *options, "-e", validate], capture_output=True, check=False).returncode == 0:
            return options
    version = subprocess.run([str(NODE), "--version"], capture_output=True, text=True, check=True).stdout.strip()
    pytest.skip(f"missing: WebAssembly's relaxed SIMD; this Node is {version}, and Node 20 and newer have it")


def test_relaxed_simd_changes_no_bit(module: Module, tmp_path: Path) -> None:
    path = build(tmp_path / "relaxed.wasm", relaxed_simd=True)
    relaxed = Module(str(NODE), path, *relaxed_options(tmp_path))
    spec = spec_of(n_embd=256, n_ff=256, n_heads=4, head_dim=64, n_vocab=67, schedule=(0,))
    for type in TensorType:
        if type is not TensorType.MXFP4:
            decoder = random_decoder(spec, type=type)
            rows = [Rows.of_slot(0, 0, random_tokens(spec, 7)), Rows.of_slot(0, 7, [1])]
            both = [Loaded(WasmBackend(m, spec), decoder) for m in (module, relaxed)]
            plain, other = (
                [model.forward(part, cache) for part in rows] for model in both for cache in [model.cache()]
            )
            for a, b in zip(plain, other, strict=True):
                np.testing.assert_array_equal(a, b)
    relaxed.close()


@pytest.mark.parametrize(("kv_type", "limit"), [("f32", EXACT), ("f16", 2e-3), ("q8", 2e-3), ("q4", 2e-2)])
def test_many_positions(module: Module, kv_type: str, limit: float) -> None:
    """Sums in another order give a number another code now and then: a step of q4 is an eighth of it."""
    spec = spec_of(head_dim=80, n_heads=2, schedule=(0,), window=70)
    assert run_both(module, spec, [63, 1, 1, 100, 1], kv_type=kv_type, biases=True) < limit


def test_hidden_states_come_in_and_slots_are_copied(module: Module) -> None:
    """A worker's rows, in two slots of one call; the second slot begins as a copy of the first."""
    spec = SPECS["plain"]
    hidden = np.random.default_rng(3).standard_normal((5, spec.n_embd)).astype(np.float32)
    slots, positions = np.array([0, 0, 0, 1, 1], np.int32), np.array([0, 1, 2, 1, 2], np.int32)
    deltas = []
    for backend in (WasmBackend(module, spec), ReferenceBackend(spec)):
        model = Loaded(backend, random_decoder(spec))
        cache = model.cache(2, 10)
        for part in (slice(0, 3), slice(3, 5)):
            if part.start:
                cache.copy(0, 1, 1)
            state = backend.embed(0, Rows(slots[part], positions[part], hidden=hidden[part]), cache)
            backend.attention(model.attention[0], state, 0)
            backend.feed_forward(model.feed_forward[0], state, 0)
            deltas.append(state.delta.copy())
    for got, expected in zip(deltas[:2], deltas[2:], strict=True):
        assert error(got, expected) < EXACT


def test_draws_are_those_of_numpy(module: Module) -> None:
    rng = np.random.default_rng(5)
    for how in ((1.0, 40, 0.95, 0.05, 0.8), (1.3, 0, 1.0, 0.0, 1.0), (1.0, 5, 0.5, 0.0, 0.2), (1.1, 0, 0.9, 0.1, 0.0)):
        logits, history = rng.normal(0, 3, 1000).astype(np.float32), rng.integers(0, 1000, 20, dtype=np.int32)
        for u in (0.0, 0.3, 0.999):
            token = module.call("sample", logits.tobytes(), 1000, history.tobytes(), 20, *how, u)
            assert token == sample_numpy(logits, history, *how, u)[0]
    infinite = np.full(4, np.inf, np.float32).tobytes()
    assert module.call("sample", infinite, 4, b"", 0, 1.0, 0, 1.0, 0.0, 1.0, 0.5) == -1
    assert module.error.startswith("BackendError: ")


def test_errors_say_what_is_wrong(module: Module) -> None:
    spec = SPECS["plain"]
    model = Loaded(WasmBackend(module, spec), random_decoder(spec))
    b, cache = model.backend, model.cache(1, 10)
    state = b.embed(model.embedding, Rows.of_slot(0, 0, [1]), cache)
    with pytest.raises(BackendError, match="Position 10 does not exist; expected 0 to 9"):
        b.embed(model.embedding, Rows.of_slot(0, 10, [1]), cache)
    with pytest.raises(BackendError, match="an attention block"):
        b.attention(model.feed_forward[0], state, 0)
    with pytest.raises(BackendError, match="lives until the next embed"):
        b.attention(model.attention[0], state, 0)
    with pytest.raises(BackendError, match="lacks the vector norm"):
        b.load_attention({})
    with pytest.raises(BackendError, match="A spec has no n_heds"):
        module.made("set", module.made("new_spec"), "n_heds", 2)
    with pytest.raises(BackendError, match="Unknown kind 5"):
        module.made("set", module.made("new_spec"), "activation", 5)
    with pytest.raises(BackendError, match="not a positive 31-bit number"):
        module.made("new_decoder", module.made("new_spec"))
    weights = module.made("new_weights")
    with pytest.raises(UnsupportedError, match="GGML type 4"):
        module.made("add_matrix", b.session, weights, "q", 4, 1, 32)
    with pytest.raises(UnsupportedError, match="columns"):
        module.made("add_matrix", b.session, weights, "q", 0, 1, 1 << 23)
    matrix = module.made("add_matrix", b.session, weights, "q", 0, 40, 2)
    assert module.made("write_rows", matrix, 32, 8, bytes(64), 64)
    for first, n_rows, n_bytes in [(8, 16, 128), (32, 16, 128), (16, 8, 64), (0, 16, 120), (-16, 16, 128), (0, 0, 0)]:
        with pytest.raises(BackendError, match="whole panels of 16 rows of 8 bytes"):
            module.made("write_rows", matrix, first, n_rows, bytes(n_bytes), n_bytes)


def test_a_full_memory_is_an_error(wasm: Path) -> None:
    """The module ends at 4 GiB; whatever then asks for more is refused, and what there is goes on."""
    module = Module(str(NODE), wasm)
    spec = SPECS["plain"]
    model = Loaded(WasmBackend(module, spec), random_decoder(spec))
    for context in (1 << 20, 1 << 30):
        with pytest.raises(MemoryLimitError, match="KV cache"):
            model.backend.new_cache(1000, context)
    assert module.call("allocate", (1 << 32) - 1) == 0
    assert module.call("allocate", 3 << 30) != 0  # never written, so it costs nothing
    while module.call("allocate", 100 << 20):
        pass
    weights = module.made("new_weights")
    for n in (10_000, 1 << 20, (1 << 31) - 1):
        with pytest.raises(MemoryLimitError, match="no memory left"):
            module.made("add_matrix", model.backend.session, weights, "q", TensorType.F32.id, n, 4096)
    model.forward(Rows.of_slot(0, 0, [1, 2]), model.cache())
    module.close()


def test_memory_comes_back(module: Module) -> None:
    spec = SPECS["plain"]
    decoder = random_decoder(spec)
    pages: list[float] = []
    for _ in range(6):
        backend = WasmBackend(module, spec)
        model = Loaded(backend, decoder)
        cache = model.cache(4, 2000)
        model.forward(Rows.of_slot(0, 0, random_tokens(spec, 30)), cache)
        blocks = [model.embedding, model.output, *model.attention, *model.feed_forward]
        for kind, addresses in (("block", blocks), ("cache", [cache.address]), ("decoder", [backend.session])):
            for address in addresses:
                module.call(f"free_{kind}", address)
        pages.append(module.call("pages"))
    assert pages[1:] == [pages[0]] * 5
