"""Ingle's engine as a model of lm-evaluation-harness, registered there as "ingle".

    python -m ingle.evaluate.adapter --model ingle --model_args path=model.gguf --tasks arc_easy

is `lm_eval` with our model added: lm_eval finds models only where their module has been imported. How text becomes
token ids, what an empty context is, and what an answer's text is are what lm_eval's own HFLM does with the same
checkpoint; the computing is `evaluate.likelihood` and `evaluate.batch`. This module needs the extra `ingle[eval]`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.models.utils import normalize_gen_kwargs, postprocess_generated_text

from ingle.backends.base import KVType
from ingle.engine.model import Model, load
from ingle.errors import ContextError, TemplateError, UsageError
from ingle.evaluate.batch import evaluate_slots, generate
from ingle.evaluate.likelihood import rolling, score

__all__ = ["IngleLM"]

Instance: TypeAlias = Any  # lm_eval.api.instance.Instance
EncodedRequest: TypeAlias = tuple[tuple[str, str] | None, list[int], list[int]]

MAX_NEW_TOKENS = 256  # of an answer, where a task does not say; as in HFLM


@register_model("ingle")
class IngleLM(TemplateLM):  # type: ignore[misc]
    """A model for lm-evaluation-harness. on_progress(done, total): told about the requests of one kind of a task."""

    def __init__(
        self,
        path: str | None = None,
        *,
        model: Model | None = None,
        pretrained: str | None = None,
        context: int | None = None,
        threads: int | None = None,
        n_slots: int | None = None,
        backend: str = "native",
        kv_type: KVType = "f16",
        add_bos_token: bool | None = None,
        prefix_token_id: int | None = None,
        batch_size: object = None,
        max_batch_size: object = None,
        device: object = None,
    ) -> None:
        """A loaded `model`, or what `ingle.load` loads; None and None = the bundled one.

        pretrained: another name of `path`, so that command lines for other models need little change. add_bos_token,
        prefix_token_id: as for HFLM; None = what the model's file says. batch_size, max_batch_size, device: taken
        because lm_eval gives them to every model; our batches follow from the cache. Raises what `load` raises.
        """
        super().__init__()
        if model is None:
            file = path or pretrained
            n_slots = n_slots or evaluate_slots(file, context=context, backend=backend, kv_type=kv_type)
            model = load(file, context=context, threads=threads, n_slots=n_slots, backend=backend, kv_type=kv_type)
        self.model = model
        self.on_progress: Callable[[int, int], None] | None = None
        self.n_cut = 0  # prompts that lost their beginning because the context was too small
        self._add_bos = add_bos_token
        tokenizer = model.tokenizer
        self._prefix = next(
            (found for found in (prefix_token_id, tokenizer.bos_id, tokenizer.eos_id) if found is not None), None
        )
        self._prefix_text = None if self._prefix is None else tokenizer.decode([self._prefix])

    @property
    def max_length(self) -> int:
        """Positions of the context."""
        return self.model.context

    @property
    def eot_token_id(self) -> int | None:
        """The token that ends a text."""
        return self.model.tokenizer.eos_id

    @property
    def prefix_token_id(self) -> int:
        """What a text without a context is predicted after: the beginning of a text, else the end of one."""
        if self._prefix is None:
            raise UsageError("The model has no token that begins or ends a text; give one as prefix_token_id.")
        return self._prefix

    @property
    def tokenizer_name(self) -> str:
        """For the names of lm_eval's caches of requests."""
        return self.model.name.replace("/", "__")

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: object) -> list[int]:
        """Token ids. Control tokens that are written out in the text are those tokens, as in HFLM.

        add_special_tokens: None = with what the model wants around a text, unless it begins with the prefix token.
        """
        if add_special_tokens is None:
            begun = self._prefix_text is not None and string.startswith(self._prefix_text)
            add_special_tokens = not begun and self._add_bos is not False
        ids = self.model.tokenizer.encode(string, add_special=add_special_tokens, parse_special=True)
        bos = self.model.tokenizer.bos_id
        if self._add_bos and add_special_tokens and bos is not None and ids[:1] != [bos]:
            ids = [bos, *ids]
        return ids

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """A conversation as the model was taught to read it. The last message is left open where no answer is to come.

        A system message that the template refuses is put into the first message of the user.
        """
        if add_generation_prompt or not chat_history:
            return self.model.template.render(chat_history, add_generation_prompt=add_generation_prompt)
        text = self.model.template.render(chat_history, add_generation_prompt=False)
        last = chat_history[-1]["content"].strip()
        if last not in text:
            raise TemplateError("The chat template changes the last message, so no answer can go on in it.")
        return text[: text.rindex(last) + len(last)]

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """The Jinja text of the template, where one is to be used."""
        return self.model.template.source if chat_template else None

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        """Log-probability of each continuation after its context, and whether it is the most likely one."""
        found: list[tuple[float, bool]] = super().loglikelihood(requests, disable_tqdm=True)
        return found

    def _loglikelihood_tokens(self, requests: Sequence[EncodedRequest], **unused: object) -> list[tuple[float, bool]]:
        self.n_cut += sum(len(context) + len(answer) > self.max_length + 1 for _, context, answer in requests)
        pairs = [(context, answer) for _, context, answer in requests]
        answers = [(found.logprob, found.is_greedy) for found in score(self.model, pairs, on_progress=self.on_progress)]
        for (texts, _, _), answer in zip(requests, answers, strict=True):
            self.cache_hook.add_partial("loglikelihood", texts, answer)
        return answers

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = True) -> list[float]:
        """Log-probability of whole texts, in windows of the context."""
        documents = [self.tok_encode(request.args[0]) for request in requests]
        found = rolling(self.model, documents, prefix=self.prefix_token_id, on_progress=self.on_progress)
        for request, likelihood in zip(requests, found, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, likelihood.logprob)
        return [likelihood.logprob for likelihood in found]

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = True) -> list[str]:
        """Greedy answers, each up to its task's first stop string. Raises UsageError where one is to be sampled."""
        groups: dict[str, list[int]] = {}
        for i, request in enumerate(requests):
            groups.setdefault(json.dumps(request.args[1], sort_keys=True), []).append(i)
        texts = [""] * len(requests)
        n_before = 0
        for indices in groups.values():
            contexts = [requests[i].args[0] for i in indices]
            done = self._generate(contexts, requests[indices[0]].args[1], n_before, len(requests))
            for i, text in zip(indices, done, strict=True):
                texts[i] = text
                self.cache_hook.add_partial("generate_until", requests[i].args, text)
            n_before += len(indices)
        return texts

    def _generate(self, contexts: list[str], asked: dict[str, Any], n_before: int, n_total: int) -> list[str]:
        wanted: dict[str, Any] = dict(normalize_gen_kwargs(asked, MAX_NEW_TOKENS))
        if wanted.get("do_sample") or wanted.get("num_beams", 1) != 1:
            raise UsageError("The task wants answers that are sampled or searched for; only greedy ones are made here.")
        until = list(wanted["until"])
        if self.eot_token_id is not None:
            until.append(self.model.tokenizer.token_text(self.eot_token_id))
        n_new = int(wanted["max_gen_toks"])
        room = self.max_length - n_new
        if room < 1:
            raise ContextError(
                f"The task wants answers of up to {n_new} tokens, and the context holds {self.max_length} with the "
                "question; load the model with a larger context."
            )
        prompts = [self.tok_encode(context) for context in contexts]
        self.n_cut += sum(len(prompt) > room for prompt in prompts)
        on_progress = self.on_progress
        answers = generate(
            self.model,
            [prompt[-room:] for prompt in prompts],
            max_tokens=n_new,
            stop=tuple(dict.fromkeys(text for text in until if text)),
            on_progress=None if on_progress is None else lambda done, _: on_progress(n_before + done, n_total),
        )
        decode = self.model.tokenizer.decode
        return [
            str(postprocess_generated_text(decode(answer.token_ids, skip_special=True), until, None))
            for answer in answers
        ]


if __name__ == "__main__":
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()
