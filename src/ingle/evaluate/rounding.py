"""Does a fast backend differ from the reference by rounding alone? Two answers, both against `backends.rounded`.

By block: every block of the backend is given what the model of its rounding had there (block outputs are overwritten
between blocks, where devices would sum them), so errors do not add up, and its outputs are compared with the model's.
Both sums are of the same rounded numbers, in float32 and in float64, so a row is wrong by some 1e-6, or more where a
number lay so near the middle of two codes that it was rounded the other way. How often and how much that is, the model
in float32 shows.

By text: rounding changes what a whole model predicts, and the model of rounding says how much: KL(reference || model).
Through many blocks rounding is chaotic: one code that was rounded the other way changes many codes behind it, and two
computations of the same rounding differ nearly as much as each from the reference. But they are equally far from it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ingle.backends.base import Backend, KVType, Rows
from ingle.backends.reference import ReferenceBackend
from ingle.backends.rounded import RoundedBackend
from ingle.engine.comm import Alone
from ingle.engine.runner import Runner
from ingle.engine.weights import Resident
from ingle.evaluate.divergence import compare_logits
from ingle.evaluate.statistics import ratio_stderr
from ingle.models.checkpoint import open_checkpoint
from ingle.models.spec import Spec

__all__ = ["BlockErrors", "Difference", "Evidence", "Trace", "Truth", "difference", "examine", "trace", "truth_of"]

Floats = NDArray[np.float32]
Windows = Sequence[NDArray[np.int32]]
MakeBackend = Callable[[Spec], Backend]

# What counts as a fault. Sums of floats are better or worse than NumPy's; numbers rounded the other way are few, so how
# many and how large they are is left to chance; a text of some hundred tokens gives a mean KL to a tenth.
TYPICAL_LIMIT = 4.0  # times the float32 model's
RMS_LIMIT = 10.0  # times the float32 model's
RMS_SHARE = 0.1  # of what rounding itself does to a block's output
KL_LIMIT = 1.5  # times the predicted
_EPSILON = 2.0**-23  # relative errors below that are none
_KL_OF_FLOATS = 1e-7  # nats that float sums alone make, where a cache of fewer bits makes much of little


@dataclass(frozen=True, slots=True, eq=False)
class Trace:
    """What a backend computed of N tokens. logits: float32 [N, V]; deltas: float32 [blocks, N, E] or None."""

    logits: Floats
    deltas: Floats | None


class _Tap:
    """Stands where devices sum a block's output: keeps it, and puts there what all backends are to go on with."""

    rank, n_ranks = 0, 2

    def __init__(self, deltas: Floats, forced: Floats | None) -> None:
        self.deltas, self.forced = deltas, forced
        self.block, self.rows = 0, slice(0)

    def sum(self, x: Floats) -> None:
        self.deltas[self.block, self.rows] = x
        x[:] = (self.deltas if self.forced is None else self.forced)[self.block, self.rows]
        self.block += 1


def trace(
    path: Path,
    backend: MakeBackend,
    windows: Windows,
    *,
    kv_type: KVType,
    sizes: Sequence[int] = (),
    blocks: bool = False,
    forced: Floats | None = None,
) -> Trace:
    """Compute windows of tokens, each from position 0 on, with the model of a GGUF file.

    sizes: how many rows to compute in each call, over and over; () = a window in one call. blocks: keep the output of
    every block, rounded to float32, which is also what the next block is given. forced: outputs of blocks (`deltas` of
    another trace) that the next ones are given instead of the own.
    """
    checkpoint = open_checkpoint(path)
    try:
        spec = checkpoint.spec
        computing = backend(spec)
        n_tokens = sum(map(len, windows))
        logits = np.empty((n_tokens, spec.n_vocab), np.float32)
        n_sums = spec.n_passes * (1 if spec.parallel else 2)
        tap = None
        if blocks or forced is not None:
            tap = _Tap(np.empty((n_sums, n_tokens, spec.n_embd), np.float32), forced)
        cache = computing.new_cache(1, max(map(len, windows)), kv_type)
        runner = Runner(spec, computing, Resident(checkpoint, computing), tap or Alone(), cache)
        begin = 0
        for window in windows:
            for start, stop in _calls(len(window), sizes):
                if tap is not None:
                    tap.block, tap.rows = 0, slice(begin + start, begin + stop)
                rows = Rows.of_slot(0, start, window[start:stop])
                logits[begin + start : begin + stop] = runner.forward(rows, range(stop - start))
            begin += len(window)
        return Trace(logits, None if tap is None else tap.deltas)
    finally:
        checkpoint.close()


def _calls(n: int, sizes: Sequence[int]) -> Iterator[tuple[int, int]]:
    start = 0
    for size in cycle(sizes or (n,)):
        if start >= n:
            return
        yield start, min(start + size, n)
        start += size


@dataclass(frozen=True, slots=True)
class Difference:
    """Predictions against those of a reference, over all tokens but the first of each window; nats.

    kl: the mean of KL(reference || ours), kl_stderr over windows, kl_max; top1: how often both find the same token most
    likely; nats: how much less likely ours finds the text, per token, nats_stderr over windows; perplexity: ours.
    """

    kl: float
    kl_stderr: float
    kl_max: float
    top1: float
    nats: float
    nats_stderr: float
    perplexity: float

    @property
    def perplexity_delta(self) -> float:
        """Our perplexity less the reference's."""
        return -self.perplexity * math.expm1(-self.nats)

    @property
    def perplexity_stderr(self) -> float:
        """Of `perplexity_delta`, as the two are paired."""
        return self.perplexity * self.nats_stderr


