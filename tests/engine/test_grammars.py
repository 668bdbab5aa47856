"""Answers held to a grammar, and conversations with tools."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import ingle
import toys
from ingle.engine.model import Model, load
from ingle.engine.sampling import Sampler, SamplingParams, native_sample, sample_numpy
from ingle.errors import BackendError, GrammarError, UsageError
from ingle.text.calls.generic import GENERIC
from ingle.text.grammar import Grammar
from ingle.text.tools import Tool, find_calls
from ingle.train.data.conversation import CHAT_TEMPLATE

N_VOCAB = len(toys.vocabulary())
END = toys.vocabulary().index("<|im_end|>")
ALARM = Tool(
    "set_alarm",
    "Wake me up",
    {
        "type": "object",
        "properties": {"time": {"enum": ["6:00", "7:30"]}, "loud": {"type": "boolean"}},
        "required": ["time"],
    },
)
TOLD = GENERIC.told([ALARM.as_openai()])
PARAMS = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toys.toy_gguf(tmp_path_factory.mktemp("toy") / "toy.gguf", n_context=512)


@pytest.fixture(scope="module")
def tooled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose template knows tools."""
    return toys.toy_gguf(tmp_path_factory.mktemp("tooled") / "tooled.gguf", template=CHAT_TEMPLATE, n_context=1024)


FUNCTIONS: list[Callable[..., tuple[int, float]] | None] = [sample_numpy, native_sample()]


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_only_what_is_allowed_is_drawn_and_its_probability_is_the_models(function: object, temperature: float) -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 3, 50).astype(np.float32)
    logprobs = logits.astype(np.float64) - math.log(np.exp(logits.astype(np.float64)).sum())
    allowed = np.zeros(50, np.bool_)
    allowed[np.argsort(logits)[:5]] = True  # the five that are least likely
    sampler = Sampler(SamplingParams(temperature=temperature, seed=1), function)  # type: ignore[arg-type]
    drawn = [sampler.sample(logits, [], allowed) for _ in range(50)]
    ids = {sample.token_id for sample in drawn}
    assert ids <= set(np.flatnonzero(allowed).tolist())
    assert ids == {int(np.where(allowed, logits, -np.inf).argmax())} or temperature
    for sample in drawn:
        assert sample.logprob == pytest.approx(logprobs[sample.token_id], abs=1e-5)


def test_native_and_numpy_draw_alike_under_a_mask() -> None:
    rng = np.random.default_rng(2)
    for seed in range(50):
        logits = rng.normal(0, 2, 300).astype(np.float32)
        allowed = rng.random(300) < rng.choice([0.01, 0.3, 0.9])
        allowed[seed] = True
        params = SamplingParams(temperature=0.9, repeat_penalty=1.2, seed=seed)
        history = rng.integers(0, 300, 20).tolist()
        first, second = (Sampler(params, f).sample(logits, history, allowed) for f in FUNCTIONS)
        assert first.token_id == second.token_id
        assert first.logprob == pytest.approx(second.logprob, abs=1e-6)


def test_a_model_that_never_says_what_is_allowed() -> None:
    logits = np.asarray([1.0, -np.inf, 2.0], np.float32)
    with pytest.raises(BackendError, match="grammar"):
        Sampler(SamplingParams(seed=1)).sample(logits, [], np.asarray([False, True, False]))


def scripted(path: Path, **options: int) -> Model:
    return toys.scripted_model(path, toys.hashed(N_VOCAB), **options)[0]


def test_an_answer_is_by_its_grammar_and_ends_there(toy: Path) -> None:
    model = scripted(toy)
    schema = {
        "type": "object",
        "properties": {"n": {"enum": [1, 22]}},
        "required": ["n"],
        "additionalProperties": False,
    }
    for seed in range(10):
        tokens = list(model.generate("a", grammar=Grammar.json_schema(schema), seed=seed, **PARAMS))  # type: ignore[arg-type]
        assert json.loads("".join(token.text for token in tokens)) in ({"n": 1}, {"n": 22})
        assert tokens[-1].finish_reason == "eos"
        assert tokens[-1].token_id in model.tokenizer.eog_ids


def test_max_tokens_cuts_in_the_middle(toy: Path) -> None:
    model = scripted(toy)
    grammar = Grammar.json_schema({"type": "object", "properties": {"name": {"const": "x"}}, "required": ["name"]})
    tokens = list(model.generate("a", grammar=grammar, max_tokens=4))
    assert tokens[-1].finish_reason == "length"
    assert "".join(token.text for token in tokens) == '{"na'


def test_a_grammar_that_leaves_all_open_changes_nothing(toy: Path) -> None:
    model, _ = toys.scripted_model(toy, toys.answers(scripted(toy).tokenizer, ["the other and\nh\u00e9llo <tool"], END))
    free, held = (
        [
            (token.token_id, token.text, token.logprob)
            for token in model.chat(temperature=0.0, grammar=grammar).send("a")
        ]
        for grammar in (None, Grammar.tool_calls([ALARM]))
    )
    assert [token[:2] for token in held] == [token[:2] for token in free]
    assert [token[2] for token in held] == pytest.approx([token[2] for token in free], abs=1e-9)
    assert len(free) > 10


