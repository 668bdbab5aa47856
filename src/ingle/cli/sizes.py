"""Sizes in bytes as people write them."""

from __future__ import annotations

import re

import click

__all__ = ["bytes_of"]

_UNITS = {"": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
_UNITS |= {"kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "tib": 1 << 40}
_SIZE = re.compile(r"\s*(\d{1,18}(?:\.\d{0,9})?|\.\d{1,9})\s*([a-z]*)\s*", re.IGNORECASE | re.ASCII)


def bytes_of(context: click.Context, parameter: click.Parameter, value: str | None) -> int | None:
    """For an option's `callback`: "1.5GiB", "900MiB", "2GB" (of 10^9), "1610612736". Raises BadParameter."""
    if value is None:
        return None
    found = _SIZE.fullmatch(value)
    unit = None if found is None else _UNITS.get(found[2].lower())
    if found is None or unit is None or (unit == 1 and "." in found[1]):
        raise click.BadParameter(f"{value[:40]!r} is no size; expected one such as 1.5GiB, 900MiB or 2GB.")
    n_bytes = int(float(found[1]) * unit) if "." in found[1] else int(found[1]) * unit
    if n_bytes < 1 << 20:
        raise click.BadParameter(f"{value[:40]!r} is less than 1 MiB; expected a size such as 1.5GiB or 900MiB.")
    return n_bytes
