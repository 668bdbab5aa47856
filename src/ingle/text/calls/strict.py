"""JSON and no more, for what models write: Python's own reading takes NaN and Infinity, and halves of characters."""

from __future__ import annotations

import json
import math
from typing import Any

__all__ = ["decoded", "excerpt", "well_formed"]


def decoded(text: str) -> Any:
    """The value of a text of JSON. Raises ValueError for anything else, also for what is nested too deep to read."""
    try:
        return well_formed(_DECODER.decode(text))
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def well_formed(value: Any) -> Any:
    """The value with U+FFFD for halves of surrogate pairs, which JSON can spell but no text can hold."""
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, list):
        return [well_formed(item) for item in value]
    if isinstance(value, dict):
        return {well_formed(key): well_formed(item) for key, item in value.items()}
    return value


def excerpt(text: str) -> str:
    """The beginning of a text on one line, in quotation marks."""
    shown = " ".join(text[:200].split())
    return repr(shown[:80] + ("..." if len(shown) > 80 or len(text) > 200 else ""))


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is too large")
    return value


_DECODER = json.JSONDecoder(parse_constant=_no_constant, parse_float=_finite)
