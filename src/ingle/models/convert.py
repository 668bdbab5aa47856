"""Any source to a GGUF file of any file type, in bounded memory."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ingle.errors import UsageError
from ingle.gguf import (
    FileType,
    Metadata,
    TensorToWrite,
    TensorType,
    TypedValue,
    Value,
    quantize,
    tensor_type_for,
    write_gguf,
)
from ingle.models.checkpoint import Checkpoint
from ingle.models.source import ExtraMetadata, Header, Source, open_source
from ingle.models.tensor import Tensor

__all__ = ["Planned", "convert", "plan", "write_source"]

#: Float32 bytes of the rows quantised at once; each thread holds one such slab, its result and its temporaries.
_SLAB_BYTES = 16 * 2**20
_QUANTIZATION_VERSION = 2  # of ggml's block formats
_QUANTIZED_FROM = "ingle.requantized_from"


def convert(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    file_type: FileType | str = "f16",
    *,
    extra_metadata: ExtraMetadata | None = None,
    threads: int | None = None,
    on_start: Callable[[int], None] | None = None,
    on_bytes: Callable[[int], None] | None = None,
) -> Path:
    """Write the model at `source` (a GGUF file or a Hugging Face directory) to `out` as a GGUF file of `file_type`.

    The tensors are written block by block in the order of computing, one in memory at a time, in slabs of rows that are
    quantised in parallel. Tensors that have their type already are copied bit for bit. `out` appears whole or not at
    all. `extra_metadata` makes a directory's tokenizer metadata. `on_start(total)` is called once with the bytes of
    tensors to write, `on_bytes(n)` after every n of them. Quantising again what is quantised already loses quality
    twice; it is allowed, and noted in the file as `ingle.requantized_from`.

    Returns the path written. Raises what opening the source raises, UsageError where `out` cannot be, and
    ModelFileError when the disk has no room.
    """
    opened = open_source(source, extra_metadata)
    try:
        return write_source(opened, out, file_type, threads=threads, on_start=on_start, on_bytes=on_bytes)
    finally:
        opened.close()


@dataclass(frozen=True, slots=True)
class Planned:
    """A tensor, the type it is written in, and the type that the file type would have liked for it."""

    header: Header
    type: TensorType
    wanted: TensorType


def write_source(
    source: Source,
    out: str | os.PathLike[str],
    file_type: FileType | str,
    *,
    keep: Collection[str] = (),
    threads: int | None = None,
    on_start: Callable[[int], None] | None = None,
    on_bytes: Callable[[int], None] | None = None,
) -> Path:
    """Write a source that is open already, as `convert` does; the tensors called `keep` stay in the type they have."""
    file_type = FileType.parse(file_type) if isinstance(file_type, str) else file_type
    target = Path(out)
    threads = threads or os.cpu_count() or 1
    _refuse_own_input(source, target)
    planned = plan(source, file_type, keep)
    with ThreadPoolExecutor(threads, "ingle-convert") as pool:
        tensors = [
            TensorToWrite(
                p.header.name, p.header.shape, p.type, partial(_chunks, source, p.header, p.type, pool, threads)
            )
            for p in planned
        ]
        if on_start is not None:
            on_start(sum(tensor.n_bytes for tensor in tensors))
        write_gguf(target, _metadata(source, file_type, planned), tensors, on_bytes)
    return target


def plan(source: Source, file_type: FileType, keep: Collection[str] = ()) -> list[Planned]:
    """What `write_source` will write, in that order. Raises what checking the source's tensors raises."""
    checkpoint = Checkpoint(source)
    planned = []
    for header in _ordered(checkpoint):
        if header.name in keep:
            planned.append(Planned(header, header.type, header.type))
        else:
            # Rows of 256 are whole blocks of every type.
            fits = (*header.shape[:-1], 256)
            wanted = _type_for(checkpoint, file_type, header.name, fits)
            planned.append(Planned(header, _type_for(checkpoint, file_type, header.name, header.shape), wanted))
    return planned


def _refuse_own_input(source: Source, target: Path) -> None:
    if target.is_dir():
        raise UsageError(
            f"{target} is a directory; give the name of the GGUF file to write, such as {target / 'model.gguf'}."
        )
    if target.exists() and any(path.exists() and target.samefile(path) for path in source.paths):
        raise UsageError(f"{target} is the model that is being converted; give the new file another name.")


def _ordered(checkpoint: Checkpoint) -> list[Header]:
    """Every tensor: those that belong to no block first, then block by block, so that a block lies in one piece."""
    headers = checkpoint.source.headers
    in_blocks = dict.fromkeys(part.tensor for part in checkpoint.parts())
    return [header for name, header in headers.items() if name not in in_blocks] + [headers[name] for name in in_blocks]


def _type_for(checkpoint: Checkpoint, file_type: FileType, name: str, shape: tuple[int, ...]) -> TensorType:
    spec = checkpoint.spec
    return tensor_type_for(
        file_type,
        name,
        shape,
        spec.n_layers,
        tied_embeddings=spec.tied,
        queries_per_kv_head=spec.n_heads // spec.n_kv_heads,
        n_experts=spec.experts.n_experts if spec.experts else 0,
    )


def _metadata(source: Source, file_type: FileType, planned: list[Planned]) -> Metadata:
    """The source's metadata (with its types), and what this conversion says about itself."""
    entries: dict[str, Value | TypedValue] = {"general.architecture": source.metadata.get_str("general.architecture")}
    entries |= {key: source.metadata.typed(key) for key in source.metadata}
    entries |= {
        "general.type": "model",
        "general.file_type": file_type.id,
        "general.quantization_version": _QUANTIZATION_VERSION,
    }
    again = sorted({p.header.type.name for p in planned if p.header.type.is_quantized and p.header.type is not p.type})
    if again:
        entries[_QUANTIZED_FROM] = ", ".join(again)
    return Metadata(entries, source.name)


def _chunks(
    source: Source, header: Header, kind: TensorType, pool: ThreadPoolExecutor, threads: int
) -> Iterator[NDArray[np.uint8]]:
    """The tensor's bytes in type `kind`, in order; as many slabs in the making as there are threads."""
    pending: deque[Future[NDArray[np.uint8]]] = deque()
    columns = header.shape[-1]
    step = max(1, _SLAB_BYTES // (4 * columns))
    try:
        for tensor in source.pieces(header.name):
            if tensor.type is kind:
                yield from (tensor.data[i : i + _SLAB_BYTES] for i in range(0, tensor.data.size, _SLAB_BYTES))
                continue
            n_rows = tensor.data.size // tensor.type.row_bytes(columns)
            rows = Tensor(header.name, (n_rows, columns), tensor.type, tensor.data)
            for start in range(0, n_rows, step):
                pending.append(pool.submit(_slab, rows, start, min(start + step, n_rows), kind))
                if len(pending) > threads:
                    yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        for future in pending:
            future.cancel()
        source.release()


def _slab(rows: Tensor, start: int, stop: int, kind: TensorType) -> NDArray[np.uint8]:
    try:
        return quantize(rows.rows(start, stop).float32(), kind, threads=1)
    except UsageError as error:
        raise UsageError(f"Tensor {rows.name} cannot be stored as {kind.name}: {error}") from None
