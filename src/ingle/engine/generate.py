"""One answer: compute the prompt in chunks, then sample, compute, sample, until something ends it."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from time import perf_counter
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ingle.backends.base import Rows
from ingle.engine.runner import Runner
from ingle.engine.said import Meter, Said, Writer
from ingle.engine.sampling import Sampler, SamplingParams, top_logprobs
from ingle.engine.slots import Slot, Slots
from ingle.engine.token import Answer, Stats, Token
from ingle.errors import ContextError, GrammarError, UsageError
from ingle.models.spec import Spec
from ingle.text import Tokenizer

if TYPE_CHECKING:
    from ingle.text.grammar import Grammar, Matcher

__all__ = ["CHUNK", "Answer", "Generation", "Progress", "Request", "Writer", "chunk_rows"]

CHUNK = 512  # most rows of a prompt that are computed in one call: more make nothing faster
CHUNK_OPERATIONS = 2e12  # about so many multiplications and additions in one call: progress is told between calls
LEAST_CHUNK = 256  # rows, however many that are: computing these takes longer than reading a model from a disk

Progress = Callable[[int, int], None]  # (prompt tokens done, prompt tokens in all)


@dataclass(frozen=True, slots=True)
class Request:
    """What to answer, and when to stop.

    max_tokens: None = as many as the context has room for. stop: strings the answer ends before. ignore_eos: go on
    where the model would end. on_prefill: told after each computed chunk of the prompt; what it raises ends the answer.
    grammar: what the answer must be; cut off by max_tokens it is the beginning of that. None = anything.
    continuation: the answer goes on in the prompt's text, so a space between the two belongs to it.
    exact: the answer is to be the same whatever the cache holds; see `Slots`.
    on_end: called once when the answer has ended or was cut short, before its last token is given.
    n_top: how many of the likeliest tokens to give with each token, see `Token.top`.
    """

    prompt: Sequence[int]
    params: SamplingParams = field(default_factory=SamplingParams)
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False
    on_prefill: Progress | None = None
    grammar: Grammar | None = None
    continuation: bool = True
    exact: bool = False
    on_end: Callable[[Answer], None] | None = None
    n_top: int = 0

    def check(self, spec: Spec, context: int) -> None:
        """Raise UsageError or ContextError for what cannot be answered, before anything is computed."""
        if self.max_tokens is not None and self.max_tokens < 1:
            raise UsageError(f"max_tokens is {self.max_tokens}; expected 1 or more.")
        if isinstance(self.n_top, bool) or not isinstance(self.n_top, int) or not 0 <= self.n_top <= spec.n_vocab:
            raise UsageError(f"n_top is {self.n_top!r}; expected a whole number from 0 to {spec.n_vocab}.")
        if not all(self.stop):
            raise UsageError("A stop string is empty; expected at least one character.")
        if self.grammar is not None and self.ignore_eos:
            raise UsageError("ignore_eos goes on after the end, where a grammar allows nothing; give one of them.")
        if not self.prompt:
            raise UsageError("The prompt is empty and the model has no token to begin a text with; give some text.")
        if not 0 <= min(self.prompt) <= max(self.prompt) < spec.n_vocab:
            raise UsageError(
                f"The prompt has tokens from {min(self.prompt)} to {max(self.prompt)}; this model's are 0 to "
                f"{spec.n_vocab - 1}."
            )
        biased = self.params.logit_bias
        if biased and max(biased) >= spec.n_vocab:
            raise UsageError(f"logit_bias has token {max(biased)}; this model's are 0 to {spec.n_vocab - 1}.")
        if len(self.prompt) > context:
            room = spec.n_context
            more = f" or use a larger context (this model can have {room})" if context < room else ""
            raise ContextError(
                f"The prompt has {len(self.prompt)} tokens and the context holds {context}; shorten the prompt{more}."
            )


class Generation(Iterator[Token]):
    """An answer being made: an iterator of `Token`s.

    It holds a slot of the KV cache from the first `next` until it ends, is closed, or is dropped. `stats` tells the
    numbers so far, also of an answer that was cut short.
    """

    def __init__(self, runner: Runner, slots: Slots, tokenizer: Tokenizer, request: Request, began: float) -> None:
        """`began`: when the person asked, by `perf_counter`. Raises what `Request.check` and `Grammar.matcher` do."""
        request.check(runner.spec, runner.cache.context)
        grammar = request.grammar
        matcher = None if grammar is None else grammar.matcher(tokenizer, continuation=request.continuation)
        self.prompt_tokens = tuple(request.prompt)
        self.params = request.params.with_seed()
        self._meter = Meter(Stats(prompt_tokens=len(request.prompt), cached_tokens=0), began)
        # A function and not a method: without a cycle, dropping the Generation closes it at once and frees its slot.
        self._tokens = _generate(runner, slots, tokenizer, request, Sampler(self.params), matcher, self._meter)

    @property
    def stats(self) -> Stats:
        """The numbers so far."""
        return self._meter.stats

    @property
    def ended(self) -> bool:
        """Whether no more tokens will come."""
        return self._meter.ended

    def __next__(self) -> Token:
        return next(self._tokens)

    def cancel(self) -> None:
        """End the answer before its next token or chunk of prompt; may be called from any thread."""
        self._meter.cancelled = True

    def close(self) -> None:
        """End the answer now. What it computed stays in the cache for the next prompt with the same beginning."""
        self._tokens.close()
        self._meter.ended = True  # also where it was never begun

    def __enter__(self) -> Generation:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _generate(
    runner: Runner,
    slots: Slots,
    tokenizer: Tokenizer,
    request: Request,
    sampler: Sampler,
    matcher: Matcher | None,
    meter: Meter,
) -> Generator[Token, None, None]:
    said = Said(tokenizer, request, runner.cache.context)
    last = None
    problem = ""
    try:
        with slots.lend(request.prompt, "exact" if request.exact else "all") as slot:
            for token in _decode(runner, slot, slots.chunk, tokenizer, request, sampler, matcher, meter, said):
                if token.finish_reason is not None:
                    last = token
                    break  # the last token is given when the slot is free again: nobody has to ask for more
                yield token
    except GrammarError as error:
        problem = str(error)
        raise
    finally:
        meter.ended = True
        if request.on_end is not None:
            request.on_end(said.answer(problem))
    if last is not None:
        yield last


def _decode(
    runner: Runner,
    slot: Slot,
    chunk: int,
    tokenizer: Tokenizer,
    request: Request,
    sampler: Sampler,
    matcher: Matcher | None,
    meter: Meter,
    said: Said,
) -> Iterator[Token]:
    """The tokens of an answer, computed in a slot that holds a prefix of the prompt."""
    n_vocab = min(runner.spec.n_vocab, tokenizer.n_vocab)  # some matrices are padded with rows that are no tokens
    meter.stats = replace(meter.stats, cached_tokens=len(slot.tokens))
    # The prompt and its answer, as far as it is known. What a step computes are views of it: arrays made for each step
    # would take 20 us, with caches that the weights have just gone through.
    n_known = len(request.prompt)
    sequence = np.zeros(n_known + said.n_max, np.int32)
    sequence[:n_known] = request.prompt
    rows = Rows.of_slot(slot.index, 0, sequence)
    resumed = perf_counter()
    logits = _prefill(runner, slot, chunk, request, rows, meter)
    if logits is None:
        return
    took_s = perf_counter() - resumed
    for index in range(said.n_max):
        row = logits[0, :n_vocab]
        allowed = None if matcher is None else matcher.mask()[:n_vocab]
        sample = sampler.sample(row, sequence[:n_known], allowed)
        if matcher is not None:
            matcher.advance(sample.token_id)
        sequence[n_known] = sample.token_id
        n_known += 1
        text = said.say(sample.token_id)
        reason = said.finish_reason
        now = perf_counter()
        if index:
            took_s = now - resumed
        stats = meter.count(took_s, now, is_last=reason is not None)
        top = top_logprobs(row, request.n_top) if request.n_top else ()
        yield Token(text, sample.token_id, sample.logprob, index, now - meter.began, stats, reason, top)
        if reason is not None or meter.cancelled:
            return
        resumed = perf_counter()
        logits = runner.forward(rows.part(n_known - 1, n_known), [0])
        slot.tokens.append(sample.token_id)


def chunk_rows(spec: Spec) -> int:
    """Rows of a prompt to compute in one call: by the model alone, so that every machine makes the same calls."""
    heads = 2 * (spec.n_heads + spec.n_kv_heads) * spec.head_dim
    n_ff = spec.experts.n_used * spec.experts.n_ff if spec.experts else spec.n_ff
    weights = spec.n_passes * spec.n_embd * (heads + (3 if spec.gated else 2) * n_ff)
    return min(CHUNK, max(LEAST_CHUNK, int(CHUNK_OPERATIONS / (2 * weights)) // 64 * 64))


def _prefill(
    runner: Runner, slot: Slot, chunk: int, request: Request, rows: Rows, meter: Meter
) -> NDArray[np.float32] | None:
    """Compute what the slot does not hold of the prompt: its last logits [1, V], or None when it was cancelled."""
    prompt = request.prompt
    logits = None
    for start in range(len(slot.tokens), len(prompt), chunk):
        if meter.cancelled:
            return None
        tokens = list(prompt[start : start + chunk])
        end = start + len(tokens)
        wanted = [len(tokens) - 1] if end == len(prompt) else []
        logits = runner.forward(rows.part(start, end), wanted)
        slot.tokens.extend(tokens)  # after the call: what was interrupted does not count as computed
        if start == slot.n_exact and len(tokens) == chunk:
            slot.n_exact = end
        if request.on_prefill is not None:
            request.on_prefill(end, len(prompt))
    return logits
