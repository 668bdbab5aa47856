"""Which family a chat template is of: found by what it makes of a conversation with a call, and not by any name.

A template that writes calls in a form that no family here has is learnt from, if the form is a name and JSON between
fixed strings. Any other is told in our words to write the generic form.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from ingle.errors import TemplateError
from ingle.text.calls.form import Form
from ingle.text.calls.gemma import GEMMA
from ingle.text.calls.generic import GENERIC
from ingle.text.calls.hermes import HERMES
from ingle.text.calls.llama import LLAMA
from ingle.text.calls.mistral import MISTRAL, MISTRAL_LIST
from ingle.text.calls.phi import PHI, PHI_OBJECT
from ingle.text.calls.qwen_coder import QWEN_CODER

if TYPE_CHECKING:
    from ingle.text.tokenizer import Tokenizer

__all__ = ["FORMS", "Habits", "probe"]

FORMS: Final = (QWEN_CODER, HERMES, LLAMA, MISTRAL, MISTRAL_LIST, PHI, PHI_OBJECT, GEMMA)

#: Renders messages and tools, with the beginning of an answer or without.
Render = Callable[[list[dict[str, Any]], list[dict[str, Any]] | None, bool], str]

_CALL_ID = "call0000"
_ARGUMENTS = {"city": "probe7", "n": 3}
_PARAMETERS = {"city": {"type": "string", "description": "a"}, "n": {"type": "integer", "description": "b"}}
_FUNCTION = {
    "name": "probe_call",
    "description": "probe8",
    "parameters": {"type": "object", "properties": _PARAMETERS, "required": ["city"]},
}
_TOOLS = [{"type": "function", "function": _FUNCTION}]
_USER = {"role": "user", "content": "probe4"}


@dataclass(frozen=True, slots=True)
class Habits:
    """What a chat template does with tools, calls and what they gave back.

    tells_tools: whether it tells the model of them (else the system message has to). tools_in_system: it wants them as
    JSON in the system message's "tools". tells_form: the model knows the form of calls, by the template or by heart
    (else the system message has to tell). writes_calls: whether it writes the calls of earlier turns (else they are a
    part of the turn's text). many: several in one turn. text_arguments: it wants arguments as a text of JSON.
    takes_results: whether a message of the role "tool" has a place.
    """

    form: Form = GENERIC
    tells_tools: bool = False
    tools_in_system: bool = False
    tells_form: bool = True
    writes_calls: bool = False
    many: bool = False
    text_arguments: bool = False
    takes_results: bool = False


def probe(render: Render, tokenizer: Tokenizer, source: str) -> Habits:
    """What a template does, by what it makes of small conversations. `render` may raise TemplateError."""

    def attempt(messages: Sequence[Mapping[str, Any]], tools: Any = _TOOLS, begin: bool = False) -> str:
        try:
            return render([dict(message) for message in messages], tools, begin)
        except TemplateError:
            return ""

    told = attempt([{"role": "system", "content": "probe1"}, _USER]) or attempt([_USER])
    in_system = attempt([{"role": "system", "content": "probe1", "tools": json.dumps([_FUNCTION])}, _USER], None)
    results = attempt([_USER, {"role": "assistant", "content": "probe2"}, _result(0)], None)
    habits = Habits(
        tells_tools="probe_call" in told,
        tools_in_system="probe_call" not in told and "probe_call" in in_system,
        takes_results="probe5" in results,
    )
    for text_arguments in (False, True):
        one, two = (_written(attempt, n, text_arguments) for n in (1, 2))
        if "probe_call" in one and "probe7" in one:
            form = next((form for form in FORMS if re.search(form.fits, one)), None)
            alone = attempt([_USER, _calling(1, text_arguments)])
            form = form or _learnt(one, two, attempt([_USER], begin=True), alone, tokenizer)
            if form is None:
                break
            with_result = attempt([_USER, _calling(1, text_arguments), _result(0)])
            return replace(
                habits,
                form=form,
                writes_calls=True,
                many=two.count("probe_call") > 1,
                text_arguments=text_arguments,
                takes_results="probe5" in with_result,
            )
    else:
        # It writes no calls. Perhaps it says how they are written, or the vocabulary has the markup.
        habits = replace(habits, writes_calls="tool_calls" in source, many=True)
        for form in FORMS:
            if form.open and form.open in told:
                return replace(habits, form=form)
        if tokenizer.token_id(PHI.open) is not None:
            return replace(habits, form=PHI)
        form = GEMMA if "<start_of_turn>" in tokenizer.control_tokens else GENERIC
        return replace(habits, form=form, tells_form=False)
    # It writes calls in a form that is not to be had, and may tell of that.
    return replace(habits, tells_tools=False, tools_in_system=False, tells_form=False)


def _calling(n: int, text_arguments: bool) -> dict[str, Any]:
    arguments = json.dumps(_ARGUMENTS) if text_arguments else _ARGUMENTS
    function = {"name": "probe_call", "arguments": arguments}
    calls = [{"id": f"{_CALL_ID}{i}", "type": "function", "function": function} for i in range(n)]
    return {"role": "assistant", "content": "", "tool_calls": calls}


def _result(number: int) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": f"{_CALL_ID}{number}", "name": "probe_call", "content": "probe5"}


def _written(attempt: Callable[..., str], n: int, text_arguments: bool) -> str:
    """What stands between the user's message and the result of n calls; "" where the template refuses."""
    call = _calling(n, text_arguments)
    said = attempt([_USER, call, *map(_result, range(n))]) or attempt([_USER, call])
    if "probe4" not in said:
        return ""
    said = said[said.rindex("probe4") + len("probe4") :].partition("probe5")[0]
    return re.sub(rf',\s*"\w+": "{_CALL_ID}\d"', "", said)


def _learnt(one: str, two: str, asked: str, alone: str, tokenizer: Tokenizer) -> Form | None:
    """The form of one call and of two, if it is a name and JSON between fixed strings.

    asked: the conversation up to where the answer begins. alone: with the call and nothing behind it.
    """
    arguments = json.dumps(_ARGUMENTS)
    name, behind = one.find("probe_call"), one.find(arguments)
    if not 0 <= name < behind:
        return None
    prompt = asked[asked.rindex("probe4") + len("probe4") :] if "probe4" in asked else ""
    shared = _common_prefix(prompt, one[:name])
    if shared != prompt:  # the answer's beginning may have a thought in it
        shared = "".join(re.findall(r"(?s).*[\n>]", shared))
    begin = one[len(shared) : name].rpartition("</think>")[2].lstrip()
    middle = one[name + len("probe_call") : behind]
    end = one[behind + len(arguments) :]
    if arguments in alone:
        end = _common_prefix(end, alone[alone.rindex(arguments) + len(arguments) :])
    ends = [end.find(text) for text in map(tokenizer.token_text, tokenizer.eog_ids) if text in end]
    end = end[: min(ends, default=len(end))].rstrip()
    second = re.search(f"{re.escape(arguments)}((?s:.*?))probe_call{re.escape(middle + arguments)}", two)
    again = second[1] if second else end + begin
    if _CALL_ID in begin + middle + end + again:
        return None
    form = Form("learnt", open=begin, head="", middle=middle, tail="", close=end, again=again, many=bool(second))
    if begin.endswith('"'):
        found = re.fullmatch(r'(?s)(.*?)(\s*\[?\s*\{\s*"name":\s*")', begin)
        closing = re.match(r"\s*\}\s*\]?\s*", end)
        if found is None or closing is None or not re.fullmatch(r'",\s*"(arguments|parameters)":\s*', middle):
            return None
        return replace(form, open=found[1], head=found[2], tail=closing[0], close=end[closing.end() :])
    return form if begin[:1] in tuple("<[`{") and middle.strip() else None


def _common_prefix(one: str, other: str) -> str:
    length = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    return one[:length]
