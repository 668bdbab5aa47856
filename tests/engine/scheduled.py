"""For tests of the scheduler: listeners that keep what they are told, and a script that can be held up."""

from __future__ import annotations

from collections.abc import Callable
from threading import Event

from ingle.engine.generate import Answer
from ingle.engine.token import Token
from ingle.errors import IngleError

WAIT_S = 30.0  # more than any test takes; what waits for ever fails


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
