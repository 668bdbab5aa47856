"""One sequence on its way through the steps of a `Scheduler`: what of it is to be computed, and what is told of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from time import perf_counter
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from ingle.engine.generate import Request
from ingle.engine.said import Meter, Said
from ingle.engine.sampling import Sampler, top_logprobs
from ingle.engine.slots import Reuse, Slot
from ingle.engine.token import Answer, Stats, Token
from ingle.errors import GrammarError, IngleError

if TYPE_CHECKING:
    from ingle.engine.model import Model
    from ingle.text.grammar import Matcher

__all__ = ["AnswerSequence", "Job", "Listener", "RunningSequence"]


class Listener(Protocol):
    """Who is told of an answer. Called in the scheduler's thread, where everybody else waits: must return at once."""

    def on_token(self, token: Token) -> None: ...

    def on_end(self, answer: Answer | None, error: IngleError | None) -> None:
        """Called exactly once, last. answer: as far as it came; None where it was never begun. error: what ended it."""
        ...


class Job:
    """An answer that was asked for.

    prompt_tokens: how many. seed: what its tokens are drawn with. stats: the numbers so far. queue_s: how long it
    waited for a slot; None while it does.
    """

    def __init__(self, prompt_tokens: int, seed: int, wake: Callable[[], None]) -> None:
        self.prompt_tokens = prompt_tokens
        self.seed = seed
        self.queue_s: float | None = None
        self._meter = Meter(Stats(prompt_tokens, cached_tokens=0), perf_counter())
        self._wake = wake

    @property
    def stats(self) -> Stats:
        """The numbers so far."""
        return self._meter.stats

    def cancel(self) -> None:
        """End the answer: it gets no token after the step that is being computed. May be called from any thread."""
        self._meter.cancelled = True
        self._wake()


class RunningSequence(ABC):
    """Tokens of which some are in a slot of the cache, and the others are to be computed.

    prompt: what it begins with. tokens: int32, prompt and what is known to follow; `n_known` of them are set.
    reuse: what of the cache it may begin with. counts: whether it is a request of its own, and not a part of one.
    """

    def __init__(self, prompt: Sequence[int], room: int, user: str, reuse: Reuse, counts: bool = True) -> None:
        """room: how many tokens may follow the prompt."""
        self.prompt = list(prompt)
        self.tokens = np.zeros(len(prompt) + room, np.int32)
        self.tokens[: len(prompt)] = self.prompt
        self.n_known = len(prompt)
        self.user = user
        self.reuse = reuse
        self.counts = counts
        self._slot: Slot | None = None

    @property
    def slot(self) -> Slot:
        """Its place in the cache, from `begin` on."""
        assert self._slot is not None
        return self._slot

    @property
    def n_computed(self) -> int:
        """Positions that are in the cache."""
        return len(self.slot.tokens)

    @property
    def n_due(self) -> int:
        """Tokens that are known and not computed."""
        return self.n_known - self.n_computed

    @property
    def in_prompt(self) -> bool:
        """Whether some of the prompt is not computed."""
        return self.n_computed < len(self.prompt)

    @property
    @abstractmethod
    def first_asked(self) -> int:
        """The first position whose logits are asked for, as those of all later ones are."""

    @property
    @abstractmethod
    def cancelled(self) -> bool:
        """Whether nobody waits for it any more."""

    @property
    @abstractmethod
    def ended(self) -> bool:
        """Whether all was told."""

    def begin(self, slot: Slot) -> None:
        """It has a slot, which holds a prefix of its prompt."""
        self._slot = slot

    def computed(self, stop: int) -> None:
        """Positions up to `stop` are in the cache now. What this raises ends the sequence."""
        self.slot.tokens.extend(self.tokens[self.n_computed : stop].tolist())

    @abstractmethod
    def take(self, logits: NDArray[np.float32]) -> None:
        """Logits [n, V] of the positions asked for, in their order. What this raises ends the sequence."""

    def tell(self) -> None:  # noqa: B027
        """Tell what was taken and not told yet: once all sequences of a step have taken theirs, so that whoever is
        woken by it does not take the processor from the others. What this raises ends the sequence."""

    @abstractmethod
    def end(self, error: IngleError | None) -> None:
        """It is over, with its slot given back: tell so. Called once; error: why, where that is not how it should be.

        What this raises is nobody's but the listener's.
        """


class AnswerSequence(RunningSequence):
    """An answer in the making: `Token`s to a listener."""

    def __init__(self, model: Model, request: Request, listener: Listener, user: str, wake: Callable[[], None]) -> None:
        """Raises what `Request.check` and `Grammar.matcher` raise."""
        request.check(model.spec, model.context)
        tokenizer = model.tokenizer
        self._said = Said(tokenizer, request, model.context)
        super().__init__(request.prompt, self._said.n_max, user, "exact" if request.exact else "all")
        self._n_vocab = min(model.spec.n_vocab, tokenizer.n_vocab)  # some matrices have rows that are no tokens
        self._request = request
        self._listener = listener
        params = request.params.with_seed()
        assert params.seed is not None
        self._sampler = Sampler(params)
        self.grammar: _Follower | None = None
        if request.grammar is not None:
            matcher = request.grammar.matcher(tokenizer, continuation=request.continuation)
            self.grammar = _Follower(matcher, self._n_vocab)
        self.job = Job(len(self.prompt), params.seed, wake)
        self._meter = self.job._meter
        self._resumed = 0.0  # when its prompt was begun, or its last token was there
        self._untold: Token | None = None

    @property
    def first_asked(self) -> int:
        return len(self.prompt) - 1

    @property
    def cancelled(self) -> bool:
        return self._meter.cancelled

    @property
    def ended(self) -> bool:
        return self._said.finish_reason is not None

    @property
    def n_said(self) -> int:
        """Tokens so far, the one that ended the answer included."""
        return self._said.n_tokens

    def begin(self, slot: Slot) -> None:
        super().begin(slot)
        self._resumed = perf_counter()
        self.job.queue_s = self._resumed - self._meter.began
        self._meter.stats = replace(self._meter.stats, cached_tokens=self.n_computed)
        if self.grammar is not None:
            self._force(self.grammar)

    def computed(self, stop: int) -> None:
        start, n_prompt = self.n_computed, len(self.prompt)
        super().computed(stop)
        if start < n_prompt and self._request.on_prefill is not None:
            self._request.on_prefill(min(stop, n_prompt), n_prompt)

    def take(self, logits: NDArray[np.float32]) -> None:
        for row in logits[:, : self._n_vocab]:
            self.tell()
            if self.ended or self.cancelled:
                return
            self._say(row)

    def tell(self) -> None:
        token, self._untold = self._untold, None
        if token is not None and not self.cancelled:
            self._listener.on_token(token)

    def end(self, error: IngleError | None) -> None:
        answer = None
        if self._slot is not None:
            answer = self._said.answer(problem=str(error) if isinstance(error, GrammarError) else "")
        try:
            if answer is not None and self._request.on_end is not None:
                self._request.on_end(answer)
        finally:
            self._listener.on_end(answer, error)

    def _say(self, logits: NDArray[np.float32]) -> None:
        """The next token, by the logits [V] in the place before it."""
        index = self.n_said
        place = len(self.prompt) + index
        if place < self.n_known:
            sample = self._sampler.forced(logits, int(self.tokens[place]))
        else:
            allowed = None if self.grammar is None else self.grammar.mask()
            sample = self._sampler.sample(logits, self.tokens[:place], allowed)
            self.tokens[place] = sample.token_id
            self.n_known = place + 1
            if self.grammar is not None:
                self.grammar.advance(sample.token_id)
        text = self._said.say(sample.token_id)
        reason = self._said.finish_reason
        if self.grammar is not None and reason is None and self.n_known == place + 1:
            self._force(self.grammar)
        now = perf_counter()
        stats = self._meter.count(now - self._resumed, now, is_last=reason is not None)
        self._resumed = now
        top = top_logprobs(logits, self._request.n_top) if self._request.n_top else ()
        since = now - self._meter.began
        self._untold = Token(text, sample.token_id, sample.logprob, index, since, stats, reason, top)

    def _force(self, grammar: _Follower) -> None:
        """What the grammar leaves no choice in is known now, and computed in one step. The last token is always drawn:
        it has no place in the cache."""
        for token_id in grammar.forced(len(self.tokens) - 1 - self.n_known):
            self.tokens[self.n_known] = token_id
            self.n_known += 1


class _Follower:
    """Where an answer stands in its grammar. Its next mask is found beside the model's computing, in another thread.

    Only one of the two threads has it at a time: `find_mask` is called between a step's begin and its end.
    """

    def __init__(self, matcher: Matcher, n_vocab: int) -> None:
        self._matcher = matcher
        self._n_vocab = n_vocab
        self._mask: NDArray[np.bool_] | None = None
        self._error: Exception | None = None

    @property
    def is_due(self) -> bool:
        """Whether the next mask has not been found."""
        return self._mask is None and self._error is None

    def find_mask(self) -> None:
        """Find the next mask. An error is kept for who asks for it."""
        try:
            self._mask = self._matcher.mask()[: self._n_vocab]
        except Exception as error:
            self._error = error

    def mask(self) -> NDArray[np.bool_]:
        """Which tokens may come next: bool [V]."""
        if self.is_due:
            self.find_mask()
        if self._error is not None:
            raise self._error
        assert self._mask is not None
        return self._mask

    def advance(self, token_id: int) -> None:
        """The next token is this."""
        self._mask = None
        self._matcher.advance(token_id)

    def forced(self, most: int) -> list[int]:
        """The tokens that must follow, at most so many; they count as said."""
        ids = self._matcher.forced()[: max(0, most)]
        for token_id in ids:
            self.advance(token_id)
        return ids
