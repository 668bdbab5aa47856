"""An answer while it is made: its text, its tokens, its numbers, and whether it has ended."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ingle.engine.memory import peak_bytes
from ingle.engine.token import Answer, FinishReason, Stats
from ingle.text import StopScanner, TextStream, Tokenizer

if TYPE_CHECKING:
    from ingle.engine.generate import Request

__all__ = ["Meter", "Said", "Writer"]


class Writer:
    """Token ids to the text that people see: whole characters, and nothing of a stop string."""

    def __init__(self, tokenizer: Tokenizer, request: Request) -> None:
        self._tokenizer = tokenizer
        self._eog_ids = tokenizer.eog_ids
        self._stream = TextStream(tokenizer, continuation=request.continuation)
        self._scanner = StopScanner(request.stop)

    def write(self, token_id: int, last: bool) -> tuple[str, bool]:
        """The text that is now certain (with `last`: all that is left), and whether a stop string was found."""
        text = "" if token_id in self._eog_ids else self._stream.push(token_id)
        if last:
            text += self._stream.finish()
        text, stopped = self._scanner.push(text)
        # No stop string reaches across a control token, and text before it comes with it: a call may begin there.
        if (last or self._tokenizer.is_control(token_id)) and not stopped:
            text += self._scanner.finish()
        return text, stopped


class Said:
    """What was said so far. n_max: how many tokens there can be; n_tokens: how many there are, the end's included."""

    def __init__(self, tokenizer: Tokenizer, request: Request, context: int) -> None:
        """context: positions for the prompt and its answer."""
        room = context - len(request.prompt) + 1  # the last token is sampled but never computed
        self.n_max = room if request.max_tokens is None else min(room, request.max_tokens)
        self.n_tokens = 0
        self.finish_reason: FinishReason | None = None
        self._eog_ids = frozenset() if request.ignore_eos else tokenizer.eog_ids
        self._writer = Writer(tokenizer, request)
        self._texts: list[str] = []
        self._token_ids: list[int] = []

    def say(self, token_id: int) -> str:
        """The next token; gives the text that it makes certain. `finish_reason` tells whether it is the last."""
        self.n_tokens += 1
        is_last = self.n_tokens == self.n_max
        ends = token_id in self._eog_ids
        text, stopped = self._writer.write(token_id, last=ends or is_last)
        self.finish_reason = "eos" if ends else "stop" if stopped else "length" if is_last else None
        self._texts.append(text)
        if not ends:
            self._token_ids.append(token_id)
        return text

    def answer(self, problem: str = "") -> Answer:
        """All of it. problem: why its grammar cut it short."""
        return Answer("".join(self._texts), tuple(self._token_ids), self.finish_reason, problem)


@dataclass(slots=True)
class Meter:
    """The numbers of an answer. began: when the person asked, by `perf_counter`."""

    stats: Stats
    began: float
    cancelled: bool = False
    ended: bool = False

    def count(self, took_s: float, now: float, is_last: bool) -> Stats:
        """There is a token at `now`. took_s: seconds for the prompt where it is the first, for the token where not."""
        before = self.stats
        first = before.n_tokens == 0
        self.stats = Stats(
            before.prompt_tokens,
            before.cached_tokens,
            n_tokens=before.n_tokens + 1,
            prefill_s=took_s if first else before.prefill_s,
            ttft_s=now - self.began if first else before.ttft_s,
            decode_s=0.0 if first else before.decode_s + took_s,
            peak_memory_bytes=peak_bytes() if first or is_last else before.peak_memory_bytes,  # reading takes 20 us
        )
        return self.stats
