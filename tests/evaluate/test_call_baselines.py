"""Baselines on requests small enough to know every answer of."""

from __future__ import annotations

import math
from typing import Any

import pytest

from ingle.errors import UsageError
from ingle.evaluate.calls.baselines import BASELINES, Index, Lexicon, baseline
from ingle.evaluate.calls.item import Expected, Item
from ingle.text.tools import Tool, ToolCall, find_calls


def tool(name: str, description: str, *arguments: str) -> Tool:
    return Tool(name, description, {"type": "object", "properties": {a: {"type": "string"} for a in arguments}})


MUSIC = tool("play_music", "Play a song.", "genre", "artist")
ALARM = tool("set_alarm", "Wake somebody up.", "time")
LIGHT = tool("light_off", "Switch a lamp off.", "room")
ALL = (MUSIC, ALARM, LIGHT)


def item(text: str, name: str | None = None, *, tools: tuple[Tool, ...] = ALL, **arguments: Any) -> Item:
    expected = (Expected(name, {key: (value,) for key, value in arguments.items()}),) if name else ()
    return Item(text, "mine", ({"role": "user", "content": text},), tools, expected)


TRAIN = [
    item("play some jazz", "play_music", genre="jazz"),
    item("play some free jazz by Ornette Coleman", "play_music", genre="free jazz", artist="Ornette Coleman"),
    item("play something by Bach", "play_music", artist="Bach"),
    item("play some blues", "play_music", genre="blues"),
    item("wake me at six", "set_alarm", time="six"),
    item("wake me up at half past six", "set_alarm", time="half past six"),
    item("lights off in the kitchen", "light_off", room="kitchen"),
    item("lights off in the hall", "light_off", room="hall"),
]


def called(name: str, test: Item, train: list[Item] = TRAIN) -> list[ToolCall]:
    (answer,) = baseline(name, train, [test])
    found = find_calls(answer)
    assert not found.problems
    return found.calls


def test_the_nearest_call_is_copied() -> None:
    assert called("nearest", item("please wake me at seven")) == [ToolCall("set_alarm", {"time": "six"})]


def test_the_lexicon_fills_in_what_is_said() -> None:
    test = item("play some free jazz by Bach")
    assert called("nearest_lexicon", test) == [ToolCall("play_music", {"genre": "free jazz", "artist": "Bach"})]
    assert called("nearest_lexicon", item("lights off in the bath")) == [ToolCall("light_off", {})]


def test_a_lexicon_has_no_words_that_are_mostly_something_else() -> None:
    train = [
        item("play the the", "play_music", artist="the"),
        item("play the blues", "play_music", genre="blues"),
        item("play the news", "play_music"),
        item("the best of the best", "play_music"),
    ]
    assert Lexicon(train).fill("play_music", item("play the blues")) == ToolCall("play_music", {"genre": "blues"})


def test_a_value_that_is_no_text_keeps_its_type() -> None:
    lexicon = Lexicon([item("volume 5", "set_volume", level=5), item("tags", "set_volume", tags=["a"])])
    assert lexicon.fill("set_volume", item("volume at 5")).arguments == {"level": 5}


def test_neighbours_are_those_whose_tools_are_at_hand() -> None:
    test = item("wake me at six", tools=(MUSIC, LIGHT))
    assert called("nearest", item("lights off at six", tools=(MUSIC, LIGHT)))[0].name == "light_off"
    neighbour, similarity = Index(TRAIN).nearest(test)
    assert neighbour is not None
    assert neighbour.expected[0].name != "set_alarm"
    assert similarity == 0.0
    assert called("nearest", test) == [], "no word in common is no neighbour"
    assert called("nearest", item("wake me at six", tools=())) == []


def test_similarity_is_the_cosine_of_tf_idf() -> None:
    """By hand: two documents; "a" in both, "b" and "c" in one each."""
    index = Index([item("a b", "x"), item("a c c", "x")])
    common, rare = 1.0, math.log(3 / 2) + 1
    first, twice = math.hypot(common, rare), rare * (1 + math.log(2))
    neighbour, similarity = index.nearest(item("b", tools=(tool("x", ""),)))
    assert neighbour is not None
    assert neighbour.id == "a b"
    assert similarity == pytest.approx(rare / first)
    _, similarity = index.nearest(item("c unheard", tools=(tool("x", ""),)))
    unheard = math.log(3) + 1
    assert similarity == pytest.approx(twice / math.hypot(common, twice) * rare / math.hypot(rare, unheard))
    same, similarity = index.nearest(index.items[0], without=None)
    assert same is None, "the tool is not at hand"


def test_an_item_is_not_its_own_neighbour() -> None:
    index = Index(TRAIN)
    assert index.nearest(TRAIN[0])[0] is TRAIN[0]
    assert index.nearest(TRAIN[0], without=TRAIN[0])[0] is TRAIN[1], "the other with jazz"


def test_the_threshold_abstains_where_training_says_so() -> None:
    talk = [item(f"tell me about the {thing} at sea") for thing in ("whales", "ships", "waves", "wind", "birds")]
    assert called("nearest", item("tell me about the storms at sea"), TRAIN) != [], "some words in common"
    assert called("nearest", item("tell me about the storms at sea"), TRAIN + talk) == []
    assert called("nearest", item("wake me at six"), TRAIN + talk) == [ToolCall("set_alarm", {"time": "six"})]


def test_majority_description_abstain() -> None:
    assert called("majority", item("off")) == [ToolCall("play_music", {})]
    assert called("majority", item("off", tools=(ALARM,))) == [ToolCall("set_alarm", {})]
    assert called("majority", item("off", tools=())) == []
    assert called("description", item("switch the lamp in here off")) == [ToolCall("light_off", {})]
    assert called("description", item("good morning")) == []
    assert called("description", item("an alarm, set for six"), []) == [ToolCall("set_alarm", {})]
    assert called("abstain", item("play some jazz"), []) == []


def test_answers_are_in_the_order_of_the_items() -> None:
    for name in BASELINES:
        answers = baseline(name, TRAIN, TRAIN[::-1])
        assert len(answers) == len(TRAIN)
        assert answers == [baseline(name, TRAIN, [test])[0] for test in TRAIN[::-1]]


def test_what_cannot_be() -> None:
    with pytest.raises(UsageError, match="no baseline; expected one of nearest"):
        baseline("oracle", TRAIN, TRAIN)
    with pytest.raises(UsageError, match="learns from items with calls"):
        baseline("nearest", [item("hello")], TRAIN)
