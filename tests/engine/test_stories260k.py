"""Real weights: the stories260K checkpoint (llama2.c's format) becomes a GGUF and tells the story it is known for."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import ingle
from ingle.gguf import TensorToWrite, TensorType, write_gguf
from shared_data import DATA, needs

WEIGHTS = DATA / "weights"
pytestmark = needs("weights/stories260K.bin", "weights/tok512.bin")

BEGINNING = "Once upon a time, there was a little girl named Lily."


def read_pieces(path: Path, n_vocab: int) -> tuple[list[str], list[float]]:
    """llama2.c's tokenizer file: int32 longest, then per piece float32 score, int32 length, bytes."""
    data, at = path.read_bytes(), 4
    pieces, scores = [], []
    for _ in range(n_vocab):
        score, length = struct.unpack_from("<fi", data, at)
        pieces.append(data[at + 8 : at + 8 + length].decode())
        scores.append(score)
        at += 8 + length
    assert at == len(data)
    return pieces, scores


def gguf_of_llama2c(weights: Path, tokenizer: Path, out: Path) -> Path:
    """Convert a version 0 llama2.c checkpoint: seven int32, then float32 tensors in a fixed order."""
    data = weights.read_bytes()
    dim, n_ff, n_layers, n_heads, n_kv_heads, n_vocab, n_context = struct.unpack_from("<7i", data)
    assert n_vocab > 0, "a negative number means an output matrix of its own"
    values = np.frombuffer(data, np.float32, offset=28)
    at = 0

    def take(*shape: int) -> NDArray[np.float32]:
        nonlocal at
        at += int(np.prod(shape))
        return values[at - int(np.prod(shape)) : at].reshape(shape)

    kv = dim // n_heads * n_kv_heads
    tensors = {"token_embd.weight": take(n_vocab, dim)}
    per_layer = {
        "attn_norm": (dim,),
        "attn_q": (dim, dim),
        "attn_k": (kv, dim),
        "attn_v": (kv, dim),
        "attn_output": (dim, dim),
        "ffn_norm": (dim,),
        "ffn_gate": (n_ff, dim),
        "ffn_down": (dim, n_ff),
        "ffn_up": (n_ff, dim),
    }
    for name, shape in per_layer.items():
        for layer, tensor in enumerate(take(n_layers, *shape)):
            tensors[f"blk.{layer}.{name}.weight"] = tensor
    tensors["output_norm.weight"] = take(dim)
    assert values.size - at == n_context * dim // n_heads, "only the rotation tables are left"

    pieces, scores = read_pieces(tokenizer, n_vocab)
    pieces[:3] = ["<unk>", "<s>", "</s>"]
    types = [2, 3, 3] + [6 if piece.startswith("<0x") else 1 for piece in pieces[3:]]
    metadata = {
        "general.architecture": "llama",
        "general.name": "stories260K",
        "llama.block_count": n_layers,
        "llama.context_length": n_context,
        "llama.embedding_length": dim,
        "llama.feed_forward_length": n_ff,
        "llama.attention.head_count": n_heads,
        "llama.attention.head_count_kv": n_kv_heads,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.rope.dimension_count": dim // n_heads,
        "llama.rope.freq_base": 10000.0,
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": [piece.replace(" ", "▁") for piece in pieces],
        "tokenizer.ggml.scores": scores,
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
    }
    write_gguf(
        out,
        metadata,
        [
            TensorToWrite(name, tensor.shape, TensorType.F32, lambda tensor=tensor: [tensor.tobytes()])
            for name, tensor in tensors.items()
        ],
    )
    return out


@pytest.mark.parametrize("backend", ["reference", "native"])
def test_greedy_story(tmp_path: Path, backend: str) -> None:
    path = gguf_of_llama2c(WEIGHTS / "stories260K.bin", WEIGHTS / "tok512.bin", tmp_path / "stories260K.gguf")
    with ingle.load(path, backend=backend) as model:
        text = "".join(token.text for token in model.generate("", temperature=0.0, max_tokens=40))
    assert text.strip().startswith(BEGINNING)


def test_backends_tell_the_same_story(tmp_path: Path) -> None:
    path = gguf_of_llama2c(WEIGHTS / "stories260K.bin", WEIGHTS / "tok512.bin", tmp_path / "stories260K.gguf")
    stories = []
    for backend in ("reference", "native"):
        with ingle.load(path, backend=backend) as model:
            stories.append([token.token_id for token in model.generate("", temperature=0.0, max_tokens=200)])
    assert stories[0] == stories[1]
