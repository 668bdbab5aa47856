"""A conversation: what was said, and a prompt that continues exactly the tokens in the cache."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Unpack

from ingle.engine.generate import Answer, Generation
from ingle.engine.slots import common_prefix
from ingle.errors import UsageError
from ingle.text.tools import Tool

if TYPE_CHECKING:
    from ingle.engine.model import Model, Options

__all__ = ["Chat", "Message"]

Message = dict[str, str]  # {"role": "system" | "user" | "assistant", "content": ...}


class Chat:
    """A conversation with a model, by the model's chat template.

    Tools are told to the model by its template, or in the system message where that knows none. Its calls are a part of
    its answers: `find_calls` finds them there, and `Grammar.tool_calls` as the option `grammar` holds them to the
    tools' schemas.

    Each turn computes only what is new: the cache is continued with the answer's tokens exactly as they were sampled,
    where a template writes earlier answers as they were. An answer that is cut short stays in the history as far as it
    came; if nothing came, the question is not in it either.
    """

    def __init__(
        self,
        model: Model,
        system: str | None = None,
        *,
        tools: Sequence[Tool] | None = None,
        **options: Unpack[Options],
    ) -> None:
        """`options` hold for every answer. A seed is stepped by one each turn, so that turns differ and repeat."""
        self.model = model
        self.system = system
        self.tools = tuple(tools or ())
        self.options = options
        self._turns: list[Message] = []
        self._said: _Said | None = None
        self._answering: weakref.ref[Generation] | None = None
        self._n_sent = 0

    @property
    def history(self) -> list[Message]:
        """The messages so far, the system's first: a copy."""
        system = [] if self.system is None else [{"role": "system", "content": self.system}]
        return [*system, *(dict(message) for message in self._turns)]

    def send(self, text: str, **options: Unpack[Options]) -> Generation:
        """Answer a message. The history has both when the answer has ended, or was closed or dropped.

        `options` override those of the conversation. Raises TemplateError where the template refuses the conversation,
        and what `Model.generate` raises; the history is then as it was.
        """
        return self._answer([*self._turns, {"role": "user", "content": text}], options)

    def retry(self, **options: Unpack[Options]) -> Generation:
        """Answer the last message once more; the new answer takes the place of the old one."""
        if not self._turns:
            raise UsageError("There is no answer to try again yet; send a message first.")
        return self._answer(self._turns[:-1], options)

    def reset(self) -> None:
        """Forget everything but the system message."""
        self._check_idle()
        self._turns = []
        self._said = None

    def _check_idle(self) -> None:
        answering = self._answering() if self._answering is not None else None
        if answering is not None and not answering.ended:
            raise UsageError("The last answer has not ended; read it to its end, or close() it.")

    def _answer(self, turns: list[Message], options: Options) -> Generation:
        began = perf_counter()
        self._check_idle()
        model = self.model
        merged: Options = {**self.options, **options}
        seed = merged.get("seed")
        if seed is not None:
            merged["seed"] = (seed + self._n_sent) % 2**64
        stop = merged.get("stop", ())
        merged["stop"] = [*([stop] if isinstance(stop, str) else stop), *model.template.stops]
        system = [] if self.system is None else [{"role": "system", "content": self.system}]
        encoded = self._encode([*system, *turns])
        prompt = self._as_sampled([*system, *turns], encoded)

        def on_end(answer: Answer) -> None:
            if not answer.token_ids and answer.finish_reason is None:
                return
            self._turns = [*turns, {"role": "assistant", "content": answer.text}]
            # Where a stop string or an interruption cut text off, the tokens say more than the conversation has.
            exact = model.tokenizer.decode(answer.token_ids, skip_special=True) == answer.text
            said = _Said([*system, *self._turns], encoded, prompt, list(answer.token_ids))
            self._said = said if exact else None

        # A first answer with a seed is the same whatever the cache holds; later ones continue what the first began.
        exact = seed is not None and len(turns) == 1
        generation = model._start(prompt, merged, began, exact=exact, on_end=on_end)
        self._answering = weakref.ref(generation)
        self._n_sent += 1
        return generation

    def _encode(self, messages: list[Message]) -> list[int]:
        """The tokens of a conversation, with its tools, up to where the next answer begins."""
        return self.model.template.encode_chat(messages, tools=[tool.as_openai() for tool in self.tools])

    def _as_sampled(self, messages: list[Message], encoded: list[int]) -> list[int]:
        """The tokens of a conversation up to where the next answer begins; `encoded` are those that its text gives.

        Encoding an earlier answer anew seldom gives other tokens than were sampled, but it may. Then the sampled ones
        stand, if the template writes the rest of the conversation as before: they are what the model said.
        """
        said = self._said
        if said is None or messages[: len(said.messages)] != said.messages:
            return encoded
        n_prompt = len(said.encoded)
        if encoded[:n_prompt] != said.encoded:
            return encoded
        # What follows the answer is what two conversations have in common that differ in the end of the answer.
        answer = said.messages[-1]["content"]
        other = [dict(message) for message in messages]
        other[len(said.messages) - 1]["content"] = "b" if answer.endswith("a") else "a"
        end = len(encoded) - _common_suffix(encoded, self._encode(other))
        if end < n_prompt or self.model.tokenizer.decode(encoded[n_prompt:end]).strip() != answer.strip():
            return encoded
        return [*said.prompt, *said.answer, *encoded[end:]]


@dataclass(frozen=True, slots=True)
class _Said:
    """The last turn: all messages with its answer, the prompt it answered, and the answer's tokens as sampled.

    encoded: the tokens that the prompt's text gives; `prompt` has earlier answers as they were sampled.
    """

    messages: list[Message]
    encoded: list[int]
    prompt: list[int]
    answer: list[int]


def _common_suffix(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens two sequences end with in common."""
    return common_prefix(a[::-1], b[::-1])
