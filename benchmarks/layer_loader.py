"""Layer by layer, as AirLLM does it: each is read whole, computed, and thrown away, one after the other.

Nothing is kept for the next token, nothing is read ahead. What computes is our own native core, and what is read is
the same GGUF file, so the difference to `ingle --memory` is what is kept and when it is read, and nothing else. AirLLM
itself (https://github.com/lyogavin/airllm) computes with PyTorch, from a file for each layer.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ingle.backends import open_backend
from ingle.backends.base import Backend
from ingle.engine.comm import Alone
from ingle.engine.generate import chunk_rows
from ingle.engine.model import Model
from ingle.engine.runner import Runner
from ingle.engine.slots import Slots
from ingle.models.checkpoint import Checkpoint, open_checkpoint
from ingle.text import ChatTemplate, Tokenizer


class LayerByLayer:
    """A store of blocks (`ingle.engine.weights.Weights`) that keeps none of them."""

    linked: Any = None

    def __init__(self, checkpoint: Checkpoint, backend: Backend) -> None:
        self._checkpoint = checkpoint
        self._backend = backend

    def begin(self, logits: bool) -> None:
        """Nothing is read before it is asked for."""

    @property
    def embedding(self) -> Any:
        """The whole embedding, from the file."""
        return self._read(self._backend.load_embedding(self._checkpoint.embedding()))

    @contextmanager
    def block(self, index: int) -> Iterator[Any]:
        """A block, from the file."""
        layer = self._checkpoint.spec.schedule[index // 2]
        if index % 2:
            yield self._read(self._backend.load_feed_forward(self._checkpoint.feed_forward(layer)))
        else:
            yield self._read(self._backend.load_attention(self._checkpoint.attention(layer)))

    def outputs(self) -> Iterator[Any]:
        """The whole output matrix, from the file."""
        yield self._read(self._backend.load_output(self._checkpoint.output(), self.embedding))

    def close(self) -> None:
        """There is nothing to let go of."""

    def _read(self, block: Any) -> Any:
        self._checkpoint.source.release()
        return block


def load_layer_by_layer(path: str | os.PathLike[str], threads: int, context: int) -> Model:
    """A model that reads its layers as it needs them."""
    checkpoint = open_checkpoint(path, context)
    spec, metadata = checkpoint.spec, checkpoint.source.metadata
    tokenizer = Tokenizer.from_metadata(metadata)
    backend = open_backend("native", spec, threads)
    cache = backend.new_cache(1, context, "f16")
    runner = Runner(spec, backend, LayerByLayer(checkpoint, backend), Alone(), cache)
    template = ChatTemplate.from_metadata(metadata, tokenizer)
    return Model(checkpoint, tokenizer, template, runner, Slots(cache, runner.lock, chunk_rows(spec)))
