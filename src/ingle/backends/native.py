"""The native backend: the four verbs in C++ (native/src/decoder.h). This file checks, loads, and hands over."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ingle.backends.base import KVType, Rows, State
from ingle.backends.machine import available_bytes, default_threads
from ingle.errors import BackendError, MemoryLimitError, UsageError
from ingle.models.source import Header
from ingle.models.spec import Rope, Spec
from ingle.models.tensor import Tensor

try:
    from ingle import _core
    from ingle.backends.native_stream import EmbeddingRows, NativeStreaming, StreamedMixture
    from ingle.backends.native_weights import load
except ImportError as error:
    raise BackendError(
        f"The native core did not load ({error}); install Ingle again, or use the backend reference."
    ) from None

__all__ = ["NativeBackend"]

_MIB = 1 << 20


class NativeBackend(NativeStreaming):
    """The four verbs on this machine's processor. See `ingle.backends.base.Backend` for every method.

    A state lives until the next `embed`. Calls may come from any thread; one runs at a time.
    """

    name = "native"

    def __init__(self, spec: Spec, threads: int | None = None) -> None:
        """threads: None = one for each physical core this process may use."""
        super().__init__(spec)
        try:
            self._decoder = _core.Decoder(_native_spec(spec), default_threads() if threads is None else threads)
        except TypeError:
            raise BackendError(f"Expected a number of threads from 1 to 1024; came {threads!r}.") from None
        except ValueError as error:  # the environment variable INGLE_ISA is no instruction set
            raise UsageError(str(error)) from None

    @property
    def n_threads(self) -> int:
        """Threads that compute, the caller's included."""
        return self._decoder.n_threads

    # Weights: rearranged into bit planes when they are loaded. Blocks have `n_bytes`.

    def load_embedding(self, tensors: Mapping[str, Tensor]) -> _core.Embedding:
        return self._decoder.make_embedding(load(self._decoder, tensors))

    def load_attention(self, tensors: Mapping[str, Tensor]) -> _core.AttentionBlock:
        return self._decoder.make_attention(load(self._decoder, tensors))

    def load_feed_forward(self, tensors: Mapping[str, Tensor]) -> _core.FeedForwardBlock:
        return self._decoder.make_feed_forward(load(self._decoder, tensors))

    def load_output(self, tensors: Mapping[str, Tensor], embedding: _core.Embedding | EmbeddingRows) -> _core.Output:
        if not self.spec.tied or isinstance(embedding, EmbeddingRows):
            weights = load(self._decoder, tensors)
        else:
            weights = load(self._decoder, {role: tensor for role, tensor in tensors.items() if role != "weight"})
            weights.share_weight(embedding)
        return self._decoder.make_output(weights, self.spec.n_vocab)

    @staticmethod
    def bytes_of(header: Header) -> int:
        """Bytes that a tensor takes when it is loaded: a little more than in its file, vectors as float32."""
        *matrices, n, k = (1, 1, *header.shape)
        if len(header.shape) == 1:
            return 4 * k
        return math.prod(matrices) * _core.matrix_bytes(header.type.id, n, k)

    def new_cache(self, n_slots: int, context: int, kv_type: KVType = "f16") -> _core.Cache:
        try:
            need = self._decoder.cache_bytes(n_slots, context, kv_type)
            free = available_bytes()
            if free is not None and need > free:
                raise MemoryLimitError(
                    f"The KV cache needs {need / _MIB:,.0f} MiB for {n_slots} x {context} positions and "
                    f"{free / _MIB:,.0f} MiB are free; ask for a smaller context, or close other programs."
                )
            return self._decoder.new_cache(n_slots, context, kv_type)
        except TypeError:
            raise BackendError(
                f"Expected numbers of slots and positions; came {n_slots!r} slots of {context!r} positions."
            ) from None

    # The four verbs.

    def embed(self, embedding: _core.Embedding | EmbeddingRows | None, rows: Rows, cache: Any) -> _core.State:
        if isinstance(embedding, EmbeddingRows):
            return embedding.read(lambda held: self.embed(held, rows, cache))
        tokens = None if rows.tokens is None else _int32(rows.tokens, "tokens")
        hidden = None
        if tokens is None and rows.hidden is not None:
            hidden = np.ascontiguousarray(rows.hidden, np.float32)
        slots, positions = _int32(rows.slots, "slots"), _int32(rows.positions, "positions")
        try:
            return self._decoder.embed(embedding, tokens, hidden, slots, positions, cache)
        except TypeError:
            raise _misused("embed", "an embedding, rows of one dimension and a cache") from None

    def attention(self, block: _core.AttentionBlock, state: State, pass_index: int) -> None:
        try:
            self._decoder.attention(block, state, pass_index)
        except TypeError:
            raise _misused("attention", "an attention block, a state and a pass") from None

    def feed_forward(self, block: _core.FeedForwardBlock | StreamedMixture, state: State, pass_index: int) -> None:
        if isinstance(block, StreamedMixture):
            return block.run(self._decoder, state, pass_index)
        try:
            self._decoder.feed_forward(block, state, pass_index)
        except TypeError:
            raise _misused("feed_forward", "a feed-forward block, a state and a pass") from None

    def link(self, blocks: Sequence[Any]) -> _core.Linked:
        """All blocks as one, for `run_linked`; see `ingle.backends.base.Linking`."""
        linked = _core.Linked()
        for attention, feed_forward in zip(blocks[::2], blocks[1::2], strict=True):
            linked.add_pass(attention, feed_forward)
        return linked

    def run_linked(self, linked: _core.Linked, state: State) -> None:
        self._decoder.run_linked(linked, state)

    def logits(self, output: _core.Output, state: State, wanted: NDArray[np.int32]) -> NDArray[np.float32]:
        indices = _int32(wanted, "wanted rows")
        try:
            return self._decoder.logits(output, state, indices)
        except TypeError:
            raise _misused("logits", "an output, a state and indices of rows") from None


