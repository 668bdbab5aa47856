"""Causal attention within documents, for training: whole rows, no cache."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["attention", "rotary_tables", "rotate"]

_QUERIES = 64  # queries at once


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


def attention(q: Tensor, k: Tensor, v: Tensor, documents: Tensor | None) -> Tensor:
    """What each position reads from the earlier positions of its document.

    `q` [B, T, H, D], `k` and `v` [B, T, K, D] after the rotation; `documents` [B, T], a number for each document in a
    row, or None where a row is one document. Returns [B, T, H * D].

    Written out in chunks of queries that skip the future: compiled for a CPU that takes less time than the whole
    square, and less than PyTorch's fused kernel, whose backward pass is slow there.
    """
    rows, positions, heads, size = q.shape
    kv_heads = k.shape[2]
    group = heads // kv_heads
    q = q.view(rows, positions, kv_heads, group, size).permute(0, 2, 3, 1, 4)
    k, v = k.transpose(1, 2), v.transpose(1, 2)
    at = torch.arange(positions, device=q.device)
    read = []
    for begin in range(0, positions, _QUERIES):
        end = min(begin + _QUERIES, positions)
        n = end - begin
        queries = q[:, :, :, begin:end].reshape(rows, kv_heads, group * n, size)
        scores = (queries @ k[:, :, :end].mT).float().view(rows, kv_heads, group, n, end) * size**-0.5
        hidden = at[begin:end, None] < at[:end]
        if documents is not None:
            hidden = hidden | (documents[:, begin:end, None] != documents[:, None, :end])[:, None, None]
        weights = scores.masked_fill(hidden, float("-inf")).softmax(-1).to(v.dtype)
        read.append((weights.view(rows, kv_heads, group * n, end) @ v[:, :, :end]).view(rows, kv_heads, group, n, size))
    return torch.cat(read, 3).permute(0, 3, 1, 2, 4).reshape(rows, positions, heads * size)
