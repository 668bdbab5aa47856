"""The seam between the engine and whatever computes: four verbs over rows.

    state = backend.embed(embedding, rows, cache)
    for p in range(spec.n_passes):
        backend.attention(attention_block, state, p);       comm.sum(state.delta)
        backend.feed_forward(feed_forward_block, state, p); comm.sum(state.delta)
    logits = backend.logits(output, state, wanted)

A row is (token or hidden state, slot, position). A prompt chunk, a decode step, many users at once and the checking of
a draft are the same call with other rows. `state` holds the residual `x` and the last block's own output `delta`; the
next verb begins by letting `delta` join `x` (normed first where the family norms block outputs), so that between two
blocks there is exactly one array to sum over devices and nothing else to do. With `spec.parallel` the feed-forward
reads the same `x` as the attention did and *adds* to `delta`, so that one sum serves both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from ingle.errors import BackendError
from ingle.models.spec import KVType, Spec
from ingle.models.tensor import Tensor

__all__ = ["Backend", "Cache", "KVType", "Linking", "Rows", "State", "check_rows"]


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """What one call computes.

    tokens: int32 [N], or None where hidden states come from elsewhere (a worker has no tokens).
    hidden: float32 [N, E], or None.
    slots, positions: int32 [N]. Rows of one slot stand together and in rising, gapless positions, and every
    position before a slot's first row has been computed earlier: a row sees its slot's positions 0 .. its own.
    """

    slots: NDArray[np.int32]
    positions: NDArray[np.int32]
    tokens: NDArray[np.int32] | None = None
    hidden: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.slots)

    @staticmethod
    def of_slot(slot: int, start: int, tokens: NDArray[np.int32] | list[int]) -> Rows:
        """Consecutive tokens of one sequence, the first at position `start`."""
        ids = np.asarray(tokens, dtype=np.int32)
        return Rows(
            slots=np.full(len(ids), slot, dtype=np.int32),
            positions=np.arange(start, start + len(ids), dtype=np.int32),
            tokens=ids,
        )

    def part(self, start: int, stop: int) -> Rows:
        """These rows with the indices start .. stop - 1, which have tokens: views, nothing is copied."""
        assert self.tokens is not None
        return Rows(self.slots[start:stop], self.positions[start:stop], self.tokens[start:stop])

    @staticmethod
    def join(parts: list[Rows]) -> Rows:
        """Rows of several slots in one call; all parts have tokens."""
        tokens = [part.tokens for part in parts]
        if any(ids is None for ids in tokens):
            raise BackendError("Only rows with tokens can be joined.")
        return Rows(
            slots=np.concatenate([part.slots for part in parts]),
            positions=np.concatenate([part.positions for part in parts]),
            tokens=np.concatenate([ids for ids in tokens if ids is not None]),
        )


class Cache(Protocol):
    """Keys and values of `n_slots` sequences of up to `context` positions, for every pass."""

    @property
    def n_slots(self) -> int: ...

    @property
    def context(self) -> int: ...

    @property
    def n_bytes(self) -> int: ...

    def copy(self, source: int, target: int, n_positions: int) -> None:
        """Let slot `target` begin with the first `n_positions` of slot `source` (a shared prefix)."""
        ...


class State(Protocol):
    """The rows of a call on their way through the blocks. Lives until the next `embed` of its backend."""

    @property
    def delta(self) -> NDArray[np.float32]:
        """[N, E], the output of the last block on this device: writable, to be summed over devices in place."""
        ...


class Backend(Protocol):
    """Computes a decoder of one spec. Blocks, caches and states go back only to the backend that made them (hence Any).

    Tensor roles. Matrices are [out, in]; vectors are float. `?` = optional.
    attention: norm, norm.bias?, q, k, v, o, and q.bias? k.bias? v.bias? o.bias?, q_norm? k_norm? ([D] or [heads, D]),
        post_norm?. q is [H*D, E], k and v are [K*D, E], o is [E, H*D].
    feed_forward: norm, norm.bias?, gate? [F, E], up [F, E], down [E, F], gate.bias? up.bias? down.bias?, post_norm?;
        with experts: router [X, E], gate_experts [X, F, E], up_experts [X, F, E], down_experts [X, E, F].
    embedding: weight [V, E], norm? norm.bias?
    output: norm, norm.bias?, weight [V, E], bias? [V]. For tied models `weight` is the embedding's own tensor.
    """

    @property
    def name(self) -> str: ...

    @property
    def spec(self) -> Spec: ...

    def load_embedding(self, tensors: Mapping[str, Tensor]) -> Any: ...

    def load_attention(self, tensors: Mapping[str, Tensor]) -> Any: ...

    def load_feed_forward(self, tensors: Mapping[str, Tensor]) -> Any: ...

    def load_output(self, tensors: Mapping[str, Tensor], embedding: Any) -> Any:
        """`embedding` is what `load_embedding` returned; a tied model may share its weights."""
        ...

    def new_cache(self, n_slots: int, context: int, kv_type: KVType = "f16") -> Cache:
        """Room for `n_slots` sequences of `context` positions. Raises MemoryLimitError where there is none."""
        ...

    def embed(self, embedding: Any, rows: Rows, cache: Any) -> State: ...

    def attention(self, block: Any, state: Any, pass_index: int) -> None:
        """Let the last delta join x; write the rows' keys and values; delta = attention(norm(x))."""
        ...

    def feed_forward(self, block: Any, state: Any, pass_index: int) -> None:
        """Let the last delta join x; delta = feed_forward(norm(x)). With `spec.parallel`: delta += instead of both."""
        ...

    def logits(self, output: Any, state: Any, wanted: NDArray[np.int32]) -> NDArray[np.float32]:
        """Let the last delta join x; logits float32 [len(wanted), V] of the rows with these indices."""
        ...


