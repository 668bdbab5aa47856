"""The bridge from the scheduler's thread to the event loop."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import weakref
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest

from ingle.engine.generate import Answer, Request
from ingle.engine.token import Stats, Token
from ingle.errors import BackendError, BusyError, ClosedError
from ingle.server.answers import MAX_UNREAD, Answers, Ended
from ingle.server.errors import ApiError
from ingle.server.metrics import Metrics, Watch

STATS = Stats(prompt_tokens=1, cached_tokens=0)


class Job:
    def __init__(self) -> None:
        self.stats = STATS
        self.queue_s = 0.0
        self.n_cancelled = 0

    def cancel(self) -> None:
        self.n_cancelled += 1


class Script:
    """Stands for a scheduler: calls `play(listener)` for each request, in a thread of its own."""

    def __init__(self, play: Callable[[Any], None], *, room: int = 100) -> None:
        self.play = play
        self.room = room
        self.jobs: list[Job] = []

    def submit(self, request: Request, listener: Any, *, user: str = "") -> Any:
        if len(self.jobs) == self.room:
            raise BusyError("Too much; come again.", 2.0)
        self.jobs.append(Job())
        threading.Thread(target=self.play, args=(listener,)).start()
        return self.jobs[-1]

    def embed(self, prompts: Any, *, user: str = "") -> Any:
        raise NotImplementedError


def token(index: int) -> Token:
    return Token(f"{index} ", index, 0.0, index, 0.0, STATS)


def tells(n: int, answer: Answer | None = None, error: Exception | None = None) -> Callable[[Any], None]:
    def play(listener: Any) -> None:
        for index in range(n):
            listener.on_token(token(index))
        listener.on_end(answer, error)

    return play


def wait_for(condition: Callable[[], bool]) -> None:
    while not condition():
        time.sleep(0.001)


WHOLE = Answer("", (), "stop")


def answers_of() -> Answers:
    """Some, for which nobody counts."""
    nothing: Any = None
    return Answers(Watch(Metrics(nothing)))


async def read(script: Script, n_requests: int = 1) -> list[tuple[int, int]]:
    """(request, token) of all that comes."""
    found = []
    with answers_of() as answers:
        await asyncio.to_thread(answers.submit, script, [Request([1])] * n_requests, "")
        async for batch in answers.batches():
            found += [(index, one.token_id) for index, one in batch if isinstance(one, Token)]
    return found


def test_every_token_comes_once_and_in_order() -> None:
    found = asyncio.run(read(Script(tells(500, WHOLE)), 3))
    for request in range(3):
        assert [one for index, one in found if index == request] == list(range(500))


def test_what_ends_an_answer_is_raised_and_the_others_are_cancelled() -> None:
    script = Script(tells(3, None, BackendError("It failed.")))
    with pytest.raises(BackendError, match="It failed"):
        asyncio.run(read(script, 2))
    assert all(job.n_cancelled for job in script.jobs)


def test_tokens_that_come_together_with_an_error_are_read_before_it() -> None:
    """The scheduler may be so much faster than the event loop that all of them are there at once."""
    found: list[int] = []

    async def listen() -> None:
        script = Script(tells(3, None, BackendError("It failed.")))
        with answers_of() as answers:
            await asyncio.to_thread(answers.submit, script, [Request([1])], "")
            await asyncio.to_thread(wait_for, lambda: len(answers._events) == 4)
            async for batch in answers.batches():
                found.extend(one.token_id for _, one in batch if isinstance(one, Token))

    with pytest.raises(BackendError, match="It failed"):
        asyncio.run(listen())
    assert found == [0, 1, 2]


def test_an_answer_that_was_cut_off_is_no_whole_one() -> None:
    with pytest.raises(ClosedError):
        asyncio.run(read(Script(tells(3, Answer("", (), None)))))


def test_where_one_is_refused_the_others_are_cancelled() -> None:
    script = Script(lambda listener: None, room=2)
    with pytest.raises(BusyError):
        asyncio.run(read(script, 4))
    assert len(script.jobs) == 2
    assert all(job.n_cancelled for job in script.jobs)


def test_who_leaves_while_requests_are_made_has_them_cancelled() -> None:
    async def leave() -> None:
        answers = answers_of()
        answers.close()
        await asyncio.to_thread(answers.submit, script, [Request([1])], "")

    script = Script(lambda listener: None)
    asyncio.run(leave())
    assert script.jobs[0].n_cancelled == 1


def test_what_nobody_reads_does_not_pile_up() -> None:
    played = threading.Event()

    def play(listener: Any) -> None:
        tells(3 * MAX_UNREAD, WHOLE)(listener)
        played.set()

    async def wait() -> int:
        with answers_of() as answers:
            answers.submit(script, [Request([1])], "")
            await asyncio.to_thread(played.wait, 20)
            n_waiting = len(answers._events)
            with pytest.raises(ApiError):
                async for _ in answers.batches():
                    pass
        return n_waiting

    script = Script(play)
    assert asyncio.run(wait()) <= MAX_UNREAD + 1
    assert script.jobs[0].n_cancelled >= 1


def test_a_loop_that_has_ended_harms_nobody() -> None:
    listeners: list[Any] = []

    async def ask() -> None:
        answers_of().submit(script, [Request([1])], "")
        while not listeners:
            await asyncio.sleep(0.001)

    script = Script(listeners.append)
    asyncio.run(ask())
    listeners[0].on_token(token(0))
    listeners[0].on_end(WHOLE, None)
    assert script.jobs[0].n_cancelled == 1
    kept = weakref.ref(listeners.pop()._answers)
    gc.collect()
    assert kept() is None


def test_the_end_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async def ends() -> int:
        n = 0
        with answers_of() as answers:
            answers.submit(Script(tells(2, WHOLE)), [Request([1])] * 2, "")
            async for batch in answers.batches():
                n += sum(isinstance(event, Ended) for _, event in batch)
        return n

    assert asyncio.run(ends()) == 2


def test_a_long_silence_gives_an_empty_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ingle.server.answers.QUIET_S", 0.01)
    go = threading.Event()

    def play(listener: Any) -> None:
        go.wait(20)
        tells(1, WHOLE)(listener)

    async def first() -> list[Any]:
        with answers_of() as answers:
            answers.submit(Script(play), [Request([1])], "")
            async for batch in answers.batches():
                go.set()
                return batch
        return [None]

    assert asyncio.run(first()) == []


@pytest.mark.parametrize("n_turns", range(6))
def test_who_reads_can_be_stopped_whenever_a_token_comes(n_turns: int) -> None:
    """A reader that is cancelled in the moment of its waking is stopped, too."""

    async def stop() -> None:
        ends = threading.Event()
        listeners: list[Any] = []

        def play(listener: Any) -> None:
            listeners.append(listener)
            ends.wait(20)

        with answers_of() as answers:
            answers.submit(Script(play), [Request([1])], "")

            async def read_all() -> None:
                async for _ in answers.batches():
                    pass

            reader = asyncio.create_task(read_all())
            while not listeners:
                await asyncio.sleep(0.001)
            listeners[0].on_token(token(0))
            for _ in range(n_turns):
                await asyncio.sleep(0)
            reader.cancel()
            done, _ = await asyncio.wait([reader], timeout=2)
            ends.set()
            assert done, "it reads on"
            assert reader.cancelled()

    asyncio.run(stop())


def test_all_that_a_step_tells_wakes_the_loop_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four readers wait; a token for each is told before the loop runs again."""

    async def count() -> tuple[int, list[list[int]]]:
        listeners: list[Any] = []
        loop = asyncio.get_running_loop()
        with ExitStack() as stack:
            several = [stack.enter_context(answers_of()) for _ in range(4)]
            for answers in several:
                answers.submit(Holding(listeners), [Request([1])], "")
            readers = [asyncio.create_task(anext(answers.batches())) for answers in several]
            await asyncio.sleep(0)
            calls = []
            ring = loop.call_soon_threadsafe
            monkeypatch.setattr(loop, "call_soon_threadsafe", lambda *words: (calls.append(words), ring(*words)))
            for index, listener in enumerate(listeners):
                listener.on_token(token(index))
            found = await asyncio.gather(*readers)
        return len(calls), [[one.token_id for _, one in batch] for batch in found]

    assert asyncio.run(count()) == (1, [[0], [1], [2], [3]])


def test_a_late_wake_gives_no_empty_batch() -> None:
    """What rang for a token that had been read already is not a long silence."""

    async def read_two() -> list[int]:
        listeners: list[Any] = []
        with answers_of() as answers:
            answers.submit(Holding(listeners), [Request([1])], "")
            batches = answers.batches()
            listeners[0].on_token(token(0))
            found = [len(await anext(batches))]
            reader = asyncio.create_task(anext(batches))
            for _ in range(3):
                await asyncio.sleep(0)  # now the first one's bell has rung
            assert not reader.done()
            listeners[0].on_token(token(1))
            return [*found, len(await reader)]

    assert asyncio.run(read_two()) == [1, 1]


class Holding(Script):
    """Keeps its listeners, for a test that tells them itself."""

    def __init__(self, listeners: list[Any]) -> None:
        super().__init__(listeners.append)

    def submit(self, request: Request, listener: Any, *, user: str = "") -> Any:
        self.play(listener)
        self.jobs.append(Job())
        return self.jobs[-1]
