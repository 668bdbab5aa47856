"""Tiny models for tests: a llama-shaped GGUF with random weights and a byte-level tokenizer, and a backend of script.

All of it is made from a seed; nothing is read from elsewhere.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFWriter, LlamaFileType
from numpy.typing import NDArray

from ingle.backends.base import KVType, Rows, check_rows
from ingle.engine.comm import Alone
from ingle.engine.generate import chunk_rows
from ingle.engine.model import Model
from ingle.engine.runner import Runner
from ingle.engine.slots import Slots
from ingle.engine.weights import Resident
from ingle.models.checkpoint import open_checkpoint
from ingle.models.spec import Spec
from ingle.models.tensor import Tensor
from ingle.text import ChatTemplate, Tokenizer

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
MERGES = ["t h", "th e", "Ġ the", "a n", "an d", "Ġ and", "i n", "e r", "Ġ a", "o u"]
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def byte_letters() -> list[str]:
    """The letters of GPT-2's byte-level BPE, by byte."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(b) if b in printable else chr(next(others)) for b in range(256)]


def vocabulary() -> list[str]:
    return [*byte_letters(), *(merge.replace(" ", "") for merge in MERGES), *SPECIALS]


def toy_gguf(
    path: Path,
    *,
    template: str | None = CHATML,
    n_context: int = 256,
    n_layers: int = 2,
    n_embd: int = 32,
    seed: int = 0,
    split_max_tensors: int = 0,
    change: Callable[[str, NDArray[np.float32]], NDArray[np.float32]] = lambda name, values: values,
) -> Path:
    """Write a model of 2 layers, 4 query and 2 key/value heads, F32; `change` may alter each tensor. Gives `path`.

    With `split_max_tensors` it is written in parts of so many tensors, with the names that parts have.
    """
    rng = np.random.default_rng(seed)
    tokens = vocabulary()
    n_heads, n_kv_heads, n_ff = 4, 2, 2 * n_embd
    writer = GGUFWriter(path, "llama", split_max_tensors=split_max_tensors)
    writer.add_name("Toy")
    writer.add_file_type(LlamaFileType.ALL_F32)
    writer.add_context_length(n_context)
    writer.add_embedding_length(n_embd)
    writer.add_block_count(n_layers)
    writer.add_feed_forward_length(n_ff)
    writer.add_head_count(n_heads)
    writer.add_head_count_kv(n_kv_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(n_embd // n_heads)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([1] * (len(tokens) - len(SPECIALS)) + [3] * len(SPECIALS))
    writer.add_token_merges(MERGES)
    writer.add_eos_token_id(tokens.index("<|im_end|>"))
    writer.add_add_bos_token(False)
    if template is not None:
        writer.add_chat_template(template)

    def matrix(name: str, *shape: int) -> None:
        values = rng.normal(0, shape[-1] ** -0.5, shape).astype(np.float32)
        writer.add_tensor(name, np.ascontiguousarray(change(name, values), dtype=np.float32))

    def ones(name: str) -> None:
        writer.add_tensor(name, change(name, np.ones(n_embd, np.float32)))

    kv = n_kv_heads * n_embd // n_heads
    matrix("token_embd.weight", len(tokens), n_embd)
    for layer in range(n_layers):
        block = f"blk.{layer}."
        ones(block + "attn_norm.weight")
        matrix(block + "attn_q.weight", n_embd, n_embd)
        matrix(block + "attn_k.weight", kv, n_embd)
        matrix(block + "attn_v.weight", kv, n_embd)
        matrix(block + "attn_output.weight", n_embd, n_embd)
        ones(block + "ffn_norm.weight")
        matrix(block + "ffn_gate.weight", n_ff, n_embd)
        matrix(block + "ffn_up.weight", n_ff, n_embd)
        matrix(block + "ffn_down.weight", n_embd, n_ff)
    ones("output_norm.weight")
    matrix("output.weight", len(tokens), n_embd)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


class ScriptedCache:
    """Remembers, at each position of each slot, the token that was computed there: -1 where none was."""

    def __init__(self, n_slots: int, context: int) -> None:
        self.tokens = np.full((n_slots, context), -1, np.int64)
        self.copies: list[tuple[int, int, int]] = []

    @property
    def n_slots(self) -> int:
        return self.tokens.shape[0]

    @property
    def context(self) -> int:
        return self.tokens.shape[1]

    n_bytes = 0

    def copy(self, source: int, target: int, n_positions: int) -> None:
        self.copies.append((source, target, n_positions))
        self.tokens[target, :n_positions] = self.tokens[source, :n_positions]


class ScriptedState:
    def __init__(self, rows: Rows, cache: ScriptedCache) -> None:
        self.rows = rows
        self.cache = cache
        self.delta = np.zeros((len(rows), 1), np.float32)


class ScriptedBackend:
    """A backend whose next token is a function of all tokens that stand in the slot: wrong bookkeeping changes it.

    `calls` has the rows of each call. `next_token(tokens)` gets the tokens of positions 0 .. the row's own.
    """

    name = "scripted"

    def __init__(self, spec: Spec, next_token: Callable[[list[int]], int]) -> None:
        self.spec = spec
        self.next_token = next_token
        self.calls: list[Rows] = []

    def load_embedding(self, tensors: Mapping[str, Tensor]) -> Any:
        return None

    load_attention = load_feed_forward = load_embedding

    def load_output(self, tensors: Mapping[str, Tensor], embedding: Any) -> Any:
        return None

    def new_cache(self, n_slots: int, context: int, kv_type: KVType = "f16") -> ScriptedCache:
        return ScriptedCache(n_slots, context)

    def embed(self, embedding: Any, rows: Rows, cache: ScriptedCache) -> ScriptedState:
        check_rows(rows, self.spec, cache)
        self.calls.append(rows)
        cache.tokens[rows.slots, rows.positions] = rows.tokens
        return ScriptedState(rows, cache)

    def attention(self, block: Any, state: ScriptedState, pass_index: int) -> None: ...

    def feed_forward(self, block: Any, state: ScriptedState, pass_index: int) -> None: ...

    def logits(self, output: Any, state: ScriptedState, wanted: NDArray[np.int32]) -> NDArray[np.float32]:
        logits = np.zeros((len(wanted), self.spec.n_vocab), np.float32)
        for i, row in enumerate(wanted):
            slot, position = state.rows.slots[row], state.rows.positions[row]
            seen = state.cache.tokens[slot, : position + 1].tolist()
            assert -1 not in seen, "a row sees a position that was never computed"
            logits[i, self.next_token(seen)] = 20.0
        return logits


def scripted_model(
    path: Path, next_token: Callable[[list[int]], int], *, n_slots: int = 1, context: int | None = None
) -> tuple[Model, ScriptedBackend]:
    """The file's tokenizer and template, with a scripted backend in the place of its weights."""
    checkpoint = open_checkpoint(path)
    backend = ScriptedBackend(checkpoint.spec, next_token)
    cache = backend.new_cache(n_slots, context or checkpoint.spec.n_context)
    runner = Runner(checkpoint.spec, backend, Resident(checkpoint, backend), Alone(), cache)
    tokenizer = Tokenizer.from_metadata(checkpoint.source.metadata)
    template = ChatTemplate.from_metadata(checkpoint.source.metadata, tokenizer)
    return Model(
        checkpoint, tokenizer, template, runner, Slots(cache, runner.lock, chunk_rows(checkpoint.spec))
    ), backend


def answers(tokenizer: Tokenizer, texts: Sequence[str], end: int) -> Callable[[list[int]], int]:
    """A script: the n-th answer after an assistant's header is `texts[n]`, each ended by the token `end`.

    For ChatML: the answer begins after the last "<|im_start|>assistant\\n".
    """
    header = tokenizer.encode("<|im_start|>assistant\n", parse_special=True)
    scripts = [[*tokenizer.encode(text), end] for text in texts]

    def next_token(tokens: list[int]) -> int:
        starts = [i + len(header) for i in range(len(tokens)) if tokens[i : i + len(header)] == header]
        said = tokens[starts[-1] :]
        return scripts[len(starts) - 1][len(said)]

    return next_token


def hashed(n_vocab: int) -> Callable[[list[int]], int]:
    """A script in which the next token depends on every token before it."""

    def next_token(tokens: list[int]) -> int:
        value = 1
        for token in tokens:
            value = (value * 1000003 + token + 7) % (2**31 - 1)
        return value % n_vocab

    return next_token


def huggingface_llama(folder: Path, *, seed: int = 0) -> Path:
    """Write a checkpoint as the Hub has them: config.json, model.safetensors, tokenizer.json. Gives `folder`."""
    from safetensors.numpy import save_file
    from tokenizers import AddedToken, decoders, models, pre_tokenizers
    from tokenizers import Tokenizer as Fast

    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    tokens = vocabulary()
    n_embd, n_ff, n_kv, n_vocab = 32, 64, 16, len(tokens)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": n_embd,
        "intermediate_size": n_ff,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": n_vocab,
        "max_position_embeddings": 256,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "eos_token_id": tokens.index("<|im_end|>"),
    }
    (folder / "config.json").write_text(json.dumps(config))
    shapes = {"model.embed_tokens": (n_vocab, n_embd), "lm_head": (n_vocab, n_embd), "model.norm": (n_embd,)}
    for layer in range(2):
        block = f"model.layers.{layer}."
        shapes |= {
            block + "input_layernorm": (n_embd,),
            block + "self_attn.q_proj": (n_embd, n_embd),
            block + "self_attn.k_proj": (n_kv, n_embd),
            block + "self_attn.v_proj": (n_kv, n_embd),
            block + "self_attn.o_proj": (n_embd, n_embd),
            block + "post_attention_layernorm": (n_embd,),
            block + "mlp.gate_proj": (n_ff, n_embd),
            block + "mlp.up_proj": (n_ff, n_embd),
            block + "mlp.down_proj": (n_embd, n_ff),
        }
    weights = {
        f"{name}.weight": rng.normal(0, shape[-1] ** -0.5, shape).astype(np.float32)
        if len(shape) == 2
        else np.ones(shape, np.float32)
        for name, shape in shapes.items()
    }
    save_file(weights, folder / "model.safetensors")
    pairs = [(left, right) for left, right in (merge.split() for merge in MERGES)]
    fast = Fast(models.BPE(vocab={text: i for i, text in enumerate(tokens[: -len(SPECIALS)])}, merges=pairs))
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    fast.decoder = decoders.ByteLevel()
    fast.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in SPECIALS])
    fast.save(str(folder / "tokenizer.json"))
    settings = {"eos_token": "<|im_end|>", "chat_template": CHATML}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder
