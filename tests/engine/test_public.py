"""The names `import ingle` offers."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import ingle


def test_names_are_loaded_when_they_are_used() -> None:
    script = (
        "import sys, ingle\n"
        "assert not {m for m in sys.modules if m.startswith('ingle.')}, sys.modules\n"
        "ingle.errors.IngleError\n"
        "assert 'numpy' not in sys.modules\n"
        "ingle.Token\n"
        "assert 'ingle.engine.token' in sys.modules and 'numpy' not in sys.modules\n"
        "ingle.load\n"
        "assert 'ingle.engine.model' in sys.modules\n"
        "assert not {'torch', 'transformers', 'click', 'rich', 'gguf', 'hypothesis'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_all_is_complete() -> None:
    assert set(ingle.__all__) <= set(dir(ingle))
    assert set(ingle._HOME) | {"errors", "__version__"} == set(ingle.__all__)
    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        _ = ingle.lod  # type: ignore[attr-defined]


def test_the_version_is_that_of_the_package() -> None:
    pyproject = Path(__file__).parents[2] / "pyproject.toml"
    assert tomllib.loads(pyproject.read_text())["project"]["version"] == ingle.__version__
