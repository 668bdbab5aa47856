"""Runs that take a second or two: a text of short documents, and a config to train on it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ingle.train.config import Config

WORDS = [
    "the",
    "cat",
    "sat",
    "on",
    "a",
    "mat",
    "while",
    "rain",
    "fell",
    "and",
    "the",
    "old",
    "dog",
    "slept",
    "by",
    "the",
    "fire",
    "in",
    "the",
    "small",
    "house",
]


def write_text(folder: Path) -> Path:
    """300 documents that differ."""
    documents = []
    for i in range(300):
        words = [WORDS[(i * 7 + j * (1 + i % 5)) % len(WORDS)] for j in range(12 + i % 9)]
        documents.append(f"Story {i}. " + " ".join(words) + ".")
    path = folder / "stories.txt"
    path.write_text("\n<|endoftext|>\n".join(documents))
    return path


def sections(folder: Path, **train: Any) -> dict[str, Any]:
    """A config's sections; `train` goes before what is here, and a budget of its own replaces the steps."""
    text = folder / "stories.txt"
    if not text.exists():
        write_text(folder)
    training = {
        "steps": 6,
        "batch_tokens": 128,
        "precision": "f32",
        "compile": False,
        "threads": 1,
        "device": "cpu",
        "validation_tokens": 64,
    }
    if {"tokens", "epochs", "minutes"} & train.keys():
        del training["steps"]
    return {
        "model": {"width": 32, "layers": 2, "heads": 2, "kv_heads": 1, "hidden": 64, "context": 32},
        "data": {"train": [str(text)], "tokenizer": 288, "validation": 0.1, "shards": str(folder / "shards")},
        "train": training | train,
    }


def config(folder: Path, **train: Any) -> Config:
    """`sections` as a Config."""
    return Config.from_dict(sections(folder, **train), folder)


def records(out: Path, event: str) -> list[dict[str, Any]]:
    """The records of a kind in a run's log."""
    found = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [record for record in found if record["event"] == event]


def losses(out: Path) -> list[tuple[int, float]]:
    """Step and loss of every step."""
    return [(record["step"], record["loss"]) for record in records(out, "step")]
