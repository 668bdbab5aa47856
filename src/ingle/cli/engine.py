"""What commands that compute with a model have in common: their options, and opening the model."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ingle.cli.sizes import bytes_of

if TYPE_CHECKING:
    from ingle.engine.model import Model

__all__ = ["cache_within", "engine_options", "open_model"]

PROGRAM_BYTES = 128 << 20  # about what the interpreter, the libraries and a tokenizer take
LEAST_CONTEXT = 256  # with less there is no use in an answer

Command = TypeVar("Command", bound=Callable[..., Any])


def engine_options(command: Command) -> Command:
    """Adds --context, --threads, --memory, --kv-type and --backend, which `open_model` reads."""
    for option in (
        click.option(
            "--backend",
            type=click.Choice(["native", "reference"]),
            default="native",
            show_default=True,
            help="What computes; the reference is slow and plain.",
        ),
        click.option(
            "--kv-type",
            type=click.Choice(["f32", "f16", "q8", "q4"]),
            default="f16",
            show_default=True,
            help="How keys and values are kept: q8 takes half the memory of f16, q4 a quarter and is less exact.",
        ),
        click.option(
            "--memory",
            metavar="SIZE",
            callback=bytes_of,
            help="Hold no more memory than this, such as 1.5GiB; weights that do not fit are read from the file again "
            "for each token. [default: all weights are in memory]",
        ),
        click.option("--threads", type=click.IntRange(1), help="[default: as many as compute best here]"),
        click.option(
            "-c",
            "--context",
            type=click.IntRange(1),
            help="Tokens that prompt and answer have together. [default: the model's, at most 4096; in run and serve "
            "also what a quarter of --memory holds]",
        ),
    ):
        command = option(command)
    return command


def open_model(
    path: str | None, options: dict[str, Any], *, n_slots: int = 1, logit_rows: int | None = None, bar: bool = True
) -> Model:
    """Load a model, None = the bundled one, with a bar where that takes long. options: those of `engine_options`.

    logit_rows: see `load`.
    """
    from ingle.cli.console import loading_bar
    from ingle.engine.model import load

    with loading_bar("Loading") if bar else nullcontext(None) as report:
        return load(
            path,
            context=options["context"],
            threads=options["threads"],
            backend=options["backend"],
            kv_type=options["kv_type"],
            n_slots=n_slots,
            memory=options["memory"],
            logit_rows=logit_rows,
            on_progress=report,
        )


def cache_within(path: str | None, options: dict[str, Any], most_slots: int) -> tuple[dict[str, Any], int]:
    """The options with a --context, and a number of slots up to `most_slots`, for which the cache takes a quarter of
    --memory; without --memory, as they are.

    What keys and values take is not there for weights, which are then read more often; but answers at once share what
    is read. A context that was asked for stays. Reads headers only; raises as `open_model`.
    """
    from contextlib import closing

    from ingle.cli.console import say
    from ingle.engine.model import DEFAULT_CONTEXT, bundled_model, context_of
    from ingle.models.checkpoint import open_checkpoint
    from ingle.text import metadata_from_hf

    memory: int | None = options["memory"]
    if memory is None:
        return options, most_slots
    asked: int | None = options["context"]
    file = bundled_model() if path is None else path
    with closing(open_checkpoint(file, asked or DEFAULT_CONTEXT, metadata_from_hf)) as checkpoint:
        a_position = checkpoint.spec.kv_bytes_per_token(options["kv_type"])
        context = context_of(checkpoint, asked)
    room = max(0, memory - PROGRAM_BYTES) // 4
    if asked is None and room < context * a_position:
        context = min(context, max(LEAST_CONTEXT, room // a_position // 64 * 64))
        if sys.stderr.isatty():
            say(f"The context is {context:,} tokens, for --memory; --context asks for another.", "dim")
    return {**options, "context": context}, max(1, min(most_slots, room // (context * a_position)))
