"""Sizes as people write them."""

from __future__ import annotations

import re

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingle.cli.sizes import bytes_of


def parsed(text: str | None) -> int | None:
    command = click.Command("x")
    return bytes_of(click.Context(command), click.Option(["--memory"]), text)


@pytest.mark.parametrize(
    ("text", "n_bytes"),
    [
        ("1.5GiB", 3 << 29),
        ("900MiB", 900 << 20),
        ("2GB", 2_000_000_000),
        ("1gib", 1 << 30),
        (" 2 GiB ", 2 << 30),
        (".5GiB", 1 << 29),
        ("3.GiB", 3 << 30),
        ("2048KiB", 2 << 20),
        ("2500.5kB", 2_500_500),
        ("1TiB", 1 << 40),
        ("1048576", 1 << 20),
        ("1610612736", 1_610_612_736),
        (None, None),
    ],
)
def test_sizes(text: str | None, n_bytes: int | None) -> None:
    assert parsed(text) == n_bytes


@pytest.mark.parametrize(
    "text", ["", "GiB", "1,5GiB", "-1GiB", "1e9", "2G", "1.5", "0x10", "inf", "nan", "1GiB GiB", "\u0661GiB", "9" * 30]
)
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(click.BadParameter, match=re.escape("expected one such as 1.5GiB, 900MiB or 2GB.")):
        parsed(text)


@pytest.mark.parametrize("text", ["0", "2", "0GiB", "900KiB", "1048575"])
def test_what_is_too_small_has_lost_its_unit(text: str) -> None:
    with pytest.raises(click.BadParameter, match="less than 1 MiB"):
        parsed(text)


@given(st.text(max_size=30))
def test_any_text_is_a_size_or_a_sentence(text: str) -> None:
    try:
        found = parsed(text)
    except click.BadParameter as error:
        assert "expected" in error.message  # noqa: PT017
        assert len(error.message) < 500  # noqa: PT017
    else:
        assert found is not None
        assert found >= 1 << 20
