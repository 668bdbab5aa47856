"""Grammars: whatever is drawn under their masks is a text that they allow, with every kind of vocabulary."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from ingle.engine.model import bundled_model
from ingle.errors import GrammarError, UsageError
from ingle.gguf import open_gguf
from ingle.text import TextStream, Tokenizer
from ingle.text.grammar import Grammar
from ingle.text.tools import Tool, ToolCall, find_calls
from text.json_schemas import fits
from text.small_vocabularies import byte_level_tokenizer, spm_tokenizer

NASTY = 'q"\\/\n\té\u4e2d\U0001f600<b>'
ALARM = {
    "type": "object",
    "properties": {
        "time": {"type": "string", "maxLength": 8},
        "day": {"enum": ["today", "tomorrow", NASTY]},
        "repeat": {"type": "boolean"},
        "times": {"type": "integer", "minimum": 1, "maximum": 20},
        "volume": {"type": "number", "minimum": 0, "maximum": 1},
        "songs": {"type": "array", "items": {"type": "string", "maxLength": 5}, "minItems": 1, "maxItems": 3},
        "where": {
            "type": "object",
            "properties": {"room": {"type": ["string", "null"], "maxLength": 3}, NASTY: {"type": "integer"}},
            "required": ["room"],
            "additionalProperties": False,
        },
        "more": {"anyOf": [{"type": "null"}, {"enum": [1, 2, "three"]}]},
    },
    "required": ["time", "where"],
    "additionalProperties": False,
}
TOOLS = (
    Tool("set_alarm", "Wake me", ALARM),
    Tool("set", "A name that another begins with", {"type": "object", "properties": {"a": {"type": "boolean"}}}),
    Tool("stop", "No arguments"),
    Tool(NASTY.replace("\n", "").replace("\t", ""), "A nasty name"),
)
BY_NAME = {tool.name: tool for tool in TOOLS}


@pytest.fixture(
    scope="module", params=["bytes", "nfc", "markup", "control markup", "spm", "spm markup", "spm plain", "bundled"]
)
def tokenizer(request: pytest.FixtureRequest, byte_level: Callable[..., dict[str, object]]) -> Tokenizer:
    markup = ("<tool_call>", "</tool_call>")
    made = {
        "bytes": lambda: byte_level_tokenizer(byte_level, eos_token_id=267),
        "nfc": lambda: byte_level_tokenizer(byte_level, eos_token_id=267, pre="mpt"),
        "markup": lambda: byte_level_tokenizer(byte_level, added=markup, eos_token_id=269),
        "control markup": lambda: byte_level_tokenizer(byte_level, control=("<|end|>", *markup), eos_token_id=267),
        "spm": spm_tokenizer,
        "spm markup": lambda: spm_tokenizer(added=markup),
        "spm plain": lambda: spm_tokenizer(prefix=False),
        "bundled": _bundled,
    }
    return made[request.param]()


def _bundled() -> Tokenizer:
    with open_gguf(bundled_model()) as file:
        return Tokenizer.from_metadata(file.metadata)


def walk(grammar: Grammar, tokenizer: Tokenizer, seed: int, most: int = 400) -> str | None:
    """The text of a random answer under the masks; None if it does not end in `most` tokens."""
    rng = np.random.default_rng(seed)
    matcher, stream, text = grammar.matcher(tokenizer), TextStream(tokenizer), ""
    for _ in range(most):
        mask = matcher.mask()
        assert mask.shape == (tokenizer.n_vocab,)
        assert matcher.is_complete == any(mask[end] for end in tokenizer.eog_ids)
        # Spread over the characters, not over the tokens: otherwise strings would hardly ever end.
        allowed = np.flatnonzero(mask)
        ends = [i for i in allowed if tokenizer.token_bytes(int(i))[:1] in b'"}]<\n' or i in tokenizer.eog_ids]
        choice = int(rng.choice(ends if ends and rng.random() < 0.3 else allowed))
        matcher.advance(choice)
        if choice in tokenizer.eog_ids:
            return text + stream.finish()
        assert not tokenizer.is_control(choice)
        text += stream.push(choice)
    return None


def test_random_answers_are_calls_by_the_schemas(tokenizer: Tokenizer) -> None:
    grammar = Grammar.tool_calls(TOOLS, "required")
    texts = [walk(grammar, tokenizer, seed) for seed in range(40)]
    ended = [text for text in texts if text is not None]
    assert len(ended) > 30
    for text in ended:
        found = find_calls(text)
        assert not found.problems
        assert not found.text
        (call,) = found.calls
        if call.name != "set_alarm":  # whose texts and numbers may be written in more than one way
            assert text == f"<tool_call>\n{call.to_json()}\n</tool_call>"
        assert fits(call.arguments, {"additionalProperties": False, **BY_NAME[call.name].parameters}), text
    assert {call.name for text in ended for call in find_calls(text).calls} == set(BY_NAME)


def test_random_answers_are_a_text_and_perhaps_calls(tokenizer: Tokenizer) -> None:
    grammar = Grammar.tool_calls(TOOLS[:3], many=True)
    texts = [text for seed in range(60) if (text := walk(grammar, tokenizer, seed, 150)) is not None]
    assert len(texts) > 20
    for text in texts:
        found = find_calls(text)
        assert not found.problems
        assert "<tool_call>" not in found.text
        assert not found.calls or text.endswith("</tool_call>")
        for call in found.calls:
            assert fits(call.arguments, {"additionalProperties": False, **BY_NAME[call.name].parameters}), text


def test_random_json_is_by_its_schema(tokenizer: Tokenizer) -> None:
    grammar = Grammar.json_schema(ALARM)
    texts = [text for seed in range(20) if (text := walk(grammar, tokenizer, seed)) is not None]
    assert len(texts) > 10
    for text in texts:
        assert fits(json.loads(text), ALARM)
        assert text.startswith('{"time": "')


def accepts(grammar: Grammar, tokenizer: Tokenizer, text: str, **options: bool) -> bool:
    """Whether the grammar allows the tokens that the tokenizer itself makes of a text, and is then complete."""
    matcher = grammar.matcher(tokenizer, **options)
    for token_id in tokenizer.encode(text, add_special=False):
        if not matcher.mask()[token_id]:
            return False
        matcher.advance(token_id)
    return matcher.is_complete


ARGUMENTS = '{"time": "6", "day": "today", "where": {"room": null}}'
CALL = f'<tool_call>\n{{"name": "set_alarm", "arguments": {ARGUMENTS}}}\n</tool_call>'


def test_a_call_is_what_the_chat_template_writes(tokenizer: Tokenizer) -> None:
    for name, arguments in (
        ("set_alarm", {"time": "6é", "day": NASTY, "times": 7, "where": {"room": "ab", NASTY: -3}, "more": "three"}),
        ("set", {}),
        ("set", {"a": False}),
        (TOOLS[3].name, {}),
    ):
        text = f"<tool_call>\n{ToolCall(name, arguments).to_json()}\n</tool_call>"
        for many in (False, True):
            assert accepts(Grammar.tool_calls(TOOLS, "required", many), tokenizer, text)
            assert accepts(Grammar.tool_calls(TOOLS, "auto", many), tokenizer, text)
            assert accepts(Grammar.tool_calls(TOOLS, many=many), tokenizer, text + "\n" + CALL) == many
        assert not accepts(Grammar.tool_calls(TOOLS, "none"), tokenizer, text)


@pytest.mark.parametrize(
    "text",
    [
        CALL.replace(": ", ":"),
        CALL.replace(", ", ","),
        CALL.replace("\n", ""),
        CALL.replace("today", "monday"),
        CALL.replace("set_alarm", "alarm"),
        CALL.replace('"time": "6", ', ""),
        CALL.replace('"time": "6"', '"time": 6'),
        CALL.replace('"room": null', '"room": null, "other": 1'),
        CALL.replace('"arguments"', '"parameters"'),
        CALL + " Done.",
        CALL + "\n",
        "</tool_call>",
        "a <tool_call> b",
    ],
)
def test_nothing_else_is_an_answer(tokenizer: Tokenizer, text: str) -> None:
    assert not accepts(Grammar.tool_calls(TOOLS), tokenizer, text)
    assert not accepts(Grammar.tool_calls(TOOLS, many=True), tokenizer, text)


@pytest.mark.parametrize("text", ["Sure: ", "\n", " ", "<think>\nAn alarm.\n</think>\n\n", "a < b <tool"])
def test_a_text_may_stand_before_a_call(tokenizer: Tokenizer, text: str) -> None:
    """Models that think aloud first, or say what they do, can call too; not where a call is all that is wanted."""
    assert accepts(Grammar.tool_calls(TOOLS), tokenizer, text + CALL)
    assert not accepts(Grammar.tool_calls(TOOLS), tokenizer, text + CALL.replace('"time"', '"hour"'))
    assert not accepts(Grammar.tool_calls(TOOLS), tokenizer, f"{CALL}\n{text}{CALL}")
    assert accepts(Grammar.tool_calls(TOOLS, many=True), tokenizer, f"{text}{CALL}\n{CALL}")
    assert not accepts(Grammar.tool_calls(TOOLS, "required"), tokenizer, text + CALL)


@pytest.mark.parametrize(
    "text", ["", "No.", "I am sorry,\n\nI can't: é\u4e2d\U0001f600", "a < b <tool", ' {"name": "set"}']
)
def test_a_text_is_an_answer_unless_a_call_is_required(tokenizer: Tokenizer, text: str) -> None:
    assert accepts(Grammar.tool_calls(TOOLS), tokenizer, text)
    assert accepts(Grammar.tool_calls(TOOLS, "none"), tokenizer, text)
    assert accepts(Grammar.tool_calls([]), tokenizer, text)
    assert not accepts(Grammar.tool_calls(TOOLS, "required"), tokenizer, text)


def test_the_first_space_of_a_continuation_belongs_to_it() -> None:
    tokenizer, grammar = spm_tokenizer(), Grammar.json_schema({"type": "boolean"})
    assert accepts(grammar, tokenizer, "true")  # its tokens begin with a space
    assert not accepts(grammar, tokenizer, "true", continuation=True)
    assert not accepts(grammar, tokenizer, " true")
    assert accepts(Grammar.regex(" true"), tokenizer, "true", continuation=True)


def test_forced_tokens_are_the_only_ones_of_the_masks(tokenizer: Tokenizer) -> None:
    rng = np.random.default_rng(1)
    for seed in range(5):
        matcher = Grammar.tool_calls(TOOLS[:2], "required").matcher(tokenizer)
        n_forced = 0
        for _ in range(60):
            for token_id in matcher.forced():
                assert np.flatnonzero(matcher.mask()).tolist() == [token_id]
                matcher.advance(token_id)
                n_forced += 1
            allowed = np.flatnonzero(matcher.mask())
            assert len(allowed) > 1 or matcher.is_complete, seed
            choice = int(rng.choice(allowed))
            matcher.advance(choice)
            if choice in tokenizer.eog_ids:
                break
        assert n_forced > 5


def test_a_forced_text_has_the_tokens_of_the_tokenizer(tokenizer: Tokenizer) -> None:
    matcher = Grammar.json_schema({"enum": ["tokens that are forced"]}).matcher(tokenizer, continuation=True)
    forced = matcher.forced()
    text = tokenizer.decode(forced)
    assert json.dumps("tokens that are forced").startswith(text)
    assert len(text) > 15
    behind = tokenizer.encode("\x02" + text, add_special=False)
    assert forced == behind[-len(forced) :]


def test_a_forced_text_stays_as_it_is_written(tokenizer: Tokenizer) -> None:
    """An "é" of two characters too, of which a tokenizer of Unicode's form C makes one character."""
    said = "time: e\u0301 time, e\u0301"
    matcher = Grammar.json_schema({"enum": [said]}).matcher(tokenizer, continuation=True)
    forced = matcher.forced()
    text = b"".join(map(tokenizer.token_bytes, forced))
    assert json.dumps(said, ensure_ascii=False).encode().startswith(text)
    assert len(text) > 20
    assert len(forced) <= len(text) - 6  # twice "time" is two tokens, not eight


