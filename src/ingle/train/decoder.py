"""The decoder in PyTorch. Parameters carry GGUF's names: `token_embd.weight`, `blk.0.attn_q.weight`, ..."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ingle.train.attention import attention, rotary_tables, rotate
from ingle.train.linear import FakeQuant, Linear
from ingle.train.loss import cross_entropy_sum
from ingle.train.shape import Shape

__all__ = ["Decoder", "Init", "Layer"]

Init = Literal["normal", "zero_residual"]


class Layer(nn.Module):
    """Attention and feed-forward, each behind an RMSNorm, each added to the residual."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        width, heads, kv_heads = shape.width, shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
        self.attn_norm = nn.RMSNorm(width, shape.norm_eps)
        self.attn_q, self.attn_k, self.attn_v = Linear(width, heads), Linear(width, kv_heads), Linear(width, kv_heads)
        self.attn_output = Linear(heads, width)
        if shape.qk_norm:
            self.attn_q_norm = nn.RMSNorm(shape.head_dim, shape.norm_eps)
            self.attn_k_norm = nn.RMSNorm(shape.head_dim, shape.norm_eps)
        self.ffn_norm = nn.RMSNorm(width, shape.norm_eps)
        if shape.feed_forward == "swiglu":
            self.ffn_gate = Linear(width, shape.hidden)
        self.ffn_up = Linear(width, shape.hidden)
        self.ffn_down = Linear(shape.hidden, width)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, documents: Tensor | None) -> Tensor:
        """`x` [B, T, E]; `cos`, `sin` [T, D/2]; `documents` [B, T] or None."""
        x = x + self._attention(self.attn_norm(x), cos, sin, documents)
        return x + self._feed_forward(self.ffn_norm(x))

    def _attention(self, h: Tensor, cos: Tensor, sin: Tensor, documents: Tensor | None) -> Tensor:
        by_head = (*h.shape[:2], -1, self.shape.head_dim)
        q, k, v = self.attn_q(h).view(by_head), self.attn_k(h).view(by_head), self.attn_v(h).view(by_head)
        if self.shape.qk_norm:
            q, k = self.attn_q_norm(q).to(v.dtype), self.attn_k_norm(k).to(v.dtype)
        read = attention(rotate(q, cos, sin), rotate(k, cos, sin), v, documents)
        out: Tensor = self.attn_output(read)
        return out

    def _feed_forward(self, h: Tensor) -> Tensor:
        kind, up = self.shape.feed_forward, self.ffn_up(h)
        if kind == "swiglu":
            act = F.silu(self.ffn_gate(h)) * up
        elif kind == "gelu":
            act = F.gelu(up)
        else:
            act = F.relu(up) if kind == "relu" else F.relu(up).square()
        out: Tensor = self.ffn_down(act)
        return out


class Decoder(nn.Module):
    """`forward` gives the loss; `logits` gives what comes next.

    Parameters are float32; run it under `torch.autocast(..., torch.bfloat16)` to compute in bfloat16.
    init "normal" is the paper's (standard deviation 0.02); "zero_residual" begins with every block adding nothing and
    with a standard deviation of 1 / sqrt(inputs) elsewhere.
    """

    def __init__(self, shape: Shape, init: Init = "normal") -> None:
        super().__init__()
        self.shape = shape
        self.token_embd = nn.Embedding(shape.vocabulary, shape.width)
        self.blk = nn.ModuleList(Layer(shape) for _ in range(shape.layers))
        self.output_norm = nn.RMSNorm(shape.width, shape.norm_eps)
        if not shape.tied:
            self.output = Linear(shape.width, shape.vocabulary)
        self.head_fake_quant: FakeQuant | None = None  # of the output matrix, tied or not
        cos, sin = rotary_tables(shape.context, shape.head_dim, shape.rope_theta)
        self.cos: Tensor
        self.sin: Tensor
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)
        self._initialise(init)

    def _initialise(self, init: Init) -> None:
        for name, parameter in self.named_parameters():
            if parameter.ndim == 1:
                nn.init.ones_(parameter)
            elif init == "normal" or name == "token_embd.weight":
                nn.init.normal_(parameter, std=0.02)
            elif name.endswith(("attn_output.weight", "ffn_down.weight")):
                nn.init.zeros_(parameter)
            else:
                nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5)

    def hidden(self, tokens: Tensor, documents: Tensor | None = None) -> Tensor:
        """Normed hidden states [B, T, E] of `tokens` [B, T]; T is at most the context."""
        positions = tokens.shape[1]
        cos, sin = self.cos[:positions], self.sin[:positions]
        x = self.token_embd(tokens)
        for layer in self.shape.schedule:
            x = self.blk[layer](x, cos, sin, documents)
        out: Tensor = self.output_norm(x)
        return out

    def head(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The input and the matrix [V, E] of the output, as the logits multiply them."""
        weight = self.token_embd.weight if self.shape.tied else self.output.weight
        if self.head_fake_quant is not None:
            return self.head_fake_quant.activation(x), self.head_fake_quant.weight(weight)
        return x, weight

    def logits(self, tokens: Tensor, documents: Tensor | None = None) -> Tensor:
        """Logits [B, T, V], float32."""
        return F.linear(*self.head(self.hidden(tokens, documents))).float()

    def forward(self, tokens: Tensor, targets: Tensor, documents: Tensor | None = None) -> Tensor:
        """Sum of the cross-entropies in nats over the targets that count, float32 scalar.

        `tokens`, `targets` [B, T], targets IGNORED where they do not count; `documents` [B, T]: attention stays within
        a document. A sum, not a mean: micro-batches and devices with unlike numbers of targets add up exactly.
        """
        x, weight = self.head(self.hidden(tokens, documents))
        if torch.is_autocast_enabled(x.device.type):
            x = x.to(torch.get_autocast_dtype(x.device.type))
        return cross_entropy_sum(x.flatten(0, 1), weight, targets.flatten())
