"""What was exported comes back bit for bit; what the decoder is not is refused by its name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ingle.errors import CheckpointError, IngleError, UnsupportedError
from ingle.gguf import TensorType, quantize
from ingle.models.convert import convert
from ingle.text import metadata_from_hf
from ingle.train.about import datasets_of
from ingle.train.checkpoint import TrainedModel, save_model
from ingle.train.data.vocabulary import Vocabulary
from ingle.train.decoder import Decoder
from ingle.train.export import export_gguf
from ingle.train.export_hf import export_hf
from ingle.train.load import load_model
from ingle.train.parameters import parameter_shapes
from ingle.train.shape import Shape
from models.small_models import save_random
from train.small_decoders import PROMPT, logits_of, small_decoder, small_shape, trained, vocabulary

SHAPES_TO_LOAD = [
    {},
    {"tied": False, "norm_eps": 3e-6},
    {"qk_norm": True, "head_dim": 8},
    {"feed_forward": "relu2"},
    {"feed_forward": "relu2", "qk_norm": True, "sharing": "repeat"},
    {"feed_forward": "relu", "tied": False, "rope_theta": 500000.0},
    {"feed_forward": "gelu", "sharing": "immediate", "repeat": 3},
    {"feed_forward": "gelu", "qk_norm": True},
    {"sharing": "reverse", "repeat": 2},
    {"sharing": "immediate", "qk_norm": True, "tied": False},
]


@pytest.mark.parametrize("changes", SHAPES_TO_LOAD, ids=str)
def test_parameter_shapes_are_the_decoder_s(changes: dict[str, Any]) -> None:
    shape = small_shape(**changes)
    with torch.device("meta"):
        parameters = dict(Decoder(shape).named_parameters())
    assert parameter_shapes(shape) == {name: tuple(p.shape) for name, p in parameters.items()}


def expect_same(loaded: TrainedModel, decoder: Decoder) -> None:
    assert loaded.shape == decoder.shape
    again = Decoder(loaded.shape).eval()
    again.load_state_dict(loaded.tensors)
    for name, parameter in decoder.named_parameters():
        assert torch.equal(loaded.tensors[name], parameter), name
    assert np.array_equal(logits_of(again, PROMPT), logits_of(decoder, PROMPT))


def unshared(decoder: Decoder) -> Decoder:
    """The same decoder with a layer for each pass."""
    shape = Shape.from_dict(
        decoder.shape.to_dict() | {"layers": len(decoder.shape.schedule), "sharing": "none", "repeat": 1}
    )
    copy, own = Decoder(shape).eval(), decoder.state_dict()
    copy.load_state_dict(
        {name: tensor for name, tensor in own.items() if not name.startswith("blk.")}
        | {
            f"blk.{i}.{name.removeprefix(f'blk.{layer}.')}": tensor
            for i, layer in enumerate(decoder.shape.schedule)
            for name, tensor in own.items()
            if name.startswith(f"blk.{layer}.")
        }
    )
    return copy


@pytest.mark.parametrize("changes", SHAPES_TO_LOAD, ids=str)
def test_round_trips_are_exact(changes: dict[str, Any], tmp_path: Path) -> None:
    decoder = small_decoder(small_shape(**changes))
    model = trained(decoder)
    export_gguf(model, tmp_path / "model.gguf", "f32")
    expect_same(load_model(tmp_path / "model.gguf"), decoder)
    export_gguf(model, tmp_path / "expanded.gguf", "f32", expand=True)
    expect_same(load_model(tmp_path / "expanded.gguf"), unshared(decoder))
    export_hf(model, tmp_path / "hf")
    expect_same(load_model(tmp_path / "hf"), unshared(decoder))
    convert(tmp_path / "hf", tmp_path / "hf.gguf", "f32", extra_metadata=metadata_from_hf)
    expect_same(load_model(tmp_path / "hf.gguf"), unshared(decoder))


def test_tokenizer_template_and_stops_come_along(tmp_path: Path) -> None:
    """From a file to a file: the tokens of every text, where answers end, and how turns are written."""
    model = trained(small_decoder(small_shape()), name="Tiny", licence="MIT")
    export_gguf(model, tmp_path / "model.gguf", "f16")
    export_hf(model, tmp_path / "hf")
    for path in (tmp_path / "model.gguf", tmp_path / "hf"):
        loaded = load_model(path)
        export_gguf(loaded, tmp_path / "again.gguf", "f16")
        again = load_model(tmp_path / "again.gguf")
        for found in (loaded, again):
            assert found.tokenizer_json is not None
            assert found.info["end_ids"] == [0, 2]
            assert "<tool_call>" in found.info["tokenizer_config"]["chat_template"]
            ids = vocabulary().tokenizer.encode("The café, 12<|im_end|>").ids
            assert (
                type(vocabulary())
                .from_json(found.tokenizer_json.decode())
                .tokenizer.encode("The café, 12<|im_end|>")
                .ids
                == ids
            )
    assert load_model(tmp_path / "model.gguf").info["licence"] == "MIT"


def test_a_model_folder_with_its_blocks(tmp_path: Path) -> None:
    decoder = small_decoder(small_shape(tied=False))
    model = trained(decoder, name="Tiny")
    name = "blk.0.attn_q.weight"
    blocks = {name: (TensorType.Q4_0, quantize(model.tensors[name].numpy(), TensorType.Q4_0).tobytes())}
    save_model(tmp_path / "model", model.shape, model.tensors, model.tokenizer_json, model.info, blocks)
    for path in (tmp_path / "model", tmp_path):
        loaded = load_model(path)
        expect_same(loaded, decoder)
        assert loaded.quantized == blocks
        assert loaded.info == {"name": "Tiny"}


def test_an_end_token_that_its_name_does_not_tell(tmp_path: Path) -> None:
    """The trainer's vocabulary notes it beside the run."""
    decoder = small_decoder(small_shape())
    parsed = json.loads(vocabulary().to_json().replace("<|endoftext|>", "<fin>"))
    tokenizer = Vocabulary.from_json(json.dumps(parsed), end="<fin>")
    save_model(tmp_path / "model", decoder.shape, trained(decoder).tensors, tokenizer.to_json().encode())
    tokenizer.save(tmp_path / "tokenizer.json")
    for path in (tmp_path, tmp_path / "model"):
        export_gguf(load_model(path), tmp_path / "model.gguf")
        assert load_model(tmp_path / "model.gguf").info["end_ids"] == [0, 2]


