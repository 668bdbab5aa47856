"""Every family against transformers: the same tiny random checkpoint, the same tokens, the same logits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ingle.models.checkpoint import open_checkpoint
from models.small_models import greedy, save_random

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

SMALL = {"vocab_size": 101, "num_hidden_layers": 3, "max_position_embeddings": 64, "bos_token_id": 1, "eos_token_id": 2}
N_PROMPT, N_NEW = 20, 12
TOLERANCE = 1e-4

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": (
        "LlamaConfig",
        {
            "hidden_size": 24,
            "intermediate_size": 40,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 10,
        },
    ),
}


def build(case: str, directory: Path) -> Any:
    name, changes = CASES[case]
    config = getattr(transformers, name)(**(SMALL | changes))
    return save_random(config, directory)


def expected(model: Any, prompt: list[int]) -> tuple[list[int], np.ndarray]:
    """Greedy tokens and logits of transformers, everything computed again for every token (no cache to be wrong)."""
    tokens = list(prompt)
    with torch.no_grad():
        for _ in range(N_NEW):
            logits = model(torch.tensor([tokens]), use_cache=False).logits[0].numpy()
            tokens.append(int(logits[-1].argmax()))
    return tokens[len(prompt) :], logits


def relative(ours: np.ndarray, theirs: np.ndarray) -> float:
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


@pytest.mark.parametrize("case", CASES)
def test_logits_equal_transformers(case: str, tmp_path: Path) -> None:
    model = build(case, tmp_path / "hf")
    prompt = np.random.default_rng(len(case)).integers(3, SMALL["vocab_size"], N_PROMPT).tolist()
    tokens, logits = expected(model, prompt)
    errors = {}
    for form in ("hf",):
        checkpoint = open_checkpoint(tmp_path / form)
        ours, our_logits = greedy(checkpoint, prompt, N_NEW)
        errors[form] = relative(our_logits, logits)
        assert errors[form] < TOLERANCE, (case, form, errors)
        assert ours == tokens
    print(f"parity {case:24s} " + "  ".join(f"{form} {error:.1e}" for form, error in errors.items()))
