"""What ingle-tiny is trained on: conversations with tools, short exchanges, and the form in which it reads both."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import calls
import chats
import household
import prompt
import pytest
import vary
from hypothesis import given
from hypothesis import strategies as st

import request_files
from ingle.evaluate.calls.sources import load_items
from ingle.evaluate.calls.sources.request import normalised, split_of
from ingle.text import ChatTemplate, Tokenizer, metadata_from_hf
from ingle.train.data.conversation import segments
from ingle.train.data.document import Document
from ingle.train.data.vocabulary import Vocabulary, train_tokenizer
from request_files import HELD_OUT, there
from shared_data import DATA

TINY = Path(calls.__file__).parent

Message = dict[str, Any]
#: A line of the system turn, and the tool that it stands for.
Tools = dict[str, tuple[str, dict[str, Any]]]


class Written:
    """Conversations, with the tools behind the lines of their system turns."""

    def __init__(self, data: Path, n: int) -> None:
        self.tools: Tools = {}
        original = calls.signature

        def signature(name: str, description: str, parameters: dict[str, Any]) -> str:
            line: str = original(name, description, parameters)
            tool = {"name": name, "description": description, "parameters": {"type": "object", **parameters}}
            assert self.tools.setdefault(line, (name, tool)) == (name, tool), "one line, two tools"
            return line

        writer = calls.Writer(data, seed=2)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(calls, "signature", signature)
            found = [writer.conversation(lambda messages: len(str(messages)) // 4, 900)["messages"] for _ in range(n)]
        self.conversations: list[list[Message]] = [messages for messages in found if len(messages) > 1]

    def tools_of(self, messages: list[Message]) -> dict[str, dict[str, Any]]:
        first, *lines = messages[0]["content"].split("\n")
        assert (messages[0]["role"], first) == ("system", "Tools:")
        found = dict(self.tools[line] for line in lines)
        assert len(found) == len(lines), "two tools of one name"
        return found

    def turns(self) -> Iterator[tuple[list[Message], str, Message]]:
        """Each request with its answer."""
        for messages in self.conversations:
            for asked, answer in zip(messages[1::2], messages[2::2], strict=True):
                assert (asked["role"], answer["role"]) == ("user", "assistant")
                yield messages, asked["content"], answer


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Written:
    """From miniatures of the data sets."""
    folder = tmp_path_factory.mktemp("data")
    request_files.write_all(folder)
    return Written(folder, 250)


@pytest.fixture(scope="module")
def real() -> Written:
    """From the data sets themselves."""
    return Written(DATA / "api_calls", 250)


@pytest.fixture(scope="module", params=["small", pytest.param("real", marks=there)])
def written(request: pytest.FixtureRequest) -> Written:
    found: Written = request.getfixturevalue(request.param)
    return found


# ---- conversations with tools


def test_there_are_calls_and_refusals(written: Written) -> None:
    answers = [answer for *_, answer in written.turns()]
    refused = sum(answer.get("content") == prompt.REFUSAL for answer in answers)
    assert refused + sum(len(answer.get("tool_calls", ())) == 1 for answer in answers) == len(answers)
    assert 0.03 < refused / len(answers) < 0.4


def test_calls_are_what_their_signatures_say(written: Written) -> None:
    kinds = {"string": str, "integer": int, "number": int | float, "boolean": bool}
    for messages, asked, answer in written.turns():
        tools = written.tools_of(messages)
        for call in answer.get("tool_calls", ()):
            parameters = tools[call["name"]]["parameters"]
            properties = parameters["properties"]
            assert call.keys() == {"name", "arguments"}
            assert [name for name in properties if name in call["arguments"]] == list(call["arguments"]), "other order"
            assert set(parameters.get("required", ())) <= call["arguments"].keys()
            for name, value in call["arguments"].items():
                schema = properties[name]
                assert isinstance(value, kinds[schema["type"]])
                assert isinstance(value, bool) == (schema["type"] == "boolean")
                if "enum" in schema:
                    assert value in schema["enum"]
                elif schema["type"] == "string":
                    assert value
                    assert value.lower() in asked.lower()


def test_no_request_of_the_test_split_is_in_a_conversation(written: Written) -> None:
    assert [asked for _, asked, _ in written.turns() if split_of(asked) == "test"] == []


@there
def test_no_conversation_has_a_request_of_a_test_item(real: Written) -> None:
    """SGD has parts of its own, which share some openings ("I need a cab."); its items are not looked at."""
    held_out = [name for name in HELD_OUT if not name.startswith("sgd")]
    tested = {normalised(str(item.messages[0]["content"])) for item in load_items(held_out, DATA)}
    assert not tested & {normalised(asked) for _, asked, _ in real.turns()}
    assert not tested & {normalised(asked) for row, _ in chats.QUESTIONS for asked in row}


def test_the_same_seed_writes_the_same(small: Written, tmp_path: Path) -> None:
    request_files.write_all(tmp_path)
    again = Written(tmp_path, 20)
    assert again.conversations == small.conversations[: len(again.conversations)]


# ---- other names and arguments

NAMES = sorted({*vary.ARGUMENTS, *(name for names in vary.ARGUMENTS.values() for name in names)})


@given(st.integers(0, 10**6))
def test_no_two_arguments_get_one_name(seed: int) -> None:
    arguments = random.Random(seed).sample(NAMES, 40)  # so many that each time some could be called the same
    values = {name: ["Oslo", "Rome", "oslo", "Bari"] for name in arguments}
    made = vary.vary("set_alarm", "Set an alarm.", arguments, values, random.Random(seed))
    assert made.arguments.keys() <= set(arguments)
    assert sorted(made.arguments.values()) == sorted(made.properties)
    assert made.name.isidentifier()
    for schema in made.properties.values():
        assert schema.get("enum", ["a"]) == sorted(set(schema.get("enum", ["a"])))


def test_a_call_in_the_words_of_the_caller() -> None:
    properties = {"n": {"type": "integer"}, "kind": {"type": "string", "enum": ["jazz"]}, "who": {"type": "string"}}
    shown = vary.Shown("play", "", properties, {"count": "n", "genre": "kind", "artist": "who"})
    slots = [("artist", "Abba"), ("genre", "Jazz"), ("count", "three"), ("room", "attic")]
    assert shown.call(slots) == {"name": "play", "arguments": {"n": 3, "kind": "jazz", "who": "Abba"}}
    assert shown.call([("genre", "folk")]) is None  # not among the choices
    assert shown.call([("count", "many")]) is None
    assert shown.call([]) == {"name": "play", "arguments": {}}


@pytest.mark.parametrize(
    ("style", "name"), [("snake", "a_tool_b"), ("camel", "aToolB"), ("pascal", "AToolB"), ("dotted", "a.tool_b")]
)
def test_styles(style: str, name: str) -> None:
    assert vary.styled("a_tool_b", style) == name


# ---- the tables


@pytest.mark.parametrize("tool", household.TOOLS, ids=lambda tool: tool.name)
def test_sentences_name_arguments_and_values_that_there_are(tool: Any) -> None:
    said = set()
    for sentence in tool.sentences:
        assert sentence.count("[") == sentence.count("]") == len(re.findall(r"\[[^\[\]]*\]", sentence))
        for place in re.findall(r"\{(.*?)\}", sentence):
            name, _, fixed = place.partition("=")
            said.add(name)
            words, _, meaning = fixed.partition(":")
            schema = tool.properties[name]
            if fixed and schema["type"] == "boolean":
                assert meaning in ("true", "false")
            elif fixed:
                assert (meaning or words) in schema["enum"]
            else:
                assert "enum" not in schema
                assert name in household.VALUES
    assert said == set(tool.properties), "an argument that no sentence gives"


def test_household_requests() -> None:
    rng = random.Random(1)
    alarm = next(tool for tool in household.TOOLS if tool.name == "set_alarm")
    for text, arguments in (household.request(alarm, rng, ["noon"]) for _ in range(500)):
        assert not set("[]{}=") & set(text)
        for name in ("time", "date", "label"):
            assert str(arguments.get(name, "")) in text
        assert not arguments.get("date", "").startswith("on ")
    numbers = {vary.whole(household.number(5, 7)(rng)) for _ in range(60)}
    assert numbers == {5, 6, 7}


def test_short_exchanges(tmp_path: Path) -> None:
    """The requests of CLINC150's training split alone, each with an answer of its intent."""
    texts = {intent: [f"{intent} {number}" for number in range(30)] for intent in [*chats.SMALL_TALK, "uber"]}
    rows = [[text, intent] for intent, found in texts.items() for text in found]
    (tmp_path / "api_calls").mkdir()
    request_files.write_clinc(tmp_path / "api_calls", train=rows)
    story = {"messages": [{"role": "user", "content": "A story"}, {"role": "assistant", "content": "Once."}]}
    request_files.write_lines(tmp_path / "stories.jsonl", [story])
    chats.main(tmp_path, tmp_path / "stories.jsonl", tmp_path / "out.jsonl")
    lines = (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 6000
    answers = {normalised(asked): set(found) for row, found in chats.QUESTIONS for asked in row}
    answers |= {normalised(text): set(chats.SMALL_TALK.get(intent, chats.NEEDS_A_TOOL)) for text, intent in rows} | {
        "a story": {"Once."}
    }
    seen = set()
    for messages in (json.loads(line)["messages"] for line in lines):
        for asked, answer in zip(messages[::2], messages[1::2], strict=True):
            said = normalised(asked["content"])
            seen.add(said)
            assert answer["content"] in answers[said]
    assert {split_of(text) for text, _ in rows if normalised(text) in seen} == {"train"}
    assert {intent for text, intent in rows if normalised(text) in seen} == {*chats.SMALL_TALK, "uber"}


# ---- as the model reads it


@pytest.fixture(scope="module")
def vocabulary(small: Written) -> Vocabulary:
    return train_tokenizer([text for messages in small.conversations for text in map(str, messages)][:400], 512)


@pytest.fixture(scope="module")
def template(vocabulary: Vocabulary, tmp_path_factory: pytest.TempPathFactory) -> ChatTemplate:
    folder = tmp_path_factory.mktemp("tokenizer")
    vocabulary.save(folder / "tokenizer.json")
    tokenizer = Tokenizer.from_metadata(metadata_from_hf(folder))
    return ChatTemplate((TINY / "chat_template.jinja").read_text(encoding="utf-8"), tokenizer)


SCHEMAS: list[dict[str, Any]] = [
    {},
    {"type": "object", "properties": {}},
    {"properties": {"time": {"type": "string"}, "n": {"type": "integer"}}, "required": ["time"]},
    {"properties": {"a": {"enum": ["x", "y z", 3, 2.5, True, None, "é"]}, "b": {"type": ["string", "null"]}, "c": {}}},
    {
        "properties": {"l": {"type": "array", "items": {"type": "string"}}, "o": {"type": "object"}},
        "required": ["o", "l"],
    },
]


@pytest.mark.parametrize("parameters", SCHEMAS)
@pytest.mark.parametrize("description", ['Set an alarm: "now" & <here>.', ""])
def test_the_template_writes_the_signatures_of_training(
    template: ChatTemplate, parameters: dict[str, Any], description: str
) -> None:
    tools = [{"name": name, "description": description, "parameters": parameters} for name in ("wake", "geo.area")]
    said = prompt.system([prompt.signature(tool["name"], description, parameters) for tool in tools])
    user = {"role": "user", "content": "Hi"}
    asked = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    for form in (tools, [{"type": "function", "function": tool} for tool in tools]):
        assert template.render([user], tools=form) == f"<|im_start|>system\n{said}<|im_end|>\n{asked}"
        both = template.render([{"role": "system", "content": "Be brief."}, user], tools=form)
        assert both == f"<|im_start|>system\nBe brief.\n\n{said}<|im_end|>\n{asked}"
    assert template.render([user]) == asked


def test_training_and_running_see_the_same_tokens(
    written: Written, vocabulary: Vocabulary, template: ChatTemplate
) -> None:
    for messages in written.conversations[:40]:
        ids, learnt = vocabulary.encode(Document(segments(messages), "a conversation"))
        tools = list(written.tools_of(messages).values())
        said = messages[1:]
        assert template.encode_chat(said, tools=tools, add_generation_prompt=False) == ids[:-1]
        first = template.encode_chat(said[:1], tools=tools)  # what the model gets before it answers first
        assert ids[: len(first)] == first
        assert learnt is not None
        assert learnt.index(True) == len(first)


def test_exchanges_without_tools_too(vocabulary: Vocabulary, template: ChatTemplate) -> None:
    for row, answers in chats.QUESTIONS:
        messages = [{"role": "user", "content": row[0]}, {"role": "assistant", "content": answers[-1]}]
        ids, _ = vocabulary.encode(Document(segments(messages), "an exchange"))
        assert template.encode_chat(messages, add_generation_prompt=False) == ids[:-1]
