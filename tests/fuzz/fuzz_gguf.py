"""Coverage-guided fuzzing of the GGUF reader: python tests/fuzz/fuzz_gguf.py [corpus directory] [-max_total_time=60].

Needs atheris (Linux, macOS). Any exception that is not an IngleError is a finding; so is a hang or an allocation beyond
the limits that tests/gguf/test_fuzz.py passes.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["ingle.gguf"]):
    from ingle.gguf import dequantize, open_gguf

from ingle.errors import IngleError

_DIRECTORY = tempfile.TemporaryDirectory(prefix="fuzz-gguf-", dir="/dev/shm" if os.path.isdir("/dev/shm") else None)
_PATH = Path(_DIRECTORY.name) / "model.gguf"


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
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
