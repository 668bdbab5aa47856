"""The output of a response while it is made: its items, and the events that tell of them."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from typing import Any

from ingle.engine.token import Token
from ingle.server.logprobs import chat_logprobs
from ingle.server.turn import CallDelta, Piece
from ingle.text.tokenizer import Tokenizer

__all__ = ["ResponseOutput"]

Event = tuple[str, dict[str, Any]]  # its type without "response.", and what else it says


class ResponseOutput:
    """Messages and function calls, in the order in which the model writes them."""

    def __init__(self, tokenizer: Tokenizer, *, logprobs: bool) -> None:
        self.items: list[dict[str, Any]] = []
        self._tokenizer = tokenizer
        self._logprobs = logprobs
        self._open: dict[str, Any] | None = None

    def push(self, piece: Piece) -> Iterator[Event]:
        """What a piece of the answer adds, as events."""
        if piece.text:
            yield from self._text(piece.text, piece.tokens)
        for call in piece.calls:
            yield from self._call(call)
        if piece.finish is not None:
            if not self.items:
                yield from self._begin_message()
            yield from self._end("incomplete" if piece.finish == "length" else "completed")

    def _text(self, text: str, tokens: Sequence[Token]) -> Iterator[Event]:
        if self._open is None or self._open["type"] != "message":
            yield from self._begin_message()
        assert self._open is not None
        part = self._open["content"][0]
        logprobs = chat_logprobs(tokens, self._tokenizer) if self._logprobs else []
        part["text"] += text
        part["logprobs"] += logprobs
        yield "output_text.delta", {**self._place(), "content_index": 0, "delta": text, "logprobs": logprobs}

    def _call(self, call: CallDelta) -> Iterator[Event]:
        if call.name:
            yield from self._end()
            made = {"id": f"fc_{secrets.token_hex(12)}", "type": "function_call", "call_id": call.id}
            yield from self._begin({**made, "name": call.name, "arguments": "", "status": "in_progress"})
        assert self._open is not None
        if call.arguments:
            self._open["arguments"] += call.arguments
            yield "function_call_arguments.delta", {**self._place(), "delta": call.arguments}

    def _begin_message(self) -> Iterator[Event]:
        yield from self._end()
        made = {"id": f"msg_{secrets.token_hex(12)}", "type": "message", "role": "assistant"}
        yield from self._begin({**made, "content": [], "status": "in_progress"})
        assert self._open is not None
        part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
        yield "content_part.added", {**self._place(), "content_index": 0, "part": {**part, "logprobs": []}}
        self._open["content"] = [part]

    def _begin(self, item: dict[str, Any]) -> Iterator[Event]:
        self._open = item
        self.items.append(item)
        yield "output_item.added", {"output_index": len(self.items) - 1, "item": dict(item)}

    def _end(self, status: str = "completed") -> Iterator[Event]:
        """The end of the item that is being made, if one is."""
        item = self._open
        if item is None:
            return
        item["status"] = status
        if item["type"] == "message":
            part = item["content"][0]
            place = {**self._place(), "content_index": 0}
            yield "output_text.done", {**place, "text": part["text"], "logprobs": part["logprobs"]}
            yield "content_part.done", {**place, "part": part}
        else:
            said = {"name": item["name"], "arguments": item["arguments"]}
            yield "function_call_arguments.done", {**self._place(), **said}
        yield "output_item.done", {"output_index": len(self.items) - 1, "item": item}
        self._open = None

    def _place(self) -> dict[str, Any]:
        assert self._open is not None
        return {"item_id": self._open["id"], "output_index": len(self.items) - 1}
