"""Continuous batching: many answers, one thread that computes, and requests that join and leave between its steps.

A step is one call of the runner: the next row of each answer and a chunk of prompts. What its sequences do with the
logits is in `sequence.py`, which rows it has in `step.py`, who comes next in `fair_queue.py`.
"""

from __future__ import annotations

import atexit
import logging
import math
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from threading import Condition, Thread
from time import perf_counter
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from ingle.engine.embedding import Embeddings, EmbedSequence
from ingle.engine.fair_queue import FairQueue
from ingle.engine.generate import Request
from ingle.engine.hidden import HiddenStates
from ingle.engine.model import Model
from ingle.engine.sequence import AnswerSequence, Job, Listener, RunningSequence
from ingle.engine.slots import Slot, common_prefix
from ingle.engine.step import Pace, Part, Step, plan
from ingle.errors import BackendError, BusyError, ClosedError, IngleError, UsageError

__all__ = ["Job", "Listener", "Load", "Scheduler"]

WORTH_WAITING_ROWS = 32  # of a prompt that another sequence is computing now: to be copied when they are there
SLOTS_ELSEWHERE_S = 0.01  # between looks for a slot that was lent to somebody who is not of the scheduler
MOST_RETRY_S = 600.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Load:
    """What a scheduler does now, and what it has done since it was made.

    n_running: sequences in slots. n_queued: requests that wait. n_slots: how many sequences there can be.
    n_answered: requests that ended, for whatever reason; n_refused: those that found the queue full.
    prompt_tokens: of all that began; cached_tokens of them were in the cache. completion_tokens: drawn.
    steps: calls of the model; rows: that they computed; busy_s: seconds that they and what goes with them took.
    """

    n_running: int
    n_queued: int
    n_slots: int
    n_answered: int
    n_refused: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    steps: int
    rows: int
    busy_s: float


@dataclass(slots=True)
class _Counts:
    """What was done so far. Only the scheduler's thread adds to it."""

    n_answered: int = 0
    n_refused: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    steps: int = 0
    rows: int = 0
    busy_s: float = 0.0
    in_slot_s: float = 0.0  # that sequences which have ended had a slot
    n_left: int = 0  # sequences that had one


