"""Models the command line is tried on."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest
from eval_script import TASKS, Script

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


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Script:
    """The runners of `ingle eval`."""
    found = Script()
    for name, function, runner in (
        ("harness", "run_tasks", found.harness),
        ("perplexity", "run_perplexity", found.perplexity),
        ("calls.run", "run_calls", found.calls),
    ):
        module = ModuleType(f"ingle.evaluate.{name}")
        setattr(module, function, runner)
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr("ingle.cli.eval_jobs.find_spec", lambda name: object())
    return found


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder in which three tasks of the set mobilellm have files, and calls some requests."""
    folder = tmp_path / "data"
    (folder / "api_calls" / "snips").mkdir(parents=True)
    for task in TASKS:
        (folder / f"{task}.jsonl").write_text("{}\n")
    return folder
