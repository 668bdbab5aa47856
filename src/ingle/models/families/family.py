"""What a family is: names, settings, and a few deviations. The decoder it describes is a `Spec`.

Tensor names and metadata keys are those of the GGUF specification and of llama.cpp's converters, so that files made
here run elsewhere and files made elsewhere run here.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from ingle.errors import UnsupportedError
from ingle.models.config import Config
from ingle.models.recipes import Recipe, Transform, copy, expert_rows
from ingle.models.source import Source
from ingle.models.spec import Spec

__all__ = ["LLAMA_NAMES", "Family", "fused_experts", "is_local"]

#: GGUF stems and the modules of a checkpoint in Llama's layout, which most families follow.
LLAMA_NAMES: dict[str, str] = {
    "token_embd": "model.embed_tokens",
    "blk.{i}.attn_norm": "model.layers.{i}.input_layernorm",
    "blk.{i}.attn_q": "model.layers.{i}.self_attn.q_proj",
    "blk.{i}.attn_k": "model.layers.{i}.self_attn.k_proj",
    "blk.{i}.attn_v": "model.layers.{i}.self_attn.v_proj",
    "blk.{i}.attn_output": "model.layers.{i}.self_attn.o_proj",
    "blk.{i}.ffn_norm": "model.layers.{i}.post_attention_layernorm",
    "blk.{i}.ffn_gate": "model.layers.{i}.mlp.gate_proj",
    "blk.{i}.ffn_up": "model.layers.{i}.mlp.up_proj",
    "blk.{i}.ffn_down": "model.layers.{i}.mlp.down_proj",
    "output_norm": "model.norm",
    "output": "lm_head",
}

_NO_TRANSFORMS: Mapping[str, Transform] = {}


@dataclass(frozen=True, slots=True, eq=False)
class Family:
    """One architecture.

    arch: its name in GGUF (`general.architecture`). model_types: its names in a config.json.
    names: GGUF stem -> module; weights and biases follow it, a missing bias is no bias.
    metadata: configuration -> GGUF metadata. spec: (source, context) -> Spec.
    transforms: configuration -> what is done to a stem's tensors, for those that are not copied.
    extra: (configuration, tensor names) -> recipes that no row of `names` can express.
    tied_by_default: what a configuration means that does not say.
    names_of: configuration -> further rows of `names`, for variants.
    variant: configuration -> the GGUF architecture it is written as, where that is not `arch`.
    """

    arch: str
    model_types: tuple[str, ...]
    metadata: Callable[[Config], dict[str, Any]]
    spec: Callable[[Source, int | None], Spec]
    names: Mapping[str, str]
    transforms: Callable[[Config], Mapping[str, Transform]] = lambda config: _NO_TRANSFORMS
    extra: Callable[[Config, Collection[str]], dict[str, Recipe]] = lambda config, names: {}
    tied_by_default: bool = False
    names_of: Callable[[Config], Mapping[str, str]] = lambda config: {}
    variant: Callable[[Config], str] | None = None

    def written_as(self, config: Config) -> str:
        """The value of `general.architecture`."""
        return self.variant(config) if self.variant else self.arch

    def n_layers(self, config: Config) -> int:
        """Layers with weights, bounded before anything is sized by it."""
        n = config.count("num_hidden_layers", "n_layer")
        if not 0 < n <= 1024:
            raise UnsupportedError(f"config.json says that the model has {n} layers; expected 1 to 1024.")
        return n

    def tied(self, config: Config, has_head: bool) -> bool:
        """Whether the output matrix is the embedding (MobileLLM says so under a name of its own)."""
        if "tie_word_embeddings" not in config and "share_embedding" not in config:
            return self.tied_by_default or not has_head
        return config.flag("share_embedding", default=False) or config.flag("tie_word_embeddings", default=False)


def fused_experts(block: str, module: str) -> dict[str, Recipe]:
    """A layer's experts where transformers keeps them as gate_up_proj [X, 2F, E] and down_proj [X, E, F]."""
    return {
        f"{block}_gate_exps.weight": expert_rows(f"{module}.gate_up_proj", 0, 2),
        f"{block}_up_exps.weight": expert_rows(f"{module}.gate_up_proj", 1, 2),
        f"{block}_down_exps.weight": copy(f"{module}.down_proj"),
    }


def is_local(layer: int, every: int) -> bool:
    """Of `every` layers the last is global; 0: all are local."""
    return every == 0 or layer % every < every - 1
