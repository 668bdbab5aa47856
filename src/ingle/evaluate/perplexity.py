"""How well a model predicts a text: perplexity, bits per byte, and how far its predictions are from a reference's.

Every token is predicted once, in windows as lm-evaluation-harness rolls them (`likelihood.rolling_windows`). Nothing is
done to the text first, so figures can be set beside others of the same text only.

Standard errors are of a ratio of two sums (nats over tokens, bits over bytes) over units that are independent of each
other, or nearly so: the documents of the file, or, where there are fewer than 20, the windows, each much longer than
what follows from one token to the next (non-overlapping blocks: Carlstein, Annals of Statistics 14, 1986). The error of
exp(x) is exp(x) times that of x.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ingle.engine.model import Model
from ingle.errors import DataError, UsageError
from ingle.evaluate.divergence import Divergence, check_same_vocabulary, diverge
from ingle.evaluate.likelihood import TokenIds, rolling_windows, score
from ingle.evaluate.result import Metric, TaskResult, item_id
from ingle.evaluate.statistics import ratio_stderr
from ingle.files import read_bytes

__all__ = ["TASK", "run_perplexity", "split_documents"]

TASK = "perplexity"
WINDOW = 2048  # tokens, where the model can have as many
MIN_DOCUMENTS = 20  # as many as a standard error wants; with fewer, windows are the units
MAX_BYTES = 1 << 28
SEPARATOR = "<|endoftext|>"
_PAGE = re.compile(r"^ = [^=\n].* = *$", re.MULTILINE)  # the title of an article in WikiText

Progress = Callable[[str, int, int], None]  # (task, done, total)
Floats = NDArray[np.float64]


def run_perplexity(
    model: Model,
    text: Path,
    *,
    reference: Model | None = None,
    window: int | None = None,
    limit: int | None = None,
    on_progress: Progress | None = None,
) -> list[TaskResult]:
    """Measure how well a model predicts a text file (UTF-8); see `split_documents` for what its documents are.

    Metrics: perplexity (exp of the nats per token), bits_per_byte (which models with different vocabularies can be
    compared by), word_perplexity (words stand between white space). With a reference, a model with the same
    vocabulary, also, over all predicted tokens: kl, the mean of KL(reference || model) in nats, and kl_p99, its 99th
    percentile; top1_agreement; and perplexity_ratio, the perplexity over the reference's, with the error of the pair.

    window: tokens; None = 2048, or as many as the models' contexts have. limit: only so many first units.
    Raises DataError for a file that cannot be read or is empty, UsageError for a window the models cannot have, for
    a reference with another vocabulary and for a model without a token to begin a text with.
    """
    began = perf_counter()
    if reference is not None:
        check_same_vocabulary(model, reference)
    most = min(one.context for one in (model, reference) if one is not None)
    window = min(WINDOW, most) if window is None else window
    if not 1 <= window <= most:
        raise UsageError(f"The window is {window} tokens; expected 1 to {most}, the context.")
    if limit is not None and limit < 1:
        raise UsageError(f"The limit is {limit}; expected 1 or more.")
    documents = split_documents(_read(text))
    by_document = len(documents) >= MIN_DOCUMENTS
    units = _units(model, documents, window, by_document, limit)
    if not units:
        raise DataError(f"{text.name} has no text in it.")
    requests = [request for unit in units for request in unit.requests]
    tell = None if on_progress is None else partial(on_progress, TASK)
    found: list[Divergence] = []
    if reference is None:
        sums = np.array([-one.logprob for one in score(model, requests, on_progress=tell)])
    else:
        found = diverge(model, reference, requests, on_progress=tell)
        sums = np.array([one.nats.sum() for one in found])
    at = np.repeat(np.arange(len(units)), [len(unit.requests) for unit in units])  # the unit of each request
    metrics, weights = _likelihood_metrics(units, _sums(at, sums, len(units)))
    if found:
        more, more_weights = _divergence_metrics(found, at)
        metrics += more
        weights |= more_weights
    details: dict[str, Any] = {
        "settings": {"window": window, "unit": "document" if by_document else "window"},
        "weights": {name: values.tolist() for name, values in weights.items()},
        "n_tokens": int(sum(unit.n_tokens for unit in units)),
        "n_bytes": int(sum(unit.n_bytes for unit in units)),
        "n_words": int(sum(unit.n_words for unit in units)),
    }
    if reference is not None:
        details["settings"]["reference"] = Path(reference.name).name
    ids = tuple(unit.id for unit in units)
    return [TaskResult(TASK, tuple(metrics), ids, perf_counter() - began, (_note(by_document),), details)]


def split_documents(text: str) -> list[str]:
    """The documents of a text: what stands between <|endoftext|>s; in WikiText, the articles; otherwise all of it.

    Documents of nothing but white space are left out.
    """
    titles = [match.start() for match in _PAGE.finditer(text)]
    if SEPARATOR in text:
        parts = text.split(SEPARATOR)
    elif titles and not text[: titles[0]].strip():
        parts = [text[start:stop] for start, stop in zip(titles, [*titles[1:], None], strict=True)]
    else:
        parts = [text]
    return [part for part in parts if part.strip()]


def _read(path: Path) -> str:
    data = read_bytes(path, MAX_BYTES, advice="give a text in UTF-8, or a part of it")  # text mode would change "\r\n"
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{path.name} is not UTF-8 text (byte {error.start}); convert it first.") from None


@dataclass(frozen=True, slots=True)
class _Unit:
    """What standard errors are made from: a document, or a window of one. n_words: a share of a document's, there."""

    id: str
    requests: Sequence[tuple[TokenIds, TokenIds]]
    n_tokens: int
    n_bytes: int
    n_words: float


