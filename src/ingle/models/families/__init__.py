"""The table of model families, by their GGUF architecture and by their Hugging Face model type."""

from __future__ import annotations

from ingle.errors import UnsupportedError
from ingle.models.config import Config
from ingle.models.families.arcee import ARCEE
from ingle.models.families.falcon import FALCON
from ingle.models.families.family import Family
from ingle.models.families.gemma import GEMMA, GEMMA2, GEMMA3
from ingle.models.families.llama import LLAMA
from ingle.models.families.mobilellm import MOBILELLM
from ingle.models.families.phi import PHI2, PHI3
from ingle.models.families.qwen import QWEN2, QWEN3, QWEN3MOE
from ingle.models.families.stablelm import STABLELM

__all__ = ["FAMILIES", "Family", "family_of_architecture", "family_of_config"]

FAMILIES: tuple[Family, ...] = (
    LLAMA,
    ARCEE,
    MOBILELLM,
    QWEN2,
    QWEN3,
    QWEN3MOE,
    GEMMA,
    GEMMA2,
    GEMMA3,
    PHI2,
    PHI3,
    FALCON,
    STABLELM,
)

_BY_ARCHITECTURE = {family.arch: family for family in FAMILIES}
_BY_MODEL_TYPE = {model_type: family for family in FAMILIES for model_type in family.model_types}


def family_of_architecture(name: str, where: str) -> Family:
    """The family of a GGUF file. Raises UnsupportedError that names the known ones."""
    if name not in _BY_ARCHITECTURE:
        raise UnsupportedError(
            f"{where} holds a model of the architecture {name!r}; Ingle runs {', '.join(sorted(_BY_ARCHITECTURE))}."
        )
    return _BY_ARCHITECTURE[name]


def family_of_config(config: Config) -> Family:
    """The family of a config.json. Raises UnsupportedError that names the known ones."""
    model_type = config.text("model_type")
    if model_type not in _BY_MODEL_TYPE:
        raise UnsupportedError(
            f"config.json describes a model of the type {model_type!r}; Ingle runs {', '.join(sorted(_BY_MODEL_TYPE))}."
        )
    return _BY_MODEL_TYPE[model_type]
