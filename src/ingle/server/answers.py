"""Between the scheduler's thread and the event loop: the answers to some requests, as they come."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from threading import Lock
from types import TracebackType
from weakref import WeakKeyDictionary

from ingle.engine.generate import Answer, Request
from ingle.engine.scheduler import Job, Scheduler
from ingle.engine.token import Stats, Token
from ingle.errors import ClosedError, IngleError
from ingle.server.errors import ApiError
from ingle.server.metrics import Watch

__all__ = ["Answers", "Ended", "Event"]

MAX_UNREAD = 8192  # tokens that wait for a client that reads slower than the model writes; then it is cut off
QUIET_S = 15.0  # a client hears something at least so often


@dataclass(frozen=True, slots=True)
class Ended:
    """The end of an answer. error: why it failed."""

    answer: Answer | None
    error: IngleError | None


Event = tuple[int, Token | Ended]  # which of the requests, and what came of it


class Answers:
    """The answers to some requests. Leaving the `with` (or `close`) cancels what has not ended.

    The scheduler's thread only appends to a queue, and wakes the event loop where it does not already know.
    """

    def __init__(self, watch: Watch) -> None:
        """Call it in the event loop that is to read the answers. watch: is told of all that is read."""
        self._watch = watch
        self._loop = asyncio.get_running_loop()
        self._bell = _bells.setdefault(self._loop, _Bell())
        self._reader: asyncio.Future[None] | None = None  # who waits for something to read
        self._quiet_at = 0.0  # by the loop's clock
        self._events: deque[Event] = deque()
        self._woken = False
        self._lock = Lock()
        self._jobs: list[Job] = []
        self._n_running = 0
        self._closed = False
        self._overflowed = False
        self._failed: IngleError | None = None  # what ended an answer too early

    def submit(self, scheduler: Scheduler, requests: Sequence[Request], user: str) -> None:
        """Ask for all of them, in any thread; where one is refused, none is answered."""
        self._n_running = len(requests)
        try:
            for index, request in enumerate(requests):
                job = scheduler.submit(request, _Listener(self, index), user=user)
                with self._lock:
                    self._jobs.append(job)
                    if self._closed:  # the client went away meanwhile
                        job.cancel()
        except BaseException:
            self._n_running = 0
            self.close()
            raise

    @property
    def stats(self) -> list[Stats]:
        """What each answer took so far."""
        return [job.stats for job in self._jobs]

    async def batches(self) -> AsyncIterator[list[Event]]:
        """All that has come since the last batch, until every answer has ended; empty where nothing came for long.

        Raises what ended an answer too early.
        """
        self._quiet_at = self._loop.time() + QUIET_S
        self._timer = self._loop.call_at(self._quiet_at, self._break_silence)
        try:
            while self._n_running:
                batch = await self._next()
                if batch or self._loop.time() >= self._quiet_at:
                    self._quiet_at = self._loop.time() + QUIET_S
                    yield batch
                if self._failed is not None:
                    raise self._failed
        finally:
            self._timer.cancel()

    async def _next(self) -> list[Event]:
        """All that has come, once there is something or nothing came for long."""
        self._woken = False  # before the queue is read: what is appended from here on wakes again
        if not self._events:
            self._reader = self._loop.create_future()
            await self._reader
            self._woken = False
        if self._overflowed:
            raise ApiError("The answer was not read as fast as it came; read it faster.", status=503, code="too_slow")
        batch = [self._events.popleft() for _ in range(len(self._events))]
        for index, event in batch:
            if isinstance(event, Token):
                self._watch.token(index, event, self._jobs[index])
            elif (error := self._end(event)) is not None:
                self._failed = self._failed or error  # when the tokens before it are read
        return batch

    def _wake(self) -> None:
        """In the event loop: there may be something to read."""
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    def _break_silence(self) -> None:
        """Wake the reader where nothing came for long. A timer for each token would cost as much as its text."""
        if self._loop.time() >= self._quiet_at:
            self._wake()
            at = self._loop.time() + QUIET_S
        else:
            at = self._quiet_at
        self._timer = self._loop.call_at(at, self._break_silence)

    def _end(self, event: Ended) -> IngleError | None:
        """One of the answers has ended; gives what ended it too early."""
        self._n_running -= 1
        reason = event.answer.finish_reason if event.answer is not None else None
        self._watch.ended("failed" if event.error is not None or reason is None else reason)
        if event.error is None and reason is None:
            return ClosedError("The answer was cut off, for the server is being stopped; ask again later.")
        return event.error

    def close(self) -> None:
        """Cancel what has not ended. May be called more than once, in any thread."""
        with self._lock:
            self._closed = True
            jobs = tuple(self._jobs)
        for job in jobs:
            job.cancel()

    def _put(self, event: Event) -> None:
        """In the scheduler's thread."""
        if self._closed:
            return
        if len(self._events) >= MAX_UNREAD and not isinstance(event[1], Ended):
            self._overflowed = True
            self.close()
        self._events.append(event)
        if not self._woken:
            self._woken = True
            try:
                self._bell.ring(self._loop, self._wake)
            except RuntimeError:  # the event loop has ended, and with it whoever would have read
                self.close()

    def __enter__(self) -> Answers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._watch.ended("cancelled", self._n_running)
        self._n_running = 0
        self.close()


class _Bell:
    """Wakes readers of one event loop, all of a step at once: waking the loop costs more than making a token's text."""

    def __init__(self) -> None:
        self._due: deque[Callable[[], None]] = deque()
        self._rung = False

    def ring(self, loop: asyncio.AbstractEventLoop, wake: Callable[[], None]) -> None:
        """Have `wake` called in the loop, soon. For any thread; raises RuntimeError when the loop has ended."""
        self._due.append(wake)
        if not self._rung:
            self._rung = True
            try:
                loop.call_soon_threadsafe(self._call)
            except RuntimeError:
                self._rung = False
                self._due.clear()  # who waits here keeps the loop, and the loop this
                raise

    def _call(self) -> None:
        self._rung = False  # before the queue is read: what is appended from here on rings again
        for _ in range(len(self._due)):
            self._due.popleft()()


_bells: WeakKeyDictionary[asyncio.AbstractEventLoop, _Bell] = WeakKeyDictionary()


class _Listener:
    """Hands on what is said of one of the requests."""

    __slots__ = ("_answers", "_index")

    def __init__(self, answers: Answers, index: int) -> None:
        self._answers = answers
        self._index = index

    def on_token(self, token: Token) -> None:
        self._answers._put((self._index, token))

    def on_end(self, answer: Answer | None, error: IngleError | None) -> None:
        self._answers._put((self._index, Ended(answer, error)))
