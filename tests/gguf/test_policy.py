"""Which tensor gets which type: the recipes as llama.cpp's quantisation tool applies them.

The tables below were read off the files that llama-quantize (ggml 0.25) wrote for models of these shapes.
"""

from __future__ import annotations

import pytest

from ingle.errors import UsageError
from ingle.gguf import FileType, TensorType, tensor_type_for

MIXED_26 = [0, 1, 2, 5, 8, 11, 14, 17, 20, 22, 23, 24, 25]
MIXED_17 = [0, 1, 4, 7, 10, 13, 14, 15, 16]

# file type: (the type of all matrices, {role: another type, or {type: layers}})
Exceptions = dict[str, "str | dict[str, list[int]]"]

#: 26 layers, width 256, untied
DENSE: dict[str, tuple[str, Exceptions]] = {
    "f32": ("F32", {}),
    "f16": ("F16", {}),
    "bf16": ("BF16", {}),
    "q4_0": ("Q4_0", {"output": "Q6_K"}),
    "q4_1": ("Q4_1", {"output": "Q6_K"}),
    "q5_0": ("Q5_0", {"output": "Q6_K"}),
    "q5_1": ("Q5_1", {"output": "Q6_K"}),
    "q8_0": ("Q8_0", {}),
    "q2_k": ("Q2_K", {"output": "Q6_K", "attn_output": "Q3_K", "attn_v": "Q3_K", "ffn_down": "Q3_K"}),
    "q3_k_s": ("Q3_K", {"output": "Q6_K"}),
    "q3_k_m": (
        "Q3_K",
        {
            "output": "Q6_K",
            "attn_output": "Q4_K",
            "attn_v": {"Q5_K": [0, 1], "Q4_K": list(range(2, 26))},
            "ffn_down": {"Q5_K": [0], "Q4_K": list(range(1, 26))},
        },
    ),
    "q3_k_l": ("Q3_K", {"output": "Q6_K", "attn_output": "Q5_K", "attn_v": "Q5_K", "ffn_down": "Q5_K"}),
    "q4_k_s": ("Q4_K", {"output": "Q6_K", "attn_v": {"Q5_K": [0, 1, 2, 3]}, "ffn_down": {"Q5_K": [0, 1, 2]}}),
    "q4_k_m": ("Q4_K", {"output": "Q6_K", "attn_v": {"Q6_K": MIXED_26}, "ffn_down": {"Q6_K": MIXED_26}}),
    "q5_k_s": ("Q5_K", {"output": "Q6_K"}),
    "q5_k_m": ("Q5_K", {"output": "Q6_K", "attn_v": {"Q6_K": MIXED_26}, "ffn_down": {"Q6_K": MIXED_26}}),
    "q6_k": ("Q6_K", {}),
    "iq4_nl": ("IQ4_NL", {"output": "Q6_K", "ffn_down": {"Q5_K": [0, 1, 2]}}),
}

#: 17 layers, width 256, tied, four queries per key-value head; where that differs from the above
TIED: dict[str, tuple[str, Exceptions]] = {
    "q4_0": ("Q4_0", {"token_embd": "Q6_K"}),
    "q8_0": ("Q8_0", {}),
    "q2_k": ("Q2_K", {"token_embd": "Q6_K", "attn_output": "Q3_K", "attn_v": "Q4_K", "ffn_down": "Q3_K"}),
    "q4_k_s": ("Q4_K", {"token_embd": "Q6_K", "attn_v": {"Q5_K": [0, 1, 2, 3]}, "ffn_down": {"Q5_K": [0, 1]}}),
    "q4_k_m": ("Q4_K", {"token_embd": "Q6_K", "attn_v": {"Q6_K": MIXED_17}, "ffn_down": {"Q6_K": MIXED_17}}),
    "iq4_nl": ("IQ4_NL", {"token_embd": "Q6_K", "attn_v": "Q5_K", "ffn_down": {"Q5_K": [0, 1]}}),
    "f16": ("F16", {}),
}

#: 5 layers, width 64 (not whole blocks of 256), tied
NARROW: dict[str, tuple[str, Exceptions]] = {
    "q4_0": ("Q4_0", {"token_embd": "Q8_0"}),
    "q8_0": ("Q8_0", {}),
    "q2_k": ("Q4_0", {"token_embd": "Q8_0"}),
    "q3_k_s": ("Q4_0", {"token_embd": "Q8_0"}),
    "q3_k_l": ("Q4_0", {"token_embd": "Q8_0", "attn_output": "Q5_1", "attn_v": "Q5_1", "ffn_down": "Q5_1"}),
    "q4_k_s": ("Q5_0", {"token_embd": "Q8_0", "attn_v": {"Q5_1": [0, 1, 2, 3]}}),
    "q4_k_m": ("Q5_0", {"token_embd": "Q8_0", "attn_v": {"Q8_0": [2, 4]}, "ffn_down": {"Q8_0": [2, 4]}}),
    "q5_k_m": ("Q5_1", {"token_embd": "Q8_0", "attn_v": {"Q8_0": [2, 4]}, "ffn_down": {"Q8_0": [2, 4]}}),
    "q6_k": ("Q8_0", {}),
    "iq4_nl": ("IQ4_NL", {"token_embd": "Q8_0"}),
    "f16": ("F16", {}),
}