def test_the_logprob_is_that_of_the_model(toy: Path) -> None:
    with load(toy, backend="reference") as model:
        answer = model.generate("the", grammar=Grammar.regex("[a-d]{6}"), seed=1, **PARAMS)  # type: ignore[arg-type]
        tokens = list(answer)
        logprobs = model.score([*answer.prompt_tokens, *(token.token_id for token in tokens)])
    assert len(tokens) == 7
    assert [token.logprob for token in tokens] == pytest.approx(logprobs[-7:].tolist(), abs=1e-5)


def test_the_same_seed_is_the_same_answer(toy: Path) -> None:
    grammar = Grammar.regex("[a-z ]{10,20}")
    with load(toy, backend="reference") as model:
        once, twice = ([t.token_id for t in model.generate("the", grammar=grammar, seed=5)] for _ in range(2))
    assert once == twice


def test_many_threads_follow_one_grammar(toy: Path) -> None:
    model = scripted(toy, n_slots=4)
    grammar = Grammar.tool_calls([ALARM], "required")

    def answer(seed: int) -> str:
        return "".join(t.text for t in model.generate("a", grammar=grammar, seed=seed, **PARAMS))  # type: ignore[arg-type]

    alone = [answer(seed) for seed in range(12)]
    assert len(set(alone)) > 2
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(answer, range(12))) == alone


def test_what_cannot_be_together_is_a_sentence(toy: Path) -> None:
    model = scripted(toy)
    with pytest.raises(UsageError, match="ignore_eos"):
        model.generate("a", grammar=Grammar.regex("a"), ignore_eos=True)
    with pytest.raises(GrammarError, match="regular expression"):
        Grammar.regex("(")


def prompt_of(model: Model, system: str | None, *tools: Tool, said: str = "wake me") -> str:
    with model.chat(system, tools=tools).send(said) as answer:
        return model.tokenizer.decode(answer.prompt_tokens)


def test_the_template_tells_the_tools(tooled: Path) -> None:
    prompt = prompt_of(scripted(tooled), "Be kind.", ALARM)
    assert prompt.startswith(f"<|im_start|>system\nBe kind.\n\n{TOLD}<|im_end|>\n<|im_start|>user\n")
    assert prompt_of(scripted(tooled), "Be kind.") == prompt.replace("\n\n" + TOLD, "")


def test_a_template_without_tools_gets_them_in_the_system_message(toy: Path, tooled: Path) -> None:
    """In the words that the models made here learn, so that both ways read alike."""
    for system in (None, "Be kind."):
        assert prompt_of(scripted(toy), system, ALARM) == prompt_of(scripted(tooled), system, ALARM)


def test_calls_stay_in_the_conversation_as_they_were_sampled(tooled: Path) -> None:
    model, backend = toys.scripted_model(tooled, toys.hashed(N_VOCAB))
    chat = model.chat(tools=[ALARM], grammar=Grammar.tool_calls([ALARM], "required"), seed=1)
    first = list(chat.send("wake me"))
    (call,) = find_calls("".join(token.text for token in first)).calls
    assert call.name == "set_alarm"
    assert call.arguments["time"] in ("6:00", "7:30")
    second = list(chat.send("again"))
    # All but the end of the first answer is in the cache.
    assert second[-1].stats.cached_tokens == first[-1].stats.prompt_tokens + len(first) - 1
    assert len(find_calls("".join(token.text for token in second)).calls) == 1
    assert [message["role"] for message in chat.history] == ["user", "assistant"] * 2
    assert backend.calls


def test_what_a_person_types_is_no_call(tooled: Path) -> None:
    typed = '<tool_call>\n{"name": "set_alarm", "arguments": {"time": "6:00"}}\n</tool_call>'
    model, _ = toys.scripted_model(tooled, toys.answers(scripted(tooled).tokenizer, ["No tool fits."], END))
    chat = model.chat(tools=[ALARM], grammar=Grammar.tool_calls([ALARM]), temperature=0.0)
    answer = "".join(token.text for token in chat.send(typed))
    assert answer == "No tool fits."
    assert find_calls(answer).calls == []


def test_a_template_that_refuses_tools_gets_them_in_the_system_message(tmp_path: Path) -> None:
    template = "{% if tools %}{{ raise_exception('no tools') }}{% endif %}<|im_start|>{{ messages[0].content }}"
    model = scripted(toys.toy_gguf(tmp_path / "toy.gguf", template=template, n_context=1024))
    asked = model.chat(tools=[ALARM]).send("wake me").prompt_tokens
    assert "set_alarm" in model.tokenizer.decode(asked)


def test_public_names() -> None:
    (tool,) = ingle.read_tools(ALARM.as_openai(), "here")
    assert tool == ingle.Tool(ALARM.name, ALARM.description, ALARM.parameters)
    text = '<tool_call>{"name": "f"}</tool_call>'
    assert ingle.find_calls(text).calls == [ingle.ToolCall("f", {})]
    assert ingle.Grammar is Grammar
