"""A decoder small enough for tests, and one whose weights and inputs are less alike than random ones."""

from __future__ import annotations

import torch

from ingle.train.decoder import Decoder
from ingle.train.shape import Shape

SMALL = Shape(vocabulary=64, width=64, layers=2, heads=2, kv_heads=1, hidden=96, context=32)


def decoder_of(seed: int = 0, **changes: object) -> Decoder:
    """A decoder of `SMALL` with random weights, large enough to matter."""
    torch.manual_seed(seed)
    values = SMALL.to_dict() | {"head_dim": 32, "repeat": 0} | changes
    decoder = Decoder(Shape(**values))
    with torch.no_grad():
        for name, parameter in decoder.named_parameters():
            if parameter.ndim > 1 and name != "token_embd.weight":
                parameter.mul_(4)
    return decoder


def tokens_of(rows: int = 4, seed: int = 1) -> torch.Tensor:
    return torch.randint(64, (rows, 32), generator=torch.Generator().manual_seed(seed))
