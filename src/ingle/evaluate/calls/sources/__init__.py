"""Test items from public data sets that lie in a folder; nothing is downloaded.

The folder is that of the data, or holds it as `api_calls/`. Its files are those of the data sets' own repositories:
snips/train_*_full.json, hwu64_kfold1_train.json, slurp_devel.jsonl, clinc150_data_full.json, sgd_schema_*.json and
sgd_compact.jsonl.xz (a digest of the dialogues), bfcl/*.json.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from ingle.errors import UsageError
from ingle.evaluate.calls.item import Item

__all__ = ["SOURCES", "available", "load_items"]

#: Where items come from: a file or folder that must be there, and what they are.
SOURCES = {
    "snips": ("snips", "SNIPS: seven tools of a voice assistant"),
    "hwu64": ("hwu64_kfold1_train.json", "HWU64: 8 of 54 tools of a home assistant; talk that calls for none"),
    "slurp": ("slurp_devel.jsonl", "SLURP: the same tools, other texts"),
    "clinc150": ("clinc150_data_full.json", "CLINC150: 8 of 46 tools without arguments"),
    "out_of_scope": ("clinc150_data_full.json", "CLINC150's requests that no tool fits, with tools of SNIPS and HWU64"),
    "sgd": ("sgd_compact.jsonl.xz", "Schema-Guided Dialogue: first turns, services of known kinds"),
    "sgd_new": (
        "sgd_compact.jsonl.xz",
        "Schema-Guided Dialogue: first turns, kinds of services not in its training part",
    ),
    "bfcl_simple": ("bfcl/BFCL_v4_simple_python.json", "BFCL: one function"),
    "bfcl_multiple": ("bfcl/BFCL_v4_multiple.json", "BFCL: one of several functions"),
    "bfcl_parallel": ("bfcl/BFCL_v4_parallel.json", "BFCL: several calls"),
    "bfcl_parallel_multiple": ("bfcl/BFCL_v4_parallel_multiple.json", "BFCL: several calls of several functions"),
    "bfcl_irrelevance": ("bfcl/BFCL_v4_irrelevance.json", "BFCL: no function fits"),
}


def available(data: Path) -> list[str]:
    """The sources whose files are in a folder."""
    folder = _folder(data)
    return [name for name, (file, _) in SOURCES.items() if (folder / file).exists()]


def load_items(names: Sequence[str], data: Path) -> list[Item]:
    """The test items of sources, in a fixed order. Raises UsageError for names unknown, DataError for data amiss."""
    folder = _folder(data)
    items: list[Item] = []
    for name in names:
        if name not in SOURCES:
            raise UsageError(f"There is no source of API calls named {name!r}; expected {', '.join(SOURCES)}.")
        module = "bfcl" if name.startswith("bfcl_") else "held_out"
        items += import_module(f"ingle.evaluate.calls.sources.{module}").items(name, folder)
    return items


def _folder(data: Path) -> Path:
    return data / "api_calls" if (data / "api_calls").is_dir() else data
