"""`ingle inspect`: what a model is, and the memory it will need."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ingle.errors import IngleError

if TYPE_CHECKING:
    from rich.console import Console

    from ingle.models.checkpoint import Checkpoint
    from ingle.models.source import Source

__all__ = ["command", "describe"]


@click.command("inspect", short_help="Tell what a model is, and the memory it will need.")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("-c", "--context", type=click.IntRange(1), help="Tokens to reckon the memory for. [default: as run does]")
@click.option("--tensors", is_flag=True, help="List every tensor with its type, shape and size.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON record.")
def command(file: Path, context: int | None, tensors: bool, as_json: bool) -> None:
    """Tell what FILE is, a GGUF file or a Hugging Face directory: its family and settings, its tensors, its tokenizer,
    and the memory it will need. No weights are read."""
    from ingle.cli.console import json_line
    from ingle.models.source import open_source
    from ingle.text import metadata_from_hf

    source = open_source(file, metadata_from_hf)
    try:
        record = describe(source, context, tensors=tensors)
    finally:
        source.close()
    if as_json:
        click.echo(json_line(record))
    else:
        _print(record)


def describe(source: Source, context: int | None, *, tensors: bool = False) -> dict[str, Any]:
    """Everything that is known of a source, ready for JSON. What cannot be run is described as far as it is sound."""
    from dataclasses import asdict

    from ingle.engine.model import DEFAULT_CONTEXT
    from ingle.models.checkpoint import Checkpoint

    meta = source.metadata
    record: dict[str, Any] = {
        "file": source.name,
        "name": meta.get("general.name"),
        "architecture": meta.get("general.architecture"),
        "license": meta.get("general.license"),
        "family": None,
        "problem": None,
        "spec": None,
        "parameters": None,
        "weights_bytes": sum(header.n_bytes for header in source.headers.values()),
        "types": _types(source),
        "tokenizer": _tokenizer(meta),
        "memory": None,
    }
    record["parameters"] = sum(row["parameters"] for row in record["types"].values())
    try:
        checkpoint = Checkpoint(source, context or DEFAULT_CONTEXT)
    except IngleError as error:  # also a sound file that Ingle cannot run is worth a description
        record["problem"] = str(error)
    else:
        # A context that is too large is a mistake of the question, and an error.
        record["memory"] = _memory(checkpoint, context)
        record["family"] = checkpoint.spec.family
        record["spec"] = asdict(checkpoint.spec)
    if tensors:
        record["tensors"] = [
            {"name": name, "type": header.type.name, "shape": list(header.shape), "bytes": header.n_bytes}
            for name, header in source.headers.items()
        ]
    return record


def _types(source: Source) -> dict[str, dict[str, int]]:
    """How many tensors, parameters and bytes there are of each type."""
    from math import prod

    found: dict[str, dict[str, int]] = {}
    for header in source.headers.values():
        row = found.setdefault(header.type.name, {"tensors": 0, "parameters": 0, "bytes": 0})
        row["tensors"] += 1
        row["parameters"] += prod(header.shape)
        row["bytes"] += header.n_bytes
    return dict(sorted(found.items(), key=lambda item: -item[1]["bytes"]))


def _tokenizer(meta: Mapping[str, object]) -> dict[str, Any]:
    from ingle.text import Tokenizer

    record: dict[str, Any] = {
        "model": meta.get("tokenizer.ggml.model"),
        "pre": meta.get("tokenizer.ggml.pre"),
        "chat_template": "tokenizer.chat_template" in meta,
    }
    try:
        tokenizer = Tokenizer.from_metadata(meta)
    except IngleError as error:
        return {**record, "problem": str(error)}

    def named(token_id: int | None) -> dict[str, Any] | None:
        return None if token_id is None else {"id": token_id, "text": tokenizer.token_text(token_id)}

    ends = [named(token_id) for token_id in sorted(tokenizer.eog_ids)]
    return {**record, "n_vocab": tokenizer.n_vocab, "bos": named(tokenizer.bos_id), "ends": ends}


def _memory(checkpoint: Checkpoint, context: int | None) -> dict[str, int]:
    """What `ingle run` will take: one slot, f16 keys and values, the native backend."""
    from ingle.engine.memory import need
    from ingle.engine.model import context_of, weights_bytes
    from ingle.models.memory import footprint

    context = context_of(checkpoint, context)
    what = need(checkpoint.spec, weights_bytes(checkpoint, "native"), context)
    return {
        "context": context,
        "weights_bytes": what.weights_bytes,
        "cache_bytes": what.cache_bytes,
        "buffers_bytes": what.buffers_bytes,
        "total_bytes": what.total_bytes,
        "read_per_token_bytes": footprint(checkpoint).active_bytes,
    }


def _print(record: dict[str, Any]) -> None:
    """The record as tables."""
    from ingle.cli.console import console

    screen = console()
    if not screen.is_terminal:
        screen.width = 160  # a pipe has no edge: names must not be cut
    with screen.capture() as capture:
        _print_on(screen, record)
    # Tables fill their lines with spaces, which nobody wants in a file.
    click.echo("\n".join(line.rstrip() for line in capture.get().splitlines()))


def _print_on(console: Console, record: dict[str, Any]) -> None:
    from rich.table import Table
    from rich.text import Text

    from ingle.cli.console import clean, size

    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="bold")
    for what, value in _facts(record):
        facts.add_row(what, Text(clean(value)))
    console.print(facts)

    types = Table(box=None, padding=(0, 2, 0, 0))
    for title, side in (("type", "left"), ("tensors", "right"), ("parameters", "right"), ("size", "right")):
        types.add_column(title, justify=side)  # type: ignore[arg-type]
    for name, row in record["types"].items():
        types.add_row(name, str(row["tensors"]), f"{row['parameters']:,}", size(row["bytes"]))
    console.print()
    console.print(types)
    if record["memory"] is not None:
        memory = record["memory"]
        console.print(f"\n[bold]memory at a context of {memory['context']}[/bold]")
        for part in ("weights", "cache", "buffers", "total"):
            console.print(f"  {part:<8} {size(memory[part + '_bytes']):>12}")
        console.print(f"  each token reads {size(memory['read_per_token_bytes'])} of weights")
    if "tensors" in record:
        rows = Table(box=None, padding=(0, 2, 0, 0))
        for title, side in (("tensor", "left"), ("type", "left"), ("shape", "left"), ("size", "right")):
            rows.add_column(title, justify=side, no_wrap=True)  # type: ignore[arg-type]
        for tensor in record["tensors"]:
            shape = " x ".join(map(str, tensor["shape"]))
            rows.add_row(Text(clean(tensor["name"])), tensor["type"], shape, f"{tensor['bytes']:,} B")
        console.print()
        console.print(rows)


def _facts(record: dict[str, Any]) -> list[tuple[str, str]]:
    facts = [("file", record["file"])]
    facts += [(key, str(record[key])) for key in ("name", "license") if record[key]]
    facts.append(("family", str(record["family"] or f"{record['architecture']} (Ingle cannot run this)")))
    if record["problem"]:
        facts.append(("problem", record["problem"]))
    if record["parameters"]:
        bits = 8 * record["weights_bytes"] / record["parameters"]
        facts.append(("parameters", f"{record['parameters']:,} at {bits:.2f} bits"))
    if record["spec"]:
        facts += _spec_facts(record["spec"])
    tokenizer = record["tokenizer"]
    if "problem" in tokenizer:
        facts.append(("tokenizer", tokenizer["problem"]))
    else:
        kind = " ".join(str(tokenizer[key]) for key in ("model", "pre") if tokenizer[key])
        facts.append(("tokenizer", f"{kind}, {tokenizer['n_vocab']:,} tokens"))
        begin = tokenizer["bos"]["text"] if tokenizer["bos"] else "nothing"
        ends = " ".join(end["text"] for end in tokenizer["ends"]) or "nothing"
        facts.append(("", f"a text begins with {begin} and ends with {ends}"))
        facts.append(("chat template", "yes" if tokenizer["chat_template"] else "no"))
    return facts


def _spec_facts(spec: dict[str, Any]) -> list[tuple[str, str]]:
    n_passes, n_layers = len(spec["schedule"]), max(spec["schedule"]) + 1
    layers = str(n_layers) if n_layers == n_passes else f"{n_layers}, used {n_passes} times in all"
    unlike = [
        name
        for name in ("parallel", "post_norm", "tied", "window", "attention_softcap", "logit_softcap", "alibi_slopes")
        if spec.get(name)
    ]
    ways = [f"{spec['norm']} norm", spec["activation"], "gated" if spec["gated"] else "not gated", *unlike]
    if spec["qk_norm"] != "none":
        ways.append("qk_norm")
    heads = f"{spec['n_heads']} of {spec['head_dim']}, {spec['n_kv_heads']} for keys and values"
    facts = [
        ("layers", layers),
        ("width", f"{spec['n_embd']}, feed-forward {spec['n_ff']}"),
        ("heads", heads),
        ("vocabulary", f"{spec['n_vocab']:,}"),
        ("context", f"{spec['n_context']:,} tokens at most"),
        ("ways", ", ".join(ways)),
    ]
    if spec["experts"]:
        experts = spec["experts"]
        facts.append(("experts", f"{experts['n_used']} of {experts['n_experts']}, each {experts['n_ff']} wide"))
    return facts
