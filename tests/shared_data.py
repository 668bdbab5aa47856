"""Files of the shared data folder beside the checkout. Tests that need one are skipped without it, and say which."""

from __future__ import annotations

from pathlib import Path

import pytest

DATA = Path(__file__).parents[2] / "shared" / "data"


def shared(name: str) -> Path:
    """The file or folder of this name. Skips the test where it is not there."""
    path = DATA / name
    if not path.exists():
        pytest.skip(f"needs shared/data/{name} beside the checkout")
    return path


def needs(*names: str) -> pytest.MarkDecorator:
    """The mark of a test that needs these files and folders."""
    missing = " and ".join(f"shared/data/{name}" for name in names if not (DATA / name).exists())
    return pytest.mark.skipif(bool(missing), reason=f"needs {missing} beside the checkout")
