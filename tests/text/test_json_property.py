"""Random schemas, random models: no answer under a grammar is anything but JSON by its schema."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from ingle.engine.model import bundled_model
from ingle.errors import GrammarError
from ingle.gguf import open_gguf
from ingle.text import TextStream, Tokenizer
from ingle.text.calls.strict import decoded
from ingle.text.grammar import Grammar
from shared_data import shared
from text.small_vocabularies import byte_level_tokenizer, spm_tokenizer

MOST = 1500  # tokens of an answer; from FREE on it is led to its end
FREE = 40


def kind(*types: Any, **keys: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Schemas of one of these types, each of the other keywords there or not."""
    return st.fixed_dictionaries({"type": st.sampled_from(types)}, optional=keys)


def schemas(depth: int) -> st.SearchStrategy[dict[str, Any]]:
    """Schemas of some depth; their bounds can contradict one another."""
    small, large = st.integers(0, 3), st.integers(2, 9)
    low, high = st.sampled_from([-100, -1.5, 0, 1]), st.sampled_from([1, 2.25, 1000, 10**12])
    values = st.sampled_from(["a", "\u00e9\n", 1, 2.5, None, True, [1, "b"], {"c": {}}])
    simple = st.one_of(
        kind("string", minLength=small, maxLength=large),
        kind("string", pattern=st.sampled_from(["^[a-c]+$", "^[0-9]{2}:[0-9]{2}$", "^.{2,5}$"])),
        kind("string", format=st.sampled_from(["date", "ipv4", "uuid", "time"])),
        kind("number", "integer", minimum=low, maximum=high),
        kind("number", exclusiveMinimum=low, exclusiveMaximum=high),
        kind("integer", multipleOf=st.sampled_from([2, 7])),
        kind("boolean", "null", "integer", "number", "string", "object", "array"),
        kind(["string", "null"], ["integer", "array", "boolean"], maxLength=large, maxItems=small),
        st.fixed_dictionaries({"enum": st.lists(values, min_size=1, max_size=3)}),
        st.fixed_dictionaries({"const": values}),
        st.fixed_dictionaries({"$ref": st.sampled_from(["#/$defs/a", "#/$defs/b"])}),
        st.just({}),
    )
    if depth == 0:
        return simple
    inner = schemas(depth - 1)
    names = ["a", "ab", 'q"\\', "\u00e9\n", "{"]
    properties = st.dictionaries(st.sampled_from(names), inner, max_size=4)
    required = st.lists(st.sampled_from(names), unique=True, max_size=3)
    deep = st.one_of(
        kind("object", properties=properties, required=required, additionalProperties=st.booleans() | inner),
        kind("array", items=inner, minItems=small, maxItems=large),
        kind("array", prefixItems=st.lists(inner, min_size=1, max_size=3), items=st.just(False)),
        st.fixed_dictionaries({"anyOf": st.lists(inner, min_size=1, max_size=3)}),
    )
    return deep | deep | simple


#: "b" refers to itself.
DEFINITIONS = {
    "a": {"type": "string", "maxLength": 4},
    "b": {"type": "object", "properties": {"b": {"$ref": "#/$defs/b"}, "n": {"type": "number"}}, "required": ["n"]},
}
SCHEMAS = schemas(2)


def published(name: str) -> Tokenizer:
    with open_gguf(shared(f"tokenizers/{name}")) as file:
        return Tokenizer.from_metadata(file.metadata)


def bundled() -> Tokenizer:
    with open_gguf(bundled_model()) as file:
        return Tokenizer.from_metadata(file.metadata)


@pytest.fixture(scope="module", params=["bytes", "spm", "bundled", "llama", "gpt-2"])
def tokenizer(request: pytest.FixtureRequest, byte_level: Callable[..., dict[str, object]]) -> Tokenizer:
    made: dict[str, Callable[[], Tokenizer]] = {
        "bytes": lambda: byte_level_tokenizer(byte_level, eos_token_id=267),
        "spm": spm_tokenizer,
        "bundled": bundled,
        "llama": lambda: published("ggml-vocab-llama-spm.gguf"),
        "gpt-2": lambda: published("ggml-vocab-gpt-2.gguf"),
    }
    return made[cast(str, request.param)]()


class RandomModel:
    """Logits by chance; after FREE tokens it wants to come to an end."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._ends = np.array([self._end(i) for i in range(tokenizer.n_vocab)])

    def _end(self, token_id: int) -> int:
        """How much nearer to its end a token brings an answer; a text first, which takes brackets as well."""
        if token_id in self._tokenizer.eog_ids:
            return 5
        text = self._tokenizer.token_bytes(token_id).lstrip(b" ")
        return {b'"': 4, b"}": 3, b"]": 2}.get(text, 0)

    def answer(self, grammar: Grammar, seed: int) -> str | None:
        rng, tokenizer = np.random.default_rng(seed), self._tokenizer
        matcher, stream, text = grammar.matcher(tokenizer), TextStream(tokenizer), ""
        for index in range(MOST):
            mask = matcher.mask()
            logits = rng.standard_normal(tokenizer.n_vocab, np.float32) * rng.integers(1, 8)
            if index > FREE or rng.random() < 0.2:
                logits += 100.0 * self._ends
            choice = int(np.argmax(np.where(mask, logits, -np.inf)))
            matcher.advance(choice)
            if choice in tokenizer.eog_ids:
                return text + stream.finish()
            text += stream.push(choice)
            self.said = text
        return None


def test_random_models_write_json_by_random_schemas(tokenizer: Tokenizer) -> None:
    model, counts = RandomModel(tokenizer), Counter[str]()

    @settings(max_examples=200, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(SCHEMAS, st.integers(0, 2**32))
    def check(schema: dict[str, Any], seed: int) -> None:
        schema = {**schema, "$defs": DEFINITIONS}
        try:
            grammar = Grammar.json_schema(schema)
        except GrammarError:
            counts["refused"] += 1  # a schema that nothing fits, or that cannot be enforced
            return
        text = model.answer(grammar, seed)
        assert text is not None, f"an answer comes to its end: {schema} {model.said[-200:]!r}"
        assert Draft202012Validator(schema).is_valid(decoded(text)), (schema, text)
        counts["written"] += 1

    check()
    assert counts["written"] > 2 * counts["refused"]


def test_any_object_comes_to_its_end(tokenizer: Tokenizer) -> None:
    model = RandomModel(tokenizer)
    for seed in range(20):
        text = model.answer(Grammar.json_object(), seed)
        assert text is not None
        assert isinstance(decoded(text), dict)


def test_nothing_goes_on_for_ever_between_values_and_in_numbers(tokenizer: Tokenizer) -> None:
    """A model that likes space, digits and signs best comes to the end of them by itself."""
    likes = np.array(
        [tokenizer.token_bytes(i).strip(b" \n\t\r0123456789.-+eE") == b"" for i in range(tokenizer.n_vocab)]
    )
    schema = {
        "type": "object",
        "properties": {"a": {"type": "number"}, "b": {"type": "integer"}, "c": {}},
        "additionalProperties": False,
        "required": ["a", "b"],
    }
    for seed in range(5):
        rng = np.random.default_rng(seed)
        matcher, text = Grammar.json_schema(schema).matcher(tokenizer), b""
        for _ in range(400):
            mask = matcher.mask()
            choice = int(np.argmax(np.where(mask, likes + 0.1 * rng.random(len(mask)), -1)))
            text += tokenizer.token_bytes(choice)
            if b'"c"' in text or choice in tokenizer.eog_ids:
                break
            matcher.advance(choice)
        else:
            pytest.fail(f"it never ends: {text[:100]!r}")
