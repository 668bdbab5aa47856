"""How far a model's predictions are from a reference's, token by token: what quantising or pruning it has changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ingle.backends.base import Rows
from ingle.engine.generate import chunk_rows
from ingle.engine.model import Model
from ingle.engine.sampling import NOT_FINITE
from ingle.errors import BackendError, UsageError
from ingle.evaluate.likelihood import TokenIds

__all__ = ["Divergence", "check_same_vocabulary", "compare_logits", "diverge"]

BLOCK_VALUES = 1 << 15  # logits that are worked on at a time, in float64: they stay in the processor's cache

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Divergence:
    """For each predicted token [n], float64 and bool.

    nats, reference_nats: -log of the probability that the model, and the reference, gave it. kl: the Kullback-Leibler
    divergence KL(reference || model) of what the two predicted there, in nats. same_top: whether they agree on the
    most likely token.
    """

    nats: Floats
    reference_nats: Floats
    kl: Floats
    same_top: NDArray[np.bool_]


def diverge(
    model: Model,
    reference: Model,
    requests: Sequence[tuple[TokenIds, TokenIds]],
    *,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[Divergence]:
    """Both models' predictions of each continuation after its context: requests as for `likelihood.score`.

    Each of context and continuation must fit both contexts. All in float64 from the float32 logits on. Raises
    UsageError where the vocabularies differ, BackendError while either model answers something else.
    """
    check_same_vocabulary(model, reference)
    found = []
    with model.exclusive() as runner, reference.exclusive() as reference_runner:
        step = min(chunk_rows(runner.spec), chunk_rows(reference_runner.spec))
        for done, (context, continuation) in enumerate(requests, 1):
            ids = np.concatenate([np.asarray(context), np.asarray(continuation)]).astype(np.int32)
            parts: list[tuple[Floats, Floats, Floats, NDArray[np.bool_]]] = []
            for start in range(0, len(ids) - 1, step):
                rows = Rows.of_slot(0, start, ids[:-1][start : start + step])
                wanted = np.arange(max(len(context) - 1 - start, 0), len(rows))
                pair = (runner.forward(rows, wanted), reference_runner.forward(rows, wanted))
                parts += compare_logits(*pair, ids[1:][start : start + step][wanted])
            columns = (np.concatenate(column) for column in zip(*parts, strict=True))
            found.append(Divergence(*columns))
            if on_progress is not None:
                on_progress(done, len(requests))
    return found


def check_same_vocabulary(model: Model, reference: Model) -> None:
    """Raise UsageError unless the same token ids mean the same texts in both models."""
    ours, theirs = model.tokenizer, reference.tokenizer
    sizes = (model.spec.n_vocab, ours.n_vocab), (reference.spec.n_vocab, theirs.n_vocab)
    if sizes[0] != sizes[1]:
        raise UsageError(
            f"{model.name} predicts {sizes[0][0]} tokens and the reference {reference.name} {sizes[1][0]}; predictions "
            "can be compared only between models with the same vocabulary."
        )
    for token_id in range(ours.n_vocab):
        if ours.token_text(token_id) != theirs.token_text(token_id):
            raise UsageError(
                f"Token {token_id} is {ours.token_text(token_id)!r} in {model.name} and "
                f"{theirs.token_text(token_id)!r} in the reference {reference.name}; predictions can be compared only "
                "between models with the same vocabulary."
            )


def compare_logits(
    ours: NDArray[np.float32], theirs: NDArray[np.float32], targets: NDArray[np.int32]
) -> Iterator[tuple[Floats, Floats, Floats, NDArray[np.bool_]]]:
    """The fields of `Divergence`, for some rows at a time, of logits [n, V] of both and the tokens [n] that came.

    Raises BackendError where a row has no largest finite number.
    """
    step = max(1, BLOCK_VALUES // ours.shape[1])
    for start in range(0, len(targets), step):
        a, b = (logits[start : start + step].astype(np.float64) for logits in (ours, theirs))
        at = np.arange(len(a))
        top_a, top_b = a.argmax(axis=1), b.argmax(axis=1)
        most_a, most_b = a[at, top_a][:, None], b[at, top_b][:, None]
        if not (np.isfinite(most_a).all() and np.isfinite(most_b).all()):
            raise BackendError(NOT_FINITE)
        a -= most_a
        b -= most_b
        weights = np.exp(b)
        log_a, log_b = np.log(np.exp(a).sum(axis=1)), np.log(weights.sum(axis=1))
        chosen = targets[start : start + step]
        nats_a, nats_b = log_a - a[at, chosen], log_b - b[at, chosen]
        b[weights == 0] = 0  # where the reference has no probability, nothing counts
        a[weights == 0] = 0
        kl = np.einsum("nv,nv->n", weights, b - a) / np.exp(log_b) + log_a - log_b
        yield nats_a, nats_b, np.maximum(kl, 0.0), top_a == top_b
