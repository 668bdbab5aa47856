"""Between the scheduler's thread and the event loop: the answers to some requests, as they come."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from threading import Lock
from types import TracebackType

from ingle.engine.generate import Answer, Request
from ingle.engine.token import Stats, Token
from ingle.errors import ClosedError
from ingle.server.errors import ApiError
from ingle.server.metrics import Watch
from ingle.server.served import Job, Scheduler

__all__ = ["Answers", "Ended", "Event"]

MAX_UNREAD = 8192  # tokens that wait for a client that reads slower than the model writes; then it is cut off
QUIET_S = 15.0  # a client hears something at least so often


@dataclass(frozen=True, slots=True)
class Ended:
    """The end of an answer. error: why it failed."""

    answer: Answer | None
    error: Exception | None


Event = tuple[int, Token | Ended]  # which of the requests, and what came of it


class Answers:
    """The answers to some requests. Leaving the `with` (or `close`) cancels what has not ended.

    The scheduler's thread only appends to a queue, and wakes the event loop where it does not already know.
    """

    def __init__(self, watch: Watch) -> None:
        """Call it in the event loop that is to read the answers. watch: is told of all that is read."""
        self._watch = watch
        self._loop = asyncio.get_running_loop()
        self._ready = asyncio.Event()
        self._events: deque[Event] = deque()
        self._woken = False
        self._lock = Lock()
        self._jobs: list[Job] = []
        self._n_running = 0
        self._closed = False
        self._overflowed = False

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
        while self._n_running:
            try:
                async with asyncio.timeout(QUIET_S):  # asyncio.wait_for may lose a cancellation, until Python 3.12
                    await self._ready.wait()
            except TimeoutError:
                yield []
                continue
            self._ready.clear()
            self._woken = False  # before the queue is read: what is appended from here on wakes again
            if self._overflowed:
                raise ApiError(
                    "The answer was not read as fast as it came; read it faster.", status=503, code="too_slow"
                )
            batch = [self._events.popleft() for _ in range(len(self._events))]
            for index, event in batch:
                if isinstance(event, Token):
                    self._watch.token(index, event, self._jobs[index])
                else:
                    self._end(event)
            if batch:
                yield batch

    def _end(self, event: Ended) -> None:
        """One of the answers has ended. Raises what ended it too early."""
        self._n_running -= 1
        reason = event.answer.finish_reason if event.answer is not None else None
        self._watch.ended("failed" if event.error is not None or reason is None else reason)
        if event.error is not None:
            raise event.error
        if reason is None:
            raise ClosedError("The answer was cut off, for the server is being stopped; ask again later.")

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
                self._loop.call_soon_threadsafe(self._ready.set)
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


class _Listener:
    """Hands on what is said of one of the requests."""

    __slots__ = ("_answers", "_index")

    def __init__(self, answers: Answers, index: int) -> None:
        self._answers = answers
        self._index = index

    def on_token(self, token: Token) -> None:
        self._answers._put((self._index, token))

    def on_end(self, answer: Answer | None, error: Exception | None) -> None:
        self._answers._put((self._index, Ended(answer, error)))
