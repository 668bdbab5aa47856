"""A model that holds few-shot prompts, for `run_tasks`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import toys
from ingle.engine.model import Model, load


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toys.toy_gguf(tmp_path_factory.mktemp("harness") / "toy.gguf", n_context=2048)


@pytest.fixture(scope="module")
def model(toy: Path) -> Iterator[Model]:
    with load(toy, threads=1, n_slots=4) as model:
        yield model
