"""MobileLLM, which transformers does not have, against a plain model that computes everything again for every token."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save_file

from ingle.errors import UnsupportedError
from ingle.gguf import Metadata
from ingle.models.checkpoint import Checkpoint, open_checkpoint
from ingle.models.convert import convert
from ingle.models.families.mobilellm import schedule_of
from ingle.models.source import open_source
from models.small_models import greedy

E, H, K, F, V, L = 24, 4, 2, 40, 67, 3
D = E // H
CONFIG = {
    "model_type": "mobilellm",
    "hidden_size": E,
    "num_attention_heads": H,
    "num_key_value_heads": K,
    "intermediate_size": F,
    "vocab_size": V,
    "num_hidden_layers": L,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "hidden_act": "silu",
    "share_embedding": True,
    "tie_word_embeddings": False,
}
Weights = dict[str, NDArray[np.float32]]


def weights() -> Weights:
    rng = np.random.default_rng(5)
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (V, E), "model.norm.weight": (E,)}
    for i in range(L):
        attention = {"q": (H * D, E), "k": (K * D, E), "v": (K * D, E), "o": (E, H * D)}
        shapes |= {f"model.layers.{i}.self_attn.{n}_proj.weight": s for n, s in attention.items()}
        shapes |= {f"model.layers.{i}.mlp.{n}_proj.weight": (F, E) for n in ("gate", "up")}
        shapes |= {f"model.layers.{i}.mlp.down_proj.weight": (E, F), f"model.layers.{i}.input_layernorm.weight": (E,)}
        shapes |= {f"model.layers.{i}.post_attention_layernorm.weight": (E,)}
    return {
        name: (
            rng.normal(size=shape) * (1.3 * shape[-1] ** -0.5 if len(shape) == 2 else 0.3) + (len(shape) == 1)
        ).astype(np.float32)
        for name, shape in shapes.items()
    }


def save(directory: Path, tensors: Weights, **changes: object) -> Path:
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(CONFIG | changes))
    save_file(tensors, directory / "model.safetensors")
    return directory


def plain_logits(w: Weights, tokens: list[int], schedule: tuple[int, ...]) -> NDArray[np.float64]:
    """The decoder as its authors define it, float64, all positions at once, rotation of halves, no cache."""
    n = len(tokens)
    angle = np.arange(n)[:, None] * 10000.0 ** (-np.arange(D // 2) * 2 / D)
    cos, sin = np.cos(angle)[:, None], np.sin(angle)[:, None]

    def norm(x: NDArray[np.float64], name: str) -> NDArray[np.float64]:
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * w[name]

    def turned(x: NDArray[np.float64]) -> NDArray[np.float64]:
        a, b = x[..., : D // 2], x[..., D // 2 :]
        return np.concatenate([a * cos - b * sin, b * cos + a * sin], -1)

    x = w["model.embed_tokens.weight"][tokens].astype(np.float64)
    for i in schedule:
        p = f"model.layers.{i}."
        h = norm(x, p + "input_layernorm.weight")
        q, k, v = ((h @ w[f"{p}self_attn.{r}_proj.weight"].T).reshape(n, -1, D) for r in "qkv")
        k, v = np.repeat(turned(k), H // K, 1), np.repeat(v, H // K, 1)
        scores = np.einsum("ihd,jhd->hij", turned(q), k) / np.sqrt(D)
        scores[:, ~np.tri(n, dtype=bool)] = -np.inf
        probabilities = np.exp(scores - scores.max(-1, keepdims=True))
        probabilities /= probabilities.sum(-1, keepdims=True)
        x = x + np.einsum("hij,jhd->ihd", probabilities, v).reshape(n, -1) @ w[p + "self_attn.o_proj.weight"].T
        h = norm(x, p + "post_attention_layernorm.weight")
        gate, up = h @ w[p + "mlp.gate_proj.weight"].T, h @ w[p + "mlp.up_proj.weight"].T
        x = x + (gate / (1 + np.exp(-gate)) * up) @ w[p + "mlp.down_proj.weight"].T
    return norm(x, "model.norm.weight") @ w["model.embed_tokens.weight"].T


CASES = {
    "no sharing": ({"layer_sharing": False}, "llama", (0, 1, 2)),
    "immediate": ({"layer_sharing": True}, "mobilellm", (0, 0, 1, 1, 2, 2)),
    "repeat": ({"layer_sharing": "repeat", "layer_repeat": 3}, "mobilellm", (0, 1, 2) * 3),
    "reverse": ({"layer_sharing": "reverse"}, "mobilellm", (0, 1, 2, 2, 1, 0)),
}


@pytest.mark.parametrize("case", CASES)
def test_cached_passes_equal_everything_computed_again(case: str, tmp_path: Path) -> None:
    changes, architecture, schedule = CASES[case]
    w = weights()
    save(tmp_path / "hf", w, **changes)
    convert(tmp_path / "hf", tmp_path / "f32.gguf", "f32")
    prompt = np.random.default_rng(1).integers(0, V, 20).tolist()
    for form in ("hf", "f32.gguf"):
        checkpoint = open_checkpoint(tmp_path / form)
        assert checkpoint.source.metadata["general.architecture"] == architecture
        assert checkpoint.spec.schedule == schedule
        assert checkpoint.spec.tied
        tokens, logits = greedy(checkpoint, prompt, 12)
        expected = plain_logits(w, prompt + tokens[:-1], schedule)
        error = np.abs(logits - expected).max() / np.abs(expected).max()
        assert error < 1e-5
        assert tokens == expected[len(prompt) - 1 :].argmax(-1).tolist()
    print(f"parity mobilellm {case:14s} {error:.1e}")


@pytest.mark.parametrize("kept", ["model.embed_tokens.weight", "lm_head.weight", "both"])
def test_shared_embedding_under_either_name(kept: str, tmp_path: Path) -> None:
    """Savers of shared tensors drop one of the two names, and not always the same one."""
    w = weights()
    embedding = w.pop("model.embed_tokens.weight")
    names = ("model.embed_tokens.weight", "lm_head.weight") if kept == "both" else (kept,)
    checkpoint = open_checkpoint(save(tmp_path / "hf", w | {name: embedding.copy() for name in names}))
    assert np.array_equal(checkpoint.embedding()["weight"].float32(), embedding)
    assert np.array_equal(checkpoint.output()["weight"].float32(), embedding)


def test_unknown_sharing_is_named() -> None:
    with pytest.raises(UnsupportedError, match="'sideways'; expected immediate, repeat or reverse"):
        schedule_of("sideways", 3, 2)


def shared_file(folder: Path) -> Path:
    save(folder / "hf", weights(), layer_sharing="reverse", layer_repeat=3)
    return convert(folder / "hf", folder / "f32.gguf", "f32")


def test_files_without_the_newer_keys_mean_what_they_meant(tmp_path: Path) -> None:
    newer = {"hidden_activation", "feed_forward_gated", "attention.qk_norm", "rope.style"}
    source = open_source(shared_file(tmp_path))
    spec = Checkpoint(source).spec
    kept = {key: source.metadata[key] for key in source.metadata if key.removeprefix("mobilellm.") not in newer}
    assert len(kept) == len(source.metadata) - len(newer)
    source.metadata = Metadata(kept)  # type: ignore[misc]
    assert Checkpoint(source).spec == spec
    assert (spec.activation, spec.gated, spec.qk_norm) == ("silu", True, "none")
    assert spec.rope is not None
    assert spec.rope.style == "interleaved"


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("hidden_activation", "xielu", "activation 'xielu'; Ingle has silu, gelu, relu, relu2"),
        ("rope.style", "quarter", "rotation 'quarter'; Ingle has interleaved, half"),
        ("layer_sharing", "sideways", "expected immediate, repeat or reverse"),
        ("layer_repeat", 65, "up to 64 times"),
    ],
)
def test_what_a_file_may_not_say(key: str, value: object, message: str, tmp_path: Path) -> None:
    source = open_source(shared_file(tmp_path))
    source.metadata = Metadata({**source.metadata, f"mobilellm.{key}": value})  # type: ignore[misc]
    with pytest.raises(UnsupportedError, match=message):
        Checkpoint(source)
