"""Llama checkpoints made without torch: a config.json and random safetensors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "vocab_size": 70,
    "num_hidden_layers": 2,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
}
Arrays = dict[str, NDArray[Any]]


def llama_arrays(config: Mapping[str, Any] = CONFIG, dtype: Any = np.float32, seed: int = 0) -> Arrays:
    """Random weights of a Llama of this configuration, under the names of a checkpoint."""
    e, f, v = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    kv = e // config["num_attention_heads"] * config["num_key_value_heads"]
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (v, e), "model.norm.weight": (e,)}
    shapes["lm_head.weight"] = (v, e)
    for i in range(config["num_hidden_layers"]):
        layer = {"self_attn.q_proj": (e, e), "self_attn.k_proj": (kv, e), "self_attn.v_proj": (kv, e)}
        layer |= {"self_attn.o_proj": (e, e), "mlp.gate_proj": (f, e), "mlp.up_proj": (f, e), "mlp.down_proj": (e, f)}
        shapes |= {f"model.layers.{i}.{name}.weight": shape for name, shape in layer.items()}
        shapes |= {f"model.layers.{i}.{n}_layernorm.weight": (e,) for n in ("input", "post_attention")}
    rng = np.random.default_rng(seed)
    return {
        n: (rng.standard_normal(s, np.float32) * s[-1] ** -0.5 + (len(s) == 1)).astype(dtype) for n, s in shapes.items()
    }


MIXTRAL = CONFIG | {"model_type": "mixtral", "num_local_experts": 4, "num_experts_per_tok": 1}


def mixtral_arrays() -> Arrays:
    """The same Llama with four experts in each layer."""
    arrays = llama_arrays()
    for layer in range(CONFIG["num_hidden_layers"]):
        p = f"model.layers.{layer}."
        for role in ("gate", "up", "down"):
            del arrays[f"{p}mlp.{role}_proj.weight"]
        for x in range(4):
            expert = llama_arrays(seed=x + 1)
            for weight, role in (("w1", "gate"), ("w2", "down"), ("w3", "up")):
                arrays[f"{p}block_sparse_moe.experts.{x}.{weight}.weight"] = expert[f"{p}mlp.{role}_proj.weight"]
        arrays[f"{p}block_sparse_moe.gate.weight"] = llama_arrays(seed=9)[f"{p}mlp.up_proj.weight"][:4].copy()
    return arrays


def save(directory: Path, arrays: Arrays, config: Mapping[str, Any] = CONFIG, shards: int = 1) -> Path:
    """Write a checkpoint directory, in one file or in shards with an index."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config))
    if shards == 1:
        save_file(arrays, directory / "model.safetensors")
        return directory
    where = {}
    for shard in range(shards):
        name = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        part = {n: arrays[n] for i, n in enumerate(sorted(arrays)) if i % shards == shard}
        save_file(part, directory / name)
        where |= dict.fromkeys(part, name)
    (directory / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    return directory
