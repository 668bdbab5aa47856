"""Opening checkpoints that are whole, and refusing the others in a sentence that says what to do."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ingle.errors import CheckpointError, GGUFError, IngleError, UnsupportedError
from ingle.gguf import Metadata, TensorToWrite, TensorType, open_gguf, write_gguf
from ingle.models.checkpoint import Checkpoint, open_checkpoint
from ingle.models.convert import convert
from ingle.models.families import FAMILIES
from ingle.models.source import open_source
from models.checkpoints_on_disk import CONFIG, Arrays, llama_arrays, save

Q = "model.layers.0.self_attn.q_proj.weight"


@pytest.fixture
def arrays() -> Arrays:
    return llama_arrays()


def rewritten(path: Path, out: Path, **changes: Any) -> Path:
    """A copy of a GGUF file with other metadata `keys`, without the tensors in `drop`, with other `shapes`."""
    drop, shapes, keys = changes.get("drop", ()), changes.get("shapes", {}), changes.get("keys", {})
    with open_gguf(path) as file:
        tensors = [
            TensorToWrite(name, shapes.get(name, info.shape), info.type, lambda info=info: [info.data])
            for name, info in file.tensors.items()
            if name not in drop
        ]
        write_gguf(out, file.metadata.updated(keys), tensors)
    return out


def test_shards_equal_a_single_file(tmp_path: Path, arrays: Arrays) -> None:
    single, sharded = (open_source(save(tmp_path / str(n), arrays, shards=n)) for n in (1, 3))
    assert single.headers == sharded.headers
    assert all(np.array_equal(single.tensors[name].data, sharded.tensors[name].data) for name in single.tensors)


def test_untransformed_weights_are_views_of_the_file(tmp_path: Path, arrays: Arrays) -> None:
    source = open_source(save(tmp_path / "hf", arrays))
    tensor = source.tensors["blk.0.ffn_up.weight"]
    assert not tensor.data.flags.owndata
    assert not tensor.data.flags.writeable
    assert np.array_equal(tensor.float32(), arrays["model.layers.0.mlp.up_proj.weight"])


def test_a_bare_decoder_and_old_buffers_are_understood(tmp_path: Path, arrays: Arrays) -> None:
    del arrays["lm_head.weight"]
    bare = {name.removeprefix("model."): array for name, array in arrays.items()}
    bare["layers.0.self_attn.rotary_emb.inv_freq"] = np.ones(8, np.float32)
    config = {k: v for k, v in CONFIG.items() if k != "tie_word_embeddings"}
    checkpoint = open_checkpoint(save(tmp_path / "hf", bare, config))
    assert checkpoint.spec.tied


def test_values_that_start_between_two_addresses_are_realigned(tmp_path: Path, arrays: Arrays) -> None:
    path = save(tmp_path / "hf", arrays) / "model.safetensors"
    data = path.read_bytes()
    n = int.from_bytes(data[:8], "little")
    path.write_bytes((n + 1).to_bytes(8, "little") + data[8 : 8 + n] + b" " + data[8 + n :])
    tensor = open_source(tmp_path / "hf").tensors["blk.1.ffn_down.weight"]
    assert tensor.data.ctypes.data % 4 == 0
    assert np.array_equal(tensor.float32(), arrays["model.layers.1.mlp.down_proj.weight"])


def test_multimodal_gemma_with_its_defaults_left_out(tmp_path: Path) -> None:
    """Google's configuration of the 4B model says only what differs from defaults, inside text_config."""
    e, f, v, h, k, d = 24, 40, 50, 8, 4, 256
    shapes = {"embed_tokens": (v, e), "norm": (e,)}
    for i in range(7):
        p = f"layers.{i}."
        shapes |= {f"{p}self_attn.{r}_proj": (n * d, e) for r, n in (("q", h), ("k", k), ("v", k))}
        shapes |= {f"{p}self_attn.{r}_norm": (d,) for r in "qk"} | {f"{p}self_attn.o_proj": (e, h * d)}
        shapes |= {f"{p}mlp.{r}_proj": (e, f) if r == "down" else (f, e) for r in ("gate", "up", "down")}
        norms = ("input", "post_attention", "pre_feedforward", "post_feedforward")
        shapes |= {f"{p}{n}_layernorm": (e,) for n in norms}
    arrays = {f"language_model.model.{name}.weight": np.ones(s, np.float32) for name, s in shapes.items()}
    arrays["vision_tower.vision_model.encoder.weight"] = np.ones((2, 2), np.float32)
    scaling = {"factor": 8.0, "rope_type": "linear"}
    text = {"model_type": "gemma3_text", "hidden_size": e, "intermediate_size": f, "num_hidden_layers": 7}
    config = {"model_type": "gemma3", "text_config": text | {"rope_scaling": scaling, "sliding_window": 1024}}
    spec = open_checkpoint(save(tmp_path / "hf", arrays, config)).spec
    assert (spec.n_heads, spec.n_kv_heads, spec.head_dim, spec.n_context) == (8, 4, 256, 131072)
    assert [spec.window_of(p) for p in range(7)] == [1024] * 5 + [0, 1024]
    local, full = spec.rope_of(0), spec.rope_of(5)
    assert local is not None
    assert full is not None
    assert local.frequencies[1] == pytest.approx(10000 ** (-2 / 256))
    assert full.frequencies[1] == pytest.approx(1e6 ** (-2 / 256) / 8)
    assert spec.score_scale == 1 / 16


