"""A model to go on with: from a run, a model's folder, a Hugging Face folder or a GGUF file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ingle.errors import CheckpointError, IngleError, ModelFileError, UnsupportedError, UsageError
from ingle.models.checkpoint import Checkpoint, open_checkpoint
from ingle.models.rope import base_frequencies
from ingle.models.spec import Spec
from ingle.text import metadata_from_hf
from ingle.train.checkpoint import TrainedModel, load_run_model, read_json
from ingle.train.parameters import expect_parameters
from ingle.train.prepare import shards_folder
from ingle.train.run_folder import RunFolder
from ingle.train.shape import FeedForward, Shape, Sharing

__all__ = ["load_model"]

_FEED_FORWARDS: dict[tuple[bool, str], FeedForward] = {
    (True, "silu"): "swiglu",
    (False, "gelu"): "gelu",
    (False, "relu"): "relu",
    (False, "relu2"): "relu2",
}
_SHARINGS: dict[str, Sharing] = {"immediate": "immediate", "repeat": "repeat", "reverse": "reverse"}
#: Roles of a block's tensors (`ingle.backends.base`) -> names in a decoder.
_ATTENTION = {role: f"attn_{role}" for role in ("norm", "q", "k", "v", "q_norm", "k_norm")} | {"o": "attn_output"}
_FEED_FORWARD = {role: f"ffn_{role}" for role in ("norm", "gate", "up", "down")}
_SPECIAL_TOKENS = {"bos": "bos_token", "eos": "eos_token", "unknown": "unk_token", "padding": "pad_token"}


def load_model(path: str | os.PathLike[str]) -> TrainedModel:
    """The model at `path`, float32: a run of `ingle train`, a model's folder, a Hugging Face folder or a GGUF file.

    Quantised tensors are dequantised. Without a tokenizer that can be trained with, `tokenizer_json` is None and
    `info["no_tokenizer"]` says why. Raises UnsupportedError that names what the model has and a `Decoder` has not,
    and CheckpointError or GGUFError for what is unsound.
    """
    path = Path(path)
    if path.is_dir() and not (path / "config.json").is_file():
        model = load_run_model(path)
        tensors = {name: tensor.float() for name, tensor in model.tensors.items()}
        expect_parameters(model.shape, {name: tuple(tensor.shape) for name, tensor in tensors.items()}, str(path))
        info = _with_what_the_run_knows(path, model.info)
        return TrainedModel(model.shape, tensors, model.tokenizer_json, info, model.quantized)
    if not path.exists():
        raise CheckpointError(
            f"{path} does not exist; expected a run of `ingle train`, a model's folder, a Hugging Face folder or a "
            "GGUF file."
        )
    checkpoint = open_checkpoint(path, extra_metadata=_tokenizer_metadata)
    try:
        shape = _shape(checkpoint)
        tensors = _tensors(checkpoint, shape)
        info = _info(path, checkpoint.source.metadata)
    finally:
        checkpoint.close()
    expect_parameters(shape, {name: tuple(tensor.shape) for name, tensor in tensors.items()}, str(path))
    tokenizer_json = _tokenizer_json(path, info)
    return TrainedModel(shape, tensors, tokenizer_json, info)


def _with_what_the_run_knows(path: Path, info: dict[str, Any]) -> dict[str, Any]:
    """`info`, and of the run around a model: the end token of its vocabulary where its name does not tell, whether it
    learnt answers only (`chat`), and the licences that were found beside its data."""
    info, run = dict(info), _run_of(path.resolve())
    for folder in (path / "model", path, run):
        file = folder / "tokenizer_config.json"
        if (folder / "tokenizer.json").is_file() and file.is_file():
            info.setdefault("tokenizer_config", read_json(file))
    shards = run / "data"
    with suppress(IngleError):  # a model's folder alone has no config
        shards = shards_folder(RunFolder(run).read_config(), RunFolder(run))
    # Facts for the card, of data that nobody needs now: without them, or where they are damaged, it says less.
    with suppress(CheckpointError, AttributeError, TypeError, KeyError):
        meta = read_json(shards / "meta.json")
        info.setdefault("chat", any(meta["train"]["learn"]))
        known = {source["name"]: ", ".join(source["licences"]) for source in meta["sources"]}
        given = info.get("sources", [])
        info["sources"] = [{"licence": known.get(source["path_or_name"]), **source} for source in given]
    return info


def _run_of(path: Path) -> Path:
    """The folder of the run that `path` is, or whose model or checkpoint it is. No other folder above is looked at."""
    if path.name == "model":
        return path.parent
    return path.parent.parent if path.parent.name == "checkpoints" else path


def _shape(checkpoint: Checkpoint) -> Shape:
    spec, source = checkpoint.spec, checkpoint.source
    _refuse(spec, source.name)
    meta = source.metadata
    base = meta.get_float(f"{spec.family}.rope.freq_base", 10000.0)
    assert spec.rope is not None
    if spec.rope.magnitude != 1 or spec.rope.frequencies != tuple(base_frequencies(spec.head_dim, base).tolist()):
        raise _not_ours(source.name, "a scaled or partial rotation of positions")
    sharing: Sharing = "none"
    repeat = len(spec.schedule) // spec.n_layers
    if repeat > 1:
        sharing = _SHARINGS[meta.get_str("mobilellm.layer_sharing", "immediate")]
    try:
        shape = Shape(
            vocabulary=spec.n_vocab,
            width=spec.n_embd,
            layers=spec.n_layers,
            heads=spec.n_heads,
            kv_heads=spec.n_kv_heads,
            head_dim=spec.head_dim,
            hidden=spec.n_ff,
            feed_forward=_FEED_FORWARDS[spec.gated, spec.activation],
            tied=spec.tied,
            qk_norm=spec.qk_norm == "head",
            sharing=sharing,
            repeat=repeat,
            context=spec.n_context,
            rope_theta=_decimal(base),
            norm_eps=_decimal(spec.norm_eps),
        )
    except UsageError as error:
        raise UnsupportedError(f"{source.name} cannot be trained: {error}") from None
    assert shape.schedule == spec.schedule
    return shape


def _refuse(spec: Spec, name: str) -> None:
    """Raise UnsupportedError for the first thing that a `Decoder` does not have."""
    features = {
        "a mixture of experts": spec.experts is not None,
        "LayerNorm": spec.norm != "rms",
        "attention and feed-forward in parallel": spec.parallel,
        "norms behind its blocks": spec.post_norm,
        "ALiBi": bool(spec.alibi_slopes),
        "attention within a sliding window": spec.window > 0,
        "a rotation of its own for some layers": spec.rope_local is not None,
        "no rotation of positions": spec.rope is None,
        "a scale of its own for attention": abs(spec.score_scale * spec.head_dim**0.5 - 1) > 1e-6,
        "soft caps": spec.attention_softcap != 0 or spec.logit_softcap != 0,
        "scaled embeddings or logits": spec.embed_scale != 1 or spec.logit_scale != 1,
        f"a feed-forward with {'gated ' if spec.gated else ''}{spec.activation}": (spec.gated, spec.activation)
        not in _FEED_FORWARDS,
    }
    for feature, there in features.items():
        if there:
            raise _not_ours(name, feature)


def _not_ours(name: str, feature: str) -> UnsupportedError:
    return UnsupportedError(
        f"{name} has {feature}, which Ingle runs but does not train; take a model shaped like Llama, Qwen 3 or Arcee."
    )


def _tensors(checkpoint: Checkpoint, shape: Shape) -> dict[str, torch.Tensor]:
    blocks: list[tuple[str, Mapping[str, str], Mapping[str, Any]]] = [
        ("", {"weight": "token_embd"}, checkpoint.embedding())
    ]
    for layer in range(shape.layers):
        blocks.append((f"blk.{layer}.", _ATTENTION, checkpoint.attention(layer)))
        blocks.append((f"blk.{layer}.", _FEED_FORWARD, checkpoint.feed_forward(layer)))
    blocks.append(("", {"norm": "output_norm", "weight": "output"}, checkpoint.output()))
    rope = checkpoint.spec.rope
    heads = {"attn_q": shape.heads, "attn_k": shape.kv_heads} if rope and rope.style == "interleaved" else {}
    tensors = {}
    for prefix, names, block in blocks:
        for role, tensor in block.items():
            if role not in names:
                feature = "biases" if role.endswith("bias") else f"a tensor {tensor.name}"
                raise _not_ours(checkpoint.source.name, feature)
            if role in ("q_norm", "k_norm") and tensor.shape != (shape.head_dim,):
                raise _not_ours(checkpoint.source.name, "norms of q and k with weights for each head")
            if names[role] == "output" and shape.tied:
                continue
            values = tensor.float32()
            if names[role] in heads:
                values = _halves(values, heads[names[role]])
            tensors[f"{prefix}{names[role]}.weight"] = torch.from_numpy(values)
    return tensors


def _halves(x: NDArray[np.float32], n_heads: int) -> NDArray[np.float32]:
    """Rows in the order of the interleaved rotation, back in that of halves (see `models.recipes.interleaved`)."""
    return np.ascontiguousarray(x.reshape(n_heads, -1, 2, *x.shape[1:]).swapaxes(1, 2).reshape(x.shape))


def _decimal(value: float) -> float:
    """The number that people wrote: files keep float32, in which 1e-5 is 9.99999974e-06."""
    return float(str(np.float32(value)))


def _tokenizer_metadata(folder: Path, n_vocab: int) -> dict[str, object]:
    """As far as GGUF can say it: weights can be used without."""
    try:
        return metadata_from_hf(folder, n_vocab)
    except ModelFileError:
        return {}


def _info(path: Path, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """What the file says of itself, and its special tokens under the names of a tokenizer_config.json."""
    info: dict[str, Any] = {"from": path.name}
    for key, name in (("name", "name"), ("description", "description"), ("license", "licence")):
        if isinstance(metadata.get(f"general.{key}"), str):
            info[name] = metadata[f"general.{key}"]
    tokens = metadata.get("tokenizer.ggml.tokens")
    if tokens is None:
        return info
    config: dict[str, Any] = {}
    for name, token in _SPECIAL_TOKENS.items():
        token_id = metadata.get(f"tokenizer.ggml.{name}_token_id")
        if isinstance(token_id, int) and 0 <= token_id < len(tokens):
            config[token] = str(tokens[token_id])
    for name in ("bos", "eos"):
        flag = metadata.get(f"tokenizer.ggml.add_{name}_token")
        if isinstance(flag, bool):
            config[f"add_{name}_token"] = flag
    if isinstance(metadata.get("tokenizer.chat_template"), str):
        config["chat_template"] = metadata["tokenizer.chat_template"]
    ends = [metadata.get(f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot", "eom")]
    info["tokenizer_config"] = config
    info["end_ids"] = list(dict.fromkeys(end for end in ends if isinstance(end, int)))
    return info


def _tokenizer_json(path: Path, info: dict[str, Any]) -> bytes | None:
    from ingle.train.data.vocabulary_files import read_tokenizer

    try:
        return read_tokenizer(path)[0].encode()
    except ModelFileError as error:
        info["no_tokenizer"] = str(error)
        return None