def test_regex_and_lark(tokenizer: Tokenizer) -> None:
    time = Grammar.regex(r"([01][0-9]|2[0-3]):[0-5][0-9]( a/b)?")
    assert accepts(time, tokenizer, "07:30")
    assert accepts(time, tokenizer, "07:30 a/b")
    assert not accepts(time, tokenizer, "24:30")
    sums = Grammar.lark('start: sum\nsum: /[0-9]+/ | "(" sum "+" sum ")"')
    assert accepts(sums, tokenizer, "((1+22)+3)")
    assert not accepts(sums, tokenizer, "((1+22)+3")


def test_an_answer_ends_once(tokenizer: Tokenizer) -> None:
    matcher = Grammar.regex("a").matcher(tokenizer)
    (letter,) = tokenizer.encode("xa", add_special=False)[-1:]
    with pytest.raises(GrammarError, match="cannot follow"):
        matcher.advance(min(tokenizer.eog_ids))
    matcher.advance(letter)
    other = matcher.copy()
    matcher.advance(min(tokenizer.eog_ids))
    with pytest.raises(GrammarError, match="has ended"):
        matcher.mask()
    with pytest.raises(GrammarError, match="cannot follow"):
        matcher.advance(letter)
    assert set(np.flatnonzero(other.mask()).tolist()) == tokenizer.eog_ids
    assert other.forced() == []


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ({"type": "strin"}, "Invalid type"),
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"not": {"type": "string"}}, "not"),
        ({"$ref": "http://example.com/schema.json"}, "not present"),
        ({"$ref": "#/$defs/none"}, "none"),
        ({"allOf": [{"$ref": "#"}, {"type": "object"}]}, "circular"),
        ({"enum": []}, "empty"),
        ({"enum": ["\ud800"]}, "hex escape"),
        ({"enum": [float("nan")]}, "JSON cannot hold"),
        ({"enum": [{1, 2}]}, "JSON cannot hold"),
        ({"type": "integer", "minimum": 3, "maximum": 2}, "greater"),
        ({"type": "string", "pattern": "a(?=b)"}, "look-around"),
        ({"properties": {f"p{i}": {} for i in range(257)}}, "257 properties"),
        ({"properties": {f"{c}": {"properties": {f"p{i}": {} for i in range(256)}} for c in range(40)}}, "10280"),
        ({"description": "x" * (1 << 22)}, "characters"),
        ([], "expected an object"),
        ({"allOf": [{"anyOf": [{"properties": {f"{c}{i}": {}}} for c in "ab"]} for i in range(16)]}, "too large"),
    ],
)
def test_a_schema_that_cannot_be_is_a_sentence(schema: Any, said: str) -> None:
    with pytest.raises(GrammarError) as caught:
        Grammar.json_schema(schema)
    message = str(caught.value)
    assert said in message
    assert message.endswith(".")
    assert len(message) < 400
    assert "\n" not in message
    assert isinstance(caught.value, UsageError)


