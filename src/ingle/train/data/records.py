"""What the records of the common data sets mean: texts, conversations, instructions with their answers.

| fields of the record | read as |
|---|---|
| `text` or `content` | a text, all of it learnt |
| `messages` (and `tools`) | a conversation in OpenAI's words: role, content, tool_calls |
| `conversations` (and `system`, `tools`) | ShareGPT's words: from, value; human, gpt, function_call, observation |
| `instruction`, perhaps `input` or `context`; `output` or `response` | a question and its answer |
| `prompt`; `response` or `completion` | a question and its answer (or both as lists of messages) |
| `question`; `answer` | a question and its answer |
| `replies` within a message, or within `prompt` (OpenAssistant) | the conversation along the first replies |

`license` or `licence` is the record's licence. Other fields are left out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ingle.errors import DataError
from ingle.train.data.conversation import segments
from ingle.train.data.document import Document, Segment, well_formed

__all__ = ["UNDERSTOOD", "read_record"]

UNDERSTOOD = (
    "text, content, messages, conversations, instruction with output or response, prompt with response or completion, "
    "question with answer"
)

#: (fields of the question, joined by an empty line; fields of which one has the answer)
_PAIRS = (
    (("instruction", "input", "context"), ("output", "response")),
    (("prompt",), ("response", "completion")),
    (("question",), ("answer",)),
)
_SHAREGPT_ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
    "system": "system",
    "function_call": "assistant",
    "observation": "tool",
    "tool": "tool",
    "function_response": "tool",
}
_OASST_ROLES = {"prompter": "user", "assistant": "assistant"}


def read_record(record: object, origin: str, *, text_field: str | None = None, licence: str | None = None) -> Document:
    """The document that a record of JSON or Parquet is; the table above says how.

    text_field: the field that is the text, whatever other fields there are. licence: where the record has none.
    Raises DataError, with the origin in front, for a record that is understood in no way or breaks its own rules.
    """
    try:
        if not isinstance(record, Mapping):
            raise DataError(f"this is {_kind(record)}; expected an object with fields such as text or messages.")
        own = next((record[key] for key in ("license", "licence") if isinstance(record.get(key), str)), None)
        return Document(_segments(record, text_field), origin, own or licence)
    except DataError as error:
        raise DataError(f"{origin}: {error}") from None


def _segments(record: Mapping[str, Any], text_field: str | None) -> tuple[Segment, ...]:
    if text_field is not None:
        if text_field not in record:
            raise DataError(f"there is no field {text_field!r}; it has {_listed(record)}.")
        return _text(record[text_field], text_field)
    tools = _tools(record.get("tools"))
    if record.get("messages") is not None:
        return segments(_list(record["messages"], "messages"), tools)
    if record.get("conversations") is not None:
        return segments(_sharegpt(_list(record["conversations"], "conversations"), record.get("system")), tools)
    for root in (record, record.get("prompt")):
        if isinstance(root, Mapping) and isinstance(root.get("replies"), list):
            return segments(_first_replies(root))
    for asked, answered in _PAIRS:
        answer = next((key for key in answered if record.get(key) is not None), None)
        if record.get(asked[0]) is not None and answer is not None:
            return segments(_pair(record, asked, answer), tools)
    for key in ("text", "content"):
        if record.get(key) is not None:
            return _text(record[key], key)
    raise DataError(f"there is no field that is understood ({UNDERSTOOD}); it has {_listed(record)}.")


def _text(value: object, key: str) -> tuple[Segment, ...]:
    if not isinstance(value, str):
        raise DataError(f"the field {key!r} is {_kind(value)}; expected a text.")
    if not value.strip():
        raise DataError(f"the field {key!r} is empty; take the record out.")
    return (Segment(well_formed(value)),)


def _pair(record: Mapping[str, Any], asked: Sequence[str], answer: str) -> list[Any]:
    if isinstance(record[asked[0]], list) and isinstance(record[answer], list):  # a conversation cut in two
        return [*record[asked[0]], *record[answer]]
    parts = [value for key in asked if (value := _string(record, key))]
    messages = [{"role": "user", "content": "\n\n".join(parts)}]
    if not parts:
        raise DataError(f"the field {asked[0]!r} is empty; take the record out.")
    if system := _string(record, "system"):
        messages.insert(0, {"role": "system", "content": system})
    return [*messages, {"role": "assistant", "content": _string(record, answer)}]


def _string(record: Mapping[str, Any], key: str) -> str:
    value = record.get(key)
    if value is not None and not isinstance(value, str):
        raise DataError(f"the field {key!r} is {_kind(value)}; expected a text.")
    return value or ""


def _sharegpt(turns: Sequence[Any], system: object) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []
    if isinstance(system, str) and system.strip():
        messages.append({"role": "system", "content": system})
    for number, turn in enumerate(turns, start=1):
        sender = turn.get("from", turn.get("role")) if isinstance(turn, Mapping) else None
        role = _SHAREGPT_ROLES.get(sender) if isinstance(sender, str) else None
        if role is None:
            raise DataError(f"turn {number} is from {sender!r}; expected one of {', '.join(_SHAREGPT_ROLES)}.")
        value = turn.get("value", turn.get("content"))
        message: dict[str, Any] = {"role": role, "content": value}
        if sender == "function_call":
            message = {"role": role, "content": "", "tool_calls": _calls(value, number)}
            if messages and messages[-1]["role"] == "assistant" and not messages[-1].get("tool_calls"):
                messages[-1]["tool_calls"] = message["tool_calls"]  # it says something and calls: one turn
                continue
        messages.append(message)
    return messages


def _calls(value: object, number: int) -> list[Any]:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise DataError(f"turn {number} is a function call that is not JSON; correct it.") from None
    return value if isinstance(value, list) else [value]


def _first_replies(message: Mapping[str, Any]) -> list[dict[str, Any]]:
    """From a tree of messages the conversation of each first reply, up to the last answer of the assistant."""
    messages: list[dict[str, Any]] = []
    following: object = message
    while isinstance(following, Mapping):
        role = following.get("role")
        messages.append({"role": _OASST_ROLES.get(str(role), role), "content": following.get("text")})
        replies = following.get("replies")
        following = replies[0] if isinstance(replies, list) and replies else None
    while len(messages) > 1 and messages[-1]["role"] != "assistant":
        messages.pop()
    return messages


def _tools(value: object) -> list[Any] | None:
    if isinstance(value, str):
        if not value.strip():
            return None
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise DataError("the field 'tools' is not JSON; expected a list of functions.") from None
    return None if value is None else _list(value, "tools")


def _list(value: object, key: str) -> list[Any]:
    if not isinstance(value, list):
        raise DataError(f"the field {key!r} is {_kind(value)}; expected a list.")
    return value


def _listed(record: Mapping[str, Any]) -> str:
    keys = [repr(str(key)[:40]) for key in record]
    return ", ".join(keys[:8]) + (" ..." if len(keys) > 8 else "") if keys else "no field at all"


def _kind(value: object) -> str:
    names = {str: "a text", list: "a list", dict: "an object", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number" if isinstance(value, int | float) else type(value).__name__)
