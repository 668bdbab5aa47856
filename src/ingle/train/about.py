"""What is known of a trained model, for the metadata of its file and for its card."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from ingle.train.shape import Shape

__all__ = ["Dataset", "card", "datasets_of", "general_metadata"]

#: A name, and the licence where one was given. Only the last part of a path: where a file lay is nobody's business.
Dataset = tuple[str, str | None]

_HUB = "hf:"


def datasets_of(info: Mapping[str, Any]) -> list[Dataset]:
    """What the model was trained on: `info["sources"]` as a run records them, or names in `info["datasets"]`."""
    found: list[Dataset] = [(name, None) for name in _texts(info.get("datasets"))]
    sources = info.get("sources")
    for source in sources if isinstance(sources, list) else []:
        name = source.get("path_or_name") if isinstance(source, Mapping) else source
        licence = source.get("licence") if isinstance(source, Mapping) else None
        if isinstance(name, str) and name:
            shown = name if name.startswith(_HUB) else PurePath(name).name
            found.append((shown, licence if isinstance(licence, str) else None))
    return found


def general_metadata(info: Mapping[str, Any]) -> dict[str, Any]:
    """The `general.*` keys of the GGUF specification, as far as they are known."""
    keys: dict[str, Any] = {}
    for name, key in (("name", "name"), ("description", "description"), ("licence", "license")):
        if isinstance(info.get(name), str) and info[name]:
            keys[f"general.{key}"] = info[name]
    datasets = datasets_of(info)
    if datasets:
        keys["general.dataset.count"] = len(datasets)
        keys |= {f"general.dataset.{i}.name": name for i, (name, _) in enumerate(datasets)}
    return keys


def card(shape: Shape, info: Mapping[str, Any]) -> str:
    """A model card: what the Hub reads in front, what people read behind."""
    datasets = datasets_of(info)
    head = ["library_name: transformers", "pipeline_tag: text-generation"]
    if isinstance(info.get("licence"), str):
        head.append(f"license: {_quoted(info['licence'])}")
    on_the_hub = [name.removeprefix(_HUB) for name, _ in datasets if name.startswith(_HUB)]
    if on_the_hub:
        head += ["datasets:", *(f"- {_quoted(name)}" for name in on_the_hub)]
    parts = [f"# {info.get('name') or 'A small language model'}"]
    if isinstance(info.get("description"), str):
        parts.append(info["description"])
    parts.append(
        f"{shape.n_parameters:,} parameters: {len(shape.schedule)} layers of width {shape.width}, {shape.heads} query "
        f"and {shape.kv_heads} key/value heads of {shape.head_dim}, {shape.feed_forward} feed-forward of "
        f"{shape.hidden}, {shape.vocabulary:,} tokens, {shape.context:,} positions."
    )
    if shape.repeat > 1:
        parts.append(
            f"It was trained with {shape.layers} layers, each used {shape.repeat} times ({shape.sharing}); here they "
            "are written out, so that the file is larger than what was learnt."
        )
    if datasets:
        lines = [f"* {name} (licence: {licence or 'not given'})" for name, licence in datasets]
        parts.append("Trained on:\n\n" + "\n".join(lines))
    parts.append("Made with Ingle. Try what it says before you rely on it.")
    return "---\n" + "\n".join(head) + "\n---\n\n" + "\n\n".join(parts) + "\n"


def _texts(value: object) -> list[str]:
    return [text for text in value if isinstance(text, str) and text] if isinstance(value, list) else []


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
