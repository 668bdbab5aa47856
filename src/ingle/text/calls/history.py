"""Earlier calls and what they gave back, as a chat template can write them."""

from __future__ import annotations

import hashlib
import json
import re
import string
from collections.abc import Sequence
from typing import Any

from ingle.text.calls.probe import Habits
from ingle.text.tools import ToolCall

__all__ = ["with_calls"]

_ID = re.compile(r"[A-Za-z0-9]{9}")
_LETTERS = string.digits + string.ascii_letters
_RESULT_ROLES = ("tool", "function", "ipython")


def with_calls(messages: Sequence[dict[str, Any]], habits: Habits) -> list[dict[str, Any]]:
    """The messages with their calls in the way that the template has; arguments come as objects.

    Every call and every result has an id of nine letters or digits, which Mistral's templates insist on: others are
    replaced, equal ones by equal ones, and results without one belong to the calls in turn. Results get the name of
    what was called. Calls that the template writes only one a turn become turns of their own, each with its result.
    """
    done: list[dict[str, Any]] = []
    names: dict[str, str] = {}
    waiting: list[str] = []  # ids of calls whose results have not come
    for number, message in enumerate(messages):
        if message.get("tool_calls"):
            calls = [_call(call, f"{number}/{index}") for index, call in enumerate(message["tool_calls"])]
            names |= {call["id"]: call["function"]["name"] for call in calls}
            waiting = [call["id"] for call in calls]
            done.append({**message, "tool_calls": calls})
        elif message["role"] in _RESULT_ROLES:
            given = message.get("tool_call_id")
            call_id = _short(given) if isinstance(given, str) and given else (waiting or [_short(str(number))])[0]
            waiting = [other for other in waiting if other != call_id]
            done.append({"name": names.get(call_id, ""), **message, "tool_call_id": call_id})
        else:
            done.append(message)
    if not habits.writes_calls:
        done = [_as_text(message, habits) for message in done]
    elif not habits.many:
        done = _one_a_turn(done)
    if habits.writes_calls and habits.text_arguments:
        for message in done:
            for call in message.get("tool_calls", ()):
                call["function"]["arguments"] = json.dumps(call["function"]["arguments"], ensure_ascii=False)
    return done if habits.takes_results else _results_as_user(done)


def _call(call: Any, place: str) -> dict[str, Any]:
    """A call with all that templates look for."""
    call = call if isinstance(call, dict) else {}
    function = call.get("function", call)
    name = str(function.get("name", "")) if isinstance(function, dict) else ""
    arguments = function.get("arguments") if isinstance(function, dict) else None
    given = call.get("id")
    return {
        **call,
        "id": _short(given if isinstance(given, str) and given else place),
        "type": "function",
        "function": {"name": name, "arguments": arguments if isinstance(arguments, dict) else {}},
    }


def _short(given: str) -> str:
    """The id itself if it is nine letters or digits, or such a one made of it."""
    if _ID.fullmatch(given):
        return given
    value = int.from_bytes(hashlib.sha256(given.encode("utf-8", "replace")).digest()[:8], "big")
    return "".join(_LETTERS[value // len(_LETTERS) ** place % len(_LETTERS)] for place in range(9))


def _as_text(message: dict[str, Any], habits: Habits) -> dict[str, Any]:
    """A turn with its calls in its text."""
    if not message.get("tool_calls"):
        return message
    functions = [call["function"] for call in message["tool_calls"]]
    written = habits.form.write([ToolCall(function["name"], function["arguments"]) for function in functions])
    said = message["content"].rstrip()
    rest = {key: value for key, value in message.items() if key != "tool_calls"}
    return {**rest, "content": f"{said}\n{written}" if said else written}


def _one_a_turn(messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Turns with several calls as several turns, each followed by its result."""
    done: list[dict[str, Any]] = []
    moved: set[int] = set()
    for number, message in enumerate(messages):
        if number in moved:
            continue
        calls = message.get("tool_calls", ())
        if len(calls) < 2:
            done.append(message)
            continue
        for index, call in enumerate(calls):
            done.append({**message, "content": "" if index else message["content"], "tool_calls": [call]})
            for later in range(number + 1, len(messages)):
                if messages[later]["role"] not in _RESULT_ROLES:
                    break
                if messages[later]["tool_call_id"] == call["id"] and later not in moved:
                    done.append(messages[later])
                    moved.add(later)
    return done


def _results_as_user(messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Results as the user's messages, with what the user says next, for templates whose turns must alternate."""
    done: list[dict[str, Any]] = []
    after_result = False
    for message in messages:
        is_result = message["role"] in _RESULT_ROLES
        content = f"<tool_response>\n{message['content']}\n</tool_response>" if is_result else message["content"]
        if after_result and (is_result or message["role"] == "user"):
            done[-1] = {**done[-1], "content": f"{done[-1]['content']}\n{content}"}
        else:
            done.append({"role": "user", "content": content} if is_result else message)
        after_result = is_result
    return done
