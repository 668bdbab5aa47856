"""`python -m ingle.cli.docs` writes docs/cli.md and the tables of docs/serve.md; tests keep them current."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import click

from ingle.cli import VERBS, cli

__all__ = ["endpoints_table", "fields_table", "filled", "markdown", "options_table"]

WIDTH = 100
REQUESTS = ("chat", "completion", "response", "embedding")  # whose bodies are `ChatRequest` and so on


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
        parts += [f"## ingle {verb}", _help(_command(verb), f"ingle {verb}")]
    return "\n\n".join(parts) + "\n"


def options_table(verb: str) -> str:
    """The options of a verb, as a table."""
    rows = ["| option | |", "|---|---|"]
    for parameter in _command(verb).params:
        if isinstance(parameter, click.Option) and not parameter.hidden:
            record = parameter.get_help_record(click.Context(_command(verb)))
            assert record is not None
            rows.append(f"| `{record[0].replace('|', ', ')}` | {record[1].replace('|', ', ')} |")
    return "\n".join(rows)


def endpoints_table() -> str:
    """The endpoints of `ingle serve`, from the application's own OpenAPI page. Needs the extra `serve`."""
    from ingle.server.app import create_app

    nothing: Any = None  # it is only asked for its schema
    paths = create_app(nothing).openapi()["paths"]
    rows = ["| endpoint | |", "|---|---|"]
    for path, methods in paths.items():
        for method, operation in methods.items():
            text = operation.get("description") or operation.get("summary", "")
            rows.append(f"| `{method.upper()} {path}` | {text.split(chr(10) * 2)[0].replace(chr(10), ' ')} |")
    return "\n".join(rows)


def fields_table() -> str:
    """The fields that requests may have, by endpoint. Needs the extra `serve`."""
    from ingle.server.app import create_app

    nothing: Any = None
    schemas = create_app(nothing).openapi()["components"]["schemas"]
    bodies = {name: schemas[f"{name.title()}Request"]["properties"] for name in REQUESTS}
    fields: dict[str, dict[str, Any]] = {}
    for field, schema in (item for properties in bodies.values() for item in properties.items()):
        fields.setdefault(field, schema)
    rows = [f"| field | {' | '.join(f'{name}s'.replace('chats', 'chat') for name in REQUESTS)} | |", "|---" * 6 + "|"]
    for field, schema in fields.items():
        taken = " | ".join("yes" if field in properties else "" for properties in bodies.values())
        rows.append(f"| `{field}` | {taken} | {_note(schema)} |")
    return "\n".join(rows)


def _note(schema: dict[str, Any]) -> str:
    """What a JSON Schema says of a field to people: values, bounds, default, and its description."""
    kinds = [schema, *schema.get("anyOf", [])]
    notes = [", ".join(f"`{value}`" for value in kind["enum"]) for kind in kinds if "enum" in kind]
    notes += [f"{kind['minimum']:g} to {kind['maximum']:g}" for kind in kinds if {"minimum", "maximum"} <= set(kind)]
    notes += [f"up to {kind['maxItems']:,}" for kind in kinds if kind.get("maxItems")][:1]
    if schema.get("default") not in (None, False, [], {}):
        notes.append(f"default {str(schema['default']).lower()}")
    said = [kind["description"].rstrip(".") for kind in kinds if "description" in kind]
    return "; ".join(note[:1].lower() + note[1:] for note in [*notes, *said])


def filled(page: str, name: str, text: str) -> str:
    """The page with `text` between its marks <!-- name --> and <!-- /name -->."""
    marks = f"<!-- {name} -->", f"<!-- /{name} -->"
    assert all(page.count(mark) == 1 for mark in marks), f"the page has not one pair of marks {name}"
    pattern = f"{re.escape(marks[0])}.*{re.escape(marks[1])}"
    return re.sub(pattern, lambda _: f"{marks[0]}\n{text}\n{marks[1]}", page, flags=re.DOTALL)


def _command(verb: str) -> click.Command:
    command = cli.get_command(click.Context(cli), verb)
    assert command is not None
    return command


def _help(command: click.Command, name: str) -> str:
    settings = {**cli.context_settings, "terminal_width": WIDTH, "max_content_width": WIDTH}
    text = command.get_help(click.Context(command, info_name=name, **settings))
    return f"```text\n{text}\n```"


if __name__ == "__main__":
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "docs")
    (folder / "cli.md").write_text(markdown(), encoding="utf-8")
    serve = folder / "serve.md"
    page = filled(serve.read_text(encoding="utf-8"), "options", options_table("serve"))
    page = filled(page, "endpoints", endpoints_table())
    serve.write_text(filled(page, "fields", fields_table()), encoding="utf-8")