@pytest.mark.parametrize("answers_only", [False, True])
def test_a_model_of_plain_text_has_no_chat_template(answers_only: bool, tmp_path: Path) -> None:
    """What the data's index says of a run: was anything but whole documents learnt, and under which licences."""
    model = trained(small_decoder(small_shape()), sources=[{"path_or_name": "/data/a.txt"}, {"path_or_name": "b"}])
    save_model(tmp_path / "model", model.shape, model.tensors, model.tokenizer_json, model.info)
    sources = [{"name": "/data/a.txt", "licences": {"CC0-1.0": 3}}, {"name": "b", "licences": {"MIT": 1}}]
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "meta.json").write_text(
        json.dumps({"train": {"learn": [False, answers_only]}, "sources": sources})
    )
    for path in (tmp_path, tmp_path / "model"):
        loaded = load_model(path)
        assert datasets_of(loaded.info) == [("a.txt", "CC0-1.0"), ("b", "MIT")]
        assert export_gguf(loaded, tmp_path / "model.gguf").chats == answers_only
    (tmp_path / "data" / "meta.json").write_text("[]")
    assert datasets_of(load_model(tmp_path).info) == [("a.txt", None), ("b", None)]


def test_a_quantised_file_is_dequantised(tmp_path: Path) -> None:
    model = trained(small_decoder(small_shape()))
    export_gguf(model, tmp_path / "model.gguf", "q8_0")
    loaded = load_model(tmp_path / "model.gguf")
    for name, tensor in model.tensors.items():
        assert loaded.tensors[name].dtype == torch.float32
        assert torch.allclose(loaded.tensors[name], tensor, atol=float(tensor.abs().max()) / 100)