#: 9 layers, width 256, hidden 320, 8 experts, untied
EXPERTS: dict[str, tuple[str, Exceptions]] = {
    "q4_0": ("Q4_0", {"output": "Q6_K", "attn_k": "Q8_0", "attn_v": "Q8_0"}),
    "q2_k": (
        "Q2_K",
        {"output": "Q6_K", "attn_k": "Q8_0", "attn_output": "Q5_K", "attn_v": "Q8_0", "ffn_down_exps": "Q4_0"},
    ),
    "q3_k_l": ("Q3_K", {"output": "Q6_K", "attn_k": "Q8_0", "attn_v": "Q8_0", "ffn_down_exps": "Q5_1"}),
    "q4_k_m": (
        "Q4_K",
        {
            "output": "Q6_K",
            "attn_k": "Q8_0",
            "attn_output": "Q5_K",
            "attn_v": "Q8_0",
            "ffn_down_exps": {"Q8_0": [0, 3, 6, 7, 8], "Q5_0": [1, 2, 4, 5]},
        },
    ),
    "q6_k": ("Q6_K", {"attn_k": "Q8_0", "attn_v": "Q8_0", "ffn_down_exps": "Q8_0"}),
    "iq4_nl": (
        "IQ4_NL",
        {
            "output": "Q6_K",
            "attn_k": "Q8_0",
            "attn_output": "Q5_K",
            "attn_v": "Q8_0",
            "ffn_down_exps": {"Q5_1": [0]},
        },
    ),
}

DENSE_ROLES = ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"]
EXPERT_ROLES = ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate_exps", "ffn_up_exps", "ffn_down_exps"]

MODELS = {
    "dense": (DENSE, DENSE_ROLES, ["token_embd", "output"], 26, 256, 256, {}),
    "tied": (TIED, DENSE_ROLES, ["token_embd"], 17, 256, 256, {"tied_embeddings": True, "queries_per_kv_head": 4}),
    "narrow": (NARROW, DENSE_ROLES, ["token_embd"], 5, 64, 160, {"tied_embeddings": True}),
    "experts": (EXPERTS, EXPERT_ROLES, ["token_embd", "output"], 9, 256, 320, {"n_experts": 8}),
}
CASES = [(model, file_type) for model, parts in MODELS.items() for file_type in parts[0]]


@pytest.mark.parametrize(("model", "file_type"), CASES, ids=["-".join(case) for case in CASES])
def test_recipes(model: str, file_type: str) -> None:
    table, roles, outer, n_layers, width, hidden, options = MODELS[model]
    base, exceptions = table[file_type]

    def expected(role: str, layer: int) -> str:
        exception = exceptions.get(role, {})
        if isinstance(exception, str):
            return exception
        return next((name for name, layers in exception.items() if layer in layers), base)

    names = {f"{role}.weight": (role, 0, (512, width)) for role in outer}
    for layer in range(n_layers):
        for role in roles:
            shape = (width, hidden) if role.startswith("ffn_down") else (hidden, width)
            names[f"blk.{layer}.{role}.weight"] = (role, layer, (8, *shape) if role.endswith("_exps") else shape)
    for name, (role, layer, shape) in names.items():
        chosen = tensor_type_for(file_type, name, shape, n_layers, **options)
        assert chosen.name == expected(role, layer), name


@pytest.mark.parametrize("file_type", [f.name.lower() for f in FileType])
@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("output_norm.weight", (256,)),
        ("blk.0.attn_norm.weight", (256,)),
        ("blk.0.attn_q_norm.weight", (4, 64)),
        ("blk.0.attn_q.bias", (256,)),
        ("blk.0.ffn_gate_inp.weight", (8, 256)),
        ("blk.0.ffn_gate_exps.bias", (8, 256)),
        ("position_embd.weight", (1024, 256)),
        ("rope_freqs.weight", (32,)),
    ],
)
def test_what_stays_float(file_type: str, name: str, shape: tuple[int, ...]) -> None:
    assert tensor_type_for(file_type, name, shape, 4) is TensorType.F32


@pytest.mark.parametrize("file_type", [f for f in FileType if f.base.is_quantized])
def test_rows_of_no_whole_blocks_are_f16(file_type: FileType) -> None:
    for name in ("output.weight", "token_embd.weight", "blk.0.attn_v.weight", "blk.1.ffn_down.weight"):
        assert tensor_type_for(file_type, name, (10, 100), 2) is TensorType.F16


@pytest.mark.parametrize("width", [32, 64, 96, 100, 172, 256, 288, 512])
@pytest.mark.parametrize("file_type", FileType)
def test_the_type_always_fits_the_row(file_type: FileType, width: int) -> None:
    for name in ("output.weight", "blk.0.attn_v.weight", "blk.0.ffn_down.weight", "blk.0.attn_qkv.weight"):
        tensor_type_for(file_type, name, (8, width), 8).row_bytes(width)


def test_fused_attention_counts_as_its_values() -> None:
    name, shape = "blk.3.attn_qkv.weight", (768, 256)
    chosen = {f: tensor_type_for(f, name, shape, 8).name for f in ("q3_k_m", "q4_k_s", "q4_k_m", "q5_k_m")}
    assert chosen == {"q3_k_m": "Q4_K", "q4_k_s": "Q4_K", "q4_k_m": "Q5_K", "q5_k_m": "Q6_K"}


def test_ids_are_those_of_the_metadata_key() -> None:
    assert (FileType.F32.id, FileType.Q4_K_M.id, FileType.IQ4_NL.id, FileType.BF16.id) == (0, 15, 25, 32)


def test_an_unknown_file_type_lists_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r'"q4_k_x".*q4_k_m'):
        tensor_type_for("q4_k_x", "output.weight", (1, 256), 1)
