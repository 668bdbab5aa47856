"""Which tensors (or rows of tensors) a block is made of, and what shapes they must have.

One rule per role serves every family: a role has a GGUF stem, may hide in a fused tensor, and its size follows from the
Spec. See `ingle.backends.base` for the roles.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from ingle.models.spec import Spec

__all__ = ["Part", "attention_parts", "embedding_parts", "feed_forward_parts", "output_parts"]


@dataclass(frozen=True, slots=True)
class Part:
    """Role <- rows [start, stop) of `tensor` (all where stop is 0), which must have one of `shapes` as a whole."""

    role: str
    tensor: str
    shapes: tuple[tuple[int, ...], ...]
    start: int = 0
    stop: int = 0


def embedding_parts(spec: Spec, names: Collection[str]) -> list[Part]:
    """token_embd, and the norm that some families put behind it."""
    parts = [Part("weight", "token_embd.weight", ((spec.n_vocab, spec.n_embd),))]
    if "token_embd_norm.weight" in names:
        parts += _vector("norm", "token_embd_norm", spec.n_embd, names)
    return parts


def output_parts(spec: Spec, names: Collection[str]) -> list[Part]:
    """The last norm and the matrix to the logits, which for tied models is the embedding."""
    matrix = "token_embd.weight" if spec.tied else "output.weight"
    parts = _vector("norm", "output_norm", spec.n_embd, names)
    parts.append(Part("weight", matrix, ((spec.n_vocab, spec.n_embd),)))
    if "output.bias" in names:
        parts.append(Part("bias", "output.bias", ((spec.n_vocab,),)))
    return parts


def attention_parts(spec: Spec, names: Collection[str], layer: int) -> list[Part]:
    """The attention of a layer."""
    blk = f"blk.{layer}."
    q, kv = spec.n_heads * spec.head_dim, spec.n_kv_heads * spec.head_dim
    # Falcon's large models norm the two branches separately; there attn_norm is the feed-forward's.
    norm = "attn_norm_2" if f"{blk}attn_norm_2.weight" in names else "attn_norm"
    parts = _vector("norm", f"{blk}{norm}", spec.n_embd, names)
    rows = {"q": q, "k": kv, "v": kv}
    if f"{blk}attn_qkv.weight" in names:
        parts += _fused(rows, f"{blk}attn_qkv", spec.n_embd, names)
    else:
        for role, n in rows.items():
            parts += _matrix(role, f"{blk}attn_{role}", n, spec.n_embd, names)
    parts += _matrix("o", f"{blk}attn_output", spec.n_embd, q, names)
    if spec.qk_norm == "head":
        for role, heads in (("q", spec.n_heads), ("k", spec.n_kv_heads)):
            parts.append(
                Part(f"{role}_norm", f"{blk}attn_{role}_norm.weight", ((spec.head_dim,), (heads, spec.head_dim)))
            )
    if spec.post_norm:
        parts += _vector("post_norm", f"{blk}post_attention_norm", spec.n_embd, names)
    return parts


def feed_forward_parts(spec: Spec, names: Collection[str], layer: int) -> list[Part]:
    """The feed-forward, or the mixture of experts, of a layer."""
    blk = f"blk.{layer}."
    e, f = spec.n_embd, spec.n_ff
    # Parallel blocks with one norm share the attention's.
    norm = "ffn_norm" if f"{blk}ffn_norm.weight" in names or not spec.parallel else "attn_norm"
    parts = _vector("norm", f"{blk}{norm}", e, names)
    if spec.experts is not None:
        x, fx = spec.experts.n_experts, spec.experts.n_ff
        parts.append(Part("router", f"{blk}ffn_gate_inp.weight", ((x, e),)))
        roles = ("gate", "up", "down") if spec.gated else ("up", "down")
        for role in roles:
            shape = (x, e, fx) if role == "down" else (x, fx, e)
            parts.append(Part(f"{role}_experts", f"{blk}ffn_{role}_exps.weight", (shape,)))
    else:
        if spec.gated and f"{blk}ffn_gate.weight" not in names and f"{blk}ffn_up.weight" in names:
            parts += _fused({"gate": f, "up": f}, f"{blk}ffn_up", e, names)  # Phi-3: the gate's rows first
        else:
            for role in ("gate", "up") if spec.gated else ("up",):
                parts += _matrix(role, f"{blk}ffn_{role}", f, e, names)
        parts += _matrix("down", f"{blk}ffn_down", e, f, names)
    if spec.post_norm:
        parts += _vector("post_norm", f"{blk}post_ffw_norm", e, names)
    return parts


def _vector(role: str, stem: str, n: int, names: Collection[str]) -> list[Part]:
    bias = [Part(f"{role}.bias", f"{stem}.bias", ((n,),))] if f"{stem}.bias" in names else []
    return [Part(role, f"{stem}.weight", ((n,),)), *bias]


def _matrix(role: str, stem: str, rows: int, columns: int, names: Collection[str]) -> list[Part]:
    bias = [Part(f"{role}.bias", f"{stem}.bias", ((rows,),))] if f"{stem}.bias" in names else []
    return [Part(role, f"{stem}.weight", ((rows, columns),)), *bias]


def _fused(rows: dict[str, int], stem: str, columns: int, names: Collection[str]) -> list[Part]:
    """Several roles, one below the other in one tensor."""
    total, start, parts = sum(rows.values()), 0, []
    for role, n in rows.items():
        parts.append(Part(role, f"{stem}.weight", ((total, columns),), start, start + n))
        if f"{stem}.bias" in names:
            parts.append(Part(f"{role}.bias", f"{stem}.bias", ((total,),), start, start + n))
        start += n
    return parts
