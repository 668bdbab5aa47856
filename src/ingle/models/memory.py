"""What a model's weights take, block by block: for `inspect`, and for deciding what stays in memory."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from ingle.models.checkpoint import Checkpoint
from ingle.models.layout import Part
from ingle.models.spec import KVType

__all__ = ["Footprint", "footprint"]


@dataclass(frozen=True, slots=True)
class Footprint:
    """Bytes in the types of the file. A tied output counts once, as the embedding.

    blocks: attention and feed-forward of layer 0, of layer 1, ... (each layer's weights once, however often it runs).
    active_bytes: what one token reads; less than `weights_bytes` by the experts that it does not use and by the rows of
    the embedding that it does not look up (the output matrix is read whole).
    """

    embedding_bytes: int
    blocks: tuple[int, ...]
    output_bytes: int
    n_parameters: int
    active_bytes: int
    kv_bytes_per_token: int

    @property
    def weights_bytes(self) -> int:
        """All weights."""
        return self.embedding_bytes + sum(self.blocks) + self.output_bytes


def footprint(checkpoint: Checkpoint, kv_type: KVType = "f16") -> Footprint:
    """The footprint of an open checkpoint; reads headers only."""
    spec = checkpoint.spec
    blocks = tuple(_bytes(checkpoint, block) for block in checkpoint.blocks())
    output = _bytes(checkpoint, checkpoint.output_parts)
    embedding = _bytes(checkpoint, checkpoint.embedding_parts)
    own_output = output - (_bytes(checkpoint, checkpoint.embedding_parts[:1]) if spec.tied else 0)
    parameters = sum(math.prod(checkpoint.source.headers[name].shape) for name in _names(checkpoint.parts()))
    passes = sum(
        _active(checkpoint, block) * spec.schedule.count(i // 2) for i, block in enumerate(checkpoint.blocks())
    )
    return Footprint(
        embedding_bytes=embedding,
        blocks=blocks,
        output_bytes=own_output,
        n_parameters=parameters,
        active_bytes=passes + output,
        kv_bytes_per_token=spec.kv_bytes_per_token(kv_type),
    )


def _names(parts: Iterable[Part]) -> dict[str, None]:
    return dict.fromkeys(part.tensor for part in parts)


def _bytes(checkpoint: Checkpoint, parts: Iterable[Part]) -> int:
    return sum(checkpoint.source.headers[name].n_bytes for name in _names(parts))


def _active(checkpoint: Checkpoint, parts: list[Part]) -> int:
    """Bytes of a block that one token reads."""
    experts = checkpoint.spec.experts
    if experts is None:
        return _bytes(checkpoint, parts)
    mixed = [part for part in parts if part.role.endswith("_experts")]
    idle = _bytes(checkpoint, mixed) * (experts.n_experts - experts.n_used) // experts.n_experts
    return _bytes(checkpoint, parts) - idle
