"""Models the command line is tried on."""

from __future__ import annotations

from pathlib import Path

import pytest

import toys


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with a chat template."""
    return toys.toy_gguf(tmp_path_factory.mktemp("cli") / "toy.gguf")


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model without one."""
    return toys.toy_gguf(tmp_path_factory.mktemp("cli") / "plain.gguf", template=None)


@pytest.fixture(scope="session")
def endless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that says "a" for as long as one lets it, whatever it is asked."""
    letter = toys.vocabulary().index("a")

    def change(name: str, values: object) -> object:
        if name == "token_embd.weight":
            values[:] = 1.0  # type: ignore[index]
        if name.endswith(("attn_output.weight", "ffn_down.weight", "output.weight")):
            values[:] = 0.0  # type: ignore[index]
        if name == "output.weight":
            values[letter] = 1.0  # type: ignore[index]
        return values

    path = tmp_path_factory.mktemp("cli") / "endless.gguf"
    return toys.toy_gguf(path, n_context=1 << 17, change=change)  # type: ignore[arg-type]
