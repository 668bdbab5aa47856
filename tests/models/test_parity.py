"""Every family against transformers: the same tiny random checkpoint, the same tokens, the same logits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ingle.models.checkpoint import open_checkpoint
from ingle.models.convert import convert
from models.small_models import Runner, greedy, save_random

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers", "5")

SMALL = {"vocab_size": 101, "num_hidden_layers": 3, "max_position_embeddings": 64, "bos_token_id": 1, "eos_token_id": 2}
N_PROMPT, N_NEW = 20, 12
TOLERANCE = 1e-4

LLAMA_SHAPE = {"hidden_size": 24, "intermediate_size": 40, "num_attention_heads": 4, "num_key_value_heads": 2}
WIDE = LLAMA_SHAPE | {"head_dim": 10}  # heads that do not divide the width
EVERY_SECOND = {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}
PLAIN = {"rope_type": "default", "rope_theta": 1000.0}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "rope_theta": 1000.0}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 1000.0,
    "short_factor": [1.0, 1.1, 1.3],
    "long_factor": [1.0, 2.5, 4.0],
    "partial_rotary_factor": 0.75,
}
GEMMA3_ROPE = {
    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1_000_000.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
}
QWEN_EXPERTS = {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 16}

#: configuration class and settings; prompts are longer than the windows
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", WIDE),
    "llama tied biased": (
        "Llama",
        LLAMA_SHAPE | {"tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True, "rope_theta": 5000.0},
    ),
    "llama linear": ("Llama", WIDE | {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}}),
    "llama3 scaling": ("Llama", WIDE | {"rope_parameters": LLAMA3}),
    "arcee": ("Arcee", WIDE),
    "arcee tied biased": (
        "Arcee",
        LLAMA_SHAPE | {"tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True, "rope_parameters": YARN},
    ),
    "arcee relu": ("Arcee", WIDE | {"hidden_act": "relu"}),
    "apertus gelu": ("Apertus", WIDE | {"hidden_act": "gelu", "rope_parameters": LLAMA3}),
    "apertus relu2": ("Apertus", WIDE | {"hidden_act": "relu2", "rope_parameters": PLAIN, "pad_token_id": None}),
    "mistral window": ("Mistral", WIDE | {"sliding_window": 7}),
    "mixtral": ("Mixtral", LLAMA_SHAPE | {"num_local_experts": 5, "num_experts_per_tok": 2}),
    "qwen2": ("Qwen2", LLAMA_SHAPE | {"tie_word_embeddings": True}),
    "qwen2 yarn": ("Qwen2", LLAMA_SHAPE | {"rope_parameters": YARN}),
    "qwen2 window": ("Qwen2", LLAMA_SHAPE | {"use_sliding_window": True, "sliding_window": 7, "max_window_layers": 1}),
    "qwen3": ("Qwen3", WIDE),
    "qwen3moe": ("Qwen3Moe", WIDE | QWEN_EXPERTS | {"norm_topk_prob": True}),
    "qwen3moe not normalised": ("Qwen3Moe", WIDE | QWEN_EXPERTS | {"norm_topk_prob": False}),
    "gemma": ("Gemma", WIDE),
    "gemma2": ("Gemma2", WIDE | {"sliding_window": 7, "query_pre_attn_scalar": 17, "num_hidden_layers": 4}),
    "gemma3": (
        "Gemma3Text",
        WIDE
        | {"sliding_window": 7, "num_hidden_layers": 7, "query_pre_attn_scalar": 17, "rope_parameters": GEMMA3_ROPE},
    ),
    "gemma3 pattern": ("Gemma3Text", WIDE | EVERY_SECOND | {"sliding_window": 7, "query_pre_attn_scalar": 10}),
    "phi2": ("Phi", LLAMA_SHAPE | {"num_key_value_heads": 4, "hidden_size": 32}),
    "phi3": ("Phi3", LLAMA_SHAPE | {"sliding_window": 7, "pad_token_id": 0}),
    "phi3 longrope": (
        "Phi3",
        LLAMA_SHAPE
        | {"hidden_size": 32, "rope_parameters": LONGROPE, "original_max_position_embeddings": 16, "pad_token_id": 0},
    ),
    "falcon 7b": ("Falcon", {"hidden_size": 24, "num_attention_heads": 4}),
    "falcon 40b": (
        "Falcon",
        {"hidden_size": 24, "num_attention_heads": 4, "num_kv_heads": 2, "new_decoder_architecture": True},
    ),
    "falcon 11b": (
        "Falcon",
        {
            "hidden_size": 24,
            "num_attention_heads": 4,
            "num_kv_heads": 2,
            "new_decoder_architecture": True,
            "num_ln_in_parallel_attn": 1,
            "tie_word_embeddings": False,
            "ffn_hidden_size": 70,
            "rope_theta": 5000.0,
        },
    ),
    "falcon rw alibi": (
        "Falcon",
        {
            "hidden_size": 24,
            "num_attention_heads": 4,
            "alibi": True,
            "bias": True,
            "multi_query": False,
            "parallel_attn": False,
        },
    ),
    "stablelm 3b": ("StableLm", LLAMA_SHAPE | {"hidden_size": 32}),
    "stablelm 2-1.6b": ("StableLm", LLAMA_SHAPE | {"hidden_size": 32, "use_qkv_bias": True}),
    "stablelm 2-12b": (
        "StableLm",
        LLAMA_SHAPE | {"hidden_size": 32, "qk_layernorm": True, "use_parallel_residual": True},
    ),
}


def build(case: str, directory: Path) -> Any:
    name, changes = CASES[case]
    config = getattr(transformers, f"{name}Config")(**(SMALL | changes))
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
    convert(tmp_path / "hf", tmp_path / "f32.gguf", "f32")
    for form in ("hf", "f32.gguf"):
        checkpoint = open_checkpoint(tmp_path / form)
        ours, our_logits = greedy(checkpoint, prompt, N_NEW)
        errors[form] = relative(our_logits, logits)
        assert errors[form] < TOLERANCE, (case, form, errors)
        assert ours == tokens
        in_chunks = Runner(checkpoint)
        chunked = np.concatenate([in_chunks.feed(prompt[i:j]) for i, j in ((0, 9), (9, 10), (10, N_PROMPT))])
        assert relative(chunked, our_logits[:N_PROMPT]) < 1e-5
    print(f"parity {case:24s} " + "  ".join(f"{form} {error:.1e}" for form, error in errors.items()))


def test_short_factors_within_the_original_context(tmp_path: Path) -> None:
    """LongRoPE: up to the original context transformers takes the short factors, and so do we."""
    model = build("phi3 longrope", tmp_path / "hf")
    prompt = list(range(3, 17))
    with torch.no_grad():
        theirs = model(torch.tensor([prompt]), use_cache=False).logits[0].numpy()
    short, long = (Runner(open_checkpoint(tmp_path / "hf", context)).feed(prompt) for context in (16, 17))
    assert relative(short, theirs) < TOLERANCE
    assert relative(long, theirs) > 0.01


def test_families_without_a_case_are_noticed() -> None:
    from ingle.models.families import FAMILIES

    tested = {getattr(transformers, f"{name}Config").model_type for name, _ in CASES.values()}
    untested = {"mobilellm", "gemma3", "stablelm_epoch"}  # test_mobilellm, test_sources; an old name of stablelm
    assert {model_type for family in FAMILIES for model_type in family.model_types} == tested | untested
