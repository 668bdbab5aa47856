"""How much context, and how many slots, a limit on memory leaves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import toys
from ingle.cli.engine import LEAST_CONTEXT, PROGRAM_BYTES, cache_within
from ingle.errors import ContextError

A_POSITION = 8 * 2 * 2 * 64 * 2  # bytes: layers, keys and values, heads, numbers of 16 bits


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("engine") / "toy.gguf"
    return str(toys.toy_gguf(path, n_layers=8, n_embd=256, n_context=100_000))


def options(memory: int | None, context: int | None = None, kv_type: str = "f16") -> dict[str, Any]:
    return {"memory": memory, "context": context, "kv_type": kv_type}


def room(n_bytes: int) -> int:
    """The limit of which the cache has so many bytes."""
    return PROGRAM_BYTES + 4 * n_bytes


def test_without_a_limit_nothing_is_changed(model: str) -> None:
    assert cache_within(model, options(None), 8) == (options(None), 8)
    assert cache_within(model, options(None, 7), 1) == (options(None, 7), 1)


@pytest.mark.parametrize(
    ("positions", "context", "n_slots"),
    [
        (10**6, 4096, 8),
        (3 * 4096, 4096, 3),
        (4096, 4096, 1),
        (4095, 4032, 1),
        (1000, 960, 1),
        (100, 256, 1),
        (0, 256, 1),
    ],
)
def test_a_quarter_is_for_the_cache(model: str, positions: int, context: int, n_slots: int) -> None:
    """First a whole context, then more slots."""
    found, n = cache_within(model, options(room(positions * A_POSITION)), 8)
    assert (found["context"], n) == (context, n_slots)
    assert LEAST_CONTEXT == 256


def test_less_than_a_program(model: str) -> None:
    assert cache_within(model, options(1 << 20), 8)[1] == 1


def test_smaller_numbers_give_more(model: str) -> None:
    halved, _ = cache_within(model, options(room(1024 * A_POSITION), kv_type="q8"), 8)
    assert 1024 < halved["context"] <= 2048


def test_a_context_that_was_asked_for_stays(model: str) -> None:
    assert cache_within(model, options(room(1000 * A_POSITION), 9000), 8) == (options(room(1000 * A_POSITION), 9000), 1)
    assert cache_within(model, options(room(1000 * A_POSITION), 300), 8)[1] == 3
    with pytest.raises(ContextError):
        cache_within(model, options(1 << 30, 100_001), 8)


def test_no_more_than_the_model_has(tmp_path: Path) -> None:
    found, n = cache_within(str(toys.toy_gguf(tmp_path / "toy.gguf", n_context=100)), options(1 << 30), 4)
    assert (found["context"], n) == (100, 4)
