"""Reading data sets that come from outside: bounded, checked, with one sentence for what is wrong."""

from __future__ import annotations

import json
import lzma
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ingle.errors import DataError
from ingle.files import json_objects, read_bytes

__all__ = ["list_of", "object_of", "read_json", "read_lines", "text_of"]

_MAX_BYTES = 1 << 28  # of a file, unpacked


def read_json(path: Path) -> Any:
    """The JSON value of a file (UTF-8, or Latin-1 where it is not). Raises DataError."""
    data = read_bytes(path, _MAX_BYTES, advice="get the data set anew")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        text = data.decode("latin-1")
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise DataError(f"{path} is not JSON; get the data set anew.") from None


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a JSON Lines file, which may be packed by xz. Raises DataError."""
    try:
        with lzma.open(path, "rb") if path.suffix == ".xz" else path.open("rb") as file:
            for _, record in json_objects(file, path.name, _MAX_BYTES, _MAX_BYTES):
                yield record
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from None
    except EOFError:
        raise DataError(f"{path} ends too early; get the data set anew.") from None
    except lzma.LZMAError as error:
        raise DataError(f"{path} is damaged ({error}); get the data set anew.") from None


def object_of(value: object, where: str) -> dict[str, Any]:
    """`value`, if it is a JSON object. Raises DataError."""
    if not isinstance(value, dict):
        raise DataError(f"{where} holds {type(value).__name__}; expected an object.")
    return value


def list_of(value: object, where: str) -> list[Any]:
    """`value`, if it is a JSON list. Raises DataError."""
    if not isinstance(value, list):
        raise DataError(f"{where} holds {type(value).__name__}; expected a list.")
    return value


def text_of(value: object, where: str) -> str:
    """`value`, if it is a text. Raises DataError."""
    if not isinstance(value, str):
        raise DataError(f"{where} holds {type(value).__name__}; expected a text.")
    return value
