"""Which model a result belongs to: its file's digest, and what its headers say."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from ingle.evaluate.result import ModelInfo
from ingle.models.checkpoint import Checkpoint
from ingle.models.memory import footprint

__all__ = ["file_sha256", "model_info"]

# What of a Hugging Face folder, beside the weights, decides what the model says.
_SETTINGS = ("config.json", "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "chat_template.jinja")
_CHUNK = 1 << 22

Progress = Callable[[int, int], None]


def model_info(checkpoint: Checkpoint, path: Path, on_progress: Progress | None = None) -> ModelInfo:
    """What `checkpoint`, opened from `path`, is. Reads all its bytes for the digest. Raises OSError.

    sha256: of a single file its own, as `sha256sum` prints it; of several the digest of their names and digests.
    on_progress(done, total): bytes read.
    """
    source = checkpoint.source
    files = list(source.paths)
    if path.is_dir():
        files += [path / name for name in _SETTINGS if (path / name).is_file()]
    total = sum(file.stat().st_size for file in files)
    done = 0

    def more(n: int) -> None:
        nonlocal done
        done += n
        if on_progress is not None:
            on_progress(done, total)

    digests = [file_sha256(file, more) for file in files]
    if len(files) > 1:
        lines = sorted(f"{digest}  {file.name}\n" for file, digest in zip(files, digests, strict=True))
        digests = [hashlib.sha256("".join(lines).encode()).hexdigest()]
    size = footprint(checkpoint)
    resolved = path.resolve()
    name = source.metadata.get("general.name")
    return ModelInfo(
        name=name if isinstance(name, str) and name else resolved.stem if resolved.is_file() else resolved.name,
        file=resolved.name,
        bytes=total,
        sha256=digests[0],
        architecture=source.metadata.get_str("general.architecture"),
        n_parameters=size.n_parameters,
        bits=8 * size.weights_bytes / size.n_parameters,
    )


def file_sha256(path: Path, on_bytes: Callable[[int], None] = lambda n: None) -> str:
    """The SHA-256 of a file, in hex. on_bytes(n): told of each n bytes that were read. Raises OSError."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            on_bytes(len(chunk))
    return digest.hexdigest()
