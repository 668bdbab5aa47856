"""For all other models: told in our words to write what Hermes and Qwen write, which many have seen."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from ingle.text.calls.hermes import HERMES

__all__ = ["GENERIC"]

GENERIC: Final = replace(HERMES, name="generic", fits="")
