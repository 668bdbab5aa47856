"""Tool calls by family: what models write, grammars that hold them to it, and scanners that read it as it comes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ingle.text.calls.family import Family, new_id
from ingle.text.calls.scanner import CallDelta, CallScanner, Deltas

if TYPE_CHECKING:
    from ingle.text.chat import ChatTemplate
    from ingle.text.tokenizer import Tokenizer

__all__ = ["CallDelta", "CallScanner", "Deltas", "Family", "family_of", "new_id"]


def family_of(template: ChatTemplate, tokenizer: Tokenizer | None = None) -> Family:
    """How the model of a chat template writes calls, found by what the template makes of one; see `probe`.

    tokenizer: the template's own, where it is not given.
    """
    return Family(template.habits.form, tokenizer or template.tokenizer)