class Scheduler:
    """Answers many requests at once, as many as the model has slots; the others wait, and users take turns.

    An answer's text is the one that `Model.generate` gives, but where two tokens are equally likely within float
    rounding: what stands with which in one call may change that. With `Request.exact` and a seed an answer that is
    alone from its begin to its end is the same as there, bit for bit.

    Use it as a context manager, or call `close`. The model may answer others too, as long as there are slots.
    """

    def __init__(self, model: Model, *, max_queue: int = 64) -> None:
        """max_queue: how many requests may wait for a slot."""
        if isinstance(max_queue, bool) or not isinstance(max_queue, int) or max_queue < 1:
            raise UsageError(f"max_queue is {max_queue!r}; expected a whole number of 1 or more.")
        self._model = model
        self._runner, self._slots = model._open_parts()
        self._max_queue = max_queue
        self._queue: FairQueue[RunningSequence] = FairQueue()
        self._n_requests = 0  # that wait
        self._running: list[RunningSequence] = []
        self._begun: dict[RunningSequence, float] = {}  # when
        self._pace = Pace(self._slots.chunk)
        self._counts = _Counts()
        self._hidden: HiddenStates | None = None
        self._masks: ThreadPoolExecutor | None = None
        self._changed = Condition()  # guards the queue and the two below
        self._closing = False
        self._cut = False
        # A daemon, so that a program that forgot to close ends; and at its end the step in progress is awaited.
        self._thread = Thread(target=self._run, name="ingle-scheduler", daemon=True)
        atexit.register(self._at_exit)
        self._thread.start()

    def submit(self, request: Request, listener: Listener, *, user: str = "") -> Job:
        """Ask for an answer; may be called from any thread. `listener` is told, in the scheduler's thread.

        user: who asks; users take turns. Raises what `Request.check` and `Grammar.matcher` raise, BusyError when the
        queue is full, ClosedError after `close`.
        """
        sequence = AnswerSequence(self._model, request, listener, user, self._wake)
        self._push([sequence])
        return sequence.job

    def embed(self, prompts: Sequence[Sequence[int]], *, user: str = "") -> Future[NDArray[np.float32]]:
        """Embeddings of prompts, float32 [n, E]: the mean of the hidden states after the last norm, of length 1.

        In the queue all of them are one request; cancelling the future ends it. Raises as `submit` does.
        """
        group, sequences = Embeddings.sequences(self._model, prompts, user)
        with self._changed:
            if self._hidden is None:
                self._hidden = HiddenStates(self._model._checkpoint)
        if sequences:
            self._push(sequences)
        return group.future

    @property
    def load(self) -> Load:
        """What it does, and has done."""
        counts = self._counts
        return Load(
            n_running=len(self._running),
            n_queued=self._n_requests,
            n_slots=len(self._slots),
            n_answered=counts.n_answered,
            n_refused=counts.n_refused,
            prompt_tokens=counts.prompt_tokens,
            cached_tokens=counts.cached_tokens,
            completion_tokens=counts.completion_tokens,
            steps=counts.steps,
            rows=counts.rows,
            busy_s=counts.busy_s,
        )

    @property
    def closed(self) -> bool:
        """Whether it takes no more."""
        return self._closing

    def close(self, drain_s: float = 30.0) -> None:
        """Take no more, and let end what was taken; what has not after `drain_s` is cut off, and told ClosedError.

        Ctrl-C while it waits cuts off at once. A second call does nothing, or shortens the first one's waiting. Not to
        be called by a listener, whose thread is the one that is waited for.
        """
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        try:
            self._thread.join(max(0.0, drain_s))
        finally:
            with self._changed:
                self._cut = True
                self._changed.notify_all()
            self._thread.join()
            atexit.unregister(self._at_exit)

    def _at_exit(self) -> None:
        self.close(0.0)

    def __enter__(self) -> Scheduler:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close(0.0 if error is not None else 30.0)

    # The queue.

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _push(self, sequences: Sequence[RunningSequence]) -> None:
        with self._changed:
            if self._closing:
                raise ClosedError(
                    "No more is answered here, for the server is closing; ask another, or start it again."
                )
            n_free = max(0, len(self._slots) - len(self._running))  # taken at the next step: their takers do not wait
            if self._n_requests >= self._max_queue + n_free:
                self._counts.n_refused += 1
                wait_s = self._retry_after_s()
                raise BusyError(
                    f"{self._n_requests} requests are waiting already; try again in about {wait_s:.0f} s.", wait_s
                )
            for sequence in sequences:
                self._queue.push(sequence)
            self._n_requests += 1
            self._changed.notify_all()

    def _retry_after_s(self) -> float:
        """When there will be room in the queue: what a slot was taken for on average, over all slots."""
        counts, now = self._counts, perf_counter()
        begun = list(self._begun.values())
        n = counts.n_left + len(begun)
        in_slot_s = counts.in_slot_s + sum(now - time for time in begun)
        return float(min(MOST_RETRY_S, max(1, math.ceil(in_slot_s / max(1, n) / len(self._slots)))))

    def _leave_queue(self, sequence: RunningSequence, had_turn: bool) -> None:
        if had_turn:
            self._queue.take(sequence)
        else:
            self._queue.remove(sequence)
        self._n_requests -= sequence.counts

    # The thread.

    def _run(self) -> None:
        try:
            while self._await_work():
                try:
                    self._step()
                except Exception as error:  # a defect of ours: nobody is to wait for ever
                    _log.exception("A step failed.")
                    self._end_all(_as_ingle(error))
        finally:
            with self._changed:
                self._closing = True  # also where a listener ended the thread: nobody is to wait for it
            self._end_all(ClosedError("The answer was cut off, for the server was closed; ask again when it is back."))
            if self._masks is not None:
                self._masks.shutdown()

    def _await_work(self) -> bool:
        """Wait until there is something to compute; False when there will be nothing more."""
        with self._changed:
            while not self._running and not self._queue and not self._closing:
                self._changed.wait()
            return not self._cut and bool(self._running or self._queue)

    def _step(self) -> None:
        """End what nobody waits for, begin what there is room for, and compute one step."""
        began = perf_counter()
        self._drop_cancelled()
        self._admit()
        step = plan(self._running, self._slots.chunk, self._pace.rows)
        if step is None:
            with self._changed:  # every slot is lent to somebody else
                if self._queue and not self._cut:
                    self._changed.wait(SLOTS_ELSEWHERE_S)
            return
        masks = self._find_masks()
        try:
            logits = self._forward(step)
        except Exception as error:
            # What of it has been computed is unknown, and for each the same may happen again.
            for part in step.parts:
                self._end(part.sequence, _as_ingle(error))
            return
        finally:
            if masks is not None:
                masks.result()
        if step.n_prompt_rows:
            self._pace.observe(len(step.rows), perf_counter() - began)
        self._tell(step, logits)
        counts = self._counts
        counts.steps += 1
        counts.rows += len(step.rows)
        counts.busy_s += perf_counter() - began

    def _drop_cancelled(self) -> None:
        for sequence in [sequence for sequence in self._running if sequence.cancelled]:
            self._end(sequence, None)
        with self._changed:
            cancelled = [sequence for sequence in self._queue if sequence.cancelled]
            for sequence in cancelled:
                self._leave_queue(sequence, had_turn=False)
        for sequence in cancelled:
            self._end(sequence, None)

    def _admit(self) -> None:
        """Give free slots to those who are next."""
        while self._queue and self._slots.n_free:
            with self._changed:
                waiting = list(self._queue)
            sequence = next((s for s in waiting if not self._waits_for_prefix(s)), None)
            if sequence is None:
                return
            try:
                slot = self._slots.take(sequence.prompt, sequence.reuse)
            except BackendError:
                return  # somebody who is not of the scheduler was quicker
            with self._changed:
                self._leave_queue(sequence, had_turn=True)
            self._running.append(sequence)
            self._begun[sequence] = perf_counter()
            self._counts.prompt_tokens += len(sequence.prompt)
            self._counts.cached_tokens += len(slot.tokens)
            try:
                sequence.begin(slot)
            except Exception as error:
                self._end(sequence, _as_ingle(error), slot)

    def _waits_for_prefix(self, sequence: RunningSequence) -> bool:
        """Whether another sequence is computing a beginning that this one has too: a copy of it costs next to nothing,
        and it would not be computed any sooner here."""
        if sequence.reuse != "all":
            return False
        for other in self._running:
            if not other.in_prompt or other.prompt[:WORTH_WAITING_ROWS] != sequence.prompt[:WORTH_WAITING_ROWS]:
                continue
            shared = common_prefix(other.prompt, sequence.prompt[:-1])
            if shared - other.n_computed >= WORTH_WAITING_ROWS and shared > self._slots.known(sequence.prompt):
                return True
        return False

    def _find_masks(self) -> Future[None] | None:
        """Let the masks that the step's end will ask for be found while the model computes."""
        due = [s.grammar for s in self._running if isinstance(s, AnswerSequence) and s.grammar and s.grammar.is_due]
        if not due:
            return None
        if self._masks is None:
            self._masks = ThreadPoolExecutor(1, "ingle-grammar")

        def find() -> None:
            for grammar in due:
                grammar.find_mask()

        return self._masks.submit(find)

    def _forward(self, step: Step) -> NDArray[np.float32]:
        embedding = [part for part in step.parts if isinstance(part.sequence, EmbedSequence)]
        if not embedding:
            return self._runner.forward(step.rows, step.wanted)
        assert self._hidden is not None
        of = [row for part in embedding for row in range(part.begin, part.end)]
        logits, hidden = self._hidden.forward(self._runner, step.rows, step.wanted, of)
        n = 0
        for part in embedding:
            assert isinstance(part.sequence, EmbedSequence)
            part.sequence.add(hidden[n : n + part.end - part.begin])
            n += part.end - part.begin
        return logits

    def _tell(self, step: Step, logits: NDArray[np.float32]) -> None:
        """Give each sequence what was computed for it; then let them tell."""
        errors: dict[RunningSequence, Exception] = {}
        row = 0
        for part in step.parts:
            sequence = part.sequence
            mine = logits[row : row + part.n_asked]
            row += part.n_asked
            said = sequence.n_said if isinstance(sequence, AnswerSequence) else 0
            try:
                self._computed(part, alone=len(step.parts) == 1)
                if part.n_asked and not sequence.cancelled:
                    sequence.take(mine)
            except Exception as error:
                errors[sequence] = error
            if isinstance(sequence, AnswerSequence):
                self._counts.completion_tokens += sequence.n_said - said
        for part in step.parts:
            sequence = part.sequence
            try:
                sequence.tell()
            except Exception as error:
                errors.setdefault(sequence, error)
            if sequence in errors:
                self._end(sequence, _as_ingle(errors[sequence]))
            elif sequence.ended:
                self._end(sequence, None)

    def _computed(self, part: Part, alone: bool) -> None:
        slot = part.sequence.slot
        # The very call that a prompt which is alone is computed with: see `Slots`.
        if alone and part.start == slot.n_exact and part.stop - part.start == self._slots.chunk:
            slot.n_exact = part.stop
        part.sequence.computed(part.stop)

    def _end(self, sequence: RunningSequence, error: IngleError | None, slot: Slot | None = None) -> None:
        """It leaves; its slot is free before it is told so."""
        if sequence in self._running:
            self._running.remove(sequence)
            self._slots.give_back(slot or sequence.slot)
            self._counts.n_left += 1
            self._counts.in_slot_s += perf_counter() - self._begun.pop(sequence)
        self._counts.n_answered += sequence.counts
        try:
            sequence.end(error)
        except Exception:
            _log.exception("A listener failed at the end of its answer.")

    def _end_all(self, error: IngleError) -> None:
        for sequence in list(self._running):
            self._end(sequence, error)
        with self._changed:
            waiting = list(self._queue)
            for sequence in waiting:
                self._leave_queue(sequence, had_turn=False)
        for sequence in waiting:
            self._end(sequence, error)


def _as_ingle(error: Exception) -> IngleError:
    """An error for people; what was not raised for them is told to the log."""
    if isinstance(error, IngleError):
        return error
    _log.error("An answer ended by an error that is not meant for people.", exc_info=error)
    found = BackendError(f"The answer was ended by an unexpected error ({type(error).__name__}: {error}); ask again.")
    found.__cause__ = error
    return found
