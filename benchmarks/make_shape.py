"""Write a GGUF file with random weights in the shape of a published model: `make_shape.py tinyllama-1.1b out.gguf`.

Speed and memory depend on the shape and the tensor types, not on what the weights learnt, so such files stand in for
the real ones in every speed benchmark, with no download and no licence to mind. What they say is noise.

Each matrix is drawn from N(0, 1 / columns): a unit-variance row in gives a unit-variance row out (the 0.02 of the
published initialisations at width 2500), so activations stay near 1 at any depth, and the sum of the blocks outweighs
the embedding, so that a tied model does not just repeat its last token. Only the output of attention is drawn smaller:
random attention averages its context, and at full size that would drown the token and make the text one word for ever.
Shape, type and seed decide every byte.

Quantising is slow (30 MB/s). So the Q4_0 files of shapes over 4 GB in f16 have no such numbers behind them: their codes
are random bits, and all their scales are as large as gives the same variance, half of them negative. Real files have
such signs too, and without them the codes, -8 to 7, would have a mean that grows from block to block.
"""

from __future__ import annotations

import argparse
import itertools
import math
import string
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import gguf
import numpy as np

TYPES = {"f32": "ALL_F32", "f16": "MOSTLY_F16", "bf16": "MOSTLY_BF16", "q8_0": "MOSTLY_Q8_0", "q4_0": "MOSTLY_Q4_0"}


@dataclass(frozen=True)
class Shape:
    """A Llama-family decoder: gated SiLU feed-forward, RMSNorm, rotary positions, no biases."""

    layers: int
    width: int
    heads: int
    kv_heads: int
    feed_forward: int
    vocabulary: int
    tied: bool
    rope_base: float = 10000.0
    rope_factor: float = 1.0  # the Llama 3 long-context stretch of the slow rotations; 1 is none
    context: int = 2048
    experts: int = 0  # of each layer, each with `feed_forward` rows; 0 is a dense model
    experts_used: int = 0  # for a token

    @property
    def arch(self) -> str:
        """The architecture as GGUF names it."""
        return "qwen3moe" if self.experts else "llama"

    @property
    def head_width(self) -> int:
        """Values in one head of one position."""
        return self.width // self.heads


# MobileLLM: arXiv 2402.14905 and its configs. TinyLlama: arXiv 2401.02385. Llama 3.2: Meta's model card. Llama 2:
# arXiv 2307.09288 and its configs. OLMoE: arXiv 2409.02060; its numbers in the layout of Qwen 3's mixtures, which norm
# queries and keys by head (OLMoE: all heads at once) and make the weights of the chosen experts sum to 1.
SHAPES = {
    "mobilellm-125m": Shape(30, 576, 9, 3, 1536, 32000, tied=True),
    "mobilellm-350m": Shape(32, 960, 15, 5, 2560, 32000, tied=True),
    "tinyllama-1.1b": Shape(22, 2048, 32, 4, 5632, 32000, tied=False),
    "llama-3.2-1b": Shape(16, 2048, 32, 8, 8192, 128256, True, rope_base=500000.0, rope_factor=32.0, context=131072),
    "llama-2-7b": Shape(32, 4096, 32, 32, 11008, 32000, tied=False, context=4096),
    "llama-2-70b": Shape(80, 8192, 64, 8, 28672, 32000, tied=False, context=4096),
    "olmoe-1b-7b": Shape(16, 2048, 16, 16, 1024, 50304, tied=False, context=4096, experts=64, experts_used=8),
}
DRAWN = 2 * 10**9  # weights; Q4_0 files of larger shapes are drawn as codes


