"""The story model: a small Llama-shaped decoder in PyTorch, its parameters named as GGUF names them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

QUERIES = 128


@dataclass(frozen=True)
class Config:
    """Shape of the decoder; every width is a multiple of 32, the group of Q8_0."""

    vocabulary: int = 2048
    context: int = 512
    width: int = 128
    layers: int = 6
    heads: int = 4
    kv_heads: int = 2
    hidden: int = 384
    rope_base: float = 10000.0
    eps: float = 1e-5


class Block(nn.Module):
    """One layer: grouped-query attention and SwiGLU, each behind an RMSNorm. Submodules carry GGUF's names."""

    def __init__(self, c: Config) -> None:
        super().__init__()
        self.c, kv_width = c, c.width // c.heads * c.kv_heads
        self.attn_norm, self.ffn_norm = nn.RMSNorm(c.width, c.eps), nn.RMSNorm(c.width, c.eps)
        self.attn_q, self.attn_output = nn.Linear(c.width, c.width, bias=False), nn.Linear(c.width, c.width, bias=False)
        self.attn_k, self.attn_v = nn.Linear(c.width, kv_width, bias=False), nn.Linear(c.width, kv_width, bias=False)
        self.ffn_gate, self.ffn_up = nn.Linear(c.width, c.hidden, bias=False), nn.Linear(c.width, c.hidden, bias=False)
        self.ffn_down = nn.Linear(c.hidden, c.width, bias=False)
        nn.init.zeros_(self.attn_output.weight)
        nn.init.zeros_(self.ffn_down.weight)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor) -> Tensor:
        """`x` [rows, positions, width]; `cos`, `sin` [positions, head_width / 2]; `mask` 0 or -1e9."""
        rows, positions, _ = x.shape
        h, group = self.attn_norm(x), self.c.heads // self.c.kv_heads

        def heads(z: Tensor) -> Tensor:
            return z.view(rows, positions, -1, self.c.width // self.c.heads).transpose(1, 2)

        def rotate(z: Tensor) -> Tensor:  # neighbours (2i, 2i+1) turn together, as GGUF's llama files expect
            even, odd = z[..., 0::2], z[..., 1::2]
            return torch.stack((even * cos - odd * sin, even * sin + odd * cos), -1).flatten(-2).to(z.dtype)

        q, k, v = rotate(heads(self.attn_q(h))), rotate(heads(self.attn_k(h))), heads(self.attn_v(h))
        k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
        # Written out in chunks of queries that skip the future: compiled for a CPU, forward and backward take half the
        # time of the whole square, and less than torch's fused kernel, whose backward pass is slow at this size.
        mixed = []
        for begin in range(0, positions, QUERIES):
            end = min(begin + QUERIES, positions)
            scores = (q[:, :, begin:end] @ k[:, :, :end].mT).float() * q.shape[-1] ** -0.5 + mask[begin:end, :end]
            mixed.append(scores.softmax(-1).to(v.dtype) @ v[:, :, :end])
        x = x + self.attn_output(torch.cat(mixed, 2).transpose(1, 2).reshape(rows, positions, -1))
        h = self.ffn_norm(x)
        return x + self.ffn_down(F.silu(self.ffn_gate(h)) * self.ffn_up(h))


class Decoder(nn.Module):
    """Tied-embedding decoder; `forward` gives logits [rows, positions, vocabulary] in float32."""

    def __init__(self, c: Config) -> None:
        super().__init__()
        self.token_embd = nn.Embedding(c.vocabulary, c.width)
        nn.init.normal_(self.token_embd.weight, std=0.04)
        self.blk = nn.ModuleList(Block(c) for _ in range(c.layers))
        self.output_norm = nn.RMSNorm(c.width, c.eps)
        half = c.width // c.heads // 2
        angle = torch.arange(c.context)[:, None] * c.rope_base ** (-torch.arange(half) / half)
        self.register_buffer("cos", angle.cos(), persistent=False)
        self.register_buffer("sin", angle.sin(), persistent=False)
        self.register_buffer("mask", torch.full((c.context, c.context), -1e9).triu(1), persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        n = tokens.shape[1]
        x = self.token_embd(tokens)
        for block in self.blk:
            x = block(x, self.cos[:n], self.sin[:n], self.mask[:n, :n])
        return F.linear(self.output_norm(x), self.token_embd.weight).float()