@runtime_checkable
class Linking(Protocol):
    """A backend that can also compute all passes in one call. Between calls of verbs Python takes some microseconds,
    which are a tenth of decoding a small model."""

    def link(self, blocks: Sequence[Any]) -> Any:
        """The blocks of all passes in order, attention and feed-forward in turn, as one thing."""
        ...

    def run_linked(self, linked: Any, state: Any) -> None:
        """What `attention` and `feed_forward` do for every pass in turn, bit for bit."""
        ...


@runtime_checkable
class Streaming(Protocol):
    """A backend whose blocks can be read from their files again and again, into memory that is used again.

    The `sources` say where a block's matrices lie and keep its vectors; see `ingle.engine.window` for who uses them.
    """

    def new_room(self, n_bytes: int) -> Any:
        """Memory for matrices that come and go, on whole pages. It goes back to the system with the last reference."""
        ...

    def stream_attention(self, tensors: Mapping[str, Tensor]) -> BlockSource: ...

    def stream_feed_forward(self, tensors: Mapping[str, Tensor]) -> BlockSource:
        """For a spec without experts."""
        ...

    def stream_experts(self, tensors: Mapping[str, Tensor]) -> MixtureSource:
        """For a spec with experts."""
        ...

    def stream_output(self, tensors: Mapping[str, Tensor], start: int, stop: int) -> BlockSource:
        """Rows [start, stop) of the output matrix: `logits` gives float32 [len(wanted), stop - start] for such."""
        ...

    def load_embedding_rows(self, tensors: Mapping[str, Tensor]) -> Any:
        """An embedding that reads each row from its file when it is asked for; its tensors' files must stay open."""
        ...