def vocabulary(size: int) -> tuple[list[bytes], list[float], list[int]]:
    """Pieces, scores and types of a SentencePiece vocabulary: specials, bytes, then made-up words, shortest first.

    Every piece is some shorter piece plus one letter, so the merges of the encoder reach all of them.
    """
    kinds = gguf.TokenType
    special = ["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(256)]
    types = [kinds.UNKNOWN, kinds.CONTROL, kinds.CONTROL] + [kinds.BYTE] * 256
    other = [c for c in string.printable if not c.isspace() and c not in string.ascii_lowercase]

    def words() -> Iterator[str]:
        yield from other
        for length in itertools.count(1):
            for start in ["\u2581", *string.ascii_lowercase]:
                for rest in itertools.product(string.ascii_lowercase, repeat=length - 1):
                    yield start + "".join(rest)

    pieces = special + list(itertools.islice(words(), size - len(special)))
    scores = [0.0] * len(special) + [-float(i) for i in range(size - len(special))]
    return [p.encode() for p in pieces], scores, [int(t) for t in types] + [int(kinds.NORMAL)] * (size - len(special))


def rope_factors(shape: Shape) -> np.ndarray:
    """By how much each rotation of a head is slowed (f32): Llama 3's rule, low 1, high 4, original context 8192."""
    half = shape.head_width // 2
    wavelengths = 2 * math.pi * shape.rope_base ** (np.arange(half) / half)
    smooth = np.clip((8192 / wavelengths - 1) / (4 - 1), 0, 1)
    return np.asarray(1 / ((1 - smooth) / shape.rope_factor + smooth), dtype=np.float32)


def tensors(shape: Shape) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes ([experts,] rows, columns) in the order of the file. Vectors are norm weights."""
    d, kv, f = shape.width, shape.kv_heads * shape.head_width, shape.feed_forward
    yield "token_embd.weight", (shape.vocabulary, d)
    for layer in range(shape.layers):
        rows: dict[str, tuple[int, ...]] = {"attn_norm": (d,), "attn_q": (d, d), "attn_k": (kv, d), "attn_v": (kv, d)}
        rows |= {"attn_output": (d, d)}
        rows["ffn_norm"] = (d,)
        if n := shape.experts:
            rows |= {"attn_q_norm": (shape.head_width,), "attn_k_norm": (shape.head_width,), "ffn_gate_inp": (n, d)}
            rows |= {"ffn_gate_exps": (n, f, d), "ffn_up_exps": (n, f, d), "ffn_down_exps": (n, d, f)}
        else:
            rows |= {"ffn_gate": (f, d), "ffn_up": (f, d), "ffn_down": (d, f)}
        yield from ((f"blk.{layer}.{name}.weight", rows_columns) for name, rows_columns in rows.items())
    yield "output_norm.weight", (d,)
    if not shape.tied:
        yield "output.weight", (shape.vocabulary, d)


def add_metadata(writer: gguf.GGUFWriter, name: str, shape: Shape, file_type: str) -> None:
    """Everything a reader needs to load the file: hyperparameters and tokenizer."""
    writer.add_name(f"{name} (random weights)")
    writer.add_file_type(gguf.LlamaFileType[TYPES[file_type]])
    writer.add_block_count(shape.layers)
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.width)
    writer.add_feed_forward_length(shape.feed_forward)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_rope_dimension_count(shape.head_width)
    writer.add_rope_freq_base(shape.rope_base)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(shape.vocabulary)
    if shape.experts:
        writer.add_expert_count(shape.experts)
        writer.add_expert_used_count(shape.experts_used)
        writer.add_expert_feed_forward_length(shape.feed_forward)
    pieces, scores, types = vocabulary(shape.vocabulary)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(pieces)
    writer.add_token_scores(scores)
    writer.add_token_types(types)
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(True)


def is_float(tensor: str, rows_columns: tuple[int, ...]) -> bool:
    """Whether a tensor is float32 in every file: norms, and the routers of mixtures."""
    return len(rows_columns) == 1 or "ffn_gate_inp" in tensor


def values(tensor: str, rows_columns: tuple[int, ...], seed: list[int]) -> np.ndarray:
    """The numbers of a tensor (f32)."""
    if len(rows_columns) == 1:
        return np.ones(rows_columns, dtype=np.float32)
    weights = np.random.default_rng(seed).standard_normal(rows_columns, dtype=np.float32)
    weights *= deviation(tensor, rows_columns)
    return weights


def deviation(tensor: str, rows_columns: tuple[int, ...]) -> float:
    """The standard deviation of a matrix."""
    return float(rows_columns[-1] ** -0.5 * (0.3 if "attn_output" in tensor else 1.0))


def drawn(tensor: str, rows_columns: tuple[int, ...], seed: list[int]) -> np.ndarray:
    """The bytes of a Q4_0 matrix whose codes are random bits: [..., rows, bytes of a row] (uint8), 2 GB/s.

    A block is a float16 scale and 32 codes of 4 bits, which stand for -8 to 7: on average their square is 21.5.
    """
    n_bytes = math.prod(rows_columns) // 32 * 18
    raw = np.random.SFC64(seed).random_raw(-(-n_bytes // 8)).view(np.uint16)[: n_bytes // 2]
    scales = raw.reshape(-1, 9)[:, 0]
    scales &= 0x8000  # the sign stays random
    scales |= np.float16(deviation(tensor, rows_columns) / 21.5**0.5).view(np.uint16)
    return raw.view(np.uint8).reshape(*rows_columns[:-1], -1)


def write(name: str, path: Path, file_type: str, seed: int = 0, context: int | None = None) -> None:
    """Write shape `name` to `path`, one tensor in memory at a time; the file gets its name only when whole."""
    shape = replace(SHAPES[name], context=context or SHAPES[name].context)
    kind = gguf.GGMLQuantizationType[file_type.upper()]
    block, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    layout = list(tensors(shape))
    draws = file_type == "q4_0" and sum(math.prod(rows_columns) for _, rows_columns in layout) > DRAWN
    partial = path.with_name(path.name + ".partial")
    writer = gguf.GGUFWriter(partial, shape.arch)
    try:
        add_metadata(writer, name, shape, file_type)
        if shape.rope_factor != 1:
            half = shape.head_width // 2
            writer.add_tensor_info("rope_freqs.weight", (half,), np.dtype(np.float32), 4 * half)
        for tensor, rows_columns in layout:
            size = math.prod(rows_columns)
            if is_float(tensor, rows_columns):
                writer.add_tensor_info(tensor, rows_columns, np.dtype(np.float32), 4 * size)
            else:
                n_bytes = size // block * block_bytes
                writer.add_tensor_info(tensor, rows_columns, np.dtype(np.float32), n_bytes, raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        if shape.rope_factor != 1:
            writer.write_tensor_data(rope_factors(shape))
        for index, (tensor, rows_columns) in enumerate(layout):
            seeds = [seed, index]
            if is_float(tensor, rows_columns):
                writer.write_tensor_data(values(tensor, rows_columns, seeds))
            elif draws:
                writer.write_tensor_data(drawn(tensor, rows_columns, seeds))
            else:
                writer.write_tensor_data(gguf.quants.quantize(values(tensor, rows_columns, seeds), kind))
        writer.close()
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def main() -> None:
    """Read the command line and write the file."""
    parser = argparse.ArgumentParser(description="Write a GGUF file with random weights in a published shape.")
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("out", type=Path, help="the GGUF file to write")
    parser.add_argument("--type", choices=TYPES, default="f16", help="type of the matrices (default f16)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--context", type=int, help="positions that the file says it was made for (default: published)")
    arguments = parser.parse_args()
    write(arguments.shape, arguments.out, arguments.type, arguments.seed, arguments.context)
    print(f"{arguments.out}: {arguments.out.stat().st_size / 2**20:.0f} MiB, {arguments.shape}, {arguments.type}")


if __name__ == "__main__":
    main()
