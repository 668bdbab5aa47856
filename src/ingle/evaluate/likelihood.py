"""How likely a model finds given continuations: many requests together, what they begin with in common only once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ingle.backends.base import Rows
from ingle.engine.model import Model
from ingle.engine.sampling import NOT_FINITE
from ingle.errors import BackendError, ContextError, UsageError
from ingle.evaluate.packing import Ids, Packing, Place, Sequences, Stretch

__all__ = ["Likelihood", "log_sum_exp", "rolling", "rolling_windows", "score"]

Progress = Callable[[int, int], None]  # (done, total)
TokenIds = Sequence[int] | NDArray[np.integer[Any]]

MAX_STRETCH = 8  # continuations of one context after each other in one slot; more go to several slots
BLOCK_VALUES = 1 << 18  # logits that are worked on at a time: they stay in the processor's cache


@dataclass(frozen=True, slots=True)
class Likelihood:
    """logprob: natural logarithm of the continuation's probability, the sum over its `n_tokens` tokens.

    is_greedy: each of its tokens is the most likely one there (the lowest id where several are).
    """

    logprob: float
    is_greedy: bool
    n_tokens: int


def score(
    model: Model, requests: Sequence[tuple[TokenIds, TokenIds]], *, on_progress: Progress | None = None
) -> list[Likelihood]:
    """The likelihood of each continuation after its context: (context ids, continuation ids), in the requests' order.

    As lm-evaluation-harness defines it (`HFLM._loglikelihood_tokens`): where both together are more than the model's
    context and one token, the context loses its first tokens. The softmax goes over all rows of the output matrix, also
    those that are no tokens. What stands with which in one call changes a result by float rounding at most.

    All slots of the model's cache are used: load it with `n_slots=evaluate_slots(...)`. `on_progress(done, total)` is
    told after each call; what it raises ends the scoring.
    Raises UsageError for an empty context or continuation and for ids that are no tokens, ContextError for a
    continuation that is longer than the context, BackendError while the model answers something else.
    """
    texts = [_checked(model, *request) for request in requests]
    n_tokens = [len(continuation) for _, continuation in requests]
    sequences = Sequences([text[:-1] for text in texts])
    scoring = _Scoring(
        sequences,
        targets=[texts[i][1:] for i in sequences.order],
        wanted_from=[sequences.lengths[at] - n_tokens[i] for at, i in enumerate(sequences.order)],
    )
    n_done = 0
    with model.exclusive() as runner:
        packing = Packing(runner, sequences, scoring.stretches())
        while not packing.done:
            packing.fill()
            parts = packing.parts(packing.chunk)
            picks = scoring.picks(parts)
            logits = runner.forward(
                Rows.join([Rows.of_slot(place.slot, place.n, ids) for place, ids in parts]), picks.rows
            )
            scoring.take(picks, logits)
            n_done += sum(packing.computed(place, len(ids)) for place, ids in parts)
            if on_progress is not None:
                on_progress(n_done, len(requests))
    found: list[Likelihood | None] = [None] * len(requests)
    for at, i in enumerate(sequences.order):
        found[i] = Likelihood(float(scoring.logprobs[at]), bool(scoring.greedy[at]), n_tokens[i])
    return [likelihood for likelihood in found if likelihood is not None]


def rolling(
    model: Model,
    documents: Sequence[TokenIds],
    *,
    window: int | None = None,
    prefix: int | None = None,
    on_progress: Progress | None = None,
) -> list[Likelihood]:
    """The likelihood of whole documents, each token once, in windows: see `rolling_windows`, also for `prefix`.

    window: None = the model's context. What `loglikelihood_rolling` of lm-evaluation-harness gives is `.logprob`. An
    empty document has the likelihood 0 of no tokens. Raises what `score` raises.
    """
    windows = [rolling_windows(model, document, window=window, prefix=prefix) for document in documents]
    likelihoods = iter(score(model, [request for requests in windows for request in requests], on_progress=on_progress))
    sums = []
    for requests in windows:
        parts = [next(likelihoods) for _ in requests]
        sums.append(
            Likelihood(
                sum(part.logprob for part in parts),
                all(part.is_greedy for part in parts),
                sum(part.n_tokens for part in parts),
            )
        )
    return sums


def rolling_windows(
    model: Model, document: TokenIds, *, window: int | None = None, prefix: int | None = None
) -> list[tuple[TokenIds, TokenIds]]:
    """A document as requests for `score` in which each token is predicted once.

    The windows of lm-evaluation-harness with a context of one token (`get_rolling_token_windows`, then
    `make_disjoint_window`): the first token is predicted after `prefix`, the first token of each other window after the
    one before it; only the last window, being shorter, sees more of what came before, as much as fits.

    prefix: None = the model's token for the beginning of a text, or for its end where there is none.
    Raises UsageError for a window that the model cannot have, or where there is no prefix.
    """
    window = model.context if window is None else window
    if not 1 <= window <= model.context:
        raise UsageError(f"The window is {window} tokens; expected 1 to {model.context}, the model's context.")
    if prefix is None:
        tokenizer = model.tokenizer
        prefix = tokenizer.eos_id if tokenizer.bos_id is None else tokenizer.bos_id
    if prefix is None:
        raise UsageError("The model has no token that begins or ends a text; say after which `prefix` to predict.")
    ids = np.array([prefix, *document], np.int64)
    return [
        (ids[max(0, stop - window) : start + 1], ids[start + 1 : stop + 1])  # ids[i + 1] is the document's token i
        for start in range(0, len(document), window)
        for stop in [min(start + window, len(document))]
    ]


def log_sum_exp(logits: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """Of logits [N, V], which are overwritten: log(sum(exp(row))) float64 [N], and the first index of the largest [N].

    Raises BackendError where a row has no largest finite number.
    """
    n, n_vocab = logits.shape
    sums, best = np.empty(n), np.empty(n, np.intp)
    step = max(1, BLOCK_VALUES // n_vocab)
    for start in range(0, n, step):
        block = logits[start : start + step]
        top = block.argmax(axis=1)
        most = np.take_along_axis(block, top[:, None], axis=1)
        if not np.isfinite(most).all():  # argmax stops at the first NaN; -inf elsewhere is an ordinary "never"
            raise BackendError(NOT_FINITE)
        np.subtract(block, most, out=block)
        np.exp(block, out=block)
        # NumPy adds float32 in pairs: the error of a sum of positive numbers grows with log V.
        sums[start : start + step] = most[:, 0] + np.log(block.sum(axis=1).astype(np.float64))
        best[start : start + step] = top
    return sums, best


@dataclass(frozen=True, slots=True)
class _Picks:
    """Which logits of a call are asked for: `rows` of the call; and for each target the index among those, the token,
    and the sequence whose continuation it belongs to."""

    rows: NDArray[np.integer[Any]]
    at: NDArray[np.intp]
    targets: NDArray[np.integer[Any]]
    sequences: NDArray[np.integer[Any]]


class _Scoring:
    """What is wanted of each sequence, and what was found so far; all in the sequences' order.

    targets[i][p] follows position p of sequence i, and is scored from position wanted_from[i] on.
    """

    def __init__(self, sequences: Sequences, targets: list[Ids], wanted_from: list[int]) -> None:
        self.logprobs = np.zeros(len(sequences))
        self.greedy = np.ones(len(sequences), np.bool_)
        self._sequences = sequences
        self._targets = targets
        self._wanted_from = wanted_from

    def stretches(self) -> Iterator[Stretch]:
        """Neighbours with the same context go together: their first tokens are scored from the same row."""
        shared = self._sequences.shared
        first = 0
        for i in range(1, len(self._sequences) + 1):
            if i == len(self._sequences) or shared[i] <= self._wanted_from[i] or i - first == MAX_STRETCH:
                n_known = min(start for j, start, _ in self._wanted(first, 0, i))
                yield Stretch(first, i, n_known)
                first = i

    def picks(self, parts: Sequence[tuple[Place, Ids]]) -> _Picks:
        """What to ask for when these parts are computed."""
        rows, targets, owners = [_NONE], [_NONE], [_NONE]
        offset = 0
        for place, ids in parts:
            assert place.stretch is not None
            for i, start, stop in self._wanted(place.of, place.n, place.stretch.stop, place.n + len(ids)):
                rows.append(np.arange(offset + start - place.n, offset + stop - place.n))
                targets.append(self._targets[i][start:stop])
                owners.append(np.full(stop - start, i))
            offset += len(ids)
        wanted, at = np.unique(np.concatenate(rows), return_inverse=True)
        return _Picks(wanted, at, np.concatenate(targets), np.concatenate(owners))

    def take(self, picks: _Picks, logits: NDArray[np.float32]) -> None:
        """Add what logits [len(picks.rows), V] say; they are overwritten."""
        chosen = logits[picks.at, picks.targets].astype(np.float64)
        sums, best = log_sum_exp(logits)
        np.add.at(self.logprobs, picks.sequences, chosen - sums[picks.at])
        np.logical_and.at(self.greedy, picks.sequences, best[picks.at] == picks.targets)

    def _wanted(self, i: int, start: int, end: int, stop: int | None = None) -> Iterator[tuple[int, int, int]]:
        """For sequences i .. end-1 that have positions start .. stop-1 of sequence i in common with it: (which, and
        from where to where they are scored)."""
        stop = self._sequences.lengths[i] if stop is None else stop
        for j in range(i, end):
            if j > i:
                stop = min(stop, int(self._sequences.shared[j]))
            first = max(start, self._wanted_from[j])
            if stop <= start:
                return
            if first < stop:
                yield j, first, stop


_NONE: NDArray[np.integer[Any]] = np.empty(0, np.intp)


def _checked(model: Model, context: TokenIds, continuation: TokenIds) -> Ids:
    """Context and continuation as one, with as much of the context as there is room for."""
    if not len(context) or not len(continuation):
        raise UsageError(
            f"A request has {len(context)} tokens of context and {len(continuation)} of continuation; expected at "
            "least one of each (the token that begins or ends a text can be a context)."
        )
    if len(continuation) > model.context:
        raise ContextError(
            f"A continuation has {len(continuation)} tokens and the context holds {model.context}; score it in "
            "windows, or load the model with a larger context."
        )
    ids = np.concatenate([np.asarray(context, np.int64), np.asarray(continuation, np.int64)])
    if ids.min() < 0 or ids.max() >= model.spec.n_vocab:
        raise UsageError(
            f"A request has tokens from {ids.min()} to {ids.max()}; this model's are 0 to {model.spec.n_vocab - 1}."
        )
    return ids[-(model.context + 1) :].astype(np.int32)
