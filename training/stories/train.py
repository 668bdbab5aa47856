"""Train the small story model that the tests use and write it as GGUF.

    python train.py DATA_FOLDER --out ingle-stories.gguf --minutes 45

One CPU, no network. The learning rate follows the clock, so a run ends on time however busy the machine is.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that spin starve each other on a busy machine

import argparse
import json
import math
import random
import time
from collections.abc import Iterator
from pathlib import Path

import gguf
import numpy as np
import torch
import torch.nn.functional as F
from corpus import load, requests
from decoder import Config, Decoder
from gguf import GGMLQuantizationType, GGUFWriter
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn

END = "<|endoftext|>"
DATASETS = ("TinyStories (CDLA-Sharing-1.0)", "African Storybook (CC-BY)", "Pratham Books (CC-BY)")
# Messages are joined as text to continue; a finished answer ends its document, as in training.
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ message['content'] }}{% if message['role'] == 'assistant' %}"
    "{{ eos_token }}{% elif not loop.last %}{{ '\\n' }}{% endif %}{% endfor %}"
)


class Muon(torch.optim.Optimizer):
    """Momentum whose update for a matrix is orthogonalised (Jordan et al., 2024), a shape at a time."""

    def __init__(self, matrices: list[Tensor], lr: float, momentum: float = 0.95, weight_decay: float = 0.05) -> None:
        by_shape: dict[torch.Size, list[Tensor]] = {}
        for matrix in matrices:
            by_shape.setdefault(matrix.shape, []).append(matrix)
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay}
        super().__init__([{"params": group} for group in by_shape.values()], defaults)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for group in self.param_groups:
            weights = group["params"]
            gradient = torch.stack([w.grad for w in weights])
            state = self.state[weights[0]]
            velocity = state.setdefault("velocity", torch.zeros_like(gradient)).lerp_(gradient, 1 - group["momentum"])
            x = gradient.lerp(velocity, group["momentum"]).bfloat16()
            x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
            tall = x.shape[-2] > x.shape[-1]
            x = x.mT if tall else x
            for _ in range(5):  # Newton-Schulz with the coefficients of the paper
                gram = x @ x.mT
                x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
            x = (x.mT if tall else x).float()
            scale = group["lr"] * max(1.0, x.shape[-2] / x.shape[-1]) ** 0.5
            for weight, update in zip(weights, x, strict=True):
                weight.mul_(1 - group["lr"] * group["weight_decay"]).sub_(update, alpha=scale)


def train_tokenizer(stories: list[str], size: int) -> Tokenizer:
    """Byte-level BPE with GPT-2's word splitting; token 0 begins and ends every document."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=[END], initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(stories, trainer)
    return tokenizer


def encode(tokenizer: Tokenizer, texts: list[str]) -> list[list[int]]:
    return [encoding.ids for encoding in tokenizer.encode_batch(texts)]


