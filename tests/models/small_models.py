"""Tiny random checkpoints of every family, and a plain loop to run them: shared by the tests of `ingle.models`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ingle.backends.base import Rows
from ingle.backends.reference import ReferenceBackend
from ingle.models.checkpoint import Checkpoint


class Runner:
    """One sequence on the reference backend, float32 throughout."""

    def __init__(self, checkpoint: Checkpoint, context: int = 64) -> None:
        spec = checkpoint.spec
        self.spec, self.backend = spec, ReferenceBackend(spec)
        self.embedding = self.backend.load_embedding(checkpoint.embedding())
        self.output = self.backend.load_output(checkpoint.output(), self.embedding)
        self.layers = [
            (
                self.backend.load_attention(checkpoint.attention(i)),
                self.backend.load_feed_forward(checkpoint.feed_forward(i)),
            )
            for i in range(spec.n_layers)
        ]
        self.cache = self.backend.new_cache(1, context, "f32")
        self.n = 0

    def feed(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """Logits [len(tokens), V] of the next tokens of the sequence."""
        state = self.backend.embed(self.embedding, Rows.of_slot(0, self.n, list(tokens)), self.cache)
        for p, layer in enumerate(self.spec.schedule):
            self.backend.attention(self.layers[layer][0], state, p)
            self.backend.feed_forward(self.layers[layer][1], state, p)
        self.n += len(tokens)
        return self.backend.logits(self.output, state, np.arange(len(tokens), dtype=np.int32))


def greedy(
    checkpoint: Checkpoint, prompt: Sequence[int], n_new: int, context: int = 64
) -> tuple[list[int], NDArray[np.float32]]:
    """Greedy continuation and the logits of all positions [len(prompt) + n_new - 1, V], decoding token by token."""
    runner = Runner(checkpoint, context)
    logits = [runner.feed(prompt)]
    tokens = [int(logits[0][-1].argmax())]
    while len(tokens) < n_new:
        logits.append(runner.feed(tokens[-1:]))
        tokens.append(int(logits[-1][-1].argmax()))
    return tokens, np.concatenate(logits)


def save_random(config: Any, directory: Path, seed: int = 0, **options: Any) -> Any:
    """A transformers model of `config` with nothing left at ones or zeros, saved to `directory` as safetensors."""
    import torch
    from transformers import AutoModelForCausalLM

    generator = torch.Generator().manual_seed(seed)
    # Falcon's eager attention in transformers 5 adds ALiBi twice; its default one adds it once, as in training.
    attention = "sdpa" if config.model_type == "falcon" else "eager"
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attention, dtype=torch.float32).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if "norm" in name or "ln_" in name:
                parameter.add_(0.3 * noise)
            else:
                parameter.copy_(noise * (0.5 if parameter.ndim == 1 else 1.5 * parameter.shape[-1] ** -0.5))
    model.save_pretrained(directory, **options)
    return model
