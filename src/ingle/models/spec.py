"""What a decoder is, as data.

A `Spec` is everything a backend needs besides the weights. Family files make one from GGUF metadata; no backend ever
asks for a family's name. Biases are not listed: a bias is applied where the block holds a bias tensor.

Notation used through the package: `N` rows in a call, `E` width of the hidden state, `H` query heads, `K` key/value
heads, `D` size of a head, `F` width of the feed-forward, `V` vocabulary, `P` passes through layers, `C` context.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ingle.errors import UnsupportedError

__all__ = ["Activation", "Experts", "KVType", "NormKind", "Rope", "Spec"]

NormKind = Literal["rms", "layer"]
Activation = Literal["silu", "gelu", "gelu_tanh", "relu", "relu2"]
QKNorm = Literal["none", "head"]

#: How a KV cache keeps numbers. q8, q4: as codes of 8 or 4 bits with one float16 scale for every 32 of a head of one
#: position, rounded as GGML's Q8_0 and Q4_0; the last group of a head may be smaller.
KVType = Literal["f32", "f16", "q8", "q4"]


@dataclass(frozen=True, slots=True)
class Rope:
    """Rotary position embedding (Su et al., arXiv 2104.09864), with every scaling reduced to its frequencies.

    Linear, Llama-3, YaRN and LongRoPE scaling only change `frequencies` (radians per position, one for each rotated
    pair) and `magnitude` (multiplies the sine and the cosine), so a backend knows one kind of rotation.
    `style` says which two of the rotated dimensions form pair i of n: "interleaved" (2i, 2i+1) or "half" (i, i+n).
    The first `2 * len(frequencies)` dimensions of a head are rotated, the others pass.
    """

    style: Literal["interleaved", "half"]
    frequencies: tuple[float, ...]
    magnitude: float = 1.0


@dataclass(frozen=True, slots=True)
class Experts:
    """A mixture of experts in the place of the feed-forward.

    The router's `n_used` best of `n_experts` are summed with softmax weights. `normalised`: the softmax is taken over
    (or renormalised to) the chosen experts, as in Mixtral; otherwise over all experts.
    """

    n_experts: int
    n_used: int
    n_ff: int
    normalised: bool = True


@dataclass(frozen=True, slots=True)
class Spec:
    """A decoder: `embed, (attention, feed_forward) x P, logits`."""

    family: str
    n_vocab: int
    n_embd: int  # E
    n_ff: int  # F
    n_heads: int  # H
    n_kv_heads: int  # K
    head_dim: int  # D
    n_context: int  # positions the model was made for
    # Pass p computes with the weights of layer schedule[p]. Without layer sharing it is 0, 1, .. n_layers-1.
    # Each pass has a KV cache of its own: shared weights see different inputs.
    schedule: tuple[int, ...]

    norm: NormKind = "rms"
    norm_eps: float = 1e-5
    activation: Activation = "silu"
    gated: bool = True  # down(act(gate(x)) * up(x)); otherwise down(act(up(x)))
    # Parallel residual: x + attention(x) + feed_forward(x), one sum over devices instead of two.
    parallel: bool = False
    post_norm: bool = False  # blocks norm their own output before it joins the residual (Gemma 2, 3)
    qk_norm: QKNorm = "none"  # each head of q and k is normed before the rotation; weights [D] or [heads, D]

    attention_scale: float = 0.0  # multiplies q.k; 0 stands for 1/sqrt(D)
    attention_softcap: float = 0.0  # s -> cap * tanh(s / cap) before the mask; 0 = none
    rope: Rope | None = None
    rope_local: Rope | None = None  # the rotation of local passes where it differs (Gemma 3)
    # ALiBi (arXiv 2108.12409): head h adds alibi_slopes[h] * (key position - query position) to its scores, after
    # score_scale. Any scale that a family puts on the bias is in the slopes already. Empty = none.
    alibi_slopes: tuple[float, ...] = ()
    window: int = 0  # local passes see positions (i - window, i]; 0 = everything
    local: tuple[bool, ...] = ()  # which passes are local; empty = all when window > 0

    embed_scale: float = 1.0
    logit_scale: float = 1.0  # multiplies the logits, before the soft cap
    logit_softcap: float = 0.0
    tied: bool = False  # the output matrix is the embedding
    experts: Experts | None = None

    def __post_init__(self) -> None:
        counts = {
            "vocabulary": self.n_vocab,
            "width": self.n_embd,
            "feed-forward width": self.n_ff,
            "heads": self.n_heads,
            "key/value heads": self.n_kv_heads,
            "head size": self.head_dim,
            "context": self.n_context,
            "layers": len(self.schedule),
        }
        for what, value in counts.items():
            if not 0 < value < 2**31:
                raise UnsupportedError(
                    f"The model says its {what} is {value}; expected a positive number. The file is damaged or made "
                    "by a converter that does not know this family: convert it again."
                )
        if self.n_heads % self.n_kv_heads:
            raise UnsupportedError(
                f"{self.n_heads} query heads cannot share {self.n_kv_heads} key/value heads evenly; the model's "
                "metadata is inconsistent: convert it again."
            )
        for rope in (self.rope, self.rope_local):
            if rope is not None and 2 * len(rope.frequencies) > self.head_dim:
                raise UnsupportedError(
                    f"The model rotates {2 * len(rope.frequencies)} dimensions of heads that have {self.head_dim}; "
                    "the model's metadata is inconsistent: convert it again."
                )
        if self.alibi_slopes and len(self.alibi_slopes) != self.n_heads:
            raise UnsupportedError(
                f"{len(self.alibi_slopes)} ALiBi slopes for {self.n_heads} heads; convert the model again."
            )
        if self.local and len(self.local) != self.n_passes:
            raise UnsupportedError(
                f"The pattern of local attention has {len(self.local)} entries for {self.n_passes} passes; "
                "convert the model again."
            )

    @property
    def n_passes(self) -> int:
        """P, passes through layers: the number of KV caches a sequence has."""
        return len(self.schedule)

    @property
    def n_layers(self) -> int:
        """Layers with weights of their own."""
        return max(self.schedule) + 1

    @property
    def score_scale(self) -> float:
        """What multiplies q.k."""
        return self.attention_scale or self.head_dim**-0.5

    def is_local(self, pass_index: int) -> bool:
        """Whether a pass sees only the window."""
        return self.window > 0 and (not self.local or self.local[pass_index])

    def window_of(self, pass_index: int) -> int:
        """The window of a pass in positions; 0 = everything."""
        return self.window if self.is_local(pass_index) else 0

    def rope_of(self, pass_index: int) -> Rope | None:
        """The rotation of a pass."""
        return self.rope_local if self.rope_local is not None and self.is_local(pass_index) else self.rope

    def kv_bytes_per_token(self, kv_type: KVType = "f16") -> int:
        """KV cache bytes that one position of one sequence takes."""
        groups, rest = -(-self.head_dim // 32), self.head_dim % 32
        a_head = {
            "f32": 4 * self.head_dim,
            "f16": 2 * self.head_dim,
            "q8": self.head_dim + 2 * groups,
            "q4": self.head_dim // 32 * 16 + min(rest, 16) + 2 * groups,  # code i shares a byte with code i + 16
        }[kv_type]
        return 2 * self.n_passes * self.n_kv_heads * a_head
