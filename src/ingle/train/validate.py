"""The loss on held-out rows: nats per token, and bits per byte, which do not depend on the vocabulary."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ingle.train.data.batches import Batch
from ingle.train.distributed import Parallel
from ingle.train.loss import IGNORED
from ingle.train.setup import Setup

__all__ = ["Score", "Validation", "token_bytes"]


@dataclass(frozen=True)
class Score:
    """loss: nats per token. bits_per_byte: of the text that the tokens stand for; None where they stand for none."""

    loss: float
    bits_per_byte: float | None
    n_tokens: int


class Validation:
    """The same rows each time, dealt to all devices in equal micro-batches."""

    def __init__(self, rows: Batch, n_bytes: NDArray[np.int64], setup: Setup, rank: int, world: int) -> None:
        """`n_bytes` [V]: the UTF-8 bytes each token stands for."""
        self.n_rows = rows.n_rows
        counted = rows.targets[rows.targets != IGNORED]
        self.n_tokens, self.n_bytes = len(counted), int(n_bytes[counted].sum())
        deal = setup.micro_rows * world
        missing = -rows.n_rows % deal  # every device makes equally many calls of one size

        def padded(x: NDArray[np.int64], value: int) -> NDArray[np.int64]:
            return np.pad(x, ((0, missing), (0, 0)), constant_values=value)

        whole = Batch(
            padded(rows.tokens, 0), padded(rows.targets, IGNORED), np.pad(rows.documents, ((0, missing), (0, 0)))
        )
        mine = Batch(whole.tokens[rank::world], whole.targets[rank::world], whole.documents[rank::world])
        self._batches, self._setup = mine.split(setup.micro_rows), setup

    @torch.no_grad()
    def __call__(self, parallel: Parallel) -> Score:
        """Every device must call it."""
        device = parallel.devices.device
        total = torch.zeros((), device=device)
        for batch in self._batches:
            with self._setup.autocast(device):
                total += parallel(*to_device(batch, device))
        nats = float(parallel.devices.sum_over(total))
        bits = nats / math.log(2) / self.n_bytes if self.n_bytes else None
        return Score(nats / max(1, self.n_tokens), bits, self.n_tokens)


def to_device(batch: Batch, device: torch.device) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Tokens, targets and documents as tensors on the device."""
    parts = (torch.from_numpy(x) for x in (batch.tokens, batch.targets, batch.documents))
    if device.type == "cuda":
        parts = (x.pin_memory() for x in parts)
    tokens, targets, documents = (x.to(device, non_blocking=True) for x in parts)
    return tokens, targets, documents


def token_bytes(tokenizer_json: bytes, size: int) -> NDArray[np.int64]:
    """UTF-8 bytes that each token stands for, int64 [size]; control tokens stand for none.

    Byte-level vocabularies write each byte as one character; SentencePiece ones write a space as U+2581 and single
    bytes as <0x0A>.
    """
    found = json.loads(tokenizer_json)
    control = {token["id"] for token in found.get("added_tokens", ()) if token.get("special")}
    model = found["model"]
    vocabulary = model["vocab"]
    items = vocabulary.items() if isinstance(vocabulary, dict) else ((t, i) for i, (t, _) in enumerate(vocabulary))
    byte_level = "ByteLevel" in json.dumps([found.get("pre_tokenizer"), found.get("decoder")])
    sizes = np.zeros(size, np.int64)
    for text, number in (*items, *((token["content"], token["id"]) for token in found.get("added_tokens", ()))):
        if number >= size or number in control:
            continue
        if byte_level:
            sizes[number] = len(text)
        elif len(text) == 6 and text.startswith("<0x"):
            sizes[number] = 1
        else:
            sizes[number] = len(text.replace("\u2581", " ").encode())
    return sizes