def test_settings_of_transformers_4_and_5_mean_the_same(tmp_path: Path, arrays: Arrays) -> None:
    scaling = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 32}
    old = {**CONFIG, "rope_theta": 500.0, "rope_scaling": {**scaling, "rope_type": "llama3"}}
    new = {**CONFIG, "rope_parameters": {**scaling, "rope_type": "llama3", "rope_theta": 500.0}}
    del new["rope_theta"]
    first, second = (open_checkpoint(save(tmp_path / n, arrays, c)).spec for n, c in (("old", old), ("new", new)))
    assert first == second
    assert first.rope is not None
    assert first.rope.frequencies[-1] == pytest.approx(500 ** (-14 / 16) / 8)


DAMAGED = {
    "missing weight": (
        Q,
        None,
        "has no tensor model.layers.0.self_attn.q_proj.weight, expected with shape \\[64, 64\\]",
    ),
    "wrong shape": (Q, (32, 64), "q_proj.weight of .* has shape \\[32, 64\\] where its settings need \\[64, 64\\]"),
    "missing embedding": ("model.embed_tokens.weight", None, "has no matrix model.embed_tokens.weight"),
    "one layer too many": ("model.layers.2.mlp.up_proj.weight", (96, 64), "layers.2.mlp.up_proj.* has no place"),
    "another model's weight": ("model.visual.weight", (4, 4), "model.visual.weight .* has no place in a llama model"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_checkpoints_that_do_not_fit_name_the_tensor(case: str, tmp_path: Path, arrays: Arrays) -> None:
    name, shape, message = DAMAGED[case]
    arrays.pop(name, None)
    if shape is not None:
        arrays[name] = np.ones(shape, np.float32)
    with pytest.raises(IngleError, match=message):
        open_checkpoint(save(tmp_path / "hf", arrays))


def test_unsound_directories(tmp_path: Path, arrays: Arrays) -> None:
    hf = save(tmp_path / "hf", arrays)
    weights = hf / "model.safetensors"
    whole = weights.read_bytes()
    for damage in (whole[: len(whole) // 2], whole[:5], b"", b"\xff" * 100, (9).to_bytes(8, "little") + b"[[[[[[[[[["):
        weights.write_bytes(damage)
        with pytest.raises(CheckpointError, match="download it again"):
            open_checkpoint(hf)
    weights.rename(hf / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"only pickled weights .* get the model as safetensors or GGUF"):
        open_checkpoint(hf)
    (hf / "pytorch_model.bin").unlink()
    with pytest.raises(CheckpointError, match=r"has no model\.safetensors"):
        open_checkpoint(hf)
    (hf / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="cannot be read as JSON"):
        open_checkpoint(hf)
    (hf / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        open_checkpoint(hf)
    with pytest.raises(CheckpointError, match="does not exist"):
        open_checkpoint(tmp_path / "nowhere")


def test_unsound_shards(tmp_path: Path, arrays: Arrays) -> None:
    hf = save(tmp_path / "hf", arrays, shards=3)
    index = hf / "model.safetensors.index.json"
    second = hf / "model-00002-of-00003.safetensors"
    second.rename(hf / "elsewhere")
    with pytest.raises(CheckpointError, match=r"model-00002-of-00003\.safetensors is missing, although"):
        open_checkpoint(hf)
    (hf / "elsewhere").rename(second)
    where = json.loads(index.read_text())["weight_map"]
    moved = where | {Q: next(file for file in where.values() if file != where[Q])}
    index.write_text(json.dumps({"weight_map": moved}))
    with pytest.raises(CheckpointError, match=f"Tensor {Q} is not in"):
        open_checkpoint(hf)
    index.write_text(json.dumps({"weight_map": where | {Q: "../other.safetensors"}}))
    with pytest.raises(CheckpointError, match="points outside its own directory"):
        open_checkpoint(hf)
    index.unlink()
    with pytest.raises(CheckpointError, match=r"3 safetensors files but no model\.safetensors\.index\.json"):
        open_checkpoint(hf)


def test_what_is_not_supported_says_what_is(tmp_path: Path, arrays: Arrays) -> None:
    def refused(message: str, changes: dict[str, Any]) -> None:
        with pytest.raises(UnsupportedError, match=message):
            open_checkpoint(save(tmp_path / "hf", arrays, CONFIG | changes))

    refused("type 'mamba'; Ingle runs .*gemma3.*llama.*qwen3_moe", {"model_type": "mamba"})
    refused("quantised with gptq", {"quantization_config": {"quant_method": "gptq", "bits": 4}})
    refused("activation 'xielu'", {"hidden_act": "xielu"})
    refused("'ntk-alien'", {"rope_scaling": {"type": "ntk-alien"}})
    path = tmp_path / "hf" / "model.safetensors"
    data = path.read_bytes().replace(b'"F32"', b'"I32"')
    (tmp_path / "hf" / "config.json").write_text(json.dumps(CONFIG))
    path.write_bytes(data)
    with pytest.raises(UnsupportedError, match="has the type I32; Ingle reads F32, F16 and BF16"):
        open_checkpoint(tmp_path / "hf")


def test_gguf_files_that_do_not_fit_name_the_tensor(tmp_path: Path, arrays: Arrays) -> None:
    whole = convert(save(tmp_path / "hf", arrays), tmp_path / "whole.gguf", "f32")
    bad = tmp_path / "bad.gguf"
    with pytest.raises(GGUFError, match=r"has no tensor blk\.1\.ffn_up\.weight, expected with shape \[96, 64\]"):
        open_checkpoint(rewritten(whole, bad, drop=["blk.1.ffn_up.weight"]))
    with pytest.raises(
        GGUFError, match=r"Tensor blk\.1\.attn_k\.weight .* \[64, 32\] where its settings need \[32, 64\]"
    ):
        open_checkpoint(rewritten(whole, bad, shapes={"blk.1.attn_k.weight": (64, 32)}))
    with pytest.raises(UnsupportedError, match=r"architecture 'mamba'; Ingle runs .*falcon.*llama.*stablelm"):
        open_checkpoint(rewritten(whole, bad, keys={"general.architecture": "mamba"}))


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.sampled_from([0, 1, 2, 3, 4, 1e300, 1e-300, -1.0, 0.5, float("inf"), float("nan")]),
    st.sampled_from(["", "yarn", "linear", "longrope", "llama3", "dynamic", [], [0], ["full_attention"], {}]),
    st.sampled_from(
        [
            {
                "rope_type": k,
                "factor": f,
                "original_max_position_embeddings": o,
                "low_freq_factor": 1.0,
                "high_freq_factor": 1.0,
                "long_factor": [1.0],
                "short_factor": [],
            }
            for k in ("yarn", "longrope", "llama3")
            for f in (0, 1, -2, 1e308)
            for o in (0, 1, -5, 64)
        ]
    ),
)
EVERY_SETTING = sorted(
    {*CONFIG, "head_dim", "rope_scaling", "rope_parameters", "sliding_window", "layer_types", "num_local_experts"}
    | {"num_experts_per_tok", "num_experts", "partial_rotary_factor", "attention_bias", "layer_sharing", "layer_repeat"}
    | {"max_window_layers", "use_sliding_window", "num_kv_heads", "new_decoder_architecture", "alibi", "text_config"}
    | {"moe_intermediate_size", "decoder_sparse_step", "mlp_only_layers", "quantization_config", "qk_layernorm"}
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.dictionaries(st.sampled_from(EVERY_SETTING), VALUES, min_size=1, max_size=3), data=st.data())
def test_any_configuration_opens_or_is_refused_in_words(tmp_path: Path, changes: dict[str, Any], data: Any) -> None:
    types = [model_type for family in FAMILIES for model_type in family.model_types]
    config = CONFIG | {"model_type": data.draw(st.sampled_from(types))} | changes
    if not (tmp_path / "model.safetensors").exists():
        save(tmp_path, llama_arrays())
    (tmp_path / "config.json").write_text(json.dumps(config))
    with suppress(IngleError):
        checkpoint = open_checkpoint(tmp_path)
        for layer in range(checkpoint.spec.n_layers):
            checkpoint.attention(layer)


class Altered:
    """A GGUF source that says something else about itself."""

    def __init__(self, path: Path, changes: dict[str, Any], remove: list[str]) -> None:
        source = open_source(path)
        self.name, self.headers, self.tensors, self.paths = source.name, source.headers, source.tensors, source.paths
        self.metadata: Metadata = source.metadata.updated(changes, remove)
        self.origin, self.close = source.origin, source.close


GGUF_VALUES = st.one_of(
    st.booleans(), st.integers(-(2**63), 2**64 - 1), st.floats(width=32), st.sampled_from(["yarn", "linear", "x"]),
    st.just(np.array([True])), st.just(np.array([0, 1], np.int32)),
)  # fmt: skip
GGUF_KEYS = ("block_count", "attention.head_count", "attention.head_count_kv", "attention.key_length", "expert_count",
             "embedding_length", "feed_forward_length", "context_length", "rope.dimension_count", "rope.freq_base",
             "rope.scaling.type", "rope.scaling.factor", "rope.scaling.original_context_length", "expert_used_count",
             "rope.scaling.yarn_beta_fast", "rope.scaling.yarn_beta_slow", "attention.sliding_window",
             "attention.sliding_window_pattern", "attention.layer_norm_rms_epsilon", "layer_repeat", "layer_sharing",
             "attention.layer_norm_epsilon", "attention.max_alibi_bias", "attention.scale")  # fmt: skip


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_gguf_metadata_opens_or_is_refused_in_words(tmp_path: Path, data: Any) -> None:
    path = tmp_path / "toy.gguf"
    if not path.exists():
        convert(save(tmp_path / "hf", llama_arrays()), path, "f32")
    arch = data.draw(st.sampled_from([family.arch for family in FAMILIES]))
    with open_gguf(path) as file:
        keys: dict[str, Any] = {k.replace("llama.", f"{arch}.", 1): file.metadata.typed(k) for k in file.metadata}
    keys |= {"general.architecture": arch, f"{arch}.attention.layer_norm_epsilon": 1e-5}
    drawn = data.draw(st.dictionaries(st.sampled_from(GGUF_KEYS), GGUF_VALUES, min_size=0, max_size=3))
    keys |= {f"{arch}.{key}": value for key, value in drawn.items()}
    with suppress(IngleError):
        Checkpoint(Altered(path, keys, data.draw(st.lists(st.sampled_from(list(keys)), max_size=1))))


def test_tensor_types_of_mixed_experts_and_constants(tmp_path: Path, arrays: Arrays) -> None:
    scaling = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    config = CONFIG | {"rope_scaling": {**scaling, "original_max_position_embeddings": 32}}
    half = {name: array.astype(np.float16) for name, array in arrays.items()}
    source = open_source(save(tmp_path / "hf", half, config))
    assert source.headers["rope_freqs.weight"].type is TensorType.F32
    assert source.headers["blk.0.attn_q.weight"].type is TensorType.F16
    q = source.tensors["blk.0.attn_q.weight"].float32().reshape(4, 8, 2, 64)
    assert np.array_equal(q.swapaxes(1, 2).reshape(64, 64), half[Q])
