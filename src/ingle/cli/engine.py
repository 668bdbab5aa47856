"""What commands that compute with a model have in common: their options, and opening the model."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from ingle.engine.model import Model

__all__ = ["engine_options", "open_model"]

Command = TypeVar("Command", bound=Callable[..., Any])


def engine_options(command: Command) -> Command:
    """Adds --context, --threads, --kv-type and --backend, which `open_model` reads."""
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
        click.option("--threads", type=click.IntRange(1), help="[default: as many as compute best here]"),
        click.option(
            "-c",
            "--context",
            type=click.IntRange(1),
            help="Tokens that prompt and answer have together. [default: the model's, at most 4096]",
        ),
    ):
        command = option(command)
    return command


def open_model(path: str | None, options: dict[str, Any], *, n_slots: int = 1, bar: bool = True) -> Model:
    """Load a model, None = the bundled one, with a bar where that takes long. options: those of `engine_options`."""
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
            on_progress=report,
        )
