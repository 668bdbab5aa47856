"""The tokenizer of ingle-tiny: 4096 byte-level BPE tokens from its stories, questions, requests and calls.

`python vocabulary.py SHARED_DATA TEXTS OUT`: TEXTS is the folder that texts.py wrote.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path

from ingle.evaluate.calls.sources import clinc, nlu, sgd, snips
from ingle.evaluate.calls.sources.files import read_lines
from ingle.evaluate.calls.sources.request import split_of
from ingle.train.data.vocabulary import train_tokenizer

SIZE = 4096
CHARACTERS = {"stories": 4e6, "books": 1.2e6, "news": 1e6, "wiki": 1.5e6, "questions": 2e6}


def texts(folder: Path) -> Iterator[str]:
    for name, limit in CHARACTERS.items():
        size = 0
        for record in read_lines(folder / f"{name}.jsonl"):
            text = record.get("text") or "\n".join(message["content"] for message in record["messages"])
            size += len(text)
            if size > limit:
                break
            yield text


def requests(folder: Path) -> Iterator[str]:
    """Requests of the training split, and their calls."""
    found = [*snips.requests(folder), *nlu.hwu64(folder), *nlu.slurp(folder), *clinc.in_scope(folder)]
    opened = [request for _, request in sgd.requests(folder, "train")]
    random.Random(1).shuffle(opened)
    for request in [*found, *opened]:
        if split_of(request.text) == "train":
            yield request.text
            if request.tool:
                yield json.dumps({"name": request.tool, "arguments": dict(request.slots)}, ensure_ascii=False)
    for tools in sgd.tools(folder, "train").values():
        for tool in tools:
            yield f"{tool.name}({', '.join(tool.parameters['properties'])}): {tool.description}"


if __name__ == "__main__":
    shared, folder, out = map(Path, sys.argv[1:4])
    train_tokenizer([*texts(folder), *requests(shared / "api_calls")], SIZE).save(out)
