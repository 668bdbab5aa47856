"""Items through a model whose answers are written in a script, up to the results."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import toys
from ingle.engine.generate import Answer
from ingle.engine.model import Model
from ingle.errors import UsageError
from ingle.evaluate.calls.item import Expected, Item
from ingle.evaluate.calls.run import MAX_TOKENS, _grammars, _prompt, result_of, run_calls
from ingle.evaluate.result import EvalResult, ModelInfo, TaskResult
from ingle.text.calls.generic import GENERIC
from ingle.text.tools import Tool
from tool_calls import call

TEMPLATE = "{% if tools %}<|im_start|>system\n{{ tools | tojson }}<|im_end|>\n{% endif %}" + toys.CHATML
MUSIC = Tool(
    "play", "Play.", {"type": "object", "properties": {"genre": {"enum": ["jazz", "folk"]}}, "required": ["genre"]}
)
ALARM = Tool("wake", "Wake.", {"type": "object", "properties": {"time": {"type": "string"}}, "required": ["time"]})


def item(text: str, *expected: Expected, source: str = "mine", tools: tuple[Tool, ...] = (MUSIC, ALARM)) -> Item:
    return Item(text[:20], source, ({"role": "user", "content": text},), tools, expected)


JAZZ, SIX = Expected("play", {"genre": ("jazz",)}), Expected("wake", {"time": ("six",)})
#: What is asked, what is right, and what the model says.
SCRIPT = [
    (item("Some jazz?", JAZZ), call("play", genre="jazz")),
    (item("Wake me at six", SIX), call("wake", time="seven")),
    (item("Wake me up at six", SIX), call("play", genre="folk")),
    (item("Jazz, please", JAZZ), call("play", genre="polka")),
    (item("Up at six", SIX), '<tool_call>\n{"name": "wake", "arguments": {"time": "six"}'),
    (item("How are you?"), "Very well."),
    (item("Good morning"), call("wake", time="morning")),
    (item("x" * 1000, JAZZ), call("play", genre="jazz")),  # longer than the context
]
ITEMS = [asked for asked, _ in SCRIPT]


@pytest.fixture
def scripted(tmp_path: Path) -> Callable[..., Model]:
    def make(template: str | None = TEMPLATE, n_slots: int = 3) -> Model:
        path = toys.toy_gguf(tmp_path / "toy.gguf", template=template, n_context=1000)
        model, _ = toys.scripted_model(path, lambda tokens: next_token(tokens), n_slots=n_slots)
        tokenizer = model.tokenizer
        end = tokenizer.encode("<|im_end|>", parse_special=True)
        header = tokenizer.encode("<|im_start|>assistant\n", parse_special=True)
        scripts = {str(asked.messages[0]["content"]): [*tokenizer.encode(answer), *end] for asked, answer in SCRIPT}

        def next_token(tokens: list[int]) -> int:
            start = max((i for i in range(len(tokens)) if tokens[i : i + len(header)] == header), default=None)
            if start is None:
                return end[0]
            asked = tokenizer.decode(tokens[:start]).rpartition("user\n")[2].removesuffix("<|im_end|>\n").strip()
            script, n_said = scripts[asked], len(tokens) - start - len(header)
            return script[n_said] if n_said < len(script) else end[0]

        return model

    return make


def values(result: TaskResult) -> dict[str, tuple[float, int]]:
    return {metric.name: (metric.value, metric.n) for metric in result.metrics}


def test_free_and_within_the_grammar(scripted: Callable[..., Model]) -> None:
    told: list[tuple[str, int, int]] = []
    with scripted() as model:
        free, bound = run_calls(model, ITEMS, on_progress=lambda *args: told.append(args))
    assert (free.task, bound.task) == ("calls_mine", "calls_mine+grammar")
    assert values(free) == {
        "accuracy": (pytest.approx(2 / 8), 8),
        "intent_em": (pytest.approx(3 / 6), 6),
        "structure_em": (pytest.approx(1 / 6), 6),
        "argument_precision": (pytest.approx(1 / 4), 6),
        "argument_recall": (pytest.approx(1 / 6), 6),
        "argument_f1": (pytest.approx(2 / 10), 6),
        "abstention": (pytest.approx(1 / 2), 2),
        "wrong_refusal": (pytest.approx(1 / 6), 6),
        "valid_json": (pytest.approx(5 / 6), 6),
        "schema_valid": (pytest.approx(4 / 6), 6),
    }
    # The grammar mends a call that has no end and a value that is in no enum; a wrong call stays wrong.
    assert values(bound)["valid_json"] == values(bound)["schema_valid"] == (1.0, 6)
    assert values(bound)["intent_em"] == (pytest.approx(4 / 6), 6)
    assert values(bound)["structure_em"] == (pytest.approx(2 / 6), 6)
    assert values(bound)["abstention"] == (pytest.approx(1 / 2), 2)
    assert free.item_ids == bound.item_ids
    assert len(set(free.item_ids)) == len(ITEMS)
    assert [args for args in told if args[1] == args[2]] == [("calls_mine", 8, 8), ("calls_mine+grammar", 8, 8)]


def test_details(scripted: Callable[..., Model]) -> None:
    with scripted() as model:
        (free,) = run_calls(model, ITEMS, grammar="none")
    details = free.details
    assert details["settings"] == {"grammar": "none", "max_tokens": MAX_TOKENS}
    assert (details["n_items"], details["n_without_tool"]) == (8, 2)
    assert (details["n_too_long"], details["n_cut"]) == (1, 0)
    assert details["arguments"] == {"right": 1, "given": 4, "due": 6}
    assert sorted(tuple(row.values()) for row in details["confusion"]) == [
        ("", "wake", 1),
        ("play", "", 1),
        ("wake", "", 1),
        ("wake", "play", 1),
    ]
    reasons = {row["request"]: row["reason"] for row in details["failures"]}
    assert list(reasons) == [
        str(asked.messages[0]["content"])[:500] for asked in ITEMS if asked.id not in ("Some jazz?", "How are you?")
    ]
    assert reasons["Wake me at six"] == "wake was given time = 'seven'; expected 'six'."
    assert "has no end" in reasons["Up at six"]
    assert details["failures"][-1]["answer"] is None
    assert free.notes == (
        "1 of 8 prompts are longer than the context and count as wrong; load the model with a larger context.",
    )
    assert math.isnan(free.metrics[1].values[5]), "an item without a tool has no intent"


def test_sources_and_all_together(scripted: Callable[..., Model], tmp_path: Path) -> None:
    items = [*ITEMS[:3], *(replace(each, source="more") for each in ITEMS[4:7])]
    with scripted() as model:
        found = run_calls(model, items, grammar="none", limit=2)
    assert [result.task for result in found] == ["calls_mine", "calls_more", "calls"]
    assert [len(result.item_ids) for result in found] == [2, 2, 4]
    assert found[2].item_ids == found[0].item_ids + found[1].item_ids
    assert found[0].notes == ("The first 2 of 3 items only.",)
    assert found[2].notes == ("mine: The first 2 of 3 items only.", "more: The first 2 of 3 items only.")
    assert values(found[2])["accuracy"] == (2 / 4, 4)
    info = ModelInfo("m", "m.gguf", 1, "", "llama", 1, 32.0)
    EvalResult(info, results=tuple(found)).save(tmp_path / "r.json")
    assert EvalResult.load(tmp_path / "r.json").results[0].details == found[0].details


def test_a_call_is_within_the_grammar_of_its_own_tools(scripted: Callable[..., Model]) -> None:
    """An item that lacks the tool that the model wants to call."""
    alone = replace(ITEMS[2], tools=(ALARM,))
    with scripted() as model:
        free, bound = run_calls(model, [alone])
    assert values(free)["schema_valid"] == (0.0, 1)
    assert values(bound)["intent_em"] == (1.0, 1)


def test_items_are_known_by_what_they_ask(scripted: Callable[..., Model]) -> None:
    """An item without an id has its line in a file for one; a blank line more makes it no other item."""
    moved = [replace(asked, id=f"other.jsonl, line {7 + i}") for i, asked in enumerate(ITEMS)]
    with scripted() as model:
        found = [run_calls(model, items, grammar="none")[0].item_ids for items in (ITEMS[:3], moved[:3])]
        with pytest.raises(UsageError, match="The item 'odd' of mine cannot be asked"):
            run_calls(model, [replace(ITEMS[0], id="odd", messages=({"role": "user", "content": 7},))])
    assert found[0] == found[1]


def test_arguments_in_the_words_of_the_request(scripted: Callable[..., Model]) -> None:
    """The model wants to say "seven" where "six" was said, the only word of the request that begins like it."""
    with scripted() as model:
        found = run_calls(model, ITEMS[:2], grammar="all")
    assert [result.task for result in found] == ["calls_mine", "calls_mine+grammar", "calls_mine+copy"]
    assert [result.details["settings"]["grammar"] for result in found] == ["none", "schema", "copy"]
    assert [values(result)["structure_em"][0] for result in found] == [0.5, 0.5, 1.0]


def test_several_calls_where_the_source_has_them(scripted: Callable[..., Model]) -> None:
    both = call("play", genre="jazz") + "\n" + call("wake", time="six")
    SCRIPT.append((item("Jazz at six", JAZZ, SIX), both))
    try:
        with scripted() as model:
            (bound,) = run_calls(model, [SCRIPT[-1][0], SCRIPT[0][0]], grammar="schema")
    finally:
        SCRIPT.pop()
    assert bound.task == "calls_mine+grammar"
    assert values(bound)["structure_em"] == (1.0, 2)


def test_an_answer_that_is_cut(scripted: Callable[..., Model]) -> None:
    SCRIPT.append((item("Talk", JAZZ), call("wake", time="a" * 2 * MAX_TOKENS)))
    try:
        with scripted() as model:
            free, bound = run_calls(model, [SCRIPT[-1][0]])
    finally:
        SCRIPT.pop()
    for result in (free, bound):
        assert result.details["n_cut"] == 1
        assert values(result)["valid_json"] == (0.0, 1), "no grammar can end what is cut"
        assert result.notes == (f"1 of 1 answers were cut at {MAX_TOKENS} tokens or where the context ends.",)


def test_answers_that_break_off_are_wrong_and_told(
    scripted: Callable[..., Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where nothing was to be called, and nothing had been."""

    def broken_off(*_: Any, **__: Any) -> list[Answer]:
        good = Answer(SCRIPT[0][1], (), "eos")
        return [good, Answer("Very w", (), None, "The grammar cannot be followed.")]

    monkeypatch.setattr("ingle.evaluate.calls.run.generate", broken_off)
    with scripted() as model:
        (bound,) = run_calls(model, [ITEMS[0], ITEMS[5]], grammar="schema")
    assert values(bound)["accuracy"] == (0.5, 2)
    assert values(bound)["abstention"] == (0.0, 1)
    assert (bound.details["n_broken_off"], bound.details["n_too_long"]) == (1, 0)
    assert bound.notes == ("1 of 2 answers broke off and count as wrong. The grammar cannot be followed.",)


