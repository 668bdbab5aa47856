"""A QR code for a terminal, so that nobody types a key of 43 characters on a phone."""

from __future__ import annotations

import io

__all__ = ["qr_lines"]

BORDER = 2
WHITE_ON_BLACK = "\x1b[97;40m"


def qr_lines(text: str, *, colour: bool) -> list[str]:
    """The lines of a QR code. colour: say black and white; without, the terminal's ground must be dark."""
    import segno

    drawn = io.StringIO()
    segno.make(text, error="l", micro=False).terminal(drawn, border=BORDER, compact=True)
    lines = drawn.getvalue().splitlines()
    return [f"{WHITE_ON_BLACK}{line}\x1b[0m" for line in lines] if colour else lines
