"""docs/cli.md is the program's own help."""

from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner

import ingle
from ingle.cli import VERBS, cli
from ingle.cli.docs import markdown

PAGE = Path(__file__).parents[2] / "docs" / "cli.md"


def test_the_page_is_current() -> None:
    assert PAGE.read_text(encoding="utf-8") == markdown(), "run: python -m ingle.cli.docs"


def test_every_option_is_explained() -> None:
    for verb in VERBS:
        command = cli.get_command(None, verb)  # type: ignore[arg-type]
        assert command is not None
        for parameter in command.params:
            assert parameter.name is not None
            if parameter.param_type_name == "option":
                assert getattr(parameter, "help", None) or "[default" in str(parameter), parameter.name


def test_help_and_version() -> None:
    runner = CliRunner()
    for words in (["--help"], ["-h"], []):
        shown = runner.invoke(cli, words)
        assert all(f"  {verb}" in shown.output for verb in VERBS)
    assert runner.invoke(cli, ["--version"]).output == f"ingle, version {ingle.__version__}\n"
