"""docs/serve.md: its tables are the program's own, and the tests it names exist."""

from __future__ import annotations

import re
from pathlib import Path

from ingle.cli.docs import endpoints_table, fields_table, filled, options_table

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "serve.md").read_text(encoding="utf-8")


def test_the_options_are_current() -> None:
    assert filled(PAGE, "options", options_table("serve")) == PAGE, "run: python -m ingle.cli.docs"
    assert "`--lan`" in options_table("serve")
    assert "`--api-key`" not in options_table("serve")


def test_the_endpoints_are_current() -> None:
    assert filled(PAGE, "endpoints", endpoints_table()) == PAGE, "run: python -m ingle.cli.docs"
    assert "`POST /v1/chat/completions`" in endpoints_table()


def test_the_fields_of_requests_are_current() -> None:
    table = fields_table()
    assert filled(PAGE, "fields", table) == PAGE, "run: python -m ingle.cli.docs"
    assert "| `temperature` | yes | yes | yes |  | 0 to 2; default 0.8; with tools 0 |" in table
    assert "| `encoding_format` |  |  |  | yes | `float`, `base64`; default float |" in table


def test_every_attack_has_tests_that_exist() -> None:
    rows = PAGE.partition("## Attacks")[2].split("|---|---|---|\n")[1].split("\n\n")[0].splitlines()
    assert len(rows) > 20
    tests = "\n".join(
        path.read_text() for folder in ("server", "cli") for path in (ROOT / "tests" / folder).glob("test_*.py")
    )
    for row in rows:
        named = re.findall(r"`(test_\w+)`", row.split("|")[-2])
        assert named, row
        for name in named:
            assert f"def {name}(" in tests, f"{name} is not there"


def test_python_of_the_page_is_python() -> None:
    for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        compile(block, "docs/serve.md", "exec")
