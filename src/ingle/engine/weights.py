"""Where the blocks of a model come from while it computes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any, Protocol

from ingle.backends.base import Backend, Linking
from ingle.models.checkpoint import Checkpoint

__all__ = ["Resident", "Weights"]


class Weights(Protocol):
    """A store of blocks, in the form the backend wants.

    Block 2p is the attention and block 2p+1 the feed-forward of pass p, for the P passes of `Spec.schedule`. A block
    may be used only inside its `with`: a store may move it out of memory afterwards.
    """

    @property
    def embedding(self) -> Any: ...

    @property
    def linked(self) -> Any:
        """All blocks as one, for `Linking.run_linked`; None where blocks come and go, or the backend cannot."""
        ...

    def begin(self, logits: bool) -> None:
        """All blocks are asked for next, in order; then, where `logits` says so, the outputs."""
        ...

    def block(self, index: int) -> AbstractContextManager[Any]: ...

    def outputs(self) -> Iterator[Any]:
        """The output matrix, whole or in slices by rising rows. Each may be used until the next is asked for."""
        ...

    def close(self) -> None:
        """Let go of threads and memory. Blocks must not be asked for afterwards."""
        ...


class _Held:
    """A block that is always there. A class and not a @contextmanager: the loop enters one for every block."""

    __slots__ = ("block",)

    def __init__(self, block: Any) -> None:
        self.block = block

    def __enter__(self) -> Any:
        return self.block

    def __exit__(self, *exception: object) -> None:
        return None


class Resident:
    """Every block in memory, each layer loaded once, also when several passes share it."""

    def __init__(
        self, checkpoint: Checkpoint, backend: Backend, on_block: Callable[[int, int], None] | None = None
    ) -> None:
        """`on_block(done, total)` is called after each loaded block; what it raises ends the loading."""
        schedule = checkpoint.spec.schedule
        layers = sorted(set(schedule))
        total = 2 * len(layers) + 2
        done = 0

        def loaded(block: Any) -> Any:
            nonlocal done
            done += 1
            checkpoint.source.release()  # the backend has it now
            if on_block is not None:
                on_block(done, total)
            return block

        self.embedding: Any = loaded(backend.load_embedding(checkpoint.embedding()))
        held: dict[int, tuple[_Held, _Held]] = {}
        for layer in layers:
            attention = loaded(backend.load_attention(checkpoint.attention(layer)))
            feed_forward = loaded(backend.load_feed_forward(checkpoint.feed_forward(layer)))
            held[layer] = (_Held(attention), _Held(feed_forward))
        self.output: Any = loaded(backend.load_output(checkpoint.output(), self.embedding))
        self._blocks = [block for layer in schedule for block in held[layer]]
        blocks = [held.block for held in self._blocks]
        self.linked: Any = backend.link(blocks) if isinstance(backend, Linking) else None

    def begin(self, logits: bool) -> None:
        """Nothing is to be made ready."""

    def block(self, index: int) -> AbstractContextManager[Any]:
        """Block `index` of 2P: attention and feed-forward take turns."""
        return self._blocks[index]

    def outputs(self) -> Iterator[Any]:
        """The output matrix, whole."""
        return iter((self.output,))

    def close(self) -> None:
        """The memory goes with the last reference to this."""
