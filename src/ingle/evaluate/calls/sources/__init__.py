"""Test items from public data sets that lie in a folder; nothing is downloaded.

The folder is that of the data, or holds it as `api_calls/`. Its files are those of the data sets' own repositories:
snips/train_*_full.json, hwu64_kfold1_train.json, slurp_devel.jsonl, clinc150_data_full.json, sgd_schema_*.json and
sgd_compact.jsonl.xz (a digest of the dialogues), bfcl/*.json.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ingle.errors import UsageError
from ingle.evaluate.calls.item import Item
from ingle.evaluate.calls.sources import bfcl, held_out
from ingle.evaluate.calls.sources.catalogue import CLINC_TOOLS

__all__ = ["SOURCES", "SPOKEN", "available", "load_items", "missing"]

_SNIPS, _HWU64, _CLINC, _SGD = "snips", "hwu64_kfold1_train.json", "clinc150_data_full.json", "sgd_compact.jsonl.xz"
_SCHEMAS = tuple(f"sgd_schema_{part}.json" for part in ("train", "dev", "test"))

#: Where items come from: the files or folders that must be there, and what they are.
SOURCES: Mapping[str, tuple[tuple[str, ...], str]] = {
    "snips": ((_SNIPS,), "SNIPS: seven tools of a voice assistant"),
    "hwu64": ((_HWU64,), "HWU64: 8 of 54 tools of a home assistant; talk that calls for none"),
    "slurp": (("slurp_devel.jsonl", _HWU64), "SLURP: the same tools, other texts"),
    "clinc150": ((_CLINC,), f"CLINC150: 8 of {len(CLINC_TOOLS)} tools without arguments"),
    "out_of_scope": ((_CLINC, _SNIPS, _HWU64), "CLINC150's requests that no tool fits, with tools of SNIPS and HWU64"),
    "sgd": ((_SGD, *_SCHEMAS), "Schema-Guided Dialogue: first turns, services of known kinds"),
    "sgd_new": ((_SGD, *_SCHEMAS), "Schema-Guided Dialogue: first turns, kinds of services not in its training part"),
    **{name: (bfcl.files(name), what) for name, what in bfcl.BFCL.items()},
}
#: The sources of what people said. BFCL's requests are written by programmers, and compared by rules of their own.
SPOKEN = tuple(name for name in SOURCES if name not in bfcl.BFCL)


def missing(name: str, data: Path) -> list[str]:
    """The files and folders that a source needs and that are not in a folder."""
    return [file for file in SOURCES[name][0] if not (_folder(data) / file).exists()]


def available(data: Path) -> list[str]:
    """The sources whose files are all in a folder."""
    return [name for name in SOURCES if not missing(name, data)]


def load_items(names: Sequence[str], data: Path) -> list[Item]:
    """The test items of sources, in a fixed order. Raises UsageError for names unknown, DataError for data amiss."""
    folder = _folder(data)
    items: list[Item] = []
    for name in names:
        if name not in SOURCES:
            raise UsageError(f"There is no source of API calls named {name!r}; expected {', '.join(SOURCES)}.")
        items += (bfcl if name in bfcl.BFCL else held_out).items(name, folder)
    return items


def _folder(data: Path) -> Path:
    return data / "api_calls" if (data / "api_calls").is_dir() else data