class Stream:
    """Endless training tokens: every pass shuffles all TinyStories, half of the books, and half the requests anew."""

    def __init__(self, tokenizer: Tokenizer, stories: list[str], books: list[str], seed: int) -> None:
        self.stories, self.books = encode(tokenizer, stories), encode(tokenizer, books)
        self.requests = [encode(tokenizer, [ask + "\n" for ask in asks]) for asks in requests(stories)]
        self.rng, self.passes, self.left = random.Random(seed), 0, np.zeros(0, np.int64)

    def _one_pass(self) -> Iterator[list[int]]:
        documents = [
            (self.rng.choice(asks) if self.rng.random() < 0.5 else []) + story
            for story, asks in zip(self.stories, self.requests, strict=True)
        ]
        documents += self.rng.sample(self.books, len(self.books) // 2)
        self.rng.shuffle(documents)
        self.passes += 1
        return ([0, *document] for document in documents)

    def batch(self, rows: int, positions: int) -> tuple[Tensor, Tensor]:
        """Tokens and the tokens that follow them, both int64 [rows, positions]."""
        need = rows * positions + 1
        while len(self.left) < need:
            self.left = np.concatenate([self.left, *(np.array(d, np.int64) for d in self._one_pass())])
        part, self.left = torch.from_numpy(self.left[:need].copy()), self.left[need - 1 :]
        return part[:-1].view(rows, positions), part[1:].view(rows, positions)


@torch.no_grad()
def evaluate(model: nn.Module, tokenizer: Tokenizer, stories: list[str], c: Config) -> tuple[float, float]:
    """Nats per token and bits per UTF-8 byte over whole documents; a document past the context is scored in parts."""
    nats, tokens, size = 0.0, 0, sum(len(story.encode()) for story in stories)
    documents = [[0, *ids, 0] for ids in encode(tokenizer, stories)]
    parts = sorted((d[i : i + c.context + 1] for d in documents for i in range(0, len(d) - 1, c.context)), key=len)
    for i in range(0, len(parts), 8):
        rows = [torch.tensor(part) for part in parts[i : i + 8]]
        x = nn.utils.rnn.pad_sequence([row[:-1] for row in rows], batch_first=True)
        y = nn.utils.rnn.pad_sequence([row[1:] for row in rows], batch_first=True, padding_value=-100)
        nats += F.cross_entropy(model(x).flatten(0, 1), y.flatten(), reduction="sum").item()
        tokens += int((y >= 0).sum())
    return nats / tokens, nats / math.log(2) / size


@torch.no_grad()
def continue_text(
    model: nn.Module, tokenizer: Tokenizer, prompt: str, temperature: float = 0.0, limit: int = 200
) -> str:
    """The model's continuation of `prompt` up to the end of the story or `limit` tokens; temperature 0 is greedy."""
    ids = [0, *tokenizer.encode(prompt).ids]
    start = len(ids)
    while len(ids) - start < limit and (len(ids) == start or ids[-1] != 0):
        logits = model(torch.tensor([ids]))[0, -1]
        choice = torch.multinomial((logits / temperature).softmax(0), 1) if temperature else logits.argmax()
        ids.append(int(choice))
    return tokenizer.decode(ids[start:])


def export(model: nn.Module, tokenizer: Tokenizer, c: Config, path: Path) -> None:
    """Write the model with its tokenizer as one GGUF file: matrices as Q8_0, norms as float32."""
    part = path.with_name(path.name + ".part")
    w = GGUFWriter(part, "llama")
    w.add_name("Ingle Stories")
    w.add_description("A very small model that tells very simple children's stories in English. It knows nothing else.")
    w.add_license("cc-by-4.0")
    w.add_languages(["en"])
    w.add_array("general.datasets", list(DATASETS))
    w.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    w.add_quantization_version(gguf.GGML_QUANT_VERSION)
    w.add_block_count(c.layers)
    w.add_context_length(c.context)
    w.add_embedding_length(c.width)
    w.add_feed_forward_length(c.hidden)
    w.add_head_count(c.heads)
    w.add_head_count_kv(c.kv_heads)
    w.add_layer_norm_rms_eps(c.eps)
    w.add_rope_dimension_count(c.width // c.heads)
    w.add_rope_freq_base(c.rope_base)
    w.add_vocab_size(c.vocabulary)
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre("gpt-2")
    w.add_token_list([token for token, _ in vocabulary])
    w.add_token_types([gguf.TokenType.CONTROL if i == 0 else gguf.TokenType.NORMAL for i in range(len(vocabulary))])
    w.add_token_merges([" ".join(pair) for pair in merges])
    w.add_bos_token_id(0)
    w.add_eos_token_id(0)
    w.add_add_bos_token(True)
    w.add_chat_template(CHAT_TEMPLATE)
    for name, weight in model.state_dict().items():
        array = weight.float().numpy()
        if array.ndim == 1:
            w.add_tensor(name, array)
        else:
            kind = GGMLQuantizationType.Q8_0
            w.add_tensor(name, gguf.quantize(array, kind), raw_dtype=kind)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    part.replace(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("data", type=Path, help="folder with the files that DATA.md lists")
    parser.add_argument("--out", type=Path, default=Path("ingle-stories.gguf"))
    parser.add_argument("--minutes", type=float, default=45.0)
    parser.add_argument("--batch-tokens", type=int, default=4096)
    parser.add_argument("--lr", type=float, default=0.02, help="peak rate of Muon; AdamW's is 0.15 of it")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    torch.set_num_threads(2)
    c, stories = Config(), load(args.data)
    tokenizer = train_tokenizer(stories.train["tinystories"] + stories.train["books"], c.vocabulary)
    stream = Stream(tokenizer, stories.train["tinystories"], stories.train["books"], args.seed)
    model = Decoder(c)
    matrices = [p for p in model.blk.parameters() if p.ndim == 2]
    rest = [p for p in model.parameters() if all(p is not m for m in matrices)]
    adamw = torch.optim.AdamW(rest, 0.15 * args.lr, betas=(0.9, 0.95), weight_decay=0.01)
    optimizers = [Muon(matrices, args.lr), adamw]
    peak = [[group["lr"] for group in optimizer.param_groups] for optimizer in optimizers]
    sizes = [sum(map(len, shelf)) for shelf in (stream.stories, stream.books)]
    print(f"{sum(p.numel() for p in model.parameters())} parameters; {sizes[0]} + {sizes[1]} tokens")

    @torch.compile(dynamic=False)
    def loss_of(x: Tensor, y: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return F.cross_entropy(model(x).flatten(0, 1), y.flatten())

    for positions in (256, 512):  # compile before the clock starts
        loss_of(*stream.batch(args.batch_tokens // positions, positions)).backward()
    begin, cpu, steps, tokens = time.monotonic(), time.process_time(), 0, 0
    done, best, next_look = 0.0, math.inf, 0.1
    while done < 1:
        done = (time.monotonic() - begin) / 60 / args.minutes
        rate = min(1.0, (steps + 1) / 100, max(0.0, 1 - done) / 0.7)  # warm up, stay, fall to zero over the last 70%
        positions = 256 if done < 0.75 else 512
        for optimizer, rates in zip(optimizers, peak, strict=True):
            optimizer.zero_grad()
            for group, lr in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = lr * rate
        loss = loss_of(*stream.batch(args.batch_tokens // positions, positions))
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
        steps, tokens = steps + 1, tokens + args.batch_tokens
        if steps % 50 == 0:
            speed = tokens / (time.monotonic() - begin)
            where = f"{done:6.1%} step {steps} pass {stream.passes}"
            print(f"{where} loss {loss.item():.3f} {speed:.0f} tokens/s", flush=True)
        if done >= next_look:
            next_look += 0.1
            with torch.autocast("cpu", torch.bfloat16):
                nats, bits = evaluate(model, tokenizer, stories.held_out["tinystories"][:60], c)
            print(f"{done:6.1%} 60 held-out TinyStories {nats:.4f} nats/token, {bits:.4f} bits/byte", flush=True)
            if nats < best:
                best = nats
                torch.save(model.state_dict(), args.out.with_suffix(".pt"))
                export(model, tokenizer, c, args.out)
    model.load_state_dict(torch.load(args.out.with_suffix(".pt"), weights_only=True))
    wall, cpu = time.monotonic() - begin, time.process_time() - cpu
    print(f"{tokens} tokens, {steps} steps, {stream.passes} passes, {wall:.0f} s wall, {cpu:.0f} s CPU")
    export(model, tokenizer, c, args.out)
    for name, shelf in stories.held_out.items():
        nats, bits = evaluate(model, tokenizer, shelf, c)
        print(f"{name} held out: {nats:.4f} nats/token, {bits:.4f} bits/byte")
    for prompt in ("Once upon a time", "Tell me a story about a dog.", "Tell me a story about a king and a dragon."):
        for temperature in (0.0, 0.8):
            print(f"\n--- {prompt} (temperature {temperature})\n{continue_text(model, tokenizer, prompt, temperature)}")


if __name__ == "__main__":
    main()
