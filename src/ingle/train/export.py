"""A trained model as a GGUF file.

The architecture is the one that most programs have for the shape: llama, qwen3 (norms of q and k) or arcee (no gate,
squared ReLU). What none of them can say, shared layers among it, is "mobilellm" with the keys of
`models.families.mobilellm`; `expand` writes shared layers out, once for each pass, so that others run them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ingle.gguf import FileType, Metadata, TensorType
from ingle.models.convert import Planned, plan, write_source
from ingle.models.families.mobilellm import decoder_metadata
from ingle.models.recipes import interleaved
from ingle.models.source import Header, LazyTensors
from ingle.models.tensor import Tensor
from ingle.train.about import general_metadata
from ingle.train.checkpoint import TrainedModel
from ingle.train.parameters import expect_parameters, parameter_shapes
from ingle.train.shape import Shape
from ingle.train.tokenizer_files import gguf_tokenizer

__all__ = ["Exported", "architecture_of", "export_gguf"]


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written: the GGUF architecture, each tensor with its type and the type it should have had, and whether
    the file has a chat template."""

    path: Path
    architecture: str
    tensors: list[Planned]
    chats: bool


def export_gguf(
    model: TrainedModel,
    out: str | os.PathLike[str],
    file_type: FileType | str = "f16",
    *,
    expand: bool = False,
    chat_template: str | None = None,
    on_start: Callable[[int], None] | None = None,
    on_bytes: Callable[[int], None] | None = None,
) -> Exported:
    """Write `model` to the GGUF file `out`, whole or not at all; `expand` writes shared layers once for each pass.

    Tensors in `model.quantized` are written bit for bit, whatever the file type; so is a model that was trained to be
    quantised, in the type that it was trained for. A model without a tokenizer becomes a file without one, which other
    code can read and nobody can talk to. `chat_template`: a Jinja text in the place of the model's own or ours.
    `on_start`, `on_bytes` as in `convert`.
    Raises CheckpointError for tensors that are not the shape's or a tokenizer that does not fit, UnsupportedError for a
    tokenizer that GGUF cannot say, TemplateError for a template that is not sound, UsageError and ModelFileError where
    the file cannot be written.
    """
    file_type = FileType.parse(file_type) if isinstance(file_type, str) else file_type
    source = _Trained(_as_trained(model, file_type), expand, chat_template)
    write_source(source, out, file_type, keep=source.calibrated, on_start=on_start, on_bytes=on_bytes)
    chats = "tokenizer.chat_template" in source.metadata
    return Exported(Path(out), source.architecture, plan(source, file_type, source.calibrated), chats)


def _as_trained(model: TrainedModel, file_type: FileType) -> TrainedModel:
    """A model that learnt with rounded weights, as those; a file type alone would round some tensors otherwise."""
    scheme = model.info.get("scheme")
    if not isinstance(scheme, str) or model.quantized or {"w8a8": "q8_0"}.get(scheme, scheme) != file_type.name.lower():
        return model
    from ingle.train.compress.compress import compress

    return compress(model, scheme)


def architecture_of(shape: Shape, expand: bool = False) -> str:
    """The GGUF architecture that `export_gguf` writes."""
    if shape.repeat == 1 or expand:
        if shape.feed_forward == "swiglu":
            return "qwen3" if shape.qk_norm else "llama"
        if shape.feed_forward == "relu2" and not shape.qk_norm:
            return "arcee"
    return "mobilellm"


