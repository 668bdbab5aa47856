"""`ingle export`: a trained model becomes a GGUF file, or a Hugging Face folder."""

from __future__ import annotations

import shlex
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ingle.cli.convert import TYPES, expect_target
from ingle.errors import CheckpointError, UsageError

if TYPE_CHECKING:
    from ingle.models.convert import Planned
    from ingle.train.checkpoint import TrainedModel

__all__ = ["command"]


@click.command("export", short_help="Write a trained model as a GGUF file or a Hugging Face folder.")
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--type",
    "file_type",
    type=click.Choice(TYPES, case_sensitive=False),
    help="How the weights are written: floats (f), or so many bits (q). Without it f16, or what `ingle compress` "
    "chose; with --hf f32, bf16 or f16, without it f32.",
)
@click.option(
    "--chat-template",
    type=click.Path(path_type=Path, dir_okay=False),
    help="A file with the Jinja template by which the model was taught conversations. [default: the model's own]",
)
@click.option("--expand", is_flag=True, help="Write shared layers once for each use, for programs that share none.")
@click.option("--hf", is_flag=True, help="Write the folder OUT for Hugging Face transformers.")
@click.option("--force", is_flag=True, help="Overwrite OUT if it exists.")
def command(
    model: Path, out: Path, file_type: str | None, chat_template: Path | None, expand: bool, hf: bool, force: bool
) -> None:
    """Write MODEL to the GGUF file OUT, or with --hf to the folder OUT.

    MODEL is the folder of a run of `ingle train`, a model's folder, a Hugging Face folder or a GGUF file. OUT appears
    when it is whole.
    """
    from importlib.util import find_spec

    if hf:
        _expect_folder(out, model, force)
    else:
        expect_target(out, model, force)
    if find_spec("torch") is None:
        raise UsageError("This needs PyTorch, which is not installed; run: pip install 'ingle[train]'.")
    from ingle.train.load import load_model
    from ingle.train.probe_template import read_chat_template

    template = None if chat_template is None else read_chat_template(chat_template)  # before a large model is read
    loaded = load_model(model)
    if loaded.tokenizer_json is None:
        why = loaded.info.get("no_tokenizer", f"{model} has no tokenizer.json.")
        raise CheckpointError(f"Without its tokenizer the model cannot be used: {why}")
    if hf:
        _write_folder(loaded, out, file_type, template)
    else:
        _write_gguf(loaded, out, file_type, expand, template)


def _expect_folder(out: Path, model: Path, force: bool) -> None:
    if out.suffix.lower() == ".gguf":
        raise UsageError(f"{out} is the name of a GGUF file; give a folder, or leave --hf away.")
    if not out.absolute().parent.is_dir():
        raise UsageError(f"The directory {out.parent} does not exist; make it first.")
    if out.exists() and model.exists() and out.resolve() in (model.resolve(), *model.resolve().parents):
        raise UsageError(f"{out} holds the model to export; give another name for the result.")
    if out.exists() and not (force or (out.is_dir() and not any(out.iterdir()))):
        raise UsageError(f"{out} exists; give another name, or --force to overwrite it.")


def _write_folder(model: TrainedModel, out: Path, file_type: str | None, template: str | None) -> None:
    from typing import cast

    from ingle.cli.console import notes, size
    from ingle.train.export_hf import FloatType, export_hf

    kind = cast(FloatType, (file_type or "f32").lower())
    with notes().status(f"Writing {out}"):
        export_hf(model, out, kind, chat_template=template)
    weights_bytes = (out / "model.safetensors").stat().st_size
    click.echo(f"{out}: {kind}, {size(weights_bytes)}")
    click.echo(f'In Python: transformers.AutoModelForCausalLM.from_pretrained("{out}")')


def _write_gguf(model: TrainedModel, out: Path, file_type: str | None, expand: bool, template: str | None) -> None:
    from math import prod

    from ingle.cli.console import size, writing_bar
    from ingle.train.export import architecture_of, export_gguf

    kind = (file_type or _calibrated_type(model)).lower()
    with writing_bar(out.name) as (on_start, on_bytes):
        done = export_gguf(
            model, out, kind, expand=expand, chat_template=template, on_start=on_start, on_bytes=on_bytes
        )
    parameters = sum(prod(planned.header.shape) for planned in done.tensors)
    weights_bytes = sum(planned.type.n_bytes(planned.header.shape) for planned in done.tensors)
    click.echo(
        f"{out}: {done.architecture}, {kind}, {size(out.stat().st_size)}, {parameters:,} parameters, "
        f"{8 * weights_bytes / parameters:.2f} bits per weight"
    )
    for line in _fallbacks(done.tensors):
        click.echo(line)
    if done.architecture == "mobilellm":
        other = architecture_of(model.shape, expand=True)
        hint = "no other program has its feed-forward" if other == "mobilellm" else "--expand writes it for others"
        click.echo(f"Only Ingle runs this file: {hint}.")
    prompt = "" if done.chats else ' "Once upon a time"'
    click.echo(f"Run it: ingle run {shlex.quote(str(out))}{prompt}")


def _calibrated_type(model: TrainedModel) -> str:
    """The type of most tensors that come as blocks; f16 where none do."""
    types = Counter(kind.name for kind, _ in model.quantized.values())
    common = types.most_common(1)
    return common[0][0] if common and common[0][0].lower() in TYPES else "f16"


def _fallbacks(tensors: list[Planned]) -> list[str]:
    """A line for each type that rows of some tensors cannot have, with the first of them."""
    groups: dict[tuple[str, str, int, int], list[str]] = {}
    for planned in tensors:
        if planned.type is not planned.wanted:
            width, block = planned.header.shape[-1], planned.wanted.weights_per_block
            groups.setdefault((planned.type.name, planned.wanted.name, width, block), []).append(planned.header.name)
    return [
        f"{got} in the place of {wanted} for {_tensors(names)}: rows of {width} are no whole blocks of {block}"
        for (got, wanted, width, block), names in groups.items()
    ]


def _tensors(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{len(names)} tensors ({names[0]}, ...)"
