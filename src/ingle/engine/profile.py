"""Where the time of an answer goes, by phase and kind of block, and how far that is from what the processor could do.

A block must read its weights and the keys and values of the cache, and must multiply; the slower of the two is its
floor. Adding up costs under two microseconds a block: 4 % of decoding a model of 125M at 400 tokens a second, less than
1 % of one of 1.1B, and nothing that can be seen of prefill.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from operator import attrgetter
from time import perf_counter
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ingle import _core
from ingle.backends.base import Backend, Cache, KVType, Rows, State
from ingle.backends.machine import available_bytes, default_threads
from ingle.engine.trace import Trace
from ingle.models.spec import Spec
from ingle.models.tensor import Tensor

__all__ = ["KINDS", "Kind", "PhaseName", "PhaseWork", "Profile", "Profiled", "Roof", "Work", "threads_of"]

Kind = Literal["embed", "attention", "feed_forward", "logits"]
PhaseName = Literal["prefill", "decode", "decode together"]

KINDS: tuple[Kind, ...] = ("embed", "attention", "feed_forward", "logits")
_MIN_READ_BYTES, _MAX_READ_BYTES = 1 << 20, 1 << 30  # of a measurement: beyond the largest caches nothing changes


@dataclass(slots=True)
class Work:
    """What calls took, what they had to read, and what they had to compute (a multiplication and an addition are two).

    weight_bytes: as the backend holds them, once for each call; of the embedding the rows looked up, of a mixture
    as many experts as the rows could use at most. kv_bytes: of the KV cache, each position once for each call.
    operations: of matrices, and of queries with keys and values; norms, rotations and the like are not counted.
    """

    calls: int = 0
    time_s: float = 0.0
    weight_bytes: int = 0
    kv_bytes: int = 0
    operations: int = 0

    @property
    def n_bytes(self) -> int:
        """All that had to be read."""
        return self.weight_bytes + self.kv_bytes


@dataclass(slots=True)
class PhaseWork:
    """The steps of one phase: one `embed` each, with what follows it.

    time_s: from the begin of each step to the begin of the next one. waited_s: of it, for weights on their way from
    disk; it is in no kind's time.
    """

    steps: int = 0
    rows: int = 0
    time_s: float = 0.0
    waited_s: float = 0.0
    kinds: dict[Kind, Work] = field(default_factory=lambda: {kind: Work() for kind in KINDS})

    @property
    def rest_s(self) -> float:
        """What was spent outside of the blocks: sampling, text, Python, and whoever read the tokens."""
        return max(0.0, self.time_s - self.waited_s - sum(work.time_s for work in self.kinds.values()))


@dataclass(frozen=True, slots=True)
class Roof:
    """What this processor can do at most, measured: reading `read_bytes` over and over, and multiplying."""

    isa: str
    threads: int
    read_bytes: int
    read_gb_per_s: float
    multiply_gop_per_s: float

    @staticmethod
    def measure(n_bytes: int, threads: int) -> Roof:
        """Takes about a second, and up to 1 GiB of memory while it lasts.

        n_bytes: what a step reads. More than 1 GiB is measured as 1 GiB, less than 1 MiB as 1 MiB, and where memory is
        short a quarter of what is free. Raises BackendError for a number of threads that cannot be.
        """
        free = available_bytes()
        most = _MAX_READ_BYTES if free is None else min(_MAX_READ_BYTES, free // 4)
        read_bytes = max(_MIN_READ_BYTES, min(n_bytes, most))
        bandwidth = _core.read_bandwidth(read_bytes, threads)
        return Roof(_core.isa(), threads, read_bytes, bandwidth, _core.multiply_rate(threads))

    def read_s(self, work: Work) -> float:
        """Seconds that reading takes at least."""
        return work.n_bytes / (self.read_gb_per_s * 1e9)

    def multiply_s(self, work: Work) -> float:
        """Seconds that computing takes at least."""
        return work.operations / (self.multiply_gop_per_s * 1e9)

    def floor_s(self, work: Work) -> float:
        """Seconds that the work takes at least."""
        return max(self.read_s(work), self.multiply_s(work))


class Profile:
    """What was computed since it was made, by phase: `prefill` (rows that follow each other in a slot), `decode` (one
    row, also the last one of a prompt), `decode together` (one row of each of several slots)."""

    def __init__(
        self, threads: int, clock: Callable[[], float] = perf_counter, waited: Callable[[], float] | None = None
    ) -> None:
        """threads: how many the backend computes with. waited: seconds that were waited for weights so far, ever."""
        self.threads = threads
        self.phases: dict[PhaseName, PhaseWork] = {}
        self.clock = clock
        self.waited = waited
        self._began = clock()
        self._waited_s = 0.0 if waited is None else waited()
        self._phase: PhaseWork | None = None

    def begin_step(self, name: PhaseName, rows: int, began: float) -> PhaseWork:
        """A step begins at `began`, and ends the one before; time before the first step counts as the first's."""
        phase = self.phases.setdefault(name, PhaseWork())
        self._close(self._phase or phase, began)
        self._phase = phase
        phase.steps += 1
        phase.rows += rows
        return phase

    def end(self) -> None:
        """The last step ends now. May be called again after further steps."""
        self._close(self._phase or PhaseWork(), self.clock())

    def _close(self, phase: PhaseWork, now: float) -> None:
        """What passed until now is the phase's."""
        phase.time_s += now - self._began
        self._began = now
        if self.waited is not None:
            waited_s = self.waited()
            phase.waited_s += waited_s - self._waited_s
            self._waited_s = waited_s

    @property
    def bytes_per_step(self) -> int:
        """What a step reads, in the phase where that is most: the working set of decoding."""
        phases = self.phases.values()
        return max((sum(w.n_bytes for w in phase.kinds.values()) // phase.steps for phase in phases), default=0)

    def roof(self, most_bytes: int | None = None) -> Roof:
        """What the processor can do with this many bytes and threads; measured now, see `Roof.measure`.

        most_bytes: memory that measuring may take.
        """
        n_bytes = self.bytes_per_step
        return Roof.measure(n_bytes if most_bytes is None else min(n_bytes, most_bytes), self.threads)

    def as_dict(self, roof: Roof) -> dict[str, Any]:
        """All numbers by their names, for JSON."""
        return {**asdict(roof), "phases": {name: _phase_dict(phase, roof) for name, phase in self.phases.items()}}


def _phase_dict(phase: PhaseWork, roof: Roof) -> dict[str, Any]:
    kinds = {kind: {**asdict(work), "floor_s": roof.floor_s(work)} for kind, work in phase.kinds.items()}
    return {
        "steps": phase.steps,
        "rows": phase.rows,
        "time_s": phase.time_s,
        "floor_s": sum(roof.floor_s(work) for work in phase.kinds.values()),
        "waited_s": phase.waited_s,
        "rest_s": phase.rest_s,
        "kinds": kinds,
    }


class Profiled:
    """A backend that computes with another one and adds up in a `Profile` what its verbs take.

    With a `Trace`, each is an event there too: "embed", "attention 3" of pass 3, "feed_forward 3", "logits".
    """

    def __init__(self, backend: Backend, profile: Profile, trace: Trace | None = None) -> None:
        self._inner = backend
        self._profile = profile
        self._clock = profile.clock
        self._trace = trace
        spec = backend.spec
        self._bytes_of = _bytes_of_arrays if backend.name == "reference" else attrgetter("n_bytes")
        self._windows = [spec.window_of(index) for index in range(spec.n_passes)]
        self._multiplies = _multiplies_per_row(spec)
        # Of the current step. In the verbs below each call of a function would be felt: caches are full of weights.
        self._kinds = PhaseWork().kinds
        self._attention: dict[int, tuple[int, int]] = {}  # by window: operations, bytes of the cache
        self._feed_forward_operations = 0
        self._experts = 1, 1  # of a mixture: how many were read at most, of how many
        self._waits = profile.waited if spec.experts is not None else None  # experts are waited for inside of the verb

    @property
    def name(self) -> str:
        return self._inner.name

    @property
    def spec(self) -> Spec:
        return self._inner.spec

    def load_embedding(self, tensors: Mapping[str, Tensor]) -> Any:
        return self._inner.load_embedding(tensors)

    def load_attention(self, tensors: Mapping[str, Tensor]) -> Any:
        return self._inner.load_attention(tensors)

    def load_feed_forward(self, tensors: Mapping[str, Tensor]) -> Any:
        return self._inner.load_feed_forward(tensors)

    def load_output(self, tensors: Mapping[str, Tensor], embedding: Any) -> Any:
        return self._inner.load_output(tensors, embedding)

    def new_cache(self, n_slots: int, context: int, kv_type: KVType = "f16") -> Cache:
        return self._inner.new_cache(n_slots, context, kv_type)

    def embed(self, embedding: Any, rows: Rows, cache: Any) -> State:
        began = self._clock()
        state = self._inner.embed(embedding, rows, cache)
        ended = self._clock()
        n, spec = len(rows), self.spec
        n_slots = 1 + int(np.count_nonzero(rows.slots[1:] != rows.slots[:-1])) if n > 1 else 1
        name: PhaseName = "decode" if n == 1 else "prefill" if n_slots < n else "decode together"
        self._kinds = self._profile.begin_step(name, n, began).kinds
        self._attention = {window: self._attention_work(rows, window, cache) for window in set(self._windows)}
        self._feed_forward_operations = 2 * n * self._multiplies["feed_forward"]
        if spec.experts is not None:
            self._experts = min(spec.experts.n_experts, n * spec.experts.n_used), spec.experts.n_experts
        if self._trace is not None:
            self._trace.add("compute", "embed", began, ended, phase=name, rows=n)
        work = self._kinds["embed"]
        work.time_s += ended - began
        work.calls += 1
        work.weight_bytes += 0 if rows.tokens is None else n * self._bytes_of(embedding) // spec.n_vocab
        return state

    def attention(self, block: Any, state: Any, pass_index: int) -> None:
        began = self._clock()
        self._inner.attention(block, state, pass_index)
        ended = self._clock()
        if self._trace is not None:
            self._trace.add("compute", f"attention {pass_index}", began, ended)
        work = self._kinds["attention"]
        work.time_s += ended - began
        work.calls += 1
        work.weight_bytes += self._bytes_of(block)
        operations, kv_bytes = self._attention[self._windows[pass_index]]
        work.operations += operations
        work.kv_bytes += kv_bytes

    def feed_forward(self, block: Any, state: Any, pass_index: int) -> None:
        waited_s = 0.0 if self._waits is None else self._waits()
        began = self._clock()
        self._inner.feed_forward(block, state, pass_index)
        ended = self._clock()
        if self._waits is not None:
            self._kinds["feed_forward"].time_s -= self._waits() - waited_s
        if self._trace is not None:
            self._trace.add("compute", f"feed_forward {pass_index}", began, ended)
        work = self._kinds["feed_forward"]
        work.time_s += ended - began
        work.calls += 1
        work.weight_bytes += self._bytes_of(block) * self._experts[0] // self._experts[1]
        work.operations += self._feed_forward_operations

    def logits(self, output: Any, state: Any, wanted: NDArray[np.int32]) -> NDArray[np.float32]:
        began = self._clock()
        logits = self._inner.logits(output, state, wanted)
        ended = self._clock()
        if self._trace is not None:
            self._trace.add("compute", "logits", began, ended, rows=len(wanted))
        work = self._kinds["logits"]
        work.time_s += ended - began
        work.calls += 1
        work.weight_bytes += self._bytes_of(output)
        work.operations += 2 * len(wanted) * logits.shape[1] * self.spec.n_embd
        return logits

    def _attention_work(self, rows: Rows, window: int, cache: Cache) -> tuple[int, int]:
        """Operations and bytes of the cache of one attention block with a window (0 = everything)."""
        spec = self.spec
        if len(rows) == 1:
            seen = read = int(rows.positions[0]) + 1
            if window:
                seen = read = min(seen, window)
        else:
            last = np.append(rows.slots[1:] != rows.slots[:-1], True)
            first = np.append(True, last[:-1])
            counts = rows.positions.astype(np.int64) + 1
            reads, each = counts[last], counts
            if window:  # the first row of a slot sees so many, each further one a new one more
                reads = np.minimum(reads, window + counts[last] - counts[first])
                each = np.minimum(counts, window)
            seen, read = int(each.sum()), int(reads.sum())
        operations = 2 * len(rows) * self._multiplies["attention"] + 4 * seen * spec.n_heads * spec.head_dim
        return operations, read * cache.n_bytes // (cache.n_slots * cache.context * spec.n_passes)


def threads_of(backend: Backend) -> int:
    """How many threads a backend computes with; for one that does not say, what is best here."""
    threads = getattr(backend, "n_threads", None)
    return threads if isinstance(threads, int) else default_threads()


def _multiplies_per_row(spec: Spec) -> dict[Kind, int]:
    """Weights of matrices that a row is multiplied with, by kind; those of an output follow from its logits."""
    matrices = 3 if spec.gated else 2
    if spec.experts is None:
        feed_forward = matrices * spec.n_ff
    else:
        feed_forward = spec.experts.n_used * matrices * spec.experts.n_ff + spec.experts.n_experts
    return {
        "attention": 2 * (spec.n_heads + spec.n_kv_heads) * spec.head_dim * spec.n_embd,
        "feed_forward": feed_forward * spec.n_embd,
    }


def _bytes_of_arrays(block: Mapping[str, NDArray[Any]]) -> int:
    """Bytes of a block of the reference backend: arrays by role."""
    return sum(array.nbytes for array in block.values())