class _Trained:
    """The model as a `Source`: tensors are made when they are asked for. `calibrated` names those that are blocks."""

    paths: tuple[Path, ...] = ()

    def __init__(self, model: TrainedModel, expand: bool, chat_template: str | None) -> None:
        shape = model.shape
        self.name = str(model.info.get("name", "the model"))
        expect_parameters(shape, {name: tuple(t.shape) for name, t in model.tensors.items()}, self.name)
        self.architecture = architecture_of(shape, expand)
        layers = shape.schedule if expand else tuple(range(shape.layers))
        self._model = model
        self._own = _own_names(shape, layers)  # name in the file -> name in the model
        interleaved_rows = self.architecture in ("llama", "arcee")
        self._heads = {"attn_q": shape.heads, "attn_k": shape.kv_heads} if interleaved_rows else {}
        self.tensors = LazyTensors(tuple(self._own), self._tensor)
        self.calibrated = frozenset(name for name, own in self._own.items() if own in model.quantized)
        self.headers = {name: self._header(name) for name in self._own}
        repeat = 1 if expand else shape.repeat
        entries = {"general.architecture": self.architecture, **general_metadata(model.info)}
        entries |= _settings(shape, self.architecture, len(layers), repeat)
        if model.tokenizer_json is not None or chat_template is not None:
            entries |= gguf_tokenizer(model, chat_template)
        self.metadata = Metadata(entries, self.name)

    def _header(self, name: str) -> Header:
        own = self._own[name]
        kind = self._model.quantized[own][0] if own in self._model.quantized else TensorType.F32
        return Header(name, tuple(self._model.tensors[own].shape), kind)

    def _tensor(self, name: str) -> Tensor:
        own, header = self._own[name], self.headers[name]
        if own in self._model.quantized:
            data = np.frombuffer(self._model.quantized[own][1], np.uint8)
        else:
            values = self._model.tensors[own].detach().float().cpu().contiguous().numpy()
            data = values.reshape(-1).view(np.uint8)
        heads = self._heads.get(name.removesuffix(".weight").rpartition(".")[2])
        return Tensor(name, header.shape, header.type, _reordered(data, header.shape[0], heads) if heads else data)

    def pieces(self, name: str) -> Iterator[Tensor]:
        yield self._tensor(name)

    def origin(self, name: str) -> str:
        return self._own.get(name, name)

    def release(self) -> None: ...

    def close(self) -> None: ...


def _own_names(shape: Shape, layers: tuple[int, ...]) -> dict[str, str]:
    names: dict[str, str] = {}
    own = list(parameter_shapes(shape))
    for name in own:
        if not name.startswith("blk."):
            names[name] = name
    for i, layer in enumerate(layers):
        prefix = f"blk.{layer}."
        names |= {f"blk.{i}.{name.removeprefix(prefix)}": name for name in own if name.startswith(prefix)}
    return names


def _reordered(data: NDArray[np.uint8], n_rows: int, n_heads: int) -> NDArray[np.uint8]:
    """Rows for the interleaved rotation. Rows are whole blocks, so that their bytes move as they are."""
    make = interleaved(n_heads)("").make
    assert make is not None
    return np.ascontiguousarray(make([data.reshape(n_rows, -1)])).reshape(-1)


def _settings(shape: Shape, arch: str, n_layers: int, repeat: int) -> dict[str, Any]:
    keys: dict[str, Any] = {
        "vocab_size": shape.vocabulary,
        "context_length": shape.context,
        "embedding_length": shape.width,
        "block_count": n_layers,
        "feed_forward_length": shape.hidden,
        "attention.head_count": shape.heads,
        "attention.head_count_kv": shape.kv_heads,
        "attention.key_length": shape.head_dim,
        "attention.value_length": shape.head_dim,
        "attention.layer_norm_rms_epsilon": float(shape.norm_eps),
        "rope.dimension_count": shape.head_dim,
        "rope.freq_base": float(shape.rope_theta),
    }
    keys = {f"{arch}.{key}": value for key, value in keys.items()}
    if arch != "mobilellm":
        return keys
    gated = shape.feed_forward == "swiglu"
    return keys | decoder_metadata(
        activation="silu" if gated else shape.feed_forward,
        gated=gated,
        qk_norm=shape.qk_norm,
        sharing="immediate" if repeat == 1 else shape.sharing,
        repeat=repeat,
    )