def _misused(verb: str, expected: str) -> BackendError:
    return BackendError(f"{verb} was given something that is not the native backend's; expected {expected}.")


def _int32(values: ArrayLike, what: str) -> NDArray[np.int32]:
    """The values as contiguous int32; those that are no whole numbers of that size are refused, not wrapped."""
    array = np.asarray(values)
    if array.dtype != np.int32:
        if array.dtype.kind not in "iu" and array.size:
            raise BackendError(f"Expected whole numbers for {what}; came {array.dtype}.")
        if array.size and not -(2**31) <= int(array.min()) <= int(array.max()) < 2**31:
            raise BackendError(f"Expected 32-bit numbers for {what}; came {array.min()} to {array.max()}.")
        array = array.astype(np.int32)
    return np.ascontiguousarray(array)


def _native_spec(spec: Spec) -> _core.Spec:
    native = _core.Spec()
    native.n_vocab, native.n_embd, native.n_ff = spec.n_vocab, spec.n_embd, spec.n_ff
    native.n_heads, native.n_kv_heads, native.head_dim = spec.n_heads, spec.n_kv_heads, spec.head_dim
    native.set_norm(spec.norm)
    native.norm_eps = spec.norm_eps
    native.set_activation(spec.activation)
    native.gated, native.parallel, native.post_norm = spec.gated, spec.parallel, spec.post_norm
    native.qk_norm = spec.qk_norm == "head"
    native.score_scale, native.attention_softcap = spec.score_scale, spec.attention_softcap
    native.alibi_slopes = list(spec.alibi_slopes)
    native.embed_scale, native.logit_scale, native.logit_softcap = (
        spec.embed_scale,
        spec.logit_scale,
        spec.logit_softcap,
    )
    if spec.experts is not None:
        e = spec.experts
        native.set_experts(e.n_experts, e.n_used, e.n_ff, e.normalised)
    ropes: dict[Rope, int] = {}
    for pass_index in range(spec.n_passes):
        rope = spec.rope_of(pass_index)
        if rope is not None and rope not in ropes:
            ropes[rope] = native.add_rope(rope.style, list(rope.frequencies), rope.magnitude)
        native.add_pass(spec.window_of(pass_index), -1 if rope is None else ropes[rope])
    return native
