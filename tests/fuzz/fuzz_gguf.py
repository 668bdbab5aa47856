"""Coverage-guided fuzzing of the GGUF reader: python tests/fuzz/fuzz_gguf.py [corpus directory] [-max_total_time=60].

Needs atheris (Linux, macOS). Any exception that is not an IngleError is a finding; so is a hang or an allocation beyond
the limits that tests/gguf/test_fuzz.py passes.
"""

from __future__ import annotations

import inspect
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import atheris

from ingle.errors import IngleError
from ingle.gguf import dequantize, header, metadata, open_gguf, reader, signatures, types

_DIRECTORY = tempfile.TemporaryDirectory(prefix="fuzz-gguf-", dir="/dev/shm" if os.path.isdir("/dev/shm") else None)
_PATH = Path(_DIRECTORY.name) / "model.gguf"


def functions(owner: ModuleType | type) -> Iterator[FunctionType]:
    """The functions and methods that are written in `owner`."""
    module = owner.__name__ if isinstance(owner, ModuleType) else owner.__module__
    for value in vars(owner).values():
        function: Any = inspect.unwrap(getattr(value, "__func__", getattr(value, "fget", value)))
        if isinstance(function, FunctionType) and function.__module__ == module:
            yield function
        elif isinstance(value, type) and value.__module__ == module and value is not owner:
            yield from functions(value)


def one_input(content: bytes) -> None:
    _PATH.write_bytes(content)
    try:
        with open_gguf(_PATH) as opened:
            for key, value in opened.metadata.items():
                if opened.metadata.type_of(key).name == "ARRAY":
                    list(value)
            for info in opened.tensors.values():
                dequantize(info.data, info.type, info.shape)
    except IngleError:
        pass


if __name__ == "__main__":
    # one by one: atheris's import hook does nothing for a package that an editable install's own loader brings
    for module in (header, metadata, reader, signatures, types):
        for function in functions(module):
            atheris.instrument_func(function)
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
