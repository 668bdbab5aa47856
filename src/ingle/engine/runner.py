"""The loop: embed, (attention, feed_forward) x P, logits. The only place that has it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from threading import RLock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ingle.backends.base import Backend, Cache, Rows, State
from ingle.engine.comm import Comm
from ingle.engine.weights import Weights
from ingle.errors import UsageError
from ingle.models.spec import Spec

__all__ = ["Runner"]

FEW = 16  # rows: with more, what calls cost is not seen, and one call for all passes would keep Ctrl-C waiting


class Runner:
    """Computes rows of any of the cache's slots with one backend, one store of weights and one `comm`.

    `lock` is held during a call: a backend has one state. Who changes the cache in another way must hold it too.
    """

    def __init__(self, spec: Spec, backend: Backend, weights: Weights, comm: Comm, cache: Cache) -> None:
        self.spec = spec
        self.backend = backend
        self.weights = weights
        self.comm = comm
        self.cache = cache
        self.lock = RLock()
        self.closed = False

    def close(self) -> None:
        """Compute no more, once the call in progress is done."""
        with self.lock:
            self.closed = True
            self.weights.close()

    def forward(
        self,
        rows: Rows,
        wanted: Sequence[int] | NDArray[np.integer[Any]] = (),
        on_sum: Callable[[NDArray[np.float32]], None] | None = None,
    ) -> NDArray[np.float32]:
        """Compute rows and give the logits of those with the indices `wanted`: float32 [len(wanted), V].

        Keys and values of all rows are in the cache afterwards. With nothing wanted the output matrix is not read.
        on_sum: given what joins the residual next, float32 [N, E], summed over devices, each time there is such: after
        each attention and each feed-forward, or (with `spec.parallel`) once for both. It is not to be kept, or changed.
        """
        backend, weights = self.backend, self.weights
        with self.lock:
            if self.closed:
                raise UsageError("The model was closed; load it again.")
            weights.begin(len(wanted) > 0)
            state = backend.embed(weights.embedding, rows, self.cache)
            run_linked = getattr(backend, "run_linked", None)
            alone = self.comm.n_ranks == 1 and on_sum is None
            if len(rows) <= FEW and alone and run_linked is not None and weights.linked is not None:
                run_linked(weights.linked, state)
            else:
                self._run(backend, state, on_sum)
            if not len(wanted):
                return np.empty((0, self.spec.n_vocab), np.float32)
            asked = np.asarray(wanted, dtype=np.int32)
            logits, n = None, 0
            for output in weights.outputs():
                part = backend.logits(output, state, asked)
                if part.shape[1] == self.spec.n_vocab:
                    return part
                if logits is None:
                    logits = np.empty((len(asked), self.spec.n_vocab), np.float32)
                logits[:, n : n + part.shape[1]] = part
                n += part.shape[1]
            assert logits is not None
            return logits

    def _run(self, backend: Backend, state: State, on_sum: Callable[[NDArray[np.float32]], None] | None) -> None:
        """All passes, block by block."""
        attention, feed_forward, block = backend.attention, backend.feed_forward, self.weights.block
        # Alone, not even `state.delta` is asked for: it may cost a call into the native core.
        together = self.comm.n_ranks > 1 or on_sum is not None
        sum_attention = together and not self.spec.parallel  # in parallel blocks one sum serves both halves
        for pass_index in range(self.spec.n_passes):
            with block(2 * pass_index) as weight:
                attention(weight, state, pass_index)
            if sum_attention:
                self._sum(state.delta, on_sum)
            with block(2 * pass_index + 1) as weight:
                feed_forward(weight, state, pass_index)
            if together:
                self._sum(state.delta, on_sum)

    def _sum(self, delta: NDArray[np.float32], on_sum: Callable[[NDArray[np.float32]], None] | None) -> None:
        self.comm.sum(delta)
        if on_sum is not None:
            on_sum(delta)
