"""What quantising costs, and that nothing but rounding is between the native backend and the reference.

    python benchmarks/quality.py [--model FILE] [--text FILE] [--limit 1024] [--types q4_0,q8_0] [--json OUT.json]
        [--markdown OUT.md] [--picture OUT.png]

One model (by default the bundled one) is written in every tensor type. On each file the reference backend says what is
right; the native backend computes the same tokens with each instruction set of this machine, as prompts and in steps of
few rows, with the usual KV cache; one file is computed with every type of KV cache. METHOD.md says how it is shown that
rounding is all; `ingle.evaluate.rounding` does it. Exits with 1, and says what is wrong, where it is not.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any, get_args

import gguf
import numpy as np
from numpy.typing import NDArray

from ingle.backends.base import KVType
from ingle.backends.native import NativeBackend
from ingle.backends.reference import ReferenceBackend
from ingle.engine.model import bundled_model
from ingle.evaluate.rounding import Difference, Evidence, difference, examine, trace, truth_of
from ingle.gguf import QUANTIZABLE_TYPES, FileType, TensorToWrite, TensorType, quantize, tensor_type_for, write_gguf
from ingle.models.source import open_source
from ingle.text import Tokenizer

WIKITEXT = Path(__file__).parents[2] / "shared" / "data" / "eval" / "wikitext-2_valid.txt"
ISAS = ("portable", "avx2", "avxvnni", "avx512", "amx", "neon")
KV_TYPES: tuple[KVType, ...] = get_args(KVType)
USUAL_KV: KVType = "f16"
KV_WITH = TensorType.Q8_0  # the weights that types of KV cache are measured with
WINDOW = 256  # tokens
SIZES = {"prompt": (), "steps": (1, 2, 3, 5, 8)}  # rows in each call: a window, or so many over and over

Windows = Sequence[NDArray[np.int32]]
Choose = Callable[[str, tuple[int, ...]], TensorType]


def stored_as(type: TensorType, name: str, shape: tuple[int, ...]) -> TensorType:
    """The type of a tensor in a file of `type`: F32 for vectors, one with smaller blocks where the rows want that."""
    if tensor_type_for("q8_0", name, shape, 1) is TensorType.F32:
        return TensorType.F32
    if shape[-1] % type.weights_per_block == 0:
        return type
    file_type = next(one for one in FileType if one.base is type)
    return tensor_type_for(file_type, "blk.0.attn_q.weight", shape, 1)


def write_as(model: Path, out: Path, choose: Choose) -> Path:
    """Write the model with each tensor in the type that choose(name, shape) says. Gives `out`."""

    def rows(name: str, type: TensorType) -> list[NDArray[np.uint8]]:
        tensor = source.tensors[name]
        if tensor.type is type:
            return [tensor.data]
        values = tensor.float32().reshape(-1, tensor.shape[-1])
        if type not in QUANTIZABLE_TYPES:  # MXFP4, which Ingle only reads
            return [gguf.quants.quantize(values, gguf.GGMLQuantizationType(type.id))]
        return [quantize(values, type)]

    source = open_source(model)
    try:
        tensors = []
        for name, header in source.headers.items():
            type = choose(name, header.shape)
            tensors.append(TensorToWrite(name, header.shape, type, partial(rows, name, type)))
        write_gguf(out, source.metadata, tensors)
    finally:
        source.close()
    return out


def _use_isa(isa: str | None) -> None:
    if isa is not None:
        os.environ["INGLE_ISA"] = isa


def processes(n: int = 1, isa: str | None = None) -> ProcessPoolExecutor:
    """Processes of their own; with an instruction set, the native core is held to it before it decides."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # theirs; this process has its NumPy already
    return ProcessPoolExecutor(n, get_context("spawn"), _use_isa, (isa,))


def isa_here() -> str:
    """The instruction set of this process."""
    from ingle import _core

    return _core.isa()


def isa_processes() -> dict[str, ProcessPoolExecutor]:
    """A process for each instruction set that this machine has."""
    pools = {isa: processes(isa=isa) for isa in ISAS}
    return {isa: pool for isa, pool in pools.items() if pool.submit(isa_here).result() == isa}


def rounding_as(isa: str, feed: str) -> tuple[bool, str]:
    """Runs for which this is the same have one truth: with matrix tiles, it matters how many rows a call has."""
    return (True, feed) if isa == "amx" else (False, "prompt")


def reference_logits(file: Path, kv: KVType, windows: Windows) -> NDArray[np.float32]:
    """What is right, float32 [N, V]."""
    return trace(file, ReferenceBackend, windows, kv_type=kv).logits


def keep_truth(out: Path, file: Path, kv: KVType, windows: Windows, key: tuple[bool, str], reference: Any) -> None:
    """Write a `Truth`, for the processes that compare with it. key: of `rounding_as`."""
    tiles, feed = key
    truth = truth_of(file, windows, kv_type=kv, tiles=tiles, sizes=SIZES[feed], reference=reference)
    out.write_bytes(pickle.dumps(truth))


def native_evidence(truth: Path, file: Path, kv: KVType, windows: Windows, feed: str) -> Evidence:
    """Compare the native backend of this process with a kept truth."""
    native = partial(NativeBackend, threads=1)
    return examine(file, native, windows, pickle.loads(truth.read_bytes()), kv_type=kv, sizes=SIZES[feed])


@dataclass(frozen=True)
class Cell:
    """A file and a type of KV cache. cost: of both, beside the original in F32 with an F32 cache."""

    type: str
    kv: str
    cost: Difference
    runs: dict[tuple[str, str], Evidence]  # by instruction set and feed