def _units(model: Model, documents: list[str], window: int, by_document: bool, limit: int | None) -> list[_Unit]:
    units: list[_Unit] = []
    for document in documents:
        if limit is not None and len(units) >= limit:
            break
        ids = model.tokenizer.encode(document, add_special=False)
        if not ids:
            continue  # characters that this tokenizer drops, and nothing else
        requests = rolling_windows(model, ids, window=window)
        n_bytes, n_words = len(document.encode()), len(document.split())
        if by_document:
            units.append(_Unit(item_id(document), requests, len(ids), n_bytes, n_words))
            continue
        sizes = [sum(len(model.tokenizer.token_bytes(int(token_id))) for token_id in part) for _, part in requests]
        sizes[0] += n_bytes - sum(sizes)  # a space that a tokenizer puts before a text is none of the text's bytes
        for request, size in zip(requests, sizes, strict=True):
            said = model.tokenizer.decode(int(token_id) for token_id in request[1])
            units.append(_Unit(item_id(said), [request], len(request[1]), size, n_words * size / n_bytes))
    return units[:limit]


def _likelihood_metrics(units: Sequence[_Unit], nats: Floats) -> tuple[list[Metric], dict[str, Floats]]:
    """Metrics, and by name the weights of the units in those that have values; nats: of each unit."""
    n_tokens, n_bytes, n_words = (
        np.array([getattr(unit, name) for unit in units], np.float64) for name in ("n_tokens", "n_bytes", "n_words")
    )
    bits = nats / math.log(2)
    n = len(units)
    metrics = [
        _exponential("perplexity", nats, n_tokens),
        Metric(
            "bits_per_byte",
            float(bits.sum() / n_bytes.sum()),
            _stderr(bits, n_bytes),
            n,
            higher_is_better=False,
            values=tuple((bits / n_bytes).tolist()),
        ),
        _exponential("word_perplexity", nats, n_words),
    ]
    return metrics, {"bits_per_byte": n_bytes}


def _divergence_metrics(found: Sequence[Divergence], at: NDArray[np.intp]) -> tuple[list[Metric], dict[str, Floats]]:
    """As `_likelihood_metrics`; at: the unit of each of `found`."""
    n = int(at[-1]) + 1
    counts = _sums(at, [len(one.kl) for one in found], n)
    kl = _sums(at, [one.kl.sum() for one in found], n)
    same = _sums(at, [one.same_top.sum() for one in found], n)
    ratio = _sums(at, [(one.nats - one.reference_nats).sum() for one in found], n)
    all_kl = np.concatenate([one.kl for one in found])
    metrics = [
        Metric("kl", float(all_kl.mean()), _stderr(kl, counts), n, higher_is_better=False, values=_means(kl, counts)),
        Metric("kl_p99", float(np.quantile(all_kl, 0.99)), None, n, higher_is_better=False),
        Metric(
            "top1_agreement",
            float(same.sum() / counts.sum()),
            _stderr(same, counts),
            n,
            values=_means(same, counts),
        ),
        _exponential("perplexity_ratio", ratio, counts),
    ]
    return metrics, {"kl": counts, "top1_agreement": counts}


def _sums(at: NDArray[np.intp], values: ArrayLike, n: int) -> Floats:
    """The sums of the values [m] that belong to each of n units; at [m]: which."""
    return np.bincount(at, np.asarray(values, np.float64), n).astype(np.float64)


def _means(sums: Floats, counts: Floats) -> tuple[float, ...]:
    return tuple((sums / counts).tolist())


def _exponential(name: str, nats: Floats, counts: Floats) -> Metric:
    """exp of a ratio of sums over the units; inf where that is larger than any number."""
    mean = float(nats.sum() / counts.sum())
    value = math.exp(mean) if mean < 700 else math.inf
    stderr = _stderr(nats, counts)
    return Metric(name, value, None if stderr is None else value * stderr, len(nats), higher_is_better=False)


def _stderr(numerators: Floats, denominators: Floats) -> float | None:
    stderr = ratio_stderr(numerators, denominators)
    return stderr if math.isfinite(stderr) else None


def _note(by_document: bool) -> str:
    if by_document:
        return "Standard errors are by document."
    return f"Standard errors are by window: the text has fewer than {MIN_DOCUMENTS} documents."
