"""A Hugging Face `config.json`, read with suspicion: every value is checked for its type when it is asked for."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from ingle.errors import CheckpointError
from ingle.files import read_bytes

__all__ = ["Config"]

_MAX_BYTES = 16 * 2**20  # real ones have a few KiB; LongRoPE's factors and id-to-label tables are the longest parts
_REQUIRED: Any = object()
_Default = TypeVar("_Default")


class Config:
    """The values of a configuration. A JSON null counts as missing, as it does in transformers.

    Getters take one or several names (families renamed their settings over time; the first that is there counts),
    return `default` where none is there, and raise CheckpointError, naming the file and the setting, when a value is
    missing or has another type.
    """

    def __init__(self, values: Mapping[str, Any], where: str) -> None:
        self._values = values
        self._where = where

    @classmethod
    def read(cls, path: Path) -> Config:
        """Parse a `config.json`."""
        try:
            values = json.loads(read_bytes(path, _MAX_BYTES, CheckpointError, "expected a model's configuration"))
        except (ValueError, RecursionError) as error:
            raise CheckpointError(f"{path} cannot be read as JSON ({error}); download it again.") from None
        if not isinstance(values, dict):
            raise CheckpointError(
                f"{path} must hold a JSON object, but holds a {type(values).__name__}; download it again."
            )
        return cls(values, str(path))

    def __contains__(self, name: str) -> bool:
        return self._values.get(name) is not None

    def integer(self, *names: str, default: _Default = _REQUIRED) -> int | _Default:
        """A whole number (a float without a fraction counts)."""
        value = self._find(names, default)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if value is not default and (not isinstance(value, int) or isinstance(value, bool)):
            raise self._wrong(names, "a whole number", value)
        return value

    def number(self, *names: str, default: _Default = _REQUIRED) -> float | _Default:
        """A finite number."""
        value = self._find(names, default)
        if value is default:
            return value
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not math.isfinite(value):
            raise self._wrong(names, "a number", value)
        return float(value)

    def count(self, *names: str, default: _Default = _REQUIRED) -> int | _Default:
        """A whole number from 1 to 2^31 - 1: a size."""
        value = self.integer(*names, default=default)
        if value is not default and not (isinstance(value, int) and 0 < value < 2**31):
            raise self._wrong(names, "a whole number from 1 to 2^31 - 1", value)
        return value

    def positive(self, *names: str, default: _Default = _REQUIRED) -> float | _Default:
        """A number from 1e-12 to 1e12."""
        value = self.number(*names, default=default)
        if value is not default and not (isinstance(value, float) and 1e-12 <= value <= 1e12):
            raise self._wrong(names, "a positive number", value)
        return value

    def flag(self, *names: str, default: _Default = _REQUIRED) -> bool | _Default:
        """true or false."""
        value = self._find(names, default)
        if value is not default and not isinstance(value, bool):
            raise self._wrong(names, "true or false", value)
        return value

    def text(self, *names: str, default: _Default = _REQUIRED) -> str | _Default:
        """A string."""
        value = self._find(names, default)
        if value is not default and not isinstance(value, str):
            raise self._wrong(names, "a string", value)
        return value

    def numbers(self, name: str, default: list[float] = _REQUIRED) -> list[float]:
        """A list of finite numbers."""
        value = self._find((name,), default)
        if not isinstance(value, list) or not all(
            isinstance(v, (int, float)) and not isinstance(v, bool) and math.isfinite(v) for v in value
        ):
            raise self._wrong((name,), "a list of numbers", value)
        return [float(v) for v in value]

    def texts(self, name: str) -> list[str]:
        """A list of strings; empty where it is missing."""
        value = self._find((name,), [])
        if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
            raise self._wrong((name,), "a list of strings", value)
        return value

    def part(self, name: str) -> Config:
        """A nested object; an empty one where it is missing."""
        value = self._find((name,), {})
        if not isinstance(value, dict):
            raise self._wrong((name,), "an object", value)
        return Config(value, f"{self._where}: {name}")

    def over(self, other: Config) -> Config:
        """These values, and those of `other` where this has none."""
        return Config({**other._values, **{k: v for k, v in self._values.items() if v is not None}}, self._where)

    def rope(self, layer_type: str = "full_attention") -> Config:
        """The rotary settings of a kind of layer, under the names of transformers 5, whatever the file's version.

        transformers 5 writes `rope_parameters` (for several kinds of layer nested by the kind); before, there were
        `rope_theta` and `partial_rotary_factor` beside a `rope_scaling` whose kind was called `type` or `rope_type`.
        """
        before = ("rope_theta", "partial_rotary_factor", "original_max_position_embeddings")
        beside = Config({name: self._values.get(name) for name in before}, self._where)
        new = self.part("rope_parameters")
        return (new.part(layer_type) if layer_type in new else new).over(self.part("rope_scaling").over(beside))

    def _find(self, names: tuple[str, ...], default: Any) -> Any:
        for name in names:
            if self._values.get(name) is not None:
                return self._values[name]
        if default is _REQUIRED:
            raise CheckpointError(
                f'{self._where} has no "{names[0]}", which this family needs; download the file again or get the '
                "checkpoint in the transformers layout."
            )
        return default

    def _wrong(self, names: tuple[str, ...], expected: str, value: Any) -> CheckpointError:
        came = json.dumps(value, default=str)
        came = came if len(came) < 60 else came[:57] + "..."
        return CheckpointError(f'"{names[0]}" in {self._where} must be {expected}, but is {came}; download it again.')
