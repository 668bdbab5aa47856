"""Where weights come from: a GGUF file, or a Hugging Face directory presented as if it were one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, Protocol

from ingle.errors import CheckpointError
from ingle.gguf import GGUFFile, Metadata, TensorType, open_gguf
from ingle.models.tensor import Tensor

__all__ = ["ExtraMetadata", "GGUFSource", "Header", "Source", "open_source"]

#: Makes the metadata of a Hugging Face directory's tokenizer and chat template, given the directory and the rows of the
#: embedding matrix: `ingle.text.metadata_from_hf`.
ExtraMetadata = Callable[[Path, int], Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Header:
    """What is known of a tensor before its values are touched. Shapes have the rows first."""

    name: str
    shape: tuple[int, ...]
    type: TensorType

    @property
    def n_bytes(self) -> int:
        """Bytes of the values."""
        return self.type.n_bytes(self.shape)


class Source(Protocol):
    """Metadata and tensors, both under their GGUF names.

    `headers` is complete and cheap; `tensors[name]` makes the tensor when it is asked for and keeps no reference to it,
    so that whoever walks through a source holds one tensor at a time.
    """

    @property
    def name(self) -> str:
        """The path, for messages."""
        ...

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files the weights are in."""
        ...

    @property
    def metadata(self) -> Metadata: ...

    @property
    def headers(self) -> Mapping[str, Header]: ...

    @property
    def tensors(self) -> Mapping[str, Tensor]: ...

    def pieces(self, name: str) -> Iterator[Tensor]:
        """The tensor in one piece, or in several to be laid one after the other, where that saves memory."""
        ...

    def origin(self, name: str) -> str:
        """What a GGUF tensor name is called in the files, for messages."""
        ...

    def release(self) -> None:
        """Give mapped pages that were read back to the system, so that memory holds a model once and not twice."""
        ...

    def close(self) -> None: ...


class GGUFSource:
    """A GGUF file, memory-mapped."""

    def __init__(self, file: GGUFFile, name: str) -> None:
        self.name = name
        self.paths = file.paths
        self.metadata = file.metadata
        self.headers = {n: Header(n, tuple(info.shape), info.type) for n, info in file.tensors.items()}
        self.tensors: Mapping[str, Tensor] = LazyTensors(tuple(self.headers), self._tensor)
        self._file = file

    def _tensor(self, name: str) -> Tensor:
        info = self._file.tensors[name]
        return Tensor(name, tuple(info.shape), info.type, info.data, info.stored)

    def pieces(self, name: str) -> Iterator[Tensor]:
        yield self._tensor(name)

    def origin(self, name: str) -> str:
        return name

    def release(self) -> None:
        self._file.release()

    def close(self) -> None:
        self._file.close()


class LazyTensors(Mapping[str, Tensor]):
    """Tensors made by `make(name)` each time they are asked for."""

    def __init__(self, names: tuple[str, ...], make: Callable[[str], Tensor]) -> None:
        self._names = dict.fromkeys(names)
        self._make = make

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._names:
            raise KeyError(name)
        return self._make(name)

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def open_source(path: str | PathLike[str], extra_metadata: ExtraMetadata | None = None) -> Source:
    """Open a GGUF file, or a Hugging Face directory with safetensors.

    `extra_metadata` is called for a directory only; a GGUF file carries its tokenizer itself.
    Raises GGUFError, CheckpointError or UnsupportedError.
    """
    path = Path(path)
    if path.is_dir():
        from ingle.models.huggingface import HuggingFaceSource  # which needs the families, and they this module

        return HuggingFaceSource(path, extra_metadata)
    if not path.exists():
        raise CheckpointError(f"{path} does not exist; expected a GGUF file or a Hugging Face directory.")
    return GGUFSource(open_gguf(path), str(path))
