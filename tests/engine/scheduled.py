"""For tests of the scheduler: listeners that keep what they are told, and a script that can be held up."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event

import numpy as np

import toys
from ingle.engine.generate import Answer, Request
from ingle.engine.model import Model
from ingle.engine.sampling import SamplingParams
from ingle.engine.scheduler import Scheduler
from ingle.engine.token import Token
from ingle.errors import IngleError

WAIT_S = 30.0  # more than any test takes; what waits for ever fails
N_VOCAB = len(toys.vocabulary())
END = N_VOCAB - 1
SCRIPT = toys.hashed(256)  # never an end token
LONG = [int(token) for token in np.random.default_rng(1).integers(0, 256, 200)]
GREEDY = SamplingParams(temperature=0.0)


class Kept:
    """A listener that keeps all."""

    def __init__(self) -> None:
        self.tokens: list[Token] = []
        self.ends: list[tuple[Answer | None, IngleError | None]] = []
        self._ended = Event()

    def on_token(self, token: Token) -> None:
        assert not self.ends, "a token came after the end"
        self.tokens.append(token)

    def on_end(self, answer: Answer | None, error: IngleError | None) -> None:
        self.ends.append((answer, error))
        self._ended.set()

    def wait(self) -> Kept:
        """Until the end."""
        assert self._ended.wait(WAIT_S), "the answer did not end"
        return self

    @property
    def ids(self) -> list[int]:
        return [token.token_id for token in self.tokens]

    @property
    def text(self) -> str:
        return "".join(token.text for token in self.tokens)

    @property
    def answer(self) -> Answer | None:
        return self.wait().ends[0][0]

    @property
    def error(self) -> IngleError | None:
        return self.wait().ends[0][1]


class Gate:
    """A script that waits at its first call until it is let through: what was submitted meanwhile is there together."""

    def __init__(self, script: Callable[[list[int]], int]) -> None:
        self._script = script
        self.reached = Event()
        self.open = Event()

    def __call__(self, tokens: list[int]) -> int:
        self.reached.set()
        assert self.open.wait(WAIT_S)
        return self._script(tokens)


def expected(prompt: list[int], n: int) -> list[int]:
    tokens = list(prompt)
    for _ in range(n):
        tokens.append(SCRIPT(tokens))
    return tokens[len(prompt) :]


def greedy(prompt: list[int], max_tokens: int = 5, **options: object) -> Request:
    return Request(prompt, GREEDY, max_tokens=max_tokens, **options)  # type: ignore[arg-type]


@contextmanager
def serving(
    toy: Path, script: Callable[[list[int]], int] = SCRIPT, n_slots: int = 2, **options: int
) -> Iterator[tuple[Scheduler, toys.ScriptedBackend, Model]]:
    model, backend = toys.scripted_model(toy, script, n_slots=n_slots)
    scheduler = Scheduler(model, **options)
    try:
        yield scheduler, backend, model
    finally:
        if isinstance(script, Gate):
            script.open.set()
        scheduler.close()
        _, slots = model._open_parts()
        assert slots.n_free == n_slots, "a slot was not given back"
        assert not any("ingle" in thread.name for thread in threading.enumerate())


@contextmanager
def held(toy: Path, n_slots: int = 2, **options: int) -> Iterator[tuple[Scheduler, toys.ScriptedBackend, Gate, Kept]]:
    """A scheduler that has a first answer in its slots, and computes nothing more until the gate opens."""
    gate = Gate(SCRIPT)
    with serving(toy, gate, n_slots, **options) as (scheduler, backend, _):
        first = Kept()
        scheduler.submit(greedy([250, 251], 3), first)
        assert gate.reached.wait(WAIT_S)
        yield scheduler, backend, gate, first
