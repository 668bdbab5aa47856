"""The decoder in PyTorch. Parameters carry GGUF's names: `token_embd.weight`, `blk.0.attn_q.weight`, ..."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ingle.train.attention import attention, rotary_tables, rotate, visibility
from ingle.train.compiling import compiler, keep_freed_memory
from ingle.train.linear import FakeQuant, Linear, together
from ingle.train.loss import Softmax, cross_entropy_sum, softmax
from ingle.train.recipes import Init
from ingle.train.shape import Shape

__all__ = ["Decoder", "Layer"]


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

        self.compiled: Callable[..., Tensor] | None = None

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, visible: Tensor) -> Tensor:
        """`x` [B, T, E]; `cos`, `sin` [T, D/2]; `visible` from `attention.visibility`."""
        if self.compiled is not None and torch.is_grad_enabled():  # once for training; the rest is not worth a minute
            return self.compiled(self, x, cos, sin, visible)
        return _compute(self, x, cos, sin, visible)

    def attend(self, h: Tensor, cos: Tensor, sin: Tensor, visible: Tensor) -> Tensor:
        """The attention block of normed `h`, without the residual."""
        by_head = (*h.shape[:2], -1, self.shape.head_dim)
        q, k, v = (y.view(by_head) for y in together(h, (self.attn_q, self.attn_k, self.attn_v)))
        if self.shape.qk_norm:
            q, k = self.attn_q_norm(q.float()).to(v.dtype), self.attn_k_norm(k.float()).to(v.dtype)
        out: Tensor = self.attn_output(attention(rotate(q, cos, sin), rotate(k, cos, sin), v, visible))
        return out

    def feed_forward(self, h: Tensor) -> Tensor:
        """The feed-forward block of normed `h`, without the residual. The activation is computed in float32."""
        kind = self.shape.feed_forward
        if kind == "swiglu":
            gate, up = together(h, (self.ffn_gate, self.ffn_up))
            act = F.silu(gate.float()) * up.float()
        else:
            up = self.ffn_up(h)
            act = F.gelu(up.float()) if kind == "gelu" else F.relu(up.float())
            act = act.square() if kind == "relu2" else act
        out: Tensor = self.ffn_down(act.to(up.dtype))
        return out


def _compute(layer: Layer, x: Tensor, cos: Tensor, sin: Tensor, visible: Tensor) -> Tensor:
    """A function of the layer, not a method of it: compiled once, it serves all layers, and hooks stay outside."""
    x = x + layer.attend(layer.attn_norm(x), cos, sin, visible)
    return x + layer.feed_forward(layer.ffn_norm(x))


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
        self.softmax: Softmax = softmax
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

    def compile(self) -> bool:  # type: ignore[override]
        """Compile what training takes its time for: one layer, for all of them, and the softmax of the loss.

        For each number of rows and positions that training meets, once, in its first forward and backward pass, for
        about half a minute. What needs no gradients stays as it is. Returns False, with a warning, without a compiler.
        """
        if compiler() is None:
            warnings.warn(
                "There is no C++ compiler, so the model trains without torch.compile, at about half the speed; install "
                "g++ (or set CXX).",
                stacklevel=2,
            )
            return False
        keep_freed_memory()
        compiled = torch.compile(_compute, dynamic=False)
        for layer in self.blk:
            assert isinstance(layer, Layer)
            layer.compiled = compiled
        self.softmax = torch.compile(softmax, dynamic=False)
        return True

    def hidden(self, tokens: Tensor, documents: Tensor | None = None) -> Tensor:
        """Normed hidden states [B, T, E] of `tokens` [B, T]; T is at most the context."""
        positions = tokens.shape[1]
        cos, sin = self.cos[:positions], self.sin[:positions]
        x = self.token_embd(tokens)
        visible = visibility(documents, positions, x.device, _autocast_dtype(x) or x.dtype)
        for layer in self.shape.schedule:
            x = self.blk[layer](x, cos, sin, visible)
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
        x = x.to(_autocast_dtype(x) or x.dtype)
        return cross_entropy_sum(x.flatten(0, 1), weight, targets.flatten(), self.softmax)


def _autocast_dtype(x: Tensor) -> torch.dtype | None:
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