def measure(
    file: Path, type: str, kv: KVType, windows: Windows, original: Any, pool: ProcessPoolExecutor, isas: dict[str, Any]
) -> Cell:
    """Compute a file in every way. original: the logits of the F32 file."""
    reference = pool.submit(reference_logits, file, kv, windows).result()
    ways = [(isa, feed) for isa in isas for feed in SIZES]
    with TemporaryDirectory(prefix="ingle-quality-") as folder:
        truths = {key: Path(folder) / f"{key}" for key in {rounding_as(*way) for way in ways}}
        kept = [pool.submit(keep_truth, path, file, kv, windows, key, reference) for key, path in truths.items()]
        for one in kept:
            one.result()
        runs = {
            way: isas[way[0]].submit(native_evidence, truths[rounding_as(*way)], file, kv, windows, way[1])
            for way in ways
        }
        found = {way: run.result() for way, run in runs.items()}
    return Cell(type, kv, difference(reference, original, windows), found)


def cells_of(
    model: Path,
    types: Sequence[TensorType],
    windows: Windows,
    folder: Path,
    pool: ProcessPoolExecutor,
    isas: dict[str, ProcessPoolExecutor],
    tell: Callable[[str], None],
) -> list[Cell]:
    """Measure every type with the usual KV cache, and every other KV cache with one type. Files go to `folder`."""
    original = write_as(model, folder / "original.gguf", partial(stored_as, TensorType.F32))
    logits = reference_logits(original, "f32", windows)
    ways = [(type, USUAL_KV) for type in types]
    ways += [(KV_WITH if KV_WITH in types else types[0], kv) for kv in KV_TYPES if kv != USUAL_KV]
    cells = []
    for type, kv in ways:
        began = perf_counter()
        file = folder / f"{type.name}.gguf"
        if not file.exists():
            write_as(model, file, partial(stored_as, type))
        cells.append(measure(file, type.name, kv, windows, logits, pool, isas))
        tell(f"{type.name} with KV cache {kv}: {perf_counter() - began:.0f} s")
    return cells


def read_windows(model: Path, text: Path, limit: int) -> Windows:
    """The first tokens of a text, in windows."""
    source = open_source(model)
    try:
        tokenizer = Tokenizer.from_metadata(source.metadata)
    finally:
        source.close()
    ids = np.array(tokenizer.encode(text.read_text("utf-8")[: 12 * limit], add_special=False)[:limit], np.int32)
    return [window for window in np.split(ids, range(WINDOW, len(ids), WINDOW)) if len(window) > 1]


def main() -> None:
    """Read the command line, measure, write what was asked for."""
    parser = argparse.ArgumentParser(description="What quantising costs, and that native code adds only rounding.")
    parser.add_argument("--model", type=Path, default=bundled_model(), help="a GGUF file (default: the bundled model)")
    parser.add_argument("--text", type=Path, default=WIKITEXT, help="UTF-8 text (default: WikiText-2, validation)")
    parser.add_argument("--limit", type=int, default=1024, help="tokens of the text (default 1024)")
    parser.add_argument(
        "--types", default=",".join(type.name for type in TensorType), help="tensor types (default all)"
    )
    parser.add_argument("--json", type=Path, help="write every figure to this file")
    parser.add_argument("--markdown", type=Path, help="write the tables to this file")
    parser.add_argument("--picture", type=Path, help="draw KL by type and instruction set to this PNG")
    arguments = parser.parse_args()
    if not arguments.text.exists():
        parser.error(f"{arguments.text} is not there; give a text with --text FILE")
    from quality_report import draw, markdown  # beside this file

    types = [TensorType.parse(name) for name in arguments.types.split(",")]
    windows = read_windows(arguments.model, arguments.text, arguments.limit)
    with TemporaryDirectory(prefix="ingle-quality-") as folder:
        tell = partial(print, file=sys.stderr, flush=True)
        isas, pool = isa_processes(), processes(os.cpu_count() or 1)
        cells = cells_of(arguments.model, types, windows, Path(folder), pool, isas, tell)
        for used in (pool, *isas.values()):
            used.shutdown()
    report = markdown(cells, arguments.model.name, arguments.text.name, sum(map(len, windows)), WINDOW)
    if arguments.picture:
        draw(cells, arguments.picture)
        report += f"\n![KL to the reference, by type and instruction set]({arguments.picture.name})\n"
    print(report)
    if arguments.json:
        arguments.json.write_text(json.dumps([as_json(cell) for cell in cells], indent=1) + "\n")
    if arguments.markdown:
        arguments.markdown.write_text(report)
    faults = [
        f"{cell.type}, KV cache {cell.kv}, {isa}, {feed}: {fault}"
        for cell in cells
        for (isa, feed), run in cell.runs.items()
        for fault in run.faults()
    ]
    print(*faults or ["Nothing but rounding was found."], sep="\n", file=sys.stderr)
    sys.exit(bool(faults))


def as_json(cell: Cell) -> dict[str, Any]:
    """Everything that is known of a cell."""

    def plain(value: Any) -> Any:
        if isinstance(value, np.ndarray):
            return value.tolist()
        return {key: plain(one) for key, one in value.items()} if isinstance(value, dict) else value

    runs = [{"isa": isa, "feed": feed} | plain(asdict(run)) for (isa, feed), run in cell.runs.items()]
    return {"type": cell.type, "kv_type": cell.kv, "cost": asdict(cell.cost), "runs": runs}


if __name__ == "__main__":
    main()
