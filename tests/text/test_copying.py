"""Arguments in the words of the request."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingle.engine.model import load
from ingle.text.copying import MAX_RUNS, copying, runs_of_words
from ingle.text.grammar import Grammar
from ingle.text.tools import Tool, find_calls
from story_teller import STORY_TELLER


def tool(**properties: dict[str, Any]) -> Tool:
    return Tool("f", "Does it.", {"type": "object", "properties": properties})


def test_runs_are_of_whole_words_with_and_without_their_edges() -> None:
    runs = set(runs_of_words("Wake me at 6:30 a.m., 'dear' Anna's $5!"))
    assert {"6:30", "6:30 a.m.,", "6:30 a.m", "at 6:30", "dear", "Anna's", "Anna", "$5", "Anna's $5!"} <= runs
    assert not {"Wak", "me 6:30", "5", "30", ""} & runs


@given(st.text(max_size=400))
def test_every_run_is_in_the_text_and_there_are_not_too_many(text: str) -> None:
    runs = runs_of_words(text)
    assert all(run and run in text for run in runs)
    assert len(runs) == len(set(runs)) <= MAX_RUNS


def test_long_requests_stay_bounded() -> None:
    assert len(runs_of_words(" ".join(f"w{i}" for i in range(5000)))) == MAX_RUNS


def test_only_free_texts_are_limited() -> None:
    given = tool(
        a={"type": "string", "description": "any"},
        b={"type": "string", "enum": ["x"]},
        c={"type": "string", "pattern": "[0-9]+"},
        d={"type": "integer"},
        e={"type": "array", "items": {"type": "string"}},
    )
    limited = copying([given], "two words")[0].parameters
    changed = {name for name, schema in limited["properties"].items() if schema != given.parameters["properties"][name]}
    assert changed == {"a"}
    assert given.parameters["properties"]["a"] == {"type": "string", "description": "any"}  # as it was
    assert copying([given], " ")[0] is given


def test_parameters_that_are_no_objects_are_let_be() -> None:
    odd = Tool("f", "", {"type": "object"})
    assert copying([odd], "words") == [odd]


@pytest.mark.parametrize("seed", range(8))
def test_whatever_is_drawn_the_arguments_are_words_of_the_request(seed: int) -> None:
    """Tokens at random, as far as the grammar lets them."""
    request = "play Bohemian Rhapsody \u2013 by Queen's band, loudly"
    tools = [tool(artist={"type": "string"}, song={"type": "string"}, level={"type": "integer", "maximum": 9})]
    rng = np.random.default_rng(seed)
    with load(STORY_TELLER, context=64, threads=1) as model:
        matcher = Grammar.tool_calls(copying(tools, request), "required").matcher(model.tokenizer)
        ids: list[int] = []
        while not (ids and ids[-1] in model.tokenizer.eog_ids):
            assert len(ids) < 400
            ids.append(int(rng.choice(np.flatnonzero(matcher.mask()))))
            matcher.advance(ids[-1])
        found = find_calls(model.tokenizer.decode(ids, skip_special=True))
    assert not found.problems, json.dumps(found.problems)
    (call,) = found.calls
    runs = runs_of_words(request)
    assert all(value in runs for name, value in call.arguments.items() if name != "level")
