"""The command `ingle`: one file per verb, and one place where errors become sentences.

Exit status: 0 done, 2 something asked for cannot be (one line on stderr says what), 130 stopped by Ctrl-C. Anything
else is a bug of ours, and shows its traceback.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import click

import ingle
from ingle.cli.console import clean, wants_colour
from ingle.errors import IngleError

__all__ = ["cli", "main"]

# In the order of the help; each is a module here with a `command`.
VERBS = ("run", "serve", "inspect", "convert", "data", "train", "compress", "export", "eval")
INTERRUPTED = 130  # 128 + SIGINT, as shells have it


class Verbs(click.Group):
    """Loads a verb's module when the verb is used, and turns errors into one line and an exit status."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        command: click.Command = import_module(f"ingle.cli.{cmd_name}").command
        return command

    def main(self, args: Sequence[str] | None = None, prog_name: str | None = None, **extra: Any) -> Any:  # type: ignore[override]
        if not extra.pop("standalone_mode", True):
            return super().main(args, prog_name, standalone_mode=False, **extra)
        try:
            status = super().main(args, prog_name, standalone_mode=False, **extra)
        except click.exceptions.NoArgsIsHelpError as error:
            click.echo(error.format_message())
            status = 0
        except click.ClickException as error:
            status = _complain(error.format_message(), error)
        except IngleError as error:
            status = _complain(str(error))
        except click.Abort:
            status = INTERRUPTED
        except OSError as error:
            status = _complain(f"{error.filename}: {error.strerror}." if error.filename else f"{error.strerror}.")
        sys.exit(status if isinstance(status, int) else 0)

    def invoke(self, ctx: click.Context) -> Any:
        reconfigure = getattr(sys.stdout, "reconfigure", None)
        if reconfigure is not None:  # in a locale that lacks a character, "?" beats an error in mid-answer
            reconfigure(errors="replace")
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()  # a reader that has gone is to be noticed here, not while the interpreter ends
            return result
        except BrokenPipeError:
            # Whoever read our output has enough. What is still buffered has nowhere to go.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0


def _complain(message: str, error: click.ClickException | None = None) -> int:
    """One line on stderr."""
    message = clean(" ".join(message.split()))
    where = ""
    if isinstance(error, click.UsageError) and error.ctx is not None:
        where = f" See: {error.ctx.command_path} --help"
    click.echo(f"{click.style('ingle:', fg='red')} {message}{where}", err=True, color=None if wants_colour() else False)
    return 2


@click.command("ingle", cls=Verbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(ingle.__version__, prog_name="ingle")
def cli() -> None:
    """Run large language models on this device. Nothing leaves it."""


def main() -> None:
    """The entry point of the command `ingle`."""
    cli.main(prog_name="ingle")
