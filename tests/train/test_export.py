"""What is exported computes what was trained: in the engine, in transformers; names, types and tokenizer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import ingle
from ingle.errors import CheckpointError, TemplateError, UnsupportedError, UsageError
from ingle.gguf import TensorType, dequantize, open_gguf, quantize
from ingle.models.recipes import interleaved
from ingle.text import ChatTemplate, Tokenizer
from ingle.train.checkpoint import TrainedModel
from ingle.train.data.conversation import CHAT_TEMPLATE
from ingle.train.export import architecture_of, export_gguf
from ingle.train.export_hf import export_hf
from ingle.train.probe_template import expect_chat_template
from train.small_decoders import (
    PROMPT,
    SENTENCES,
    logits_of,
    prompt_with_leads,
    relative,
    small_decoder,
    small_shape,
    trained,
    vocabulary,
)

FEED_FORWARDS = ("swiglu", "gelu", "relu", "relu2")
SHARINGS = [(sharing, repeat) for sharing in ("immediate", "repeat", "reverse") for repeat in (2, 3)]
PLAIN = [
    {"feed_forward": feed_forward, "qk_norm": qk_norm, "tied": tied}
    for feed_forward in FEED_FORWARDS
    for qk_norm in (False, True)
    for tied in (False, True)
]
SHARED = [
    {"feed_forward": feed_forward, "qk_norm": bool((i + j) % 2), "tied": bool(i // 2 % 2), "sharing": s, "repeat": n}
    for i, (s, n) in enumerate(SHARINGS)
    for j, feed_forward in enumerate(FEED_FORWARDS)
]


def name_of(case: dict[str, Any]) -> str:
    return " ".join(str(value) if not isinstance(value, bool) else f"{key}={value}" for key, value in case.items())


@pytest.mark.parametrize("case", [*PLAIN, *SHARED], ids=name_of)
def test_the_engine_computes_the_same_logits(case: dict[str, Any], tmp_path: Path) -> None:
    """As it is and expanded; on both backends."""
    decoder = small_decoder(small_shape(**case))
    expected = logits_of(decoder, PROMPT)
    for expand in (False, True) if "sharing" in case else (False,):
        done = export_gguf(trained(decoder), tmp_path / "model.gguf", "f32", expand=expand)
        assert done.architecture == architecture_of(decoder.shape, expand)
        for backend in ("reference", "native"):
            with ingle.load(done.path, backend=backend, threads=1, kv_type="f32") as model:
                assert relative(np.asarray(model.logits(PROMPT)), expected) < 1e-5, backend
    with open_gguf(done.path) as file:
        layers = {name.split(".")[1] for name in file.tensors if name.startswith("blk.")}
        assert len(layers) == len(decoder.shape.schedule)
        assert ("output.weight" in file.tensors) != decoder.shape.tied


@pytest.mark.parametrize("case", [*PLAIN[::3], *SHARED[::5]], ids=name_of)
def test_greedy_tokens_of_an_f16_file(case: dict[str, Any], tmp_path: Path) -> None:
    """Weights that float16 holds: the engine says what the trainer's decoder says."""
    decoder = small_decoder(small_shape(**case))
    with torch.no_grad():
        for parameter in decoder.parameters():
            if parameter.ndim == 2:
                parameter.copy_(parameter.half().float())
    prompt, tokens = prompt_with_leads(decoder, 12, 0.02)
    export_gguf(trained(decoder), tmp_path / "model.gguf", "f16")
    for backend in ("reference", "native"):
        with ingle.load(tmp_path / "model.gguf", backend=backend, threads=1) as model:
            answer = list(model.generate(prompt, temperature=0.0, max_tokens=12, ignore_eos=True))
            assert [token.token_id for token in answer] == tokens


