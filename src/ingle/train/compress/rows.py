"""Rows of text to calibrate with and to measure on: from a run's own shards, or the first documents of a source."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ingle.errors import DataError, UsageError
from ingle.train.data.batches import IGNORED, Batch
from ingle.train.data.document import batched

if TYPE_CHECKING:
    from ingle.train.data.sources import Source
    from ingle.train.data.vocabulary import Vocabulary

__all__ = ["is_run", "rows_of_run", "rows_of_source"]

_BATCH_CHARACTERS = 2**17  # tokenised at once: a few rows are wanted, not a corpus


def is_run(path: Path) -> bool:
    """Whether `path` is the folder of a run, with its config."""
    return (path / "config.toml").is_file()


def rows_of_run(path: Path, positions: int, calibration_rows: int, held_out_rows: int) -> tuple[Batch, Batch]:
    """(training rows, validation rows) of a run's own shards. Raises TrainingError or DataError where it has none."""
    from ingle.train.data.loader import validation_rows
    from ingle.train.prepare import open_prepared
    from ingle.train.run_folder import RunFolder

    run = RunFolder(path)
    _, shards = open_prepared(run.read_config(), run)
    return (
        validation_rows(shards.train, positions, calibration_rows),
        validation_rows(shards.validation, positions, held_out_rows),
    )


def rows_of_source(source: Source, vocabulary: Vocabulary, size: int, positions: int, max_rows: int) -> Batch:
    """The first documents of `source`, packed in order into at most `max_rows` rows for a model of `size` tokens.

    A document longer than a row is cut. Raises UsageError when the tokenizer is not the model's, DataError when there
    is nothing to read.
    """
    if vocabulary.size > size:
        raise UsageError(
            f"The tokenizer has {vocabulary.size:,} tokens and the model {size:,}: they do not belong together; give "
            "the folder or file that the model came in."
        )
    rows: list[list[tuple[NDArray[np.int64], NDArray[np.bool_]]]] = []
    left = 0
    for ids, learnt in _pieces(source, vocabulary, positions):
        if len(ids) - 1 > left:
            if len(rows) == max_rows:
                break
            rows.append([])
            left = positions
        rows[-1].append((ids, learnt))
        left -= len(ids) - 1
    if not rows:
        raise DataError(f"{source.path_or_name} has no document of two tokens or more; give more text.")
    shape = len(rows), positions
    batch = Batch(np.zeros(shape, np.int64), np.full(shape, IGNORED), np.zeros(shape, np.int32))
    for row, pieces in enumerate(rows):
        begin = 0
        for number, (ids, learnt) in enumerate(pieces):
            end = begin + len(ids) - 1
            batch.tokens[row, begin:end] = ids[:-1]
            batch.targets[row, begin:end] = np.where(learnt[1:], ids[1:], IGNORED)
            batch.documents[row, begin:end] = number
            begin = end
        batch.documents[row, begin:] = len(pieces)
    return batch


def _pieces(
    source: Source, vocabulary: Vocabulary, positions: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.bool_]]]:
    """Documents as tokens and what is learnt, cut into at most `positions` + 1 tokens, the last of one beginning the
    next."""
    from ingle.train.data.sources import read_documents

    for batch in batched(read_documents(source), _BATCH_CHARACTERS):
        for ids, learnt in vocabulary.encode_batch(batch):
            tokens = np.array(ids, np.int64)
            flags = np.ones(len(ids), np.bool_) if learnt is None else np.array(learnt, np.bool_)
            for begin in range(0, len(ids) - 1, positions):
                part = slice(begin, begin + positions + 1)
                yield tokens[part], flags[part]