@pytest.mark.parametrize(("sharing", "repeat"), [("immediate", 2), ("reverse", 3)])
def test_mobilellm_files_as_they_were(sharing: str, repeat: int, tmp_path: Path) -> None:
    """A checkpoint in MobileLLM's own layout, and the interleaved file that `ingle convert` makes of it."""
    decoder = small_decoder(small_shape(context=32))
    export_hf(trained(decoder), tmp_path / "hf")
    path = tmp_path / "hf" / "config.json"
    changes = {"model_type": "mobilellm", "layer_sharing": sharing, "layer_repeat": repeat, "share_embedding": True}
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    convert(tmp_path / "hf", tmp_path / "old.gguf", "f32")
    shared = Decoder(Shape.from_dict(decoder.shape.to_dict() | {"sharing": sharing, "repeat": repeat})).eval()
    shared.load_state_dict(decoder.state_dict())
    for source in ("hf", "old.gguf"):
        expect_same(load_model(tmp_path / source), shared)


LLAMA = {"hidden_size": 24, "intermediate_size": 40, "num_attention_heads": 4, "num_key_value_heads": 2}
PLAIN_ROPE = {"rope_type": "default", "rope_theta": 1e4}
REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "biases": ("Qwen2", LLAMA, "biases"),
    "experts": ("Mixtral", LLAMA | {"num_local_experts": 3}, "a mixture of experts"),
    "window": ("Mistral", LLAMA | {"sliding_window": 7}, "a sliding window"),
    "rope scaling": (
        "Llama",
        LLAMA | {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}},
        "a scaled or partial rotation",
    ),
    "gemma": ("Gemma", LLAMA, "scaled embeddings|gated gelu"),
    "phi": ("Phi", LLAMA | {"num_key_value_heads": 4, "hidden_size": 32}, "LayerNorm"),
    "falcon": ("Falcon", {"hidden_size": 24, "num_attention_heads": 4}, "LayerNorm"),
    "xielu": ("Apertus", LLAMA | {"hidden_act": "xielu", "rope_parameters": PLAIN_ROPE}, "xielu"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_the_decoder_is_not_is_named(case: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", "5")
    kind, changes, feature = REFUSED[case]
    small = {"vocab_size": 50, "num_hidden_layers": 2, "max_position_embeddings": 64, "pad_token_id": None}
    save_random(getattr(transformers, f"{kind}Config")(**small | changes), tmp_path / "hf")
    with pytest.raises(UnsupportedError, match=feature):
        load_model(tmp_path / "hf")


def test_phi3_without_its_window_is_a_llama_with_fused_rows(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", "5")
    small = {"vocab_size": 50, "num_hidden_layers": 2, "max_position_embeddings": 64, "pad_token_id": None}
    model = save_random(transformers.Phi3Config(**small | LLAMA | {"sliding_window": None}), tmp_path / "hf")
    loaded = load_model(tmp_path / "hf")
    decoder = Decoder(loaded.shape).eval()
    decoder.load_state_dict(loaded.tensors)
    tokens = [3, 1, 4, 15, 9, 26, 5]
    with torch.no_grad():
        theirs = model(torch.tensor([tokens])).logits[0].numpy()
    assert np.abs(logits_of(decoder, tokens) - theirs).max() < 1e-4
    assert loaded.tokenizer_json is None
    assert "tokenizer.json" in loaded.info["no_tokenizer"]


@pytest.mark.parametrize(
    ("files", "about"),
    [
        ({}, "no trained model"),
        ({"shape.json": "{}"}, "model.safetensors is missing"),
        ({"shape.json": '{"width": "wide"}'}, "does not describe a model"),
        ({"config.json": "{}"}, "model_type"),
        ({"config.json": "[]"}, "JSON object"),
    ],
)
def test_folders_that_hold_no_model(files: dict[str, str], about: str, tmp_path: Path) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(IngleError, match=about):
        load_model(tmp_path)


def test_a_folder_of_two_models(tmp_path: Path) -> None:
    decoder = small_decoder(small_shape())
    model = trained(decoder)
    save_model(tmp_path / "model", model.shape, model.tensors, None)
    (tmp_path / "model" / "shape.json").write_text(json.dumps(small_shape(layers=3).to_dict()))
    with pytest.raises(CheckpointError, match=r"blk\.2\.attn_norm\.weight"):
        load_model(tmp_path)


def test_a_path_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        load_model(tmp_path / "none.gguf")
