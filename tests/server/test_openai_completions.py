"""Legacy completions, embeddings and the list of models, as the official Python client asks for them."""

from __future__ import annotations

import base64
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from openai import OpenAI

from ingle.engine.model import Model

ONCE = "Once upon a time"


def test_a_text_is_continued_without_a_template(client: OpenAI, model: Model) -> None:
    answer = client.completions.create(model="tiny", prompt=ONCE, max_tokens=12, temperature=0, seed=1)
    said = "".join(token.text for token in model.generate(ONCE, max_tokens=12, temperature=0, seed=1))
    assert (answer.choices[0].text, answer.choices[0].finish_reason) == (said, "length")
    assert answer.object == "text_completion"
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == len(model.tokenizer.encode(ONCE))


def test_16_tokens_unless_told_otherwise(client: OpenAI) -> None:
    answer = client.completions.create(model="tiny", prompt=ONCE, logit_bias={"0": 0})
    assert answer.usage is not None
    assert answer.usage.completion_tokens <= 16


def test_prompts_of_every_kind(client: OpenAI, model: Model) -> None:
    ids = model.tokenizer.encode(ONCE)
    single = client.completions.create(model="tiny", prompt=ONCE, max_tokens=5, temperature=0).choices[0].text
    prompts: list[Any] = [[ONCE, "The cat"], ids, [ids, ids[:3]]]
    for prompt in prompts:
        answer = client.completions.create(model="tiny", prompt=prompt, max_tokens=5, temperature=0)
        assert answer.choices[0].text == single
        assert [choice.index for choice in answer.choices] == list(range(len(answer.choices)))
    assert len(answer.choices) == 2


def test_several_answers_to_several_prompts_follow_each_other(client: OpenAI) -> None:
    asked: Any = {"model": "tiny", "prompt": [ONCE, "The cat"], "n": 2, "max_tokens": 6, "seed": 3}
    whole = client.completions.create(**asked)
    assert len({choice.text for choice in whole.choices}) > 1
    alone = client.completions.create(**{**asked, "prompt": "The cat"})
    assert [choice.text for choice in alone.choices] == [choice.text for choice in whole.choices[2:]]
    said = dict.fromkeys(range(4), "")
    for chunk in client.completions.create(**asked, stream=True):
        said[chunk.choices[0].index] += chunk.choices[0].text
    assert said == {choice.index: choice.text for choice in whole.choices}


def test_echo_puts_the_prompt_before_the_answer(client: OpenAI, model: Model) -> None:
    asked: Any = {"model": "tiny", "max_tokens": 5, "temperature": 0}
    said = client.completions.create(prompt=ONCE, **asked).choices[0].text
    for prompt in (ONCE, model.tokenizer.encode(ONCE)):
        assert client.completions.create(prompt=prompt, echo=True, **asked).choices[0].text == ONCE + said
        streamed = client.completions.create(prompt=prompt, echo=True, stream=True, **asked)
        assert "".join(chunk.choices[0].text for chunk in streamed) == ONCE + said


def test_log_probabilities_and_where_their_tokens_stand(client: OpenAI, model: Model) -> None:
    asked: Any = {"model": "tiny", "prompt": ONCE, "max_tokens": 6, "temperature": 0, "logprobs": 2}
    choice = client.completions.create(**asked).choices[0]
    logprobs = choice.logprobs
    assert logprobs is not None
    assert "".join(logprobs.tokens or []) == choice.text
    score = model.score([*model.tokenizer.encode(ONCE), *model.tokenizer.encode(choice.text, add_special=False)])
    assert logprobs.token_logprobs == pytest.approx(
        score[-6:].tolist(), abs=5e-2
    )  # rows that are computed together round otherwise
    assert all(len(top) == 2 for top in logprobs.top_logprobs or [])
    assert (logprobs.text_offset or [])[0] == 0
    for offset, token in zip(logprobs.text_offset or [], logprobs.tokens or [], strict=True):
        assert choice.text[offset:].startswith(token)
    streamed = [chunk.choices[0].logprobs for chunk in client.completions.create(**asked, stream=True)]
    assert [token for one in streamed if one for token in one.tokens or []] == logprobs.tokens
    assert [at for one in streamed if one for at in one.text_offset or []] == logprobs.text_offset


def test_the_last_chunk_has_the_usage(client: OpenAI) -> None:
    *said, last = client.completions.create(
        model="tiny", prompt=ONCE, max_tokens=4, stream=True, stream_options={"include_usage": True}
    )
    assert all(chunk.usage is None for chunk in said)
    assert last.usage is not None
    assert (last.choices, last.usage.completion_tokens) == ([], 4)


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        ({"suffix": "the end"}, "suffix"),
        ({"best_of": 3}, "best_of"),
        ({"echo": True, "logprobs": 1}, "logprobs"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"prompt": ["a"] * 40, "n": 2}, "prompt"),
        ({"logit_bias": {"999999": 1}}, "logit_bias"),
    ],
)
def test_what_cannot_be_is_refused(client: OpenAI, asked: Any, param: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(**{"model": "tiny", "prompt": ONCE, **asked})
    assert caught.value.param == param


def test_what_means_nothing_is_accepted(client: OpenAI) -> None:
    client.completions.create(model="tiny", prompt=ONCE, suffix="", best_of=1, max_tokens=1, user="me")


def test_embeddings_are_vectors_of_length_1(client: OpenAI, model: Model) -> None:
    texts = ["a cat", "a kitten", "the price of steel"]
    answer = client.embeddings.create(model="tiny", input=texts)
    vectors = np.array([one.embedding for one in answer.data])
    assert vectors.shape == (3, model.spec.n_embd)
    assert [one.index for one in answer.data] == [0, 1, 2]
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert answer.usage.prompt_tokens == sum(len(model.tokenizer.encode(text)) for text in texts)
    again = client.embeddings.create(model="tiny", input=texts[1])
    np.testing.assert_allclose(again.data[0].embedding, vectors[1], atol=1e-3)
    ids = client.embeddings.create(model="tiny", input=model.tokenizer.encode(texts[1]))
    np.testing.assert_allclose(ids.data[0].embedding, vectors[1], atol=1e-3)


def test_embeddings_as_base64_are_the_same_numbers(url: str) -> None:
    as_floats = httpx.post(f"{url}/v1/embeddings", json={"input": "a cat"}).json()["data"][0]["embedding"]
    coded = httpx.post(f"{url}/v1/embeddings", json={"input": "a cat", "encoding_format": "base64"}).json()
    numbers = np.frombuffer(base64.b64decode(coded["data"][0]["embedding"]), "<f4")
    np.testing.assert_allclose(numbers, as_floats, atol=1e-6)


def test_embeddings_that_cannot_be_are_refused(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.embeddings.create(model="tiny", input="word " * 5000)
    assert caught.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError) as caught:
        client.embeddings.create(model="tiny", input="a", dimensions=3)
    assert caught.value.param == "dimensions"


def test_models_and_health(client: OpenAI, url: str) -> None:
    (listed,) = client.models.list().data
    assert (listed.id, listed.object, listed.owned_by) == ("tiny", "model", "ingle")
    assert client.models.retrieve("tiny") == listed
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("org/another")
    assert caught.value.code == "model_not_found"
    assert httpx.get(f"{url}/health").json()["status"] == "ok"
