"""Hidden states after the last norm, of any backend: what the blocks put out, added up beside it.

The four verbs give logits only. But the residual is the embedding and the sum of what the blocks put out, and that
passes by after each block, as an array to be summed over devices.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ingle.backends.base import Rows
from ingle.backends.reference import normed
from ingle.engine.runner import Runner
from ingle.models.checkpoint import Checkpoint
from ingle.models.spec import Spec
from ingle.models.tensor import Tensor

__all__ = ["HiddenStates"]


class HiddenStates:
    """Computes rows as `Runner.forward` does, and gives hidden states of some of them too."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        """Reads norms from the checkpoint's files, and later the embeddings of tokens: they must stay open."""
        spec = checkpoint.spec
        embedding = checkpoint.embedding()
        self._spec = spec
        self._embedding = embedding["weight"]
        self._first = _Norm(embedding, "norm", spec) if "norm" in embedding else None
        self._last = _Norm(checkpoint.output(), "norm", spec)
        self._after: list[_Norm] = []  # of what is added, in the order in which it is
        if spec.post_norm:
            for layer in spec.schedule:
                if not spec.parallel:
                    self._after.append(_Norm(checkpoint.attention(layer), "post_norm", spec))
                self._after.append(_Norm(checkpoint.feed_forward(layer), "post_norm", spec))

    def forward(
        self, runner: Runner, rows: Rows, wanted: Sequence[int], of: Sequence[int]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Logits [len(wanted), V] and hidden states [len(of), E], both float32, of rows with these indices."""
        assert rows.tokens is not None
        indices = np.asarray(of, np.intp)
        x = self._embed(rows.tokens[indices])
        n_added = 0

        def add(delta: NDArray[np.float32]) -> None:
            nonlocal x, n_added
            ours = delta[indices]
            x += self._after[n_added](ours) if self._after else ours
            n_added += 1

        logits = runner.forward(rows, wanted, add)
        return logits, self._last(x)

    def _embed(self, tokens: NDArray[np.int32]) -> NDArray[np.float32]:
        different, where = np.unique(tokens, return_inverse=True)
        vectors = [self._embedding.rows(token, token + 1).float32()[0] for token in different.tolist()]
        x: NDArray[np.float32] = np.stack(vectors)[where] * np.float32(self._spec.embed_scale)
        return x if self._first is None else self._first(x)


class _Norm:
    """A norm with its weights."""

    def __init__(self, tensors: Mapping[str, Tensor], role: str, spec: Spec) -> None:
        self._weight = tensors[role].float32()
        self._bias = tensors[f"{role}.bias"].float32() if f"{role}.bias" in tensors else None
        self._spec = spec

    def __call__(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        return normed(x, self._weight, self._bias, self._spec.norm, self._spec.norm_eps)
