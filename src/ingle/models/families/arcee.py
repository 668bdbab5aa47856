"""Arcee (AFM-4.5B): a Llama whose feed-forward has no gate and squares its ReLU (So et al., arXiv 2109.08668).

The GGUF architecture "arcee" has that activation only; with another one the model is written as "mobilellm", whose keys
can say it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ingle.models.config import Config
from ingle.models.families.family import LLAMA_NAMES, Family
from ingle.models.families.from_config import base_metadata, rope_tensors
from ingle.models.families.llama import rotary_rows
from ingle.models.families.mobilellm import decoder_metadata
from ingle.models.families.to_spec import base_spec
from ingle.models.recipes import Transform
from ingle.models.source import Source
from ingle.models.spec import Spec

__all__ = ["ARCEE"]

_DEFAULTS: dict[str, Any] = {"hidden_act": "relu2", "rms_norm_eps": 1e-5, "max_position_embeddings": 4096}


def _activation(config: Config) -> str:
    return config.text("hidden_act", default="relu2")


def _written_as(config: Config) -> str:
    return "arcee" if _activation(config) == "relu2" else "mobilellm"


def _metadata(config: Config) -> dict[str, Any]:
    config = config.over(Config(_DEFAULTS, "the defaults of the family"))
    arch = _written_as(config)
    keys = {} if arch == "arcee" else decoder_metadata(activation=_activation(config), gated=False)
    return base_metadata(arch, config) | keys


def _spec(source: Source, context: int | None) -> Spec:
    return base_spec(source, "arcee", context, style="interleaved", activation="relu2", gated=False)


def _transforms(config: Config) -> Mapping[str, Transform]:
    return rotary_rows(config) if _written_as(config) == "arcee" else {}


ARCEE = Family(
    arch="arcee",
    model_types=("arcee",),
    metadata=_metadata,
    spec=_spec,
    names={stem: module for stem, module in LLAMA_NAMES.items() if not stem.endswith("ffn_gate")},
    transforms=_transforms,
    extra=rope_tensors,
    variant=_written_as,
)
