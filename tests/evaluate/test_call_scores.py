"""Answers written by hand against what each is worth, and the figures against a table made by hand."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingle.evaluate.calls.baselines import right_calls, write_calls
from ingle.evaluate.calls.item import Expected, Item
from ingle.evaluate.calls.score import ItemScore, metrics, score
from ingle.evaluate.result import Metric
from ingle.text.tools import Tool, ToolCall
from tool_calls import call

ALARM = Tool(
    "set_alarm",
    "Set an alarm.",
    {
        "type": "object",
        "properties": {"time": {"type": "string"}, "label": {"type": "string"}, "volume": {"type": "integer"}},
        "required": ["time"],
    },
)
MUSIC = Tool("play_music", "Play music.", {"type": "object", "properties": {"genre": {"type": "string"}}})


def item(*expected: Expected, source: str = "mine", tools: Sequence[Tool] = (ALARM, MUSIC)) -> Item:
    return Item("1", source, ({"role": "user", "content": "wake me at six"},), tuple(tools), expected)


SIX = Expected("set_alarm", {"time": ("six", "6:00"), "label": ("", "wake up")})
JAZZ = Expected("play_music", {"genre": ("jazz",)})


@pytest.mark.parametrize(
    ("answer", "intent", "structure", "obeys", "counts", "reason"),
    [
        (call("set_alarm", time="six"), True, True, True, (1, 1, 1), ""),
        (call("set_alarm", time=" Six. "), True, True, True, (1, 1, 1), ""),
        (call("set_alarm", time="6:00", label="wake up"), True, True, True, (2, 2, 2), ""),
        ("Of course! " + call("set_alarm", time="six") + " Done.", True, True, True, (1, 1, 1), ""),
        (
            call("set_alarm", time="seven"),
            True,
            False,
            True,
            (0, 1, 1),
            "given time = 'seven'; expected 'six' or '6:00'",
        ),
        (call("set_alarm", time="six", label="tea"), True, False, True, (1, 2, 1), "label = 'tea'; expected 'wake up'"),
        (call("set_alarm", time="six", volume=3), True, False, True, (1, 2, 1), "was given volume; expected none"),
        (call("set_alarm", time="six", colour="red"), True, False, False, (1, 2, 1), "was given colour"),
        (call("set_alarm"), True, False, False, (0, 0, 1), "lacks time"),
        (call("set_alarm", time=6), True, False, False, (0, 1, 1), "time = 6"),
        (call("play_music", genre="six"), False, False, True, (0, 1, 1), "Called play_music; expected set_alarm"),
        (call("wake", time="six"), False, False, False, (0, 1, 1), "Called wake; expected set_alarm"),
        (call("set_alarm", time="six") * 2, False, False, True, (1, 2, 1), "Called set_alarm, set_alarm; expected"),
        ("", False, False, False, (0, 0, 1), "Called nothing; expected set_alarm"),
        ("I can't.", False, False, False, (0, 0, 1), "Called nothing"),
        ('<tool_call>{"name": "set_alarm"', False, False, False, (0, 0, 1), "has no end"),
        (call("set_alarm", time="six") + "<tool_call>{", False, False, False, (1, 1, 1), "has no end"),
    ],
)
def test_an_answer(
    answer: str, intent: bool, structure: bool, obeys: bool, counts: tuple[int, int, int], reason: str
) -> None:
    found = score(item(SIX), answer)
    assert (found.intent, found.structure, found.obeys) == (intent, structure, obeys)
    assert (found.n_right, found.n_given, found.n_due) == counts
    assert reason in found.reason
    assert bool(found.reason) is not structure


def test_abstaining() -> None:
    assert score(item(), "Sorry, I can't do that.").structure
    called = score(item(), call("play_music"))
    assert not called.structure
    assert called.reason == "Called play_music; expected no call."
    assert not score(item(), "<tool_call>{").structure, "a broken call is no abstaining"


def test_no_answer_is_wrong_everywhere() -> None:
    for of in (item(), item(SIX)):
        found = score(of, None)
        assert not found.intent
        assert not found.structure
        assert found.reason == "There is no answer."


def test_parallel_calls_in_any_order() -> None:
    """One fits both, the other only the second: pairs must be found, not taken as they come."""
    loose = Expected("play_music", {"genre": ("jazz", "blues")})
    for calls in itertools.permutations([call("play_music", genre="jazz"), call("play_music", genre="blues")]):
        for expected in itertools.permutations([loose, JAZZ]):
            assert score(item(*expected), "".join(calls)).structure
    both = score(item(JAZZ, SIX), call("set_alarm", time="six") + call("play_music", genre="rock"))
    assert both.intent
    assert not both.structure
    assert (both.n_right, both.n_given, both.n_due) == (1, 2, 2)
    assert "genre = 'rock'" in both.reason
    same = score(item(JAZZ, JAZZ), call("play_music", genre="jazz"))
    assert not same.intent
    assert "expected play_music, play_music" in same.reason


def test_bfcl_forgives_what_speech_does_not() -> None:
    answer = call("play_music", genre="hip-hop")
    expected = Expected("play_music", {"genre": ("Hip Hop",)})
    assert score(item(expected, source="bfcl_simple"), answer).structure
    assert not score(item(expected, source="snips"), answer).structure


def test_what_may_be_absent_is_no_value_of_another_type() -> None:
    loud = Expected("set_alarm", {"time": ("six",), "volume": ("", 3), "label": (None, "tea", "")})
    assert score(item(loud), call("set_alarm", time="six", label="")).structure
    assert not score(item(loud), call("set_alarm", time="six", volume="")).structure
    assert not score(item(loud), call("set_alarm", time="six", label=None)).structure


def by_name(found: Sequence[Metric]) -> dict[str, Metric]:
    return {metric.name: metric for metric in found}


TABLE = [
    # item, answer
    (item(SIX), call("set_alarm", time="six")),  # all right
    (item(SIX), call("set_alarm", time="six", label="tea")),  # 1 of 2 given
    (item(SIX), call("play_music")),  # wrong tool
    (item(SIX), "No."),  # refused
    (item(SIX), "<tool_call>{}"),  # broken
    (item(), "No."),  # rightly nothing
    (item(), call("play_music", genre="jazz")),  # wrongly something
    (item(), None),  # too long
]


def test_figures_by_hand() -> None:
    found = by_name(metrics([score(*row) for row in TABLE]))
    assert list(found) == [
        *("accuracy", "intent_em", "structure_em", "argument_precision", "argument_recall", "argument_f1"),
        *("abstention", "wrong_refusal", "valid_json", "schema_valid"),
    ]
    values = {name: (pytest.approx(metric.value), metric.n) for name, metric in found.items()}
    assert values == {
        "accuracy": (2 / 8, 8),
        "intent_em": (2 / 5, 5),
        "structure_em": (1 / 5, 5),
        "argument_precision": (2 / 3, 5),  # of 3 given where a tool fits
        "argument_recall": (2 / 5, 5),  # a time is due in each
        "argument_f1": (4 / 8, 5),
        "abstention": (1 / 3, 3),
        "wrong_refusal": (1 / 5, 5),
        "valid_json": (4 / 5, 5),
        "schema_valid": (4 / 5, 5),
    }
    assert [name for name, metric in found.items() if not metric.higher_is_better] == ["wrong_refusal"]
    # A share of n has the standard error sqrt(p (1 - p) / (n - 1)).
    assert found["intent_em"].stderr == pytest.approx(math.sqrt(0.4 * 0.6 / 4))
    assert found["accuracy"].stderr == pytest.approx(math.sqrt(0.25 * 0.75 / 7))
    # F1 by hand: residuals 2 right - F1 (given + due), over the mean of given + due: 8/5.
    residuals = [2 - 0.5 * 2, 2 - 0.5 * 3, 0 - 0.5 * 1, 0 - 0.5 * 1, 0 - 0.5 * 1]
    assert sum(residuals) == 0
    by_hand = math.sqrt(sum(r * r for r in residuals) / 4 / 5) / (8 / 5)
    assert found["argument_f1"].stderr == pytest.approx(by_hand)


def test_values_are_of_each_item_and_mean_the_figure() -> None:
    for metric in metrics([score(*row) for row in TABLE]):
        assert len(metric.values) == len(TABLE)
        real = [value for value in metric.values if not math.isnan(value)]
        assert len(real) == metric.n
        assert sum(real) / len(real) == pytest.approx(metric.value)


def test_figures_of_nothing_are_left_out() -> None:
    assert metrics([]) == ()
    only = by_name(metrics([score(item(), "No.")]))
    assert list(only) == ["accuracy", "abstention"]
    assert only["accuracy"].stderr is None
    assert "argument_precision" not in by_name(metrics([score(item(SIX), "No.")]))


names = st.sampled_from(["set_alarm", "play_music", "other"])
texts = st.sampled_from(["six", "jazz", "tea", ""])
arguments = st.dictionaries(st.sampled_from(["time", "label", "genre"]), texts, max_size=3)


def plainly(of: Item, calls: Sequence[ToolCall]) -> tuple[bool, bool]:
    """Intent and structure, the slow and obvious way: every order of the calls, every argument."""
    intent = sorted(c.name for c in calls) == sorted(e.name for e in of.expected)

    def fits(right: Expected, made: ToolCall) -> bool:
        if right.name != made.name or made.arguments.keys() - right.arguments.keys():
            return False
        return all(
            made.arguments[name].lower() in values if name in made.arguments else "" in values
            for name, values in right.arguments.items()
        )

    orders = itertools.permutations(calls) if len(calls) == len(of.expected) else []
    return intent, any(all(map(fits, of.expected, order)) for order in orders)


@given(
    st.lists(
        st.tuples(names, st.dictionaries(st.sampled_from(["time", "label"]), st.sets(texts, min_size=1))), max_size=3
    ),
    st.lists(st.builds(ToolCall, names, arguments), max_size=3),
)
def test_agrees_with_a_plain_scorer(expected: list[tuple[str, dict[str, set[str]]]], calls: list[ToolCall]) -> None:
    of = item(*(Expected(name, {key: tuple(sorted(v)) for key, v in values.items()}) for name, values in expected))
    found = score(of, write_calls(calls))
    assert (found.intent, found.structure) == plainly(of, calls)
    assert 0 <= found.n_right <= min(found.n_given, found.n_due)
    if found.structure:
        assert found.n_right == found.n_given == found.n_due
    assert found.tried is bool(calls)


@given(st.text(max_size=60))
def test_any_text_is_scored(answer: str) -> None:
    for text in (
        answer,
        f"<tool_call>{answer}",
        f'<tool_call>{{"name": "set_alarm", "arguments": {answer}}}</tool_call>',
    ):
        found = score(item(SIX), text)
        assert isinstance(found, ItemScore)
        assert not found.structure or "six" in text.lower() or "6:00" in text


def test_right_calls_are_right() -> None:
    of = item(SIX, JAZZ)
    assert score(of, write_calls(right_calls(of))).structure
    assert [c.arguments for c in right_calls(of)] == [{"time": "six"}, {"genre": "jazz"}]
