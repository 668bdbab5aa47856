"""A Hugging Face directory (config.json and safetensors) as a source under GGUF names."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from ingle.errors import CheckpointError, UnsupportedError
from ingle.gguf import Metadata, TensorType, release_pages
from ingle.models.config import Config
from ingle.models.families import Family, family_of_config
from ingle.models.recipes import Array, Recipe, copy
from ingle.models.safetensors import NUMPY_TYPES, RawTensor, open_checkpoint_files
from ingle.models.source import ExtraMetadata, Header, LazyTensors
from ingle.models.tensor import Tensor

__all__ = ["HuggingFaceSource"]

# Buffers that old versions of transformers saved and that are computed anyway.
_NOT_WEIGHTS = re.compile(r"\.(rotary_emb\.inv_freq|masked_bias|attention\.bias|self_attn\.bias)$")
# Text models inside multimodal checkpoints, before and since transformers 5.
_PREFIXES = (
    ("language_model.model.", "model."),
    ("language_model.lm_head.", "lm_head."),
    ("model.language_model.", "model."),
)
_OTHER_MODALITIES = ("vision_tower.", "multi_modal_projector.", "model.vision_tower.", "model.multi_modal_projector.")


class HuggingFaceSource:
    """Opens the directory, checks that every weight has its place, and makes tensors when they are asked for."""

    def __init__(self, directory: Path, extra_metadata: ExtraMetadata | None = None) -> None:
        self.name = str(directory)
        self.paths = tuple(sorted(directory.glob("*.safetensors")))
        if not (directory / "config.json").is_file():
            raise CheckpointError(f"{directory} has no config.json; expected a Hugging Face checkpoint directory.")
        config = Config.read(directory / "config.json")
        _refuse_quantized(config, directory)
        self._family = family_of_config(config)
        if "text_config" in config:
            config = config.part("text_config").over(config)
        self._files = _named_as_text_model(open_checkpoint_files(directory))
        self._modules = {**self._family.names, **self._family.names_of(config)}
        self._recipes = _recipes(self._family, self._modules, config, self._files, self.name)
        self.headers = {name: self._header(name, recipe) for name, recipe in self._recipes.items()}
        self.tensors: Mapping[str, Tensor] = LazyTensors(tuple(self._recipes), self._tensor)
        entries = {"general.architecture": self._family.written_as(config), "general.name": directory.resolve().name}
        entries |= self._family.metadata(config)
        if extra_metadata is not None and "token_embd.weight" in self.headers:
            entries |= dict(extra_metadata(directory, self.headers["token_embd.weight"].shape[0]))
        # GGUF keeps float32, and a directory must mean exactly what its conversion means.
        rounded = {key: float(np.float32(v)) if isinstance(v, float) else v for key, v in entries.items()}
        self.metadata = Metadata(rounded, self.name)

    def pieces(self, name: str) -> Iterator[Tensor]:
        recipe, header = self._recipes[name], self.headers[name]
        sources = [self._files[source] for source in recipe.sources]
        if recipe.stacks and all((s.shape, s.type) == (header.shape[1:], header.type) for s in sources):
            for source in sources:
                yield Tensor(source.name, source.shape, source.type, _aligned(source))
        else:
            yield self._tensor(name)

    def origin(self, name: str) -> str:
        recipe = self._recipes.get(name)
        if recipe is not None:
            return recipe.sources[0] if recipe.sources else name
        stem, _, suffix = name.rpartition(".")
        head, _, rest = stem.partition(".")
        layer, _, part = rest.partition(".")
        module = self._modules.get(f"{head}.{{i}}.{part}" if head == "blk" else stem)
        return f"{module.format(i=layer)}.{suffix}" if module else name

    def release(self) -> None:
        for mapped in {id(tensor.map): tensor.map for tensor in self._files.values()}.values():
            release_pages(mapped)

    def close(self) -> None:
        self._files = {}

    def _header(self, name: str, recipe: Recipe) -> Header:
        sources = [self._files[source] for source in recipe.sources]
        try:
            shape = recipe.shape([source.shape for source in sources])
        except (IndexError, ValueError):
            raise self._misshapen(recipe) from None
        uniform = len({source.type for source in sources}) == 1
        return Header(name, shape, sources[0].type if uniform and not recipe.calculates else TensorType.F32)

    def _tensor(self, name: str) -> Tensor:
        recipe, header = self._recipes[name], self.headers[name]
        sources = [self._files[source] for source in recipe.sources]
        if recipe.make is None:
            return Tensor(name, header.shape, header.type, _aligned(sources[0]))
        if header.type is TensorType.F32:
            arrays: list[Array] = [Tensor(s.name, s.shape, s.type, s.data).float32() for s in sources]
        else:
            arrays = [s.data.view(NUMPY_TYPES[s.type]).reshape(s.shape) for s in sources]
        try:
            made = np.ascontiguousarray(recipe.make(arrays))
        except (IndexError, ValueError):
            raise self._misshapen(recipe) from None
        return Tensor(name, header.shape, header.type, made.reshape(-1).view(np.uint8))

    def _misshapen(self, recipe: Recipe) -> CheckpointError:
        shapes = ", ".join(f"{source} {list(self._files[source].shape)}" for source in recipe.sources[:2])
        return CheckpointError(
            f"The shape of {shapes} in {self.name} does not fit its config.json; download both again, "
            "from one revision."
        )


def _refuse_quantized(config: Config, directory: Path) -> None:
    if "quantization_config" in config:
        method = config.part("quantization_config").text("quant_method", default="an unnamed method")
        raise UnsupportedError(
            f"{directory} is quantised with {method}, which Ingle does not convert; get the original checkpoint (bf16, "
            "f16 or f32) or a GGUF file of the model."
        )


def _named_as_text_model(files: dict[str, RawTensor]) -> dict[str, RawTensor]:
    """The tensors of the text model under the names they have in a text-only checkpoint."""
    renamed = {}
    for name, tensor in files.items():
        if name.startswith(_OTHER_MODALITIES):
            continue
        for old, new in _PREFIXES:
            if name.startswith(old):
                name = new + name.removeprefix(old)
                break
        renamed[name] = tensor
    if "embed_tokens.weight" in renamed:
        renamed = {name if name.startswith("lm_head.") else f"model.{name}": t for name, t in renamed.items()}
    return renamed


def _recipes(
    family: Family, modules: Mapping[str, str], config: Config, files: Mapping[str, RawTensor], where: str
) -> dict[str, Recipe]:
    """A recipe for every GGUF tensor that the files can make. Raises CheckpointError when a weight has no use."""
    recipes: dict[str, Recipe] = {}
    n_layers = family.n_layers(config)
    tied = family.tied(config, "lm_head.weight" in files)
    transforms = family.transforms(config)
    for stem, module in modules.items():
        if stem == "output" and tied:
            continue
        for layer in range(n_layers) if "{i}" in stem else (0,):
            for suffix in ("weight", "bias"):
                source = f"{module.format(i=layer)}.{suffix}"
                if source in files:
                    make = transforms.get(stem.removeprefix("blk.{i}."), copy)
                    recipes[f"{stem.format(i=layer)}.{suffix}"] = make(source)
    if tied and "token_embd.weight" not in recipes and "lm_head.weight" in files:
        recipes["token_embd.weight"] = copy("lm_head.weight")  # savers of tied weights keep either name
    recipes |= family.extra(config, files.keys())
    used = {source for recipe in recipes.values() for source in recipe.sources}
    for name in files:
        ignored = _NOT_WEIGHTS.search(name) or (tied and name == "lm_head.weight")
        if name not in used and not ignored:
            raise CheckpointError(
                f"Tensor {name} in {where} has no place in a {family.arch} model of {n_layers} layers; check that "
                "config.json belongs to these weights, or ask for support of this variant."
            )
    return recipes


def _aligned(tensor: RawTensor) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
    """The bytes, copied only where they do not lie on a whole value (nothing in the format forbids that)."""
    misaligned = tensor.data.ctypes.data % tensor.type.bytes_per_block if tensor.data.size else 0
    return tensor.data.copy() if misaligned else tensor.data
