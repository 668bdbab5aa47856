"""README.md of a run: what it is and how it went, for whoever finds the folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ingle.train.config import Config
from ingle.train.shape import Shape

__all__ = ["describe"]


def describe(config: Config, shape: Shape, records: Sequence[Mapping[str, Any]], path: Path) -> str:
    """Markdown from the configuration and the records of the log."""
    last = {record["event"]: record for record in records}
    start, step, score, end = (last.get(name) for name in ("start", "step", "validation", "end"))
    steps = [record for record in records if record["event"] == "step"]
    sharing = f", each layer used {shape.repeat} times ({shape.sharing})" if shape.repeat > 1 else ""
    lines = [
        f"# {path.name}",
        "",
        f"A language model of {shape.n_parameters:,} parameters. "
        + (f"`ingle train` has {end['status']}." if end else "`ingle train` is at work on it, or was interrupted."),
        "",
        f"* Shape: width {shape.width}, {shape.layers} layers{sharing}, {shape.heads} heads over {shape.kv_heads} "
        f"key/value heads, {shape.feed_forward} of {shape.hidden}, vocabulary {shape.vocabulary:,}, context "
        f"{shape.context:,}, {'tied' if shape.tied else 'untied'} embeddings.",
        f"* Budget: {config.budget}; recipe: {config.recipe.optimizer}, {config.recipe.schedule}; seed "
        f"{config.training.seed}.",
    ]
    if config.start:
        lines.append(f"* Begun from: {config.start}.")
    if config.quantize:
        lines.append(f"* Trained for {config.quantize.scheme} from {config.quantize.start:.0%} of the run on.")
    if config.distill:
        lines.append(f"* Teacher: {config.distill.teacher}, weight {config.distill.weight:g}.")
    lines += ["", "## Data", ""]
    for source in config.data.train:
        licence = source.get("licence", "not given")
        lines.append(f"* {source['path_or_name']} (licence: {licence})")
    if step and start:
        speed = sum(record["tokens_per_s"] for record in steps) / len(steps)
        known = [record["mfu"] for record in steps if record["mfu"] is not None]
        mfu = f", MFU {sum(known) / len(known):.1%} of {start['peak_source']}" if known else ""
        lines += [
            "",
            "## Figures",
            "",
            "| what | figure |",
            "|---|---|",
            f"| steps | {step['step']:,} of {start['batch_tokens']:,} tokens |",
            f"| tokens | {step['tokens']:,} |",
            f"| time | {step['elapsed_s'] / 60:,.1f} minutes on {start['devices']} x {start['device']} |",
            f"| speed | {speed:,.0f} tokens/s{mfu} |",
            f"| memory | {max(record['rss_bytes'] for record in steps) / 2**20:,.0f} MiB |",
            f"| training loss | {step['loss']:.4f} nats/token in the last step |",
        ]
        if score:
            bits = f", {score['bits_per_byte']:.4f} bits/byte" if score["bits_per_byte"] is not None else ""
            tokens = f"{start['validation_tokens']:,} held-out tokens"
            lines.append(f"| validation loss | {score['loss']:.4f} nats/token{bits} ({tokens}) |")
        lines += ["", "![Loss, tokens/s and MFU](curves.png)"]
    lines += [
        "",
        "## Files",
        "",
        "`config.toml` what was asked for; `log.jsonl` one record per step; `tokenizer.json` and `data/` what was "
        "trained on; `checkpoints/` to go on from; `model/` the result.",
        "",
        "```",
        f"ingle train {path.name} --resume                      # go on, if it was interrupted",
        f"ingle export {path.name} {path.name}.gguf --type {config.quantize.file_type if config.quantize else 'q8_0'}",
        f"ingle run {path.name}.gguf",
        "```",
    ]
    return "\n".join(lines) + "\n"
