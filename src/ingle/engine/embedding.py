"""Embeddings of texts: the mean of a sequence's hidden states, with the length 1."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, InvalidStateError

import numpy as np
from numpy.typing import NDArray

from ingle.engine.generate import Request
from ingle.engine.model import Model
from ingle.engine.sequence import RunningSequence
from ingle.errors import IngleError

__all__ = ["EmbedSequence", "Embeddings"]


class Embeddings:
    """The embeddings that were asked for together: float32 [n, E] in `future`, when the last is there."""

    def __init__(self, n: int, n_embd: int) -> None:
        self.future: Future[NDArray[np.float32]] = Future()
        self._rows = np.zeros((n, n_embd), np.float32)
        self._left = n
        if not n:
            self.future.set_result(self._rows)

    @staticmethod
    def sequences(model: Model, prompts: Sequence[Sequence[int]], user: str) -> tuple[Embeddings, list[EmbedSequence]]:
        """One sequence for each prompt. Raises what `Request.check` raises."""
        for prompt in prompts:
            Request(prompt).check(model.spec, model.context)
        group = Embeddings(len(prompts), model.spec.n_embd)
        return group, [EmbedSequence(prompt, group, index, user) for index, prompt in enumerate(prompts)]

    def put(self, index: int, total: NDArray[np.float64]) -> None:
        """The sum of the hidden states of a prompt."""
        length = float(np.linalg.norm(total))
        self._rows[index] = total / length if length > 0 else 0.0  # the mean has the same direction
        self._left -= 1
        if not self._left:
            self._resolve(None)

    def fail(self, error: IngleError) -> None:
        """There will be none."""
        self._resolve(error)

    def _resolve(self, error: IngleError | None) -> None:
        try:
            if error is not None:
                self.future.set_exception(error)
            else:
                self.future.set_result(self._rows)
        except InvalidStateError:
            pass  # whoever asked has cancelled it, or another prompt has failed before


class EmbedSequence(RunningSequence):
    """A prompt of which the hidden states are wanted, and no logits: nothing follows it."""

    def __init__(self, prompt: Sequence[int], group: Embeddings, index: int, user: str) -> None:
        # What the cache holds has no hidden states any more: all is computed.
        super().__init__(prompt, 0, user, "none", counts=index == 0)
        self._group = group
        self._index = index
        self._total: NDArray[np.float64] | None = None

    @property
    def first_asked(self) -> int:
        return len(self.prompt)

    @property
    def cancelled(self) -> bool:
        return self._group.future.done()

    @property
    def ended(self) -> bool:
        return self._slot is not None and not self.in_prompt

    def add(self, hidden: NDArray[np.float32]) -> None:
        """Hidden states [n, E] of the next positions."""
        total = hidden.sum(axis=0, dtype=np.float64)
        self._total = total if self._total is None else self._total + total

    def take(self, logits: NDArray[np.float32]) -> None:
        """No logits are asked for."""

    def end(self, error: IngleError | None) -> None:
        if error is not None:
            self._group.fail(error)
        elif self._total is not None and self.ended:
            self._group.put(self._index, self._total)
