"""Every tensor type and KV cache, on every instruction set: the native backend rounds as it should and does no more.

A small version of benchmarks/quality.py, on models of random weights that have matrices of all types.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from quality import (
    ISAS,
    KV_TYPES,
    SIZES,
    Windows,
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


MIXED = list(TensorType)


def write(path: Path, n_layers: int) -> Path:
    """Rows of 256 and 512 are whole blocks of every type. Each matrix has another type than its neighbours, but for
    gate and up, which are computed together where they are of one type. With a layer for each type, all are everywhere.
    """
    toy = toys.toy_gguf(path.with_suffix(".f32"), n_embd=256, n_layers=n_layers)
    roles = ("token_embd", "attn_q", "attn_k", "attn_v", "attn_output", "ffn_down", "ffn_gate", "ffn_up", "output")

    def choose(name: str, shape: tuple[int, ...]) -> TensorType:
        layer = int(name.split(".")[1]) if name.startswith("blk") else 0
        role = roles.index(name.split(".")[-2])
        return MIXED[(2 * layer + min(role, roles.index("ffn_gate"))) % len(MIXED)]

    return write_as(toy, path, lambda name, shape: choose(name, shape) if len(shape) > 1 else TensorType.F32)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("quality") / "mixed.gguf", 5)


@pytest.fixture(scope="module")
def isas() -> Iterator[dict[str, ProcessPoolExecutor]]:
    pools = isa_processes()
    yield pools
    for pool in pools.values():
        pool.shutdown()


def check(file: Path, kv_type: KVType, windows: Windows, isas: dict[str, ProcessPoolExecutor]) -> None:
    logits = np.zeros((sum(map(len, windows)), len(toys.vocabulary())), np.float32)
    cell = measure(file, "mixed", kv_type, windows, logits, isas["portable"], isas)
    assert set(cell.runs) == {(isa, feed) for isa in isas for feed in SIZES}
    assert {way: run.faults() for way, run in cell.runs.items()} == {way: [] for way in cell.runs}


@pytest.mark.parametrize("kv_type", KV_TYPES)
def test_every_cache(kv_type: KVType, mixed: Path, isas: dict[str, ProcessPoolExecutor]) -> None:
    check(mixed, kv_type, WINDOWS, isas)


def test_every_type_in_every_place(isas: dict[str, ProcessPoolExecutor], tmp_path: Path) -> None:
    file = write(tmp_path / "deep.gguf", len(MIXED))
    with open_gguf(file) as opened:
        layers = [(name.split("."), info) for name, info in opened.tensors.items() if name.startswith("blk")]
    assert len({(name[2], info.type) for name, info in layers if len(info.shape) > 1}) == 7 * len(MIXED)
    check(file, "f16", WINDOWS[1:], isas)


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


def test_the_benchmark(mixed: Path, isas: dict[str, ProcessPoolExecutor], tmp_path: Path) -> None:
    told: list[str] = []
    pool = isas["portable"]
    cells = cells_of(mixed, [TensorType.Q8_0], WINDOWS[1:], tmp_path, pool, isas, told.append)
    assert [(cell.type, cell.kv) for cell in cells] == [("Q8_0", "f16")] + [
        ("Q8_0", kv) for kv in KV_TYPES if kv != "f16"
    ]
    assert len(told) == len(cells)
    report = markdown(cells, "toy.gguf", "tokens", 70, 70)
    assert "| Q8_0 | int8 |" in report
    assert "| portable | steps |" in report
    draw(cells, tmp_path / "kl.png")
    assert (tmp_path / "kl.png").stat().st_size > 10_000
