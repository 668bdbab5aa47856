"""Loading holds a model once: what the backend has rearranged does not stay in memory as a mapped file too."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import toys

SCRIPT = """
import sys
from pathlib import Path
import ingle
from ingle.engine.model import load

def peak_kib():
    (line,) = [l for l in Path("/proc/self/status").read_text().splitlines() if l.startswith("VmHWM")]
    return int(line.split()[1])

load(sys.argv[1], context=16).close()  # all imports are paid for
before = peak_kib()
model = load(sys.argv[2], context=16)
print(1024 * (peak_kib() - before))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc to read peak memory")
def test_a_loaded_file_is_in_memory_once(tmp_path: Path) -> None:
    small = toys.toy_gguf(tmp_path / "small.gguf")
    large = toys.toy_gguf(tmp_path / "large.gguf", n_layers=4, n_embd=1024)
    command = [sys.executable, "-c", SCRIPT, str(small), str(large)]
    grown = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert 0.8 * large.stat().st_size < grown < 1.3 * large.stat().st_size
