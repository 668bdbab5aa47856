"""Chat templates: what they make of a conversation, and that what people write stays text."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingle.errors import TemplateError, UsageError
from ingle.text import ChatTemplate, Tokenizer
from ingle.text.calls.generic import GENERIC

CHATML_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
LLAMA3_TOKENS = ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
GEMMA_TOKENS = ("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>")
MERGES = ("\u010a \u010a", "h i", "u s", "us e", "use r")

CHATML = (
    "{% for message in messages %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA3 = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = '<|start_header_id|>' + "
    "message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}"
    "{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
GEMMA = (
    "{{ bos_token }}"
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if (message['role'] == 'assistant') %}{% set role = 'model' %}"
    "{% else %}{% set role = message['role'] %}{% endif %}"
    "{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{'<start_of_turn>model\n'}}{% endif %}"
)

Make = Callable[..., dict[str, object]]


def message(content: Any, role: str = "user") -> dict[str, Any]:
    return {"role": role, "content": content}


@pytest.fixture(scope="module")
def make(byte_level: Make) -> Callable[..., tuple[ChatTemplate, Tokenizer]]:
    def made(template: str | None, control: tuple[str, ...], **extra: object) -> tuple[ChatTemplate, Tokenizer]:
        if template is not None:
            extra["chat_template"] = template
        ends = {
            name: 256 + len(MERGES) + i for i, name in enumerate(("bos_token_id", "eos_token_id")) if len(control) > i
        }
        metadata = byte_level(MERGES, control, **{**ends, **extra})
        tokenizer = Tokenizer.from_metadata(metadata)
        return ChatTemplate.from_metadata(metadata, tokenizer), tokenizer

    return made


FAMILIES = [(CHATML, CHATML_TOKENS), (LLAMA3, LLAMA3_TOKENS), (GEMMA, GEMMA_TOKENS)]
family = pytest.mark.parametrize(("template", "control"), FAMILIES, ids=["chatml", "llama-3", "gemma"])


def test_chatml_as_published(make: Callable[..., tuple[ChatTemplate, Tokenizer]]) -> None:
    template, _ = make(CHATML, CHATML_TOKENS)
    text = template.render([message("Be kind.", "system"), message("hi")])
    assert text == "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    assert template.render([message("hi")], add_generation_prompt=False) == "<|im_start|>user\nhi<|im_end|>\n"
    assert template.stops == ()


@family
def test_nothing_in_a_message_becomes_a_control_token(
    make: Callable[..., tuple[ChatTemplate, Tokenizer]], template: str, control: tuple[str, ...]
) -> None:
    chat, tokenizer = make(template, control, add_bos_token=template != CHATML)
    harmless = [
        i for i in chat.encode_chat([message("x"), message("x", "assistant"), message("x")]) if tokenizer.is_control(i)
    ]

    @settings(deadline=None)
    @given(
        st.lists(
            st.lists(st.sampled_from([*control, "<|", "|>", "<", "hi", " ", "\n", "x"])).map("".join),
            min_size=3,
            max_size=3,
        )
    )
    def check(contents: list[str]) -> None:
        messages = [message(c, role) for c, role in zip(contents, ("user", "assistant", "user"), strict=True)]
        ids = chat.encode_chat(messages)
        assert [i for i in ids if tokenizer.is_control(i)] == harmless
        bos = chat._text_of(tokenizer.bos_id)
        assert tokenizer.decode(ids).removeprefix(bos) == chat.render(messages).removeprefix(bos)

    check()


def test_messages_are_text_also_beside_the_template_s_own(make: Callable[..., tuple[ChatTemplate, Tokenizer]]) -> None:
    """A template that ends in half a control token, a name, a tool and its arguments, parts that add up to one."""
    source = (
        "{% for m in messages %}<|im_{{ m.content }}{{ m.name }}{% for call in m.tool_calls or [] %}"
        "{{ call.function.arguments | tojson }}{% endfor %}{% endfor %}{{ tools | tojson }}"
    )
    chat, tokenizer = make(source, CHATML_TOKENS)
    call = {"function": {"name": "f", "arguments": json.dumps({"<|im_end|>": ["<|im_end|>"]})}}
    messages = [
        {"role": "user", "content": "end|>", "name": "<|im_end|>"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        message([{"type": "text", "text": "<|im_"}, {"type": "text", "text": "end|>"}]),
    ]
    ids = chat.encode_chat(messages, tools=[{"description": "<|im_end|>"}])
    assert not any(tokenizer.is_control(i) for i in ids)
    assert tokenizer.decode(ids) == chat.render(messages, tools=[{"description": "<|im_end|>"}])


def test_roles_are_control_text_and_therefore_known_ones_only(
    make: Callable[..., tuple[ChatTemplate, Tokenizer]],
) -> None:
    chat, _ = make(CHATML, CHATML_TOKENS)
    for role in ("user<|im_end|>", "endoftext", "", None, 5):
        with pytest.raises(UsageError, match="a role among system"):
            chat.encode_chat([{"role": role, "content": "x"}])


def test_the_marker_is_a_character_that_nobody_wrote(make: Callable[..., tuple[ChatTemplate, Tokenizer]]) -> None:
    chat, tokenizer = make(CHATML, CHATML_TOKENS)
    content = "".join(map(chr, range(0xFDD0, 0xFDF0))) + "<|im_end|>\U000f0000"
    ids = chat.encode_chat([message(content)], add_generation_prompt=False)
    assert tokenizer.decode(ids) == f"<|im_start|>user\n{content}<|im_end|>\n"
    assert sum(map(tokenizer.is_control, ids)) == 2


def test_a_template_that_looks_at_the_edges_of_a_message(make: Callable[..., tuple[ChatTemplate, Tokenizer]]) -> None:
    """The outer markers are left away where they would change what the template does."""
    source = (
        "{% for m in messages %}{% if m.content.startswith('/no') %}<|im_end|>"
        "{% else %}{{ m.content }}{% endif %}{% endfor %}"
    )
    chat, tokenizer = make(source, CHATML_TOKENS)
    assert tokenizer.decode(chat.encode_chat([message("/no"), message("<|im_end|>")])) == "<|im_end|><|im_end|>"
    assert sum(map(tokenizer.is_control, chat.encode_chat([message("/no"), message("<|im_end|>")]))) == 1


@family
def test_tokens_are_those_of_the_whole_text(
    make: Callable[..., tuple[ChatTemplate, Tokenizer]],
    texts: st.SearchStrategy[str],
    template: str,
    control: tuple[str, ...],
) -> None:
    """For messages without control tokens, keeping them apart changes nothing, spaces and line breaks included."""
    chat, tokenizer = make(template, control)

    @settings(deadline=None)
    @given(texts)
    def check(text: str) -> None:
        messages = [message(f"{text}\n")]
        assert chat.encode_chat(messages) == tokenizer.encode(
            chat.render(messages), add_special=False, parse_special=True
        )

    check()


@family
@pytest.mark.parametrize("add_bos", [True, False])
def test_one_bos(
    make: Callable[..., tuple[ChatTemplate, Tokenizer]], template: str, control: tuple[str, ...], add_bos: bool
) -> None:
    chat, tokenizer = make(template, control, add_bos_token=add_bos, add_eos_token=True)
    ids = chat.encode_chat([message("hi")])
    assert ids.count(tokenizer.bos_id or -1) == (1 if add_bos or template != CHATML else 0)
    assert ids[-1] != tokenizer.eos_id


def test_a_conversation_goes_on_where_it_was(make: Callable[..., tuple[ChatTemplate, Tokenizer]]) -> None:
    """What the engine keeps: the tokens so far and of the answer begin the next prompt."""
    chat, tokenizer = make(CHATML, CHATML_TOKENS)
    messages = [message("hi")]
    for turn in range(4):
        before = chat.encode_chat(messages)
        answer = f"hi {turn}\n\nuser"
        messages += [message(answer, "assistant"), message(f"user {turn}")]
        assert chat.encode_chat(messages)[: len(before)] == before
        said = [*before, *tokenizer.encode(answer, add_special=False), tokenizer.control_tokens["<|im_end|>"]]
        assert chat.encode_chat(messages)[: len(said)] == said


def test_a_system_message_that_a_template_refuses_goes_to_the_user_s(
    make: Callable[..., tuple[ChatTemplate, Tokenizer]],
) -> None:
    chat, tokenizer = make(GEMMA, GEMMA_TOKENS)
    messages = [message("Be kind.", "system"), message("hi<end_of_turn>")]
    expected = "<bos><start_of_turn>user\nBe kind.\n\nhi<end_of_turn><end_of_turn>\n<start_of_turn>model\n"
    assert chat.render(messages) == expected
    ids = chat.encode_chat(messages)
    assert tokenizer.decode(ids) == expected
    assert sum(map(tokenizer.is_control, ids)) == 4
    assert chat.render(messages[:1]) == "<bos><start_of_turn>user\nBe kind.<end_of_turn>\n<start_of_turn>model\n"
    with pytest.raises(TemplateError, match="refused the conversation: Conversation roles must alternate"):
        chat.render([message("a"), message("b")])


def test_developer_messages_are_system_messages_to_most_templates(
    make: Callable[..., tuple[ChatTemplate, Tokenizer]],
) -> None:
    assert make(CHATML, CHATML_TOKENS)[0].render([message("x", "developer")]).startswith("<|im_start|>system\n")
    own = make("{{ messages[0].role }} {# developer #}", CHATML_TOKENS)[0]
    assert own.render([message("x", "developer")]).startswith("developer")


FALLBACKS = [
    (
        CHATML_TOKENS,
        "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nU<|im_end|>\n<|im_start|>assistant\nA<|im_end|>\n",
    ),
    (
        LLAMA3_TOKENS,
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nS<|eot_id|><|start_header_id|>user<|end_header_id|>"
        "\n\nU<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nA<|eot_id|>",
    ),
    (
        GEMMA_TOKENS,
        "<bos><start_of_turn>user\nS\n\nU<end_of_turn>\n<start_of_turn>model\nA<end_of_turn>\n",
    ),
    (
        ("<s>", "<|endoftext|>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>"),
        "<|system|>\nS<|end|>\n<|user|>\nU<|end|>\n<|assistant|>\nA<|end|>\n",
    ),
    (("<s>", "</s>", "[INST]", "[/INST]"), "<s>[INST] S\n\nU [/INST] A</s>"),
    (("<s>", "</s>"), "S\n\nUser: U\nAssistant: A\n"),
]


@pytest.mark.parametrize(
    ("control", "expected"), FALLBACKS, ids=["chatml", "llama-3", "gemma", "phi-3", "mistral", "plain"]
)
def test_fallbacks(
    make: Callable[..., tuple[ChatTemplate, Tokenizer]], control: tuple[str, ...], expected: str
) -> None:
    chat, tokenizer = make(None, control)
    messages = [message("S", "system"), message("U"), message("A", "assistant")]
    assert chat.render(messages, add_generation_prompt=False) == expected
    with_prompt = chat.render([*messages, message("V")])
    assert with_prompt.startswith(expected)
    assert with_prompt != chat.render([*messages, message("V")], add_generation_prompt=False) or "[INST]" in control
    assert chat.stops == (("\nUser:",) if "User:" in expected else ())
    assert not chat.takes_tools
    hostile = [message(f"{control[-1]}{control[0]}", m["role"]) for m in messages]
    marks, marks_of_hostile = ([i for i in chat.encode_chat(m) if tokenizer.is_control(i)] for m in (messages, hostile))
    assert marks == marks_of_hostile


def test_tools(make: Callable[..., tuple[ChatTemplate, Tokenizer]]) -> None:
    source = (
        "{% if tools %}{{ tools[0] | tojson }}{% endif %}"
        "{% for c in messages[0].tool_calls or [] %}{{ c.function.arguments.x }}{% endfor %}"
    )
    chat, _ = make(source, CHATML_TOKENS)
    assert chat.takes_tools
    assert chat.render([message("x")], tools=[{"name": "<\u00e9 & '"}]) == '{"name": "<\u00e9 & \'"}'
    assert chat.render([message("x")], tools=[]) == ""
    none, _ = make("{{ tools is none }}", CHATML_TOKENS)
    assert none.render([message("x")], tools=[]) == "True"
    call = {"function": {"arguments": '{"x": 5}'}}
    assert chat.render([{"role": "assistant", "tool_calls": [call]}]) == "5"
    call = {"function": {"arguments": {"x": 6}}}
    assert chat.render([{"role": "assistant", "content": None, "tool_calls": [call]}]) == "6"
    with pytest.raises(UsageError, match="JSON in the arguments"):
        chat.render([{"role": "assistant", "tool_calls": [{"function": {"arguments": "{"}}]}])


def test_tools_that_a_template_has_no_place_for(make: Callable[..., tuple[ChatTemplate, Tokenizer]]) -> None:
    """They are told in the system message, and can bring no control tokens either."""
    chat, tokenizer = make(None, CHATML_TOKENS)
    tool = {"type": "function", "function": {"name": "wake", "description": "Wake <|im_end|> up."}}
    told = GENERIC.told([tool])
    assert told == GENERIC.told([tool["function"]])  # type: ignore[list-item]
    assert '{"name": "wake", "description": "Wake <|im_end|> up."}' in told
    for messages, system in (
        ([message("U")], told),
        ([message("S", "system"), message("U")], f"S\n\n{told}"),
    ):
        plain = [message(system, "system"), message("U")]
        assert chat.render(messages, tools=[tool]) == chat.render(plain)
        assert chat.encode_chat(messages, tools=[tool]) == chat.encode_chat(plain)
        n_control = sum(map(tokenizer.is_control, chat.encode_chat(messages, tools=[tool])))
        assert n_control == sum(map(tokenizer.is_control, chat.encode_chat([message("S", "system"), message("U")])))
    assert chat.render([message("U")], tools=[]) == chat.render([message("U")])


def test_a_template_of_its_own_for_tools(byte_level: Make) -> None:
    metadata = byte_level(control=CHATML_TOKENS, chat_template="plain")
    metadata["tokenizer.chat_template.tool_use"] = "with {{ tools | length }}"
    chat = ChatTemplate.from_metadata(metadata, Tokenizer.from_metadata(metadata))
    assert [chat.render([message("x")], tools=tools) for tools in (None, [{}])] == ["plain", "with 1"]


def test_what_templates_expect_to_find(make: Callable[..., tuple[ChatTemplate, Tokenizer]]) -> None:
    source = (
        "  {%- for m in messages %}\n"
        "  {% if m.content == 'skip' %}{% continue %}{% endif %}\n"
        "{{ loop.index }}{{ bos_token }}{{ eos_token }}{{ m.content ~ 1 }}{{ thinking }}\n"
        "  {% generation %}g{% endgeneration %}\n"
        "{% endfor %}\n"
        "{{ strftime_now('%Y') }}|{{ {'b': 1, 'a': '<'} | tojson }}|{{ [1] | tojson(indent=2) }}"
        "|{{ tools is none }}|{{ nothing }}"
    )
    chat, _ = make(source, CHATML_TOKENS)
    text = chat.render([message("a"), message("skip"), message("b")], variables={"thinking": "T"})
    bos_eos = "<|endoftext|><|im_start|>"
    head = f"1{bos_eos}a1T\ng3{bos_eos}b1T\ng"
    years = {str(datetime.now().year + off) for off in (-1, 0, 1)}
    assert text.startswith(head)
    year, *rest = text[len(head) :].split("|")
    assert year in years
    assert rest == ['{"b": 1, "a": "<"}', "[\n  1\n]", "True", ""]


@pytest.mark.parametrize(
    ("messages", "error"),
    [
        ([], "at least one message"),
        (["x"], "a role among"),
        ([{"content": "x"}], "a role among"),
        ([message(5)], "a text as the content"),
        ([message([{"type": "image_url"}])], "text only"),
        ([message("x") | {"extra": {1, 2}}], "JSON"),
    ],
)
def test_messages_that_are_none(
    make: Callable[..., tuple[ChatTemplate, Tokenizer]], messages: list[Any], error: str
) -> None:
    with pytest.raises(UsageError, match=error):
        make(CHATML, CHATML_TOKENS)[0].encode_chat(messages)
