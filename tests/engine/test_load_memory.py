"""Loading takes the memory that was announced, holds a model once, and ends in a sentence when it cannot go on."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import toys
from backends.decoders import spec_of
from ingle.backends.native import NativeBackend
from ingle.engine.model import weights_bytes
from ingle.engine.weights import Resident
from ingle.gguf import TensorType
from ingle.models.checkpoint import open_checkpoint
from ingle.models.memory import footprint
from ingle.models.source import Header
from ingle.models.tensor import Tensor

LINUX = Path("/proc/self/smaps_rollup").exists()
HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")

GROWN = """
import json
import sys
from pathlib import Path
import ingle

def kib(file, what):
    (line,) = [l for l in Path("/proc/self", file).read_text().splitlines() if l.startswith(what + ":")]
    return int(line.split()[1])

def now():
    return kib("status", "VmHWM"), kib("smaps_rollup", "AnonHugePages")

ingle.load(sys.argv[1], context=16).close()  # all imports are paid for
before = now()
model = ingle.load(sys.argv[2], context=16)
print(json.dumps([1024 * (a - b) for a, b in zip(now(), before)]))
"""

CUT = """
import os
import sys
import ingle
from ingle.errors import GGUFError

def cut(done, total):
    if done == 3:
        os.truncate(sys.argv[1], os.path.getsize(sys.argv[1]) // 2)

try:
    ingle.load(sys.argv[1], context=16, threads=2, backend=sys.argv[2], on_progress=cut)
except GGUFError as error:
    print(error)
"""

LIMITED = """
import resource
import sys
import ingle
from ingle.errors import IngleError

ingle.load(sys.argv[1], context=16, threads=1).close()
room = int(next(l for l in open("/proc/self/status") if l.startswith("VmSize:")).split()[1]) * 1024
resource.setrlimit(resource.RLIMIT_AS, (room + int(sys.argv[3]),) * 2)
try:
    ingle.load(sys.argv[2], context=16, threads=1)
except IngleError as error:
    print(type(error).__name__, error)
"""


def run(script: str, *arguments: object) -> str:
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toys.toy_gguf(tmp_path_factory.mktemp("small") / "small.gguf")


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 MiB in matrices of 128 KiB to 1 MiB."""
    return toys.toy_gguf(tmp_path_factory.mktemp("large") / "large.gguf", n_layers=7, n_embd=384)


@pytest.mark.skipif(not LINUX, reason="needs Linux's /proc to read memory")
def test_a_loaded_file_is_in_memory_once_and_on_huge_pages(small: Path, large: Path) -> None:
    peak, huge = json.loads(run(GROWN, small, large))
    assert 0.8 * large.stat().st_size < peak < 1.25 * large.stat().st_size
    if not HUGE_PAGES.exists() or "[never]" in HUGE_PAGES.read_text():
        pytest.skip("missing: huge pages")
    assert huge > 0.5 * large.stat().st_size


@pytest.mark.parametrize("backend", ["native", "reference"])
def test_a_file_cut_short_while_it_is_loaded(tmp_path: Path, backend: str) -> None:
    path = toys.toy_gguf(tmp_path / "toy.gguf", n_layers=4)
    said = run(CUT, path, backend)
    assert said.startswith(f"{path} changed or failed while it was read: expected ")
    assert "it ends before them" in said


@pytest.mark.skipif(not LINUX, reason="needs Linux's /proc to read memory")
@pytest.mark.parametrize(
    ("room", "words"),
    [
        (16 << 20, "GGUFError .*cannot be read .*: raise the limit"),  # too little for the map
        (56 << 20, "MemoryLimitError The system has no memory left"),  # too little for the matrices
    ],
)
def test_a_limit_on_memory_is_one_sentence(small: Path, large: Path, room: int, words: str) -> None:
    assert re.match(words, run(LIMITED, small, large, room))


@pytest.mark.parametrize("kind", TensorType, ids=lambda kind: kind.name)
def test_a_matrix_takes_what_was_announced(kind: TensorType) -> None:
    spec = spec_of(n_embd=768)
    header = Header("m", (spec.n_vocab, spec.n_embd), kind)
    tensor = Tensor(header.name, header.shape, kind, np.zeros(header.n_bytes, np.uint8))
    loaded: Any = NativeBackend(spec, 1).load_embedding({"weight": tensor})
    assert loaded.n_bytes == NativeBackend.bytes_of(header)


def test_a_model_takes_what_was_announced(large: Path) -> None:
    checkpoint = open_checkpoint(large)
    store: Any = Resident(checkpoint, NativeBackend(checkpoint.spec, 1))
    blocks = [store.block(i).__enter__() for i in range(2 * checkpoint.spec.n_layers)]
    held = sum(part.n_bytes for part in (store.embedding, store.output, *blocks))
    assert held == weights_bytes(checkpoint, "native")
    assert weights_bytes(checkpoint, "reference") == 4 * footprint(checkpoint).n_parameters
