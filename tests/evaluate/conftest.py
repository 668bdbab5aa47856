"""A small model for these tests, and the libraries beside them kept off the network."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

import toys
from ingle import load
from ingle.engine.model import Model

# What reads Hugging Face's hub reads once, at its import, that it must not; the setting is gone again for all else.
with pytest.MonkeyPatch.context() as patch, suppress(ImportError):
    patch.setenv("HF_HUB_OFFLINE", "1")
    import huggingface_hub.constants  # noqa: F401


@pytest.fixture(scope="session")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model file of random weights, with a context of 64."""
    return toys.toy_gguf(tmp_path_factory.mktemp("evaluate") / "toy.gguf", n_context=64)


@pytest.fixture(scope="module")
def model(path: Path) -> Iterator[Model]:
    """It, as the reference backend computes it, with as many slots as leave some waiting."""
    with load(path, backend="reference", kv_type="f32", n_slots=3) as loaded:
        yield loaded