def test_values_too_deep_are_a_sentence() -> None:
    schema: dict[str, Any] = {}
    for _ in range(5000):
        schema = {"items": schema}
    with pytest.raises(GrammarError, match="deeper"):
        Grammar.json_schema(schema)


def test_other_grammars_that_cannot_be_are_sentences() -> None:
    for make, given in (
        (Grammar.regex, "("),
        (Grammar.regex, "a\ud800"),
        (Grammar.regex, 7),
        (Grammar.lark, "begin: 'a'"),
        (Grammar.lark, "start: <|user|"),
        (Grammar.lark, ""),
    ):
        with pytest.raises(GrammarError, match=r"\.$"):
            make(given)  # type: ignore[operator]
    with pytest.raises(GrammarError, match="no tools"):
        Grammar.tool_calls([], "required")
    with pytest.raises(GrammarError, match="'auto', 'required' or 'none'"):
        Grammar.tool_calls(TOOLS, "any")  # type: ignore[arg-type]


def test_many_tools_are_a_grammar_and_too_many_a_sentence() -> None:
    def tools(n: int, n_properties: int) -> list[Tool]:
        properties = {f"p{i}": {"type": "string"} for i in range(n_properties)}
        return [Tool(f"tool_{i}", "", {"type": "object", "properties": properties}) for i in range(n)]

    tokenizer = spm_tokenizer()
    for n, n_properties in ((1, 256), (100, 8), (1000, 0)):
        grammar = Grammar.tool_calls(tools(n, n_properties), many=True)
        said = f'<tool_call>\n{{"name": "tool_{n - 1}", "arguments": {{}}}}\n</tool_call>'
        assert accepts(grammar, tokenizer, said)
        assert accepts(grammar, tokenizer, said.replace("{}", '{"p7": "a"}')) == (n_properties > 7)
    with pytest.raises(GrammarError, match="All tools together have 10000 properties"):
        Grammar.tool_calls(tools(1000, 10))
    rules = "\n".join(f'a{i}: "c" a{i}? "{i}"' for i in range(22_000))
    with pytest.raises(GrammarError, match="is too large"):
        Grammar.lark(f"start: {' | '.join(f'a{i}' for i in range(22_000))}\n{rules}")