@pytest.mark.parametrize(
    ("changes", "architecture", "expanded"),
    [
        ({}, "llama", "llama"),
        ({"qk_norm": True}, "qwen3", "qwen3"),
        ({"feed_forward": "relu2"}, "arcee", "arcee"),
        ({"feed_forward": "relu2", "qk_norm": True}, "mobilellm", "mobilellm"),
        ({"feed_forward": "gelu"}, "mobilellm", "mobilellm"),
        ({"sharing": "immediate"}, "mobilellm", "llama"),
        ({"sharing": "reverse", "qk_norm": True}, "mobilellm", "qwen3"),
        ({"sharing": "repeat", "feed_forward": "relu2"}, "mobilellm", "arcee"),
        ({"sharing": "repeat", "repeat": 1}, "llama", "llama"),
    ],
)
def test_architectures(changes: dict[str, Any], architecture: str, expanded: str) -> None:
    shape = small_shape(**changes)
    assert (architecture_of(shape), architecture_of(shape, expand=True)) == (architecture, expanded)


@pytest.mark.parametrize("case", [*PLAIN, *SHARED[::7]], ids=name_of)
def test_transformers_computes_the_same_logits(case: dict[str, Any], tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", "5")
    decoder = small_decoder(small_shape(**case))
    export_hf(trained(decoder, name="Tiny"), tmp_path / "hf")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf").eval()
    classes = {(True, False): "Llama", (True, True): "Qwen3", (False, False): "Arcee", (False, True): "Apertus"}
    assert type(model).__name__ == classes[case["feed_forward"] == "swiglu", case["qk_norm"]] + "ForCausalLM"
    with torch.no_grad():
        logits = model(torch.tensor([PROMPT])).logits[0].numpy()
    assert relative(logits, logits_of(decoder, PROMPT)) < 1e-5


def test_the_tokenizer_is_the_same_everywhere(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", "5")
    model = trained(small_decoder(small_shape()))
    export_gguf(model, tmp_path / "model.gguf", "f16")
    export_hf(model, tmp_path / "hf")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    messages = [{"role": "user", "content": "The cat"}, {"role": "assistant", "content": "sat."}]
    with open_gguf(tmp_path / "model.gguf") as file:
        ours = Tokenizer.from_metadata(file.metadata)
        template = ChatTemplate.from_metadata(file.metadata, ours)
        for text in [*SENTENCES, "", " two  spaces \r\n", "e\u0301 \u212b 日本 🎉 <tool_call>"]:
            ids = vocabulary().tokenizer.encode(text).ids
            assert ours.encode(text) == theirs(text).input_ids == ids
            assert ours.decode(ids) == theirs.decode(ids, clean_up_tokenization_spaces=False) == text
        ends = {"<|endoftext|>": 0, "<|im_end|>": 2}
        assert ours.eog_ids == set(ends.values())
        assert theirs.eos_token == "<|endoftext|>"
        assert template.encode_chat(messages) == theirs.apply_chat_template(
            messages, add_generation_prompt=True, return_dict=False
        )
    stops = transformers.GenerationConfig.from_pretrained(tmp_path / "hf").eos_token_id
    assert set(stops) == set(ends.values())


# As short as a template for calls can be, with other words than ours.
SHORT = """\
{% for tool in tools or [] %}{{ '<tools>' + tool | tojson }}{% endfor %}
{% for message in messages %}
{{ '<|im_start|>' + message.role + ':' + message.content }}
{% for call in message.tool_calls or [] %}{{ call.function | tojson }}{% endfor %}
{{ '<|im_end|>' }}
{% endfor %}
{% if add_generation_prompt %}{{ '<|im_start|>assistant:' }}{% endif %}
"""


@pytest.mark.parametrize(
    "info", [{}, {"chat": False}, {"tokenizer_config": {"chat_template": "{{ messages }}"}}], ids=str
)
def test_a_given_template_comes_before_all_others(info: dict[str, Any], tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", "5")
    model = trained(small_decoder(small_shape()), **info)
    assert export_gguf(model, tmp_path / "model.gguf", "f16", chat_template=SHORT).chats
    export_hf(model, tmp_path / "hf", chat_template=SHORT)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    messages = [{"role": "user", "content": "The cat"}]
    assert "<|im_start|>user:The cat" in theirs.apply_chat_template(messages, tokenize=False)
    with open_gguf(tmp_path / "model.gguf") as file:
        assert file.metadata.get_str("tokenizer.chat_template") == SHORT
        template = ChatTemplate.from_metadata(file.metadata, Tokenizer.from_metadata(file.metadata))
        assert template.encode_chat(messages) == theirs.apply_chat_template(
            messages, add_generation_prompt=True, return_dict=False
        )


@pytest.mark.parametrize(
    ("template", "sentence"),
    [
        ("{% for message in messages %}", "not sound"),
        ("{{ messages | no_such_filter }}", "not sound"),
        ("{{ raise_exception('No.') }}", r"refused the conversation: No\."),
        ("{{ messages[7].content.text }}", "refused the conversation"),
        ("{{ 7 // (messages | length - 3) }}", "failed on this conversation"),
        ("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", "was stopped"),
        ("", "leaves out what a message of the user says"),
        ("{{ messages[0].content + messages[2].content }}", "leaves out what a message of the assistant says"),
        ("{{ messages[0].content + messages[1].content }}", "leaves out what a message of the user says"),
        (SHORT.replace("tool | tojson", "''"), "leaves out the name of a function"),
        (SHORT.replace("call.function | tojson", "call.function.name"), "leaves out the arguments of a call"),
        (SHORT.replace("message.content", "('' if message.role == 'tool' else message.content)"), "of the tool says"),
    ],
)
def test_templates_that_nobody_could_use(template: str, sentence: str, tmp_path: Path) -> None:
    model = trained(small_decoder(small_shape()))
    with pytest.raises(TemplateError, match=sentence):
        export_gguf(model, tmp_path / "model.gguf", chat_template=template)
    with pytest.raises(TemplateError, match=sentence):
        export_hf(model, tmp_path / "hf", chat_template=template)
    assert list(tmp_path.iterdir()) == []


def test_our_template_and_those_without_tools_are_sound() -> None:
    for template in (CHAT_TEMPLATE, SHORT, "{% for message in messages %}{{ message.content }}{% endfor %}"):
        expect_chat_template(template)


def test_a_template_needs_a_tokenizer(tmp_path: Path) -> None:
    model = trained(small_decoder(small_shape()))
    model = TrainedModel(model.shape, model.tensors)
    for export in (export_gguf, export_hf):
        with pytest.raises(CheckpointError, match="no tokenizer"):
            export(model, tmp_path / "out", chat_template=SHORT)


def test_what_is_known_of_a_model_is_in_the_file_and_on_the_card(tmp_path: Path) -> None:
    sources = [{"path_or_name": "hf:b: c"}, {"path_or_name": "/home/me/tales.txt", "licence": "CC0-1.0"}]
    info = {"name": 'Tales "1"', "description": "Tells tales.", "licence": "CC-BY-4.0", "sources": sources}
    model = trained(small_decoder(small_shape(sharing="immediate")), **info)
    export_gguf(model, tmp_path / "model.gguf", "f32")
    with open_gguf(tmp_path / "model.gguf") as file:
        assert file.metadata.get_str("general.name") == info["name"]
        assert file.metadata.get_str("general.license") == "CC-BY-4.0"
        assert file.metadata.get_str("general.dataset.1.name") == "tales.txt"
    export_hf(model, tmp_path / "hf")
    card = (tmp_path / "hf" / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: transformers\n")
    for text in ('license: "CC-BY-4.0"', '- "b: c"', "Tells tales.", 'Tales "1"', "each used 2 times", "CC0-1.0"):
        assert text in card
    assert "/home" not in card


def test_rows_that_do_not_divide_into_blocks_say_so(tmp_path: Path) -> None:
    done = export_gguf(trained(small_decoder(small_shape(width=64, hidden=72))), tmp_path / "model.gguf", "q4_k_m")
    types = {planned.header.name: (planned.type.name, planned.wanted.name) for planned in done.tensors}
    assert types["blk.0.attn_q.weight"] == ("Q5_0", "Q4_K")
    assert types["blk.0.attn_output.weight"] == ("F16", "Q4_K")  # rows of 40
    assert types["blk.0.attn_norm.weight"] == ("F32", "F32")
    with ingle.load(tmp_path / "model.gguf", threads=1) as model:
        assert np.isfinite(model.logits(PROMPT)).all()


@pytest.mark.parametrize("changes", [{"tied": False}, {"qk_norm": True}, {"sharing": "reverse"}], ids=str)
@pytest.mark.parametrize("expand", [False, True])
def test_calibrated_blocks_are_written_bit_for_bit(changes: dict[str, Any], expand: bool, tmp_path: Path) -> None:
    """Rows of q and k are put in the order of the file's rotation, and are the same bytes."""
    decoder = small_decoder(small_shape(**changes))
    shape, model = decoder.shape, trained(decoder)
    blocks = {
        name: (kind, quantize(tensor.numpy() * np.float32(0.9), kind).tobytes())
        for name, tensor in model.tensors.items()
        if tensor.ndim == 2 and tensor.shape[1] % 32 == 0
        for kind in [TensorType.Q4_1 if "ffn" in name else TensorType.Q4_0]
    }
    model = TrainedModel(shape, model.tensors, model.tokenizer_json, {}, blocks)
    done = export_gguf(model, tmp_path / "model.gguf", "f16", expand=expand)
    heads = {"attn_q": shape.heads, "attn_k": shape.kv_heads} if done.architecture == "llama" else {}
    layers = shape.schedule if expand else range(shape.layers)
    with open_gguf(done.path) as file:
        for i, layer in enumerate(layers):
            for part in ("attn_q", "attn_k", "attn_v", "ffn_gate", "ffn_down"):
                kind, data = blocks[f"blk.{layer}.{part}.weight"]
                written = file.tensors[f"blk.{i}.{part}.weight"]
                assert written.type is kind
                rows = dequantize(np.frombuffer(data, np.uint8), kind, tuple(written.shape))
                if part in heads:
                    make = interleaved(heads[part])("").make
                    assert make is not None
                    rows = make([rows])
                else:
                    assert written.data.tobytes() == data
                assert np.array_equal(dequantize(written.data, kind, tuple(written.shape)), rows)
    with ingle.load(done.path, threads=1) as loaded:
        assert np.isfinite(loaded.logits(PROMPT)).all()


def test_tensors_and_tokenizers_that_do_not_fit_are_named(tmp_path: Path) -> None:
    model = trained(small_decoder(small_shape()))
    less = {name: tensor for name, tensor in model.tensors.items() if name != "blk.1.ffn_up.weight"}
    with pytest.raises(CheckpointError, match=r"blk\.1\.ffn_up\.weight"):
        export_gguf(TrainedModel(model.shape, less, model.tokenizer_json), tmp_path / "model.gguf")
    smaller = trained(small_decoder(small_shape(vocabulary=319)))
    with pytest.raises(CheckpointError, match="320 tokens and the model 319"):
        export_gguf(smaller, tmp_path / "model.gguf")
    with pytest.raises(UsageError, match="f16, not q8_0"):
        export_hf(model, tmp_path / "hf", "q8_0")  # type: ignore[arg-type]
    uneven = trained(small_decoder(small_shape(width=30)))
    with pytest.raises(UnsupportedError, match="4 heads do not divide 30"):
        export_hf(uneven, tmp_path / "hf")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_no_model_is_not_replaced(tmp_path: Path) -> None:
    model = trained(small_decoder(small_shape()))
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="no Hugging Face folder"):
        export_hf(model, tmp_path)
    export_hf(model, tmp_path / "hf", "bf16")
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert config["dtype"] == "bfloat16"
    export_hf(model, tmp_path / "hf")
    assert json.loads((tmp_path / "hf" / "config.json").read_text())["dtype"] == "float32"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hf", "notes.txt"]