class BlockSource(Protocol):
    """Where a block comes from, each time it is wanted.

    sizes: bytes that each of its matrices takes in a room; each begins on a line of 64 bytes, so these are multiples of
    64. file_bytes: what is read for all of them. kept_bytes: what the source itself keeps in memory, such as vectors.
    """

    @property
    def sizes(self) -> tuple[int, ...]: ...

    @property
    def file_bytes(self) -> int: ...

    @property
    def kept_bytes(self) -> int: ...

    def begin(self, index: int, room: Any, at: int) -> Reading:
        """Matrix `index` is to be read into bytes [at, at + sizes[index]) of a room; nothing is read yet."""
        ...

    def make(self, readings: Sequence[Reading]) -> Any:
        """The block, as `load_attention` and the others give it, from all its matrices, each `done`.

        It must not be used when anything else is put into their bytes. Raises GGUFError when the file has changed since
        it was opened.
        """
        ...


class Reading(Protocol):
    """One matrix on its way from a file into a room. `read_s` and `arrange_s` add up over the threads that helped."""

    @property
    def name(self) -> str:
        """The tensor's, for messages and pictures."""
        ...

    @property
    def file_bytes(self) -> int: ...

    @property
    def read_s(self) -> float: ...

    @property
    def arrange_s(self) -> float: ...

    @property
    def done(self) -> bool:
        """Every piece is in its place."""
        ...

    def help(self) -> None:
        """Read pieces and put them in their places until none is left to begin. Several threads may help at once.

        Raises GGUFError when the file cannot be read or has ended; no further piece is begun then.
        """
        ...

    def cancel(self) -> None:
        """Begin no further piece. Whoever helps returns after the piece it is at."""
        ...


class MixtureSource(Protocol):
    """Where a mixture comes from. shell: its norm and router, in memory. experts: a source for each expert."""

    @property
    def shell(self) -> Any: ...

    @property
    def kept_bytes(self) -> int:
        """What the shell takes."""
        ...

    @property
    def experts(self) -> Sequence[BlockSource]: ...

    def block(self, use: UseExperts) -> Any:
        """What `Backend.feed_forward` takes. It calls `use` once, with what the router chose."""
        ...


#: Given the numbers of the experts that some row chose, in rising order: each of them with its block, in that order. A
#: block may be used until the next one is asked for.
UseExperts = Callable[[Sequence[int]], Iterator[tuple[int, Any]]]


def check_rows(rows: Rows, spec: Spec, cache: Cache) -> None:
    """Raise BackendError unless these rows can be computed with this cache (see `Rows` for what they must be)."""
    n = len(rows)
    if n == 0:
        raise BackendError("No rows were given; expected at least one.")
    if rows.positions.shape != (n,) or rows.slots.shape != (n,):
        raise BackendError(f"{n} slots came with {rows.positions.shape} positions; expected one position a row.")
    if rows.slots.min() < 0 or rows.slots.max() >= cache.n_slots:
        raise BackendError(f"Slots {rows.slots.min()}..{rows.slots.max()} of a cache that has {cache.n_slots}.")
    if rows.positions.min() < 0 or rows.positions.max() >= cache.context:
        raise BackendError(
            f"Positions {rows.positions.min()}..{rows.positions.max()} of a cache with room for {cache.context}."
        )
    same_slot = rows.slots[1:] == rows.slots[:-1]
    if (np.diff(rows.positions)[same_slot] != 1).any() or len(np.unique(rows.slots)) != n - same_slot.sum():
        raise BackendError("Rows of one slot must stand together, in rising positions without gaps.")
    if rows.tokens is not None:
        if rows.tokens.shape != (n,) or rows.tokens.min() < 0 or rows.tokens.max() >= spec.n_vocab:
            raise BackendError(
                f"Expected {n} tokens from 0 to {spec.n_vocab - 1}; came {rows.tokens.shape} tokens from "
                f"{rows.tokens.min(initial=0)} to {rows.tokens.max(initial=0)}."
            )
    elif rows.hidden is None or rows.hidden.shape != (n, spec.n_embd):
        came = "nothing" if rows.hidden is None else f"hidden states of shape {rows.hidden.shape}"
        raise BackendError(f"Expected tokens or hidden states of shape {(n, spec.n_embd)}; came {came}.")