def test_the_tool_that_cannot_be_is_named() -> None:
    bad = Tool("bad", "", {"type": "object", "properties": {"a": {"type": "string", "pattern": "(?=b)"}}})
    with pytest.raises(GrammarError, match=r"The tool bad .*look-around"):
        Grammar.tool_calls([*TOOLS, bad])


def test_what_cannot_be_enforced_is_a_warning() -> None:
    properties = {"a": {"type": "array", "uniqueItems": True, "items": {"type": "integer"}}}
    grammar = Grammar.tool_calls([Tool("f", "", {"type": "object", "properties": properties})])
    assert any("uniqueItems" in warning for warning in grammar.warnings)
    assert Grammar.tool_calls(TOOLS).warnings == ()
    joined = {"type": "object", "properties": {}, "allOf": [{"properties": {"a": {}}}, {"properties": {"b": {}}}]}
    for open_one in (joined, {"properties": {"a": {}}, "oneOf": [{"properties": {"b": {}}}]}):
        (warning,) = Grammar.tool_calls([Tool("f", "", open_one)]).warnings
        assert "the tool f can be given arguments that its schema does not name" in warning


def test_objects_that_name_their_properties_are_closed() -> None:
    tokenizer = spm_tokenizer()

    def takes(parameters: Mapping[str, Any], arguments: Mapping[str, Any]) -> bool:
        text = f"<tool_call>\n{ToolCall('f', dict(arguments)).to_json()}\n</tool_call>"
        return accepts(Grammar.tool_calls([Tool("f", "", {"type": "object", **parameters})]), tokenizer, text)

    one = {"a": {"type": "integer"}}
    assert takes({"properties": one}, {"a": 1})
    assert not takes({"properties": one}, {"b": 1})
    assert not takes({"properties": {}}, {"b": 1})
    assert takes({"properties": one, "additionalProperties": True}, {"b": 1})
    assert takes({"properties": {"o": {"type": "object"}}}, {"o": {"b": 1}})
    nested = {"o": {"type": "object", "properties": one}}
    assert not takes({"properties": nested}, {"o": {"b": 1}})
    assert not takes({"properties": {"l": {"type": "array", "items": nested["o"]}}}, {"l": [{"b": 1}]})
    either = {"properties": {**one, "b": {}}, "anyOf": [{"required": ["a"]}, {"required": ["b"]}]}
    assert takes(either, {"a": 1})
    assert not takes(either, {})
    assert not takes(either, {"a": 1, "c": 1})
    joined = {"allOf": [{"properties": one}, {"properties": {"b": {"type": "integer"}}}]}
    assert takes({"properties": {}, **joined}, {"a": 1, "b": 2})
    defined = {"$defs": {"x": nested["o"]}, "properties": {"o": {"$ref": "#/$defs/x"}}}
    assert takes(defined, {"o": {"a": 1}})
    assert not takes(defined, {"o": {"b": 1}})


def test_equal_sources_are_equal_grammars() -> None:
    assert Grammar.tool_calls(TOOLS) == Grammar.tool_calls(list(TOOLS))
    assert len({Grammar.regex("a"), Grammar.regex("a"), Grammar.regex("b")}) == 2


def test_a_grammar_is_followed_in_many_threads(tokenizer: Tokenizer) -> None:
    grammar = Grammar.tool_calls(TOOLS, many=True)
    alone = [walk(grammar, tokenizer, seed, 60) for seed in range(16)]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda seed: walk(grammar, tokenizer, seed, 60), range(16))) == alone
