"""Tiny random decoders with a tokenizer trained on a few sentences: shared by the tests of what leaves and enters."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ingle.train.checkpoint import TrainedModel
from ingle.train.data.vocabulary import Vocabulary, train_tokenizer
from ingle.train.decoder import Decoder
from ingle.train.shape import Shape

SENTENCES = [
    "The cat sat on the mat, and the dog ran to the old house by the sea.",
    "Once upon a time there was a little girl who lived in the house by the sea with her cat.",
    "It's 12:45 now; don't run!\n\n\tThe café is closed.",
]
N_TOKENS = 320
PROMPT = [8, 90, 70, 75, 103, 80, 270, 271, 85, 300, 71]


@cache
def vocabulary() -> Vocabulary:
    return train_tokenizer(SENTENCES * 4, N_TOKENS)


def small_shape(**changes: Any) -> Shape:
    """Heads that do not divide the width evenly (in `head_dim`), grouped, and rows of 32 for blocks of that size."""
    plain = {"vocabulary": N_TOKENS, "width": 32, "layers": 2, "heads": 4, "kv_heads": 2, "head_dim": 10, "hidden": 64}
    return Shape(**plain | {"context": 64, "rope_theta": 500.0} | changes)  # type: ignore[arg-type]


def small_decoder(shape: Shape, seed: int = 0) -> Decoder:
    """Random weights, norms away from one; it says nothing but printable ASCII (all other tokens have logits of 0)."""
    generator = torch.Generator().manual_seed(seed)
    decoder = Decoder(shape).eval()
    ids = vocabulary().tokenizer.get_vocab()
    mute = [i for text, i in ids.items() if len(text) > 12 or not text.replace("Ġ", "a").isascii() or text[0] == "<"]
    with torch.no_grad():
        for name, parameter in decoder.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim == 1:
                parameter.copy_(1 + 0.3 * noise)
            else:
                parameter.copy_(noise * 1.5 * parameter.shape[-1] ** -0.5)
            if name == ("token_embd.weight" if shape.tied else "output.weight"):
                parameter[mute] = 0
    return decoder


def trained(decoder: Decoder, **info: Any) -> TrainedModel:
    tensors = {name: parameter.detach() for name, parameter in decoder.named_parameters()}
    return TrainedModel(decoder.shape, tensors, vocabulary().to_json().encode(), info)


def logits_of(decoder: Decoder, tokens: list[int]) -> NDArray[np.float32]:
    """Logits [len(tokens), V]."""
    with torch.no_grad():
        logits: NDArray[np.float32] = decoder.logits(torch.tensor([tokens]))[0].numpy()
    return logits


def prompt_with_leads(decoder: Decoder, n: int, lead: float) -> tuple[list[int], list[int]]:
    """A prompt and its n likeliest tokens, each ahead of the second by `lead`: rounding cannot turn them round.

    Everything is computed again for each token.
    """
    prompts = np.random.default_rng(0).integers(7, N_TOKENS, (48, 6))
    tokens, least = torch.from_numpy(prompts), torch.full((len(prompts),), torch.inf)
    with torch.no_grad():
        for _ in range(n):
            values, ids = decoder.logits(tokens)[:, -1].topk(2)
            least = torch.minimum(least, values[:, 0] - values[:, 1])
            tokens = torch.cat((tokens, ids[:, :1]), 1)
    best = int(least.argmax())
    assert least[best] > lead, "every prompt runs into a near tie"
    return tokens[best, :6].tolist(), tokens[best, 6:].tolist()


def relative(ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> float:
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())
