"""Causal attention within documents, for training: whole rows, no cache."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["attention", "rotary_tables", "rotate", "visibility"]

_CHUNKS = 8  # of the queries of a row: more skip more of the future, and take longer to compile
_MIN_QUERIES = 64


def rotary_tables(positions: int, head_dim: int, theta: float) -> tuple[Tensor, Tensor]:
    """Cosines and sines [positions, head_dim / 2] of the rotation (Su et al., arXiv 2104.09864), float32."""
    half = head_dim // 2
    angles = torch.arange(positions)[:, None].double() * theta ** (-torch.arange(half).double() / half)
    return angles.cos().float(), angles.sin().float()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn dimension i of a head with i + D/2, as Hugging Face's checkpoints do; `x` [..., T, heads, D]."""
    a, b = x.chunk(2, -1)
    cos, sin = cos[:, None], sin[:, None]
    return torch.cat((a * cos - b * sin, b * cos + a * sin), -1).to(x.dtype)


def visibility(documents: Tensor | None, positions: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """What is added to the scores: 0 where a query sees a key, else -inf; [B, T, T], or [1, T, T] for all rows.

    `documents` [B, T]: a number for each document in a row, or None where a row is one document. It is the same for
    all layers and heads, so it is made once for all of them.
    """
    at = torch.arange(positions, device=device)
    hidden = (at[:, None] < at)[None]
    if documents is not None:
        hidden = hidden | (documents[:, :, None] != documents[:, None, :])
    return torch.zeros(hidden.shape, dtype=dtype, device=device).masked_fill_(hidden, float("-inf"))


def attention(q: Tensor, k: Tensor, v: Tensor, visible: Tensor) -> Tensor:
    """What each position reads from the earlier positions of its document, [B, T, H * D].

    `q` [B, T, H, D], `k` and `v` [B, T, K, D] after the rotation; `visible` from `visibility`. On a GPU it is PyTorch's
    fused kernel with a mask, which was not timed.
    """
    if q.is_cuda:
        group = q.shape[2] // k.shape[2]
        q, k, v = (x.transpose(1, 2) for x in (q, k.repeat_interleave(group, 2), v.repeat_interleave(group, 2)))
        read = F.scaled_dot_product_attention(q, k, v, attn_mask=visible[:, None].to(q.dtype))
        return read.transpose(1, 2).flatten(2)
    return _chunked(q, k, v, visible)


def _chunked(q: Tensor, k: Tensor, v: Tensor, visible: Tensor) -> Tensor:
    """Chunks of queries, each without its future.

    Compiled for a CPU this takes less time than the whole square, and less than PyTorch's fused kernel, whose backward
    pass is slow there. The weights are divided by their sum after they read the values, not before: that is a
    division for each of D numbers instead of T, and leaves the backward pass without a sum over T.
    """
    rows, positions, heads, size = q.shape
    kv_heads = k.shape[2]
    group = heads // kv_heads
    q = q.view(rows, positions, kv_heads, group, size).permute(0, 2, 3, 1, 4)
    k, v = k.transpose(1, 2), v.transpose(1, 2)
    step = max(_MIN_QUERIES, -(-positions // _CHUNKS))
    read = []
    for begin in range(0, positions, step):
        end = min(begin + step, positions)
        n = end - begin
        queries = q[:, :, :, begin:end].reshape(rows, kv_heads, group * n, size)
        scores = (queries @ k[:, :, :end].mT).float().view(rows, kv_heads, group, n, end) * size**-0.5
        scores = scores + visible[:, None, None, begin:end, :end]
        weights = (scores - scores.detach().amax(-1, keepdim=True)).exp().to(v.dtype)
        total = weights.float().sum(-1, keepdim=True)
        values = weights.view(rows, kv_heads, group * n, end) @ v[:, :, :end]
        read.append((values.view(rows, kv_heads, group, n, size) / total).to(v.dtype))
    return torch.cat(read, 3).permute(0, 3, 1, 2, 4).reshape(rows, positions, heads * size)
