"""`python -m ingle.cli.docs` writes docs/cli.md from the help of every command; a test keeps it current."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from ingle.cli import VERBS, cli

__all__ = ["markdown"]

WIDTH = 100


def markdown() -> str:
    """The help of `ingle` and of each verb, as Markdown."""
    parts = [
        "# The command line",
        "Made from the program's own `--help` by `python -m ingle.cli.docs`; change the help, not this page.",
        "Exit status: 0 done; 2 something asked for cannot be, and one line on stderr says what; 130 stopped by "
        "Ctrl-C. The answer goes to stdout, all else to stderr. Colours appear on terminals only, and `NO_COLOR` is "
        "respected.",
        _help(cli, "ingle"),
    ]
    for verb in VERBS:
        command = cli.get_command(click.Context(cli), verb)
        assert command is not None
        parts += [f"## ingle {verb}", _help(command, f"ingle {verb}")]
    return "\n\n".join(parts) + "\n"


def _help(command: click.Command, name: str) -> str:
    settings = {**cli.context_settings, "terminal_width": WIDTH, "max_content_width": WIDTH}
    text = command.get_help(click.Context(command, info_name=name, **settings))
    return f"```text\n{text}\n```"


if __name__ == "__main__":
    Path(sys.argv[1] if len(sys.argv) > 1 else "docs/cli.md").write_text(markdown(), encoding="utf-8")
