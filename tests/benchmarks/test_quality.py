"""Every tensor type and KV cache, on every instruction set: the native backend rounds as it should and does no more.

A small version of benchmarks/quality.py, on one model of random weights that has a matrix of each type in two places.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import cycle
from pathlib import Path

import numpy as np
import pytest
from quality import (
    ISAS,
    KV_TYPES,
    SIZES,
    cells_of,
    isa_here,
    isa_processes,
    measure,
    write_as,
)
from quality_report import draw, markdown

import toys
from ingle.backends.base import KVType
from ingle.backends.native import NativeBackend
from ingle.evaluate.rounding import examine, truth_of
from ingle.gguf import TensorType, open_gguf

WINDOWS = [np.random.default_rng(size).integers(0, len(toys.vocabulary()), size, dtype=np.int32) for size in (150, 70)]
NATIVE = partial(NativeBackend, threads=1)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """4 layers with rows of 256 and 512: whole blocks of every type. Its 30 matrices are twice as many as types."""
    return toys.toy_gguf(tmp_path_factory.mktemp("quality") / "original.gguf", n_embd=256, n_layers=4)


@pytest.fixture(scope="module")
def mixed(original: Path) -> Path:
    """It, with each matrix in another type."""
    types = cycle(TensorType)
    return write_as(
        original,
        original.with_name("mixed.gguf"),
        lambda name, shape: next(types) if len(shape) > 1 else TensorType.F32,
    )


@pytest.fixture(scope="module")
def isas() -> Iterator[dict[str, ProcessPoolExecutor]]:
    pools = isa_processes()
    yield pools
    for pool in pools.values():
        pool.shutdown()


def test_each_type_is_there_twice(mixed: Path) -> None:
    with open_gguf(mixed) as file:
        types = [info.type for info in file.tensors.values() if len(info.shape) > 1]
    assert sorted(type.name for type in types) == sorted(2 * [type.name for type in TensorType])


@pytest.mark.parametrize("kv_type", KV_TYPES)
def test_nothing_but_rounding(kv_type: KVType, mixed: Path, isas: dict[str, ProcessPoolExecutor]) -> None:
    logits = np.zeros((sum(map(len, WINDOWS)), len(toys.vocabulary())), np.float32)
    cell = measure(mixed, "mixed", kv_type, WINDOWS, logits, isas["portable"], isas)
    assert set(cell.runs) == {(isa, feed) for isa in isas for feed in SIZES}
    assert {way: run.faults() for way, run in cell.runs.items()} == {way: [] for way in cell.runs}


def test_instruction_sets_are_held_to(isas: dict[str, ProcessPoolExecutor]) -> None:
    assert {isa: pool.submit(isa_here).result() for isa, pool in isas.items()} == {isa: isa for isa in isas}
    assert "portable" in isas
    assert set(isas) <= set(ISAS)


def damaged(file: Path, out: Path, tensor: str, factor: float) -> Path:
    """The file with the scale of one block of a tensor multiplied: in these types, a float16 at its beginning."""
    with open_gguf(file) as opened:
        head = opened.tensors[tensor].data[:64].tobytes()
    data = bytearray(file.read_bytes())
    at = data.index(head)
    scale = np.frombuffer(data, np.float16, 1, at)[0]
    data[at : at + 2] = np.float16(scale * factor).tobytes()
    out.write_bytes(data)
    return out


@pytest.mark.parametrize("type", [TensorType.Q4_0, TensorType.Q8_0, TensorType.Q4_K], ids=lambda type: type.name)
def test_one_wrong_scale_is_seen(type: TensorType, mixed: Path, tmp_path: Path) -> None:
    with open_gguf(mixed) as file:
        name = next(name for name, info in file.tensors.items() if info.type is type and "blk" in name)
    layer, role = int(name.split(".")[1]), name.split(".")[2]
    truth = truth_of(mixed, WINDOWS[1:], kv_type="f32", tiles=isa_here() == "amx")
    wrong = damaged(mixed, tmp_path / "wrong.gguf", name, 1.3)
    faults = examine(wrong, NATIVE, WINDOWS[1:], truth, kv_type="f32").faults()
    assert any(f"block {2 * layer + role.startswith('ffn')} " in fault for fault in faults), (name, faults)
    assert examine(mixed, NATIVE, WINDOWS[1:], truth, kv_type="f32").faults() == []


def test_the_benchmark(original: Path, isas: dict[str, ProcessPoolExecutor], tmp_path: Path) -> None:
    told: list[str] = []
    pool = isas["portable"]
    cells = cells_of(original, [TensorType.Q8_0], WINDOWS[1:], tmp_path, pool, isas, told.append)
    assert [(cell.type, cell.kv) for cell in cells] == [("Q8_0", "f16")] + [
        ("Q8_0", kv) for kv in KV_TYPES if kv != "f16"
    ]
    assert len(told) == len(cells)
    report = markdown(cells, "toy.gguf", "tokens", 70, 70)
    assert "| Q8_0 | no tiles |" in report
    assert "| portable | steps |" in report
    draw(cells, tmp_path / "kl.png")
    assert (tmp_path / "kl.png").stat().st_size > 10_000
