"""Greedy answers to many prompts together, and how many slots a model should have for that."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from os import PathLike

import numpy as np
from numpy.typing import NDArray

from ingle.backends.base import KVType, Rows
from ingle.backends.machine import available_bytes
from ingle.engine.generate import Answer, Request, Writer
from ingle.engine.model import DEFAULT_CONTEXT, Model, bundled_model, context_of, weights_bytes
from ingle.engine.sampling import NOT_ALLOWED, NOT_FINITE
from ingle.engine.token import FinishReason
from ingle.errors import BackendError, GrammarError, UsageError
from ingle.evaluate.packing import Packing, Place, Sequences, Stretch
from ingle.models.checkpoint import open_checkpoint
from ingle.text import metadata_from_hf
from ingle.text.grammar import Grammar, Matcher
from ingle.text.trie import trie_of

__all__ = ["evaluate_slots", "generate"]

Progress = Callable[[int, int], None]  # (done, total)

MAX_SLOTS = 32  # more make no call faster, once each has some hundred rows


def evaluate_slots(
    path: str | PathLike[str] | None = None,
    *,
    context: int | None = None,
    backend: str = "native",
    kv_type: KVType = "f16",
) -> int:
    """How many slots to `load` a model with to evaluate it: 1 to 32, as many as half of the free memory holds.

    The arguments are those of `load`, and so are the errors of a file that cannot be used. Reads headers only.
    """
    path = bundled_model() if path is None else path
    checkpoint = open_checkpoint(path, context or DEFAULT_CONTEXT, metadata_from_hf)
    try:
        a_slot = checkpoint.spec.kv_bytes_per_token(kv_type) * context_of(checkpoint, context)
        free = available_bytes()
        if free is None:
            return MAX_SLOTS // 4
        room = (free - weights_bytes(checkpoint, backend)) // 2
        return max(1, min(MAX_SLOTS, room // a_slot))
    finally:
        checkpoint.source.close()


def generate(
    model: Model,
    prompts: Sequence[Sequence[int]],
    *,
    max_tokens: int | None,
    stop: Sequence[str] = (),
    grammars: Sequence[Grammar | None] | None = None,
    continuation: bool | None = None,
    on_progress: Progress | None = None,
) -> list[Answer]:
    """The most likely answer to each prompt, token by token, in the prompts' order.

    Each call computes one step of every answer in the making and as much of waiting prompts as there is room for; an
    answer that has ended makes way for the next prompt. The tokens are those of `model.generate(prompt, temperature=0)`
    but where two are equally likely within float rounding: what stands with which in one call may change that.

    max_tokens: of each answer; None = as the context has room for. stop: strings that an answer ends before.
    grammars: what each answer must be, None = anything. Tokens that a grammar leaves no choice in are not asked of the
    model, and computed together. Where a grammar turns out to be too complex to follow, its answer alone is cut short:
    it has a `problem` and no finish_reason.
    continuation: whether an answer's first space belongs to it (False for a chat's prompts); None = as `model.generate`
    decides: where the prompt has any text. `on_progress(done, total)` is told after each call; what it raises ends all.
    Raises UsageError and ContextError for prompts that cannot be answered and GrammarError for a model without an end
    token, before anything is computed; BackendError while the model answers something else.
    """
    if grammars is not None and len(grammars) != len(prompts):
        raise UsageError(f"There are {len(grammars)} grammars for {len(prompts)} prompts; expected one for each.")
    tokenizer = model.tokenizer
    requests = []
    for prompt, grammar in zip(prompts, grammars or [None] * len(prompts), strict=True):
        has_text = any(not tokenizer.is_control(token_id) for token_id in prompt)
        continues = has_text if continuation is None else continuation
        request = Request(prompt, max_tokens=max_tokens, stop=tuple(stop), grammar=grammar, continuation=continues)
        request.check(model.spec, model.context)
        requests.append(request)
    if any(grammar is not None for grammar in grammars or ()):
        trie_of(tokenizer)  # what is wrong with the model is wrong for all

    sequences = Sequences([np.asarray(prompt, np.int32) for prompt in prompts])
    answers: dict[int, Answer] = {}
    with model.exclusive() as runner:
        n_vocab = min(runner.spec.n_vocab, tokenizer.n_vocab)  # some matrices are padded with rows that are no tokens
        # A prompt's last row is always computed: it is asked for the first token.
        packing = Packing(runner, sequences, (Stretch(i, i + 1, n - 1) for i, n in enumerate(sequences.lengths)))
        making: dict[int, _Answering] = {}  # by slot
        while not packing.done:
            for place in packing.fill():
                making[place.slot] = _Answering(model, requests[sequences.order[place.of]], n_vocab)
            parts, asking = _step(packing, making)
            wanted = np.cumsum([len(part) for part in parts]) - 1
            logits = runner.forward(Rows.join(parts), wanted[: len(asking)])[:, :n_vocab]
            for place, row, token_id in zip(asking, logits, _most_likely(logits), strict=True):
                answer = making[place.slot]
                answer.say(token_id, row)
                if answer.ended:
                    answers[sequences.order[place.of]] = answer.done()
                    place.stretch = None
                    del making[place.slot]
            if on_progress is not None:
                on_progress(len(answers), len(prompts))
    return [answers[i] for i in range(len(prompts))]


def _step(packing: Packing, making: dict[int, _Answering]) -> tuple[list[Rows], list[Place]]:
    """The rows of one call, for each place; and the places, in the same order and first, whose last row is asked."""
    parts, asking, unasked = [], [], []
    n_rows = 0
    for place in packing.busy():
        answer = making[place.slot]
        if answer.ahead:
            parts.append(Rows.of_slot(place.slot, answer.n_computed, answer.ahead))
            asking.append(place)
            n_rows += len(answer.ahead)
            answer.n_computed += len(answer.ahead)
            answer.ahead = []
    for place, ids in packing.parts(max(1, packing.chunk - n_rows)):
        answer = making[place.slot]
        start = place.n
        place.n += len(ids)
        if place.n < packing.sequences.lengths[place.of]:
            unasked.append(Rows.of_slot(place.slot, start, ids))
            continue
        ids = np.append(ids, answer.begin())
        parts.append(Rows.of_slot(place.slot, start, ids))
        asking.append(place)
        answer.n_computed = start + len(ids)
    return [*parts, *unasked], asking


class _Answering:
    """An answer in the making.

    ahead: its last tokens, which are not computed yet. n_computed: positions of prompt and answer that are.
    """

    def __init__(self, model: Model, request: Request, n_vocab: int) -> None:
        tokenizer, grammar = model.tokenizer, request.grammar
        self.ahead: list[int] = []
        self.n_computed = 0
        self._finish_reason: FinishReason | None = None
        self._problem = ""
        self._eog_ids = tokenizer.eog_ids
        self._writer = Writer(tokenizer, request)
        self._texts: list[str] = []
        self._token_ids: list[int] = []
        room = model.context - len(request.prompt) + 1  # the last token is chosen but never computed
        self._n_max = room if request.max_tokens is None else min(room, request.max_tokens)
        self._n_vocab = n_vocab
        self._matcher: Matcher | None = None
        self._mask: NDArray[np.bool_] | None = None
        if grammar is not None:
            with self._until_problem():
                self._matcher = grammar.matcher(tokenizer, continuation=request.continuation)

    @property
    def ended(self) -> bool:
        """Whether nothing more will be said."""
        return self._finish_reason is not None or bool(self._problem)

    def begin(self) -> list[int]:
        """The tokens that the answer must begin with, to be computed together with the end of the prompt."""
        self._follow()
        begun, self.ahead = self.ahead, []
        return [] if self.ended else begun

    def say(self, most_likely: int, logits: NDArray[np.float32]) -> None:
        """The next token, by logits [V] of which `most_likely` is the largest; and those that must follow it."""
        if self.ended:
            return
        if self._mask is not None:
            allowed = np.where(self._mask, logits, -np.inf)
            most_likely = int(allowed.argmax())
            if allowed[most_likely] == -np.inf:
                self._problem = NOT_ALLOWED
                return
        self._write(most_likely)
        self._follow()

    def done(self) -> Answer:
        """What was said."""
        return Answer("".join(self._texts), tuple(self._token_ids), self._finish_reason, self._problem)

    def _follow(self) -> None:
        """Write tokens as long as the grammar leaves no choice, then keep its mask."""
        while self._matcher is not None and not self.ended:
            with self._until_problem():
                self._mask = self._matcher.mask()[: self._n_vocab]
                allowed = np.flatnonzero(self._mask)
                if not len(allowed):
                    raise GrammarError(NOT_ALLOWED)
                must_end = len(allowed) <= len(self._eog_ids) and self._eog_ids.issuperset(allowed.tolist())
                if len(allowed) != 1 and not must_end:
                    return
                self._write(int(allowed[0]))

    def _write(self, token_id: int) -> None:
        ends = token_id in self._eog_ids
        is_last = len(self._token_ids) + 1 == self._n_max
        text, stopped = self._writer.write(token_id, last=ends or is_last)
        self._texts.append(text)
        if not ends:
            self._token_ids.append(token_id)
            self.ahead.append(token_id)
        self._finish_reason = "eos" if ends else "stop" if stopped else "length" if is_last else None
        if self._matcher is not None and self._finish_reason is None:
            with self._until_problem():
                self._matcher.advance(token_id)

    @contextmanager
    def _until_problem(self) -> Iterator[None]:
        """A grammar that cannot be followed any further ends this answer, and no other."""
        try:
            yield
        except GrammarError as error:
            self._problem = str(error)


def _most_likely(logits: NDArray[np.float32]) -> list[int]:
    """The first of the largest in each row of [N, V]. Raises BackendError where that is no finite number."""
    best = logits.argmax(axis=1)
    if not np.isfinite(np.take_along_axis(logits, best[:, None], axis=1)).all():
        raise BackendError(NOT_FINITE)
    return [int(token_id) for token_id in best]
