"""Check an exported story model: a plain NumPy forward from the file alone must say what the trainer's model says.

    python check.py ../../tests/data/ingle-stories.gguf

Nothing but the file is read: shapes, tokenizer and weights all come from its metadata and tensors.
"""

from __future__ import annotations

import sys

import gguf
import numpy as np
import torch
from decoder import Config, Decoder
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from train import continue_text

PROMPTS = ("Once upon a time", "Tell me a story about a dog.", "Lily and Tom went to the park.", "One day, a big bear")
Array = NDArray[np.float32]


def forward(ids: list[int], t: dict[str, Array], c: Config) -> Array:
    """Logits [vocabulary] after the last of `ids`, by the formulas as the papers write them, one head at a time."""

    def norm(x: Array, weight: Array) -> Array:
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + c.eps) * weight

    n, size = len(ids), c.width // c.heads
    angle = np.arange(n)[:, None] * c.rope_base ** (-2.0 * np.arange(size // 2) / size)
    turn = np.exp(1j * angle)

    def rotate(x: Array) -> Array:  # a pair of neighbours is one complex number
        pairs = (x[:, 0::2] + 1j * x[:, 1::2]) * turn
        return np.stack((pairs.real, pairs.imag), -1).reshape(n, size).astype(np.float32)

    x = t["token_embd.weight"][ids]
    for i in range(c.layers):
        w = {name.split(".")[2]: tensor for name, tensor in t.items() if name.startswith(f"blk.{i}.")}
        h = norm(x, w["attn_norm"])
        q, k, v = h @ w["attn_q"].T, h @ w["attn_k"].T, h @ w["attn_v"].T
        heads = []
        for head in range(c.heads):
            mine = slice(head * size, (head + 1) * size)
            shared = head // (c.heads // c.kv_heads)
            theirs = slice(shared * size, (shared + 1) * size)
            scores = rotate(q[:, mine]) @ rotate(k[:, theirs]).T / np.sqrt(size)
            scores[np.triu_indices(n, 1)] = -np.inf
            share = np.exp(scores - scores.max(-1, keepdims=True))
            heads.append(share / share.sum(-1, keepdims=True) @ v[:, theirs])
        x = x + np.concatenate(heads, -1).astype(np.float32) @ w["attn_output"].T
        h = norm(x, w["ffn_norm"])
        gate = h @ w["ffn_gate"].T
        x = x + (gate / (1 + np.exp(-gate)) * (h @ w["ffn_up"].T)) @ w["ffn_down"].T
    return norm(x[-1], t["output_norm.weight"]) @ t["token_embd.weight"].T


def main(path: str) -> None:
    reader = gguf.GGUFReader(path)
    field = {name: f.contents() for name, f in reader.fields.items()}
    tensors = {t.name: gguf.dequantize(t.data, t.tensor_type).astype(np.float32) for t in reader.tensors}
    c = Config(
        len(field["tokenizer.ggml.tokens"]),
        field["llama.context_length"],
        field["llama.embedding_length"],
        field["llama.block_count"],
        field["llama.attention.head_count"],
        field["llama.attention.head_count_kv"],
        field["llama.feed_forward_length"],
        field["llama.rope.freq_base"],
        field["llama.attention.layer_norm_rms_epsilon"],
    )
    tokens = {token: i for i, token in enumerate(field["tokenizer.ggml.tokens"])}
    merges = [tuple(merge.split(" ")) for merge in field["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE(vocab=tokens, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|endoftext|>"])
    model = Decoder(c)
    model.load_state_dict({name: torch.from_numpy(np.array(tensor)) for name, tensor in tensors.items()})
    for prompt in PROMPTS:
        ids = [field["tokenizer.ggml.bos_token_id"], *tokenizer.encode(prompt).ids]
        start = len(ids)
        with torch.no_grad():
            away = float(np.abs(model(torch.tensor([ids]))[0, -1].numpy() - forward(ids, tensors, c)).max())
        while len(ids) - start < 120 and (len(ids) == start or ids[-1] != field["tokenizer.ggml.eos_token_id"]):
            ids.append(int(forward(ids, tensors, c).argmax()))
        text, expected = tokenizer.decode(ids[start:]), continue_text(model, tokenizer, prompt, limit=120)
        print(f"--- {prompt}  [same text: {text == expected}; largest logit difference {away:.1e}]\n{prompt}{text}\n")
        if text != expected:
            raise SystemExit(f"The file and the trainer disagree after {prompt!r}: {expected!r}")


if __name__ == "__main__":
    main(sys.argv[1])
