"""The window over the native backend beside one that holds everything: every kind of decoder, bit for bit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray

from backends.decoders import SPECS, Decoder, random_decoder, random_tokens, spec_of
from backends.streamed import decoder_in_file
from ingle.backends.base import KVType, Rows
from ingle.backends.native import NativeBackend
from ingle.engine import open_window as opening
from ingle.engine.comm import Alone
from ingle.engine.open_window import all_of, fit, least_of, open_window
from ingle.engine.runner import Runner
from ingle.engine.weights import Resident, Weights
from ingle.engine.window import Window
from ingle.gguf import TensorType
from ingle.gguf.quantize import QUANTIZABLE_TYPES
from ingle.models.checkpoint import Checkpoint
from ingle.models.spec import Experts, Spec

N_PROMPT = 21


@pytest.fixture(autouse=True)
def small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "LEAST_SLICE_BYTES", 2 << 10)


class Blocks:
    """A decoder's tensors as a `Checkpoint` gives them."""

    def __init__(self, decoder: Decoder) -> None:
        self.spec = decoder.spec
        self.source = SimpleNamespace(release=lambda: None, name="decoder.gguf")
        self.embedding = lambda: decoder.embedding
        self.output = lambda: decoder.output
        self.attention = decoder.attention.__getitem__
        self.feed_forward = decoder.feed_forward.__getitem__


def in_file(path: Path, spec: Spec, **options: Any) -> Checkpoint:
    return cast(Checkpoint, Blocks(decoder_in_file(random_decoder(spec, **options), path / "decoder.bin")))


def logits_of(backend: NativeBackend, weights: Weights, kv_type: KVType) -> NDArray[np.float32]:
    """A prompt in two chunks with another sequence beside it, then steps of one and of two rows: all logits."""
    spec = backend.spec
    runner = Runner(spec, backend, weights, Alone(), backend.new_cache(2, 64, kv_type))
    tokens = random_tokens(spec, 64)
    parts = [runner.forward(Rows.of_slot(0, 0, tokens[:9]))]
    rows = Rows.join([Rows.of_slot(0, 9, tokens[9:N_PROMPT]), Rows.of_slot(1, 0, tokens[:7])])
    parts.append(runner.forward(rows, [11, 18]))
    for at in range(3):
        parts.append(runner.forward(Rows.of_slot(0, N_PROMPT + at, tokens[at : at + 1]), [0]))
    rows = Rows.join([Rows.of_slot(0, N_PROMPT + 3, tokens[3:4]), Rows.of_slot(1, 7, tokens[4:5])])
    parts.append(runner.forward(rows, [1, 0]))
    return np.concatenate(parts)


def budgets(window: Window) -> Iterator[int]:
    least, most = least_of(window), all_of(window)
    yield from (least, (2 * least + most) // 3, (least + 2 * most) // 3, most)


def check(checkpoint: Checkpoint, kv_type: KVType, threads: int) -> None:
    backend = NativeBackend(checkpoint.spec, threads)
    expected = logits_of(backend, Resident(checkpoint, backend), kv_type)
    window = open_window(checkpoint, backend)
    try:
        for n_bytes in budgets(window):
            assert fit(window, n_bytes)
            assert window.stats().held_bytes <= n_bytes
            np.testing.assert_array_equal(logits_of(backend, window, kv_type), expected)
        assert window.stats().streamed_bytes == 0
    finally:
        window.close()


@pytest.mark.parametrize("name", SPECS)
def test_every_kind_of_decoder(tmp_path: Path, name: str) -> None:
    check(in_file(tmp_path, SPECS[name]), "f16", 1)


@pytest.mark.parametrize("kv_type", ["f32", "f16", "q8", "q4"])
@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("name", ["gemma 2", "falcon", "experts", "shared layers"])
def test_every_cache_and_number_of_threads(tmp_path: Path, name: str, kv_type: KVType, threads: int) -> None:
    check(in_file(tmp_path, SPECS[name], biases=name == "falcon"), kv_type, threads)


@pytest.mark.parametrize("type", sorted(QUANTIZABLE_TYPES, key=lambda type: type.id), ids=lambda type: type.name)
@pytest.mark.parametrize("mixture", [False, True])
def test_every_type_of_tensor(tmp_path: Path, type: TensorType, mixture: bool) -> None:
    experts = Experts(4, 2, 256) if mixture else None
    spec = spec_of(n_embd=256, n_ff=512, n_heads=4, n_kv_heads=2, head_dim=64, n_vocab=300, experts=experts)
    check(in_file(tmp_path, spec, type=type), "f16", 2)