def test_tools_that_cannot_be_a_grammar_are_told(scripted: Callable[..., Model]) -> None:
    names = {f"a{n}": {"type": "string"} for n in range(1100)}
    wide = Tool("wide", "", {"type": "object", "properties": {"x": {"$defs": {"y": {"properties": names}}}}})
    asked = replace(ITEMS[0], tools=(MUSIC, wide))
    grammars, notes = _grammars([asked, ITEMS[1]], copy=False)
    assert grammars[0] is None
    assert grammars[1] is not None
    (note,) = notes
    assert note.startswith("1 items were answered without a grammar. The tool wide has")


def test_the_same_tools_have_one_grammar() -> None:
    grammars, _ = _grammars([ITEMS[0], replace(ITEMS[0], tools=(ALARM, MUSIC))], copy=False)
    assert grammars[0] is grammars[1]


def test_answers_made_elsewhere() -> None:
    result = result_of("nearest", ITEMS[:2], [SCRIPT[0][1], ""])
    assert values(result)["structure_em"] == (0.5, 2)
    assert result.details["settings"] == {}


def test_what_cannot_be(scripted: Callable[..., Model]) -> None:
    with scripted() as model:
        with pytest.raises(UsageError, match="grammar is 'json'; expected one of none, schema, copy, both, all"):
            run_calls(model, ITEMS, grammar="json")  # type: ignore[arg-type]
        for limit in (0, True, 1.5):
            with pytest.raises(UsageError, match="limit is"):
                run_calls(model, ITEMS, limit=limit)  # type: ignore[arg-type]
        with pytest.raises(UsageError, match="no API-calling items"):
            run_calls(model, [])


def test_a_template_without_tools_has_them_told_in_the_system_message(scripted: Callable[..., Model]) -> None:
    prompts: list[str] = []
    with scripted(template=toys.CHATML) as model:
        (free,) = run_calls(model, ITEMS[:1], grammar="none")
        system = {"role": "system", "content": "Be brief."}
        for messages in (ITEMS[0].messages, (system, *ITEMS[0].messages)):
            prompts.append(model.tokenizer.decode(_prompt(model, replace(ITEMS[0], messages=messages))))
    assert free.notes == ("The chat template has no place for tools; the system message told of them.",)
    assert values(free)["structure_em"] == (1.0, 1)
    told = GENERIC.told([tool.as_openai() for tool in ITEMS[0].tools])
    assert f"system\n{told}" in prompts[0]
    assert f"system\nBe brief.\n\n{told}" in prompts[1]
    assert all(text.count("system\n") == 1 and text.rstrip().endswith("assistant") for text in prompts)