def difference(ours: Floats, reference: Floats, windows: Windows) -> Difference:
    """How far logits [N, V] are from a reference's [N, V] for the same windows of N tokens in all."""
    columns = []
    begin = 0
    for window in windows:
        rows = slice(begin, begin + len(window) - 1)  # the last token of a window predicts nothing that is there
        parts = compare_logits(ours[rows], reference[rows], window[1:])
        columns.append([np.concatenate(column) for column in zip(*parts, strict=True)])
        begin += len(window)
    counts = [len(window) - 1 for window in windows]
    nats, nats_reference, kl, same = (np.concatenate(column) for column in zip(*columns, strict=True))
    return Difference(
        kl=float(kl.mean()),
        kl_stderr=ratio_stderr([window[2].sum() for window in columns], counts),
        kl_max=float(kl.max()),
        top1=float(same.mean()),
        nats=float((nats - nats_reference).mean()),
        nats_stderr=ratio_stderr([(window[0] - window[1]).sum() for window in columns], counts),
        perplexity=float(np.exp(nats.mean())),
    )


@dataclass(frozen=True, slots=True)
class BlockErrors:
    """How wrong the output of each block is, float64 [blocks + 1]: |ours - model's| / |model's| of a row [E].

    The last "block" is the output matrix, with its logits [V]. typical: that one row in ten is below: there nothing
    was rounded the other way, in the cache neither. rms: over all rows.
    """

    typical: NDArray[np.float64]
    rms: NDArray[np.float64]

    @staticmethod
    def of(ours: Trace, model: Trace) -> BlockErrors:
        """Of a trace that was forced to go on with the model's."""
        assert ours.deltas is not None
        assert model.deltas is not None
        pairs = [*zip(ours.deltas, model.deltas, strict=True), (ours.logits, model.logits)]
        wrong = [np.linalg.norm(a - b, axis=1) / np.linalg.norm(b, axis=1) for a, b in pairs]
        return BlockErrors(np.quantile(wrong, 0.1, axis=1), np.sqrt(np.square(wrong).mean(axis=1, dtype=np.float64)))

    @property
    def overall(self) -> float:
        """The rms over all blocks."""
        return float(np.sqrt(np.square(self.rms).mean()))


@dataclass(frozen=True, slots=True, eq=False)
class Truth:
    """What a file's logits and blocks should be. reference: logits of the reference; model: a trace of `rounded`.

    predicted: the model's difference from the reference. expected: block errors of the model in float32. rounding:
    block errors of the reference, which are what rounding does.
    """

    reference: Floats
    model: Trace
    predicted: Difference
    expected: BlockErrors
    rounding: BlockErrors


def truth_of(
    path: Path,
    windows: Windows,
    *,
    kv_type: KVType,
    tiles: bool,
    sizes: Sequence[int] = (),
    reference: Floats | None = None,
) -> Truth:
    """For the model in a GGUF file. tiles: as for `RoundedBackend`; there, `sizes` (see `trace`) change the rounding.

    reference: the reference's logits, where they are known.
    """
    how = partial(trace, path, windows=windows, kv_type=kv_type, sizes=sizes)
    if reference is None:
        reference = how(ReferenceBackend).logits
    model = how(partial(RoundedBackend, tiles=tiles), blocks=True)
    single = how(partial(RoundedBackend, tiles=tiles, dtype=np.float32), forced=model.deltas)
    plain = how(ReferenceBackend, forced=model.deltas)
    return Truth(
        reference,
        model,
        difference(model.logits, reference, windows),
        BlockErrors.of(single, model),
        BlockErrors.of(plain, model),
    )


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a backend computed, beside what it should have: the fields of `Truth`, and the backend's own."""

    found: Difference
    blocks: BlockErrors
    predicted: Difference
    expected: BlockErrors
    rounding: BlockErrors

    def faults(self) -> list[str]:
        """What is more than rounding, in sentences; none if there is nothing."""
        found = []
        expected = np.maximum(self.expected.typical, _EPSILON)
        for half in (0, 1):  # which layers see something that was rounded the other way in the cache is left to chance
            expected[half:-1:2] = expected[half:-1:2].max(initial=0)
        limit = TYPICAL_LIMIT * expected
        for block in np.flatnonzero(~(self.blocks.typical <= limit)):
            found.append(f"Outputs of block {block} are wrong by {self.blocks.typical[block]:.1e} everywhere.")
        rms = max(RMS_LIMIT * self.expected.overall, RMS_SHARE * self.rounding.overall, _EPSILON)
        if not self.blocks.overall <= rms:
            found.append(f"Outputs of block {self.blocks.rms.argmax()} are wrong by {self.blocks.rms.max():.1e} (rms).")
        chance = 3 * self.found.kl_stderr if math.isfinite(self.found.kl_stderr) else 0.0  # of one window: not known
        kl = KL_LIMIT * self.predicted.kl + chance + _KL_OF_FLOATS
        if not self.found.kl <= kl:
            found.append(f"KL to the reference is {self.found.kl:.1e} nats; rounding makes {self.predicted.kl:.1e}.")
        return found


def examine(
    path: Path, backend: MakeBackend, windows: Windows, truth: Truth, *, kv_type: KVType, sizes: Sequence[int] = ()
) -> Evidence:
    """Let a backend compute what the truth was computed from, in calls of so many rows (see `trace`)."""
    free = trace(path, backend, windows, kv_type=kv_type, sizes=sizes)
    forced = trace(path, backend, windows, kv_type=kv_type, sizes=sizes, forced=truth.model.deltas)
    return Evidence(
        difference(free.logits, truth.reference, windows),
        BlockErrors.of(forced, truth.model),
        truth.predicted,
        truth.expected,
        truth.rounding,
    )
