"""A trained model as a Hugging Face folder, for `transformers` 5 and everything that reads its folders.

    gated SiLU                  Llama; with norms of q and k Qwen3
    GELU, ReLU, squared ReLU    Arcee; with norms of q and k Apertus

Shared layers are written out, once for each pass: no class there shares them.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from ingle.errors import ModelFileError, UnsupportedError, UsageError
from ingle.files import beside, write_file
from ingle.models.config import Config
from ingle.models.families import family_of_config
from ingle.train.about import card
from ingle.train.checkpoint import TrainedModel
from ingle.train.parameters import expect_parameters
from ingle.train.shape import Shape
from ingle.train.tensors import write_tensors
from ingle.train.tokenizer_files import end_ids, tokenizer_files

__all__ = ["FloatType", "export_hf", "hf_config"]

FloatType = Literal["f32", "bf16", "f16"]

_FLOATS: dict[str, tuple[str, torch.dtype]] = {
    "f32": ("float32", torch.float32),
    "bf16": ("bfloat16", torch.bfloat16),
    "f16": ("float16", torch.float16),
}
_WIDTHS_OF_HEADS = ("llama", "arcee")  # whose classes want the heads to divide the width, whatever head_dim says


def export_hf(
    model: TrainedModel,
    folder: str | os.PathLike[str],
    file_type: FloatType = "f32",
    *,
    chat_template: str | None = None,
) -> Path:
    """Write `model` as the folder that `AutoModelForCausalLM` and `AutoTokenizer` open, whole or not at all.

    A folder that is there is replaced if it holds a Hugging Face model or nothing. `chat_template`: a Jinja text in the
    place of the model's own or ours. Returns the folder.
    Raises UsageError for another folder, UnsupportedError for a shape that no class has, CheckpointError for tensors
    that are not the shape's, TemplateError for a template that is not sound, ModelFileError where the disk does not
    take it.
    """
    target = Path(folder)
    if file_type not in _FLOATS:
        raise UsageError(f"A Hugging Face folder holds f32, bf16 or f16, not {file_type}; a GGUF file holds the rest.")
    if target.exists() and not (target.is_dir() and ((target / "config.json").is_file() or not any(target.iterdir()))):
        raise UsageError(f"{target} is there and is no Hugging Face folder; give another name.")
    found = {name: tuple(tensor.shape) for name, tensor in model.tensors.items()}
    expect_parameters(model.shape, found, str(model.info.get("name", "the model")))
    name, dtype = _FLOATS[file_type]
    config = hf_config(model.shape) | {"dtype": name}
    ends = end_ids(model)
    if ends:
        config |= {"eos_token_id": ends[0] if len(ends) == 1 else ends, "pad_token_id": ends[0]}
    speaks = model.tokenizer_json is not None or chat_template is not None
    files = tokenizer_files(model, chat_template) if speaks else {}
    files["config.json"] = json.dumps(config, indent=1) + "\n"
    files["README.md"] = card(model.shape, model.info)
    try:
        with beside(target) as part:
            write_tensors(part / "model.safetensors", _tensors(model, config, dtype))
            for file, text in files.items():
                write_file(part / file, text)
    except OSError as error:
        raise ModelFileError(
            f"{target} cannot be written: {error.strerror}; free some space or choose another."
        ) from None
    return target


def hf_config(shape: Shape) -> dict[str, Any]:
    """The config.json of a shape. Raises UnsupportedError for one that no class of transformers has."""
    gated = shape.feed_forward == "swiglu"
    kinds = {(True, False): "Llama", (True, True): "Qwen3", (False, False): "Arcee", (False, True): "Apertus"}
    kind = kinds[gated, shape.qk_norm]
    if kind.lower() in _WIDTHS_OF_HEADS and shape.width % shape.heads:
        raise UnsupportedError(
            f"The class {kind} of transformers wants a width that its heads divide, and {shape.heads} heads do not "
            f"divide {shape.width}; export a GGUF file, or train with norms of q and k (qk_norm)."
        )
    return {
        "architectures": [f"{kind}ForCausalLM"],
        "model_type": kind.lower(),
        "vocab_size": shape.vocabulary,
        "hidden_size": shape.width,
        "intermediate_size": shape.hidden,
        "num_hidden_layers": len(shape.schedule),
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "hidden_act": "silu" if gated else shape.feed_forward,
        "max_position_embeddings": shape.context,
        "rms_norm_eps": shape.norm_eps,
        "rope_parameters": {"rope_type": "default", "rope_theta": shape.rope_theta},
        "tie_word_embeddings": shape.tied,
        "attention_bias": False,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
    }


def _tensors(model: TrainedModel, config: dict[str, Any], dtype: torch.dtype) -> dict[str, Tensor]:
    """Under the names of transformers; a shared layer's tensors once for each pass."""
    checked = Config(config, "config.json")
    family = family_of_config(checked)
    modules = {**family.names, **family.names_of(checked)}
    tensors = {}
    for stem, module in modules.items():
        for i, layer in enumerate(model.shape.schedule) if "{i}" in stem else ((0, 0),):
            own = f"{stem.format(i=layer)}.weight"
            if own in model.tensors:
                tensors[f"{module.format(i=i)}.weight"] = model.tensors[own].to(dtype)
    return tensors
