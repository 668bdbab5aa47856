"""A model to talk to: `load` opens a file, `Model` answers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from os import PathLike
from pathlib import Path
from time import perf_counter
from types import TracebackType
from typing import TYPE_CHECKING, TypedDict, Unpack, get_args

import numpy as np
from numpy.typing import NDArray

from ingle.backends import open_backend
from ingle.backends.base import KVType, Rows
from ingle.engine import memory
from ingle.engine.comm import Alone
from ingle.engine.generate import Answer, Generation, Progress, Request, chunk_rows
from ingle.engine.runner import Runner
from ingle.engine.sampling import SamplingParams
from ingle.engine.slots import Slots
from ingle.engine.weights import Resident, Weights
from ingle.errors import ContextError, UsageError
from ingle.gguf import TensorType
from ingle.models.checkpoint import Checkpoint, open_checkpoint
from ingle.models.memory import footprint
from ingle.models.spec import Spec
from ingle.text import ChatTemplate, Tokenizer, metadata_from_hf

if TYPE_CHECKING:
    from ingle.engine.budget import Limited
    from ingle.engine.chat import Chat
    from ingle.engine.profile import Profile
    from ingle.engine.trace import Trace
    from ingle.engine.window import Window
    from ingle.text.grammar import Grammar
    from ingle.text.tools import Tool

__all__ = ["BUNDLED", "DEFAULT_CONTEXT", "Model", "Options", "bundled_model", "load"]

FLOAT_TYPES = (TensorType.F32, TensorType.F16, TensorType.BF16)
DEFAULT_CONTEXT = 4096  # positions, where the model was made for more
BUNDLED = "data/ingle-tiny.gguf"  # inside the package
MAX_SLOTS = 4
SLOTS_BYTES = 256 << 20  # so much KV cache is taken for several slots without being asked to


class Options(TypedDict, total=False):
    """How to answer: the fields of `SamplingParams`, and when to stop.

    max_tokens: None = until the context is full. stop: strings the answer ends before (one string, or several).
    ignore_eos: go on where the model would end. on_prefill(done, total): told after each computed chunk of the prompt.
    grammar: what the answer must be (JSON by a schema, calls of tools ...); see `ingle.Grammar`. None = anything.
    """

    temperature: float
    top_k: int
    top_p: float
    min_p: float
    repeat_penalty: float
    repeat_last_n: int
    seed: int | None
    frequency_penalty: float
    presence_penalty: float
    logit_bias: Mapping[int, float]
    max_tokens: int | None
    stop: str | Iterable[str]
    ignore_eos: bool
    on_prefill: Progress | None
    grammar: Grammar | None


class Model:
    """A loaded model. Use it as a context manager, or call `close`.

    Any number of answers may be read at the same time, from any threads, as long as there are slots for them; each has
    its own slot, and their computations take turns.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        tokenizer: Tokenizer,
        template: ChatTemplate,
        runner: Runner,
        slots: Slots,
        limited: Limited | None = None,
    ) -> None:
        """Most people want `load`. limited: whose window the runner's weights are."""
        self.tokenizer = tokenizer
        self.template = template
        self.name = checkpoint.source.name
        self.has_template = "tokenizer.chat_template" in checkpoint.source.metadata
        self.metadata = checkpoint.source.metadata
        self._checkpoint = checkpoint
        self._parts: tuple[Runner, Slots] | None = (runner, slots)
        self._limited = limited
        self._spec = runner.spec
        self._context = runner.cache.context
        self._backend_name = runner.backend.name

    @property
    def spec(self) -> Spec:
        """What kind of decoder this is."""
        return self._spec

    @property
    def context(self) -> int:
        """Positions that a prompt and its answer have together."""
        return self._context

    @property
    def backend(self) -> str:
        """The name of what computes."""
        return self._backend_name

    @property
    def weights_bytes(self) -> int:
        """Memory that the weights take, as the backend holds them; with a window, what is held of them."""
        if self.window is not None:
            return self.window.stats().held_bytes
        return self._whole_bytes

    @cached_property
    def _whole_bytes(self) -> int:
        return weights_bytes(self._checkpoint, self.backend)

    @property
    def window(self) -> Window | None:
        """Where the weights come from, for a model that was loaded with `memory`."""
        return None if self._limited is None else self._limited.window

    def limit_memory(self, memory: int) -> None:
        """From the next step on, this process may hold so many bytes, fewer or more than before.

        Raises MemoryLimitError, and changes nothing, where that is too little or the system does not have it;
        UsageError for a model that was loaded without `memory`.
        """
        runner, _ = self._open_parts()
        if self._limited is None:
            raise UsageError(f"The model {self.name} was loaded whole; load it with memory= to change that later.")
        with runner.lock:
            self._limited.fit(memory)

    @property
    def cache_bytes(self) -> int:
        """Memory that the KV cache of all slots takes."""
        return self._open_parts()[0].cache.n_bytes

    @property
    def closed(self) -> bool:
        return self._parts is None

    def _open_parts(self) -> tuple[Runner, Slots]:
        if self._parts is None:
            raise UsageError(f"The model {self.name} is closed; load it again.")
        return self._parts

    def generate(self, prompt: str | Sequence[int], **options: Unpack[Options]) -> Generation:
        """Continue a text (or token ids, taken as they are), without any chat template; see `Options`.

        Gives an iterator of `Token`s; max_tokens is 512 unless said otherwise. What the prompt has in common with an
        earlier one is not computed again; with a seed, only whole chunks of it are used again, so that the answer is
        the same whatever was asked before. Raises UsageError for options that cannot be, ContextError for a prompt that
        the context does not hold, BackendError when every slot is in use.
        """
        began = perf_counter()
        ids = self.tokenizer.encode(prompt) if isinstance(prompt, str) else [int(token_id) for token_id in prompt]
        options = {"max_tokens": 512, **options}
        continuation = any(not self.tokenizer.is_control(token_id) for token_id in ids)
        exact = options.get("seed") is not None
        return self._start(ids, options, began, continuation=continuation, exact=exact)

    def chat(
        self, system: str | None = None, *, tools: Sequence[Tool] | None = None, **options: Unpack[Options]
    ) -> Chat:
        """A conversation, by the model's chat template; `options` hold for every answer. See `Chat`."""
        from ingle.engine.chat import Chat

        self._open_parts()
        return Chat(self, system, tools=tools, **options)

    def _start(
        self,
        prompt: Sequence[int],
        options: Options,
        began: float,
        *,
        continuation: bool = False,
        exact: bool = False,
        on_end: Callable[[Answer], None] | None = None,
    ) -> Generation:
        runner, slots = self._open_parts()
        sampling = dict(options)
        stop = sampling.pop("stop", ())
        request = Request(
            prompt,
            max_tokens=sampling.pop("max_tokens", None),  # type: ignore[arg-type]
            stop=(stop,) if isinstance(stop, str) else tuple(stop),  # type: ignore[arg-type]
            ignore_eos=bool(sampling.pop("ignore_eos", False)),
            on_prefill=sampling.pop("on_prefill", None),  # type: ignore[arg-type]
            grammar=sampling.pop("grammar", None),  # type: ignore[arg-type]
            params=SamplingParams(**sampling),  # type: ignore[arg-type]
            continuation=continuation,
            exact=exact,
            on_end=on_end,
        )
        return Generation(runner, slots, self.tokenizer, request, began)

    def logits(self, token_ids: Sequence[int]) -> NDArray[np.float32]:
        """The logits after each token, float32 [len(token_ids), V]; computed anew, without the cached prefixes."""
        runner, slots = self._open_parts()
        ids = [int(token_id) for token_id in token_ids]
        Request(ids).check(self._spec, self._context)
        parts = []
        with slots.lend(ids, "none") as slot:
            for start in range(0, len(ids), slots.chunk):
                chunk = ids[start : start + slots.chunk]
                parts.append(runner.forward(Rows.of_slot(slot.index, start, chunk), range(len(chunk))))
                slot.tokens.extend(chunk)
        return np.concatenate(parts)

    def score(self, token_ids: Sequence[int]) -> NDArray[np.float64]:
        """The log-probability of each token after the first, given those before: float64 [len(token_ids) - 1]."""
        logits = self.logits(token_ids)[:-1].astype(np.float64)
        logits -= logits.max(axis=1, keepdims=True)
        following = np.asarray(token_ids, dtype=np.intp)[1:, None]
        chosen = np.take_along_axis(logits, following, axis=1)[:, 0]
        logprobs: NDArray[np.float64] = chosen - np.log(np.exp(logits).sum(axis=1))
        return logprobs

    @contextmanager
    def exclusive(self) -> Iterator[Runner]:
        """The runner and every slot of its cache, for who computes many sequences together: see `ingle.evaluate`.

        What the slots held for later prompts is forgotten. Raises BackendError while an answer has not ended.
        """
        runner, slots = self._open_parts()
        with slots.lend_all():
            yield runner

    @contextmanager
    def profiled(self, trace: Trace | None = None) -> Iterator[Profile]:
        """Add up what each kind of block takes, in all that the model computes inside the `with`: see `Profile`.

        trace: gets an event for each block that is computed, and where weights are read meanwhile, for what is read and
        waited for.
        """
        from ingle.engine.profile import Profile, Profiled, threads_of

        runner, _ = self._open_parts()
        with runner.lock:
            backend = runner.backend
            window = self.window
            waited = None if window is None else lambda: window.stats().waited_s
            profile = Profile(threads_of(backend), waited=waited)
            runner.backend = Profiled(backend, profile, trace)
            if window is not None:
                window.trace = trace
        try:
            yield profile
        finally:
            with runner.lock:
                runner.backend = backend
                if window is not None:
                    window.trace = None
                profile.end()

    def close(self) -> None:
        """Let go of the memory; unfinished answers end with an error. A second call does nothing."""
        if self._parts is not None:
            self._parts[0].close()
            self._parts = self._limited = None
            self._checkpoint.close()

    def __enter__(self) -> Model:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def load(
    path: str | PathLike[str] | None = None,
    *,
    context: int | None = None,
    threads: int | None = None,
    backend: str = "native",
    kv_type: KVType = "f16",
    n_slots: int | None = None,
    memory: int | None = None,
    logit_rows: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Model:
    """Load a model into memory, or as much of it as `memory` allows.

    path: a GGUF file (the first part, if it is split), or a Hugging Face directory; None = the model that is bundled.
    context: positions for a prompt and its answer; None = what the model was made for, at most 4096.
    threads: None = as many as compute best here. backend: "native", or "reference" (slow, NumPy, defines right).
    kv_type: how the KV cache keeps numbers: "f32", "f16", "q8" (half the memory of f16) or "q4" (a quarter).
    n_slots: how many sequences can be in the cache at once; None = up to 4, as many as 256 MiB hold, at least one.
    memory: bytes that this process may hold, with the interpreter and all: what does not fit is read from the file
    again for each step, see `ingle.engine.window`. The tokens are the same. None = the whole model is in memory.
    logit_rows: with `memory`, of so many rows of a step logits will be asked for; None = one for each slot.
    on_progress(done, total): called after each loaded block; what it raises ends the loading.

    Raises ModelFileError for a file that cannot be used, ContextError for a context larger than the model's,
    MemoryLimitError when it will not fit, UsageError for other arguments that cannot be.
    """
    for name, value in (
        ("context", context),
        ("threads", threads),
        ("n_slots", n_slots),
        ("memory", memory),
        ("logit_rows", logit_rows),
    ):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise UsageError(f"{name} is {value!r}; expected a whole number of 1 or more.")
    if kv_type not in get_args(KVType):
        raise UsageError(f"kv_type is {kv_type!r}; expected 'f32', 'f16', 'q8' or 'q4'.")
    checkpoint = open_checkpoint(
        bundled_model() if path is None else path, context or DEFAULT_CONTEXT, metadata_from_hf
    )
    try:
        return _load(checkpoint, context, threads, backend, kv_type, n_slots, memory, logit_rows, on_progress)
    except BaseException:
        checkpoint.source.close()
        raise


def bundled_model() -> Path:
    """The path of the model that comes with the package."""
    return Path(__file__).parent.parent / BUNDLED


def _load(
    checkpoint: Checkpoint,
    context: int | None,
    threads: int | None,
    backend_name: str,
    kv_type: KVType,
    n_slots: int | None,
    limit: int | None,
    logit_rows: int | None,
    on_progress: Callable[[int, int], None] | None,
) -> Model:
    spec, source = checkpoint.spec, checkpoint.source
    context = context_of(checkpoint, context)
    if n_slots is None:
        room = SLOTS_BYTES if limit is None else min(SLOTS_BYTES, limit // 16)
        n_slots = max(1, min(MAX_SLOTS, room // (spec.kv_bytes_per_token(kv_type) * context)))
    chunk = chunk_rows(spec)
    whole = weights_bytes(checkpoint, backend_name)
    floats = any(
        header.type in FLOAT_TYPES and len(header.shape) > 1 and spec.n_embd * spec.n_embd <= math.prod(header.shape)
        for header in source.headers.values()
    )
    need = memory.need(spec, whole, context, n_slots, kv_type, chunk, logit_rows or n_slots, floats)
    if limit is None:
        memory.check(need, context, n_slots)
    tokenizer = Tokenizer.from_metadata(source.metadata)  # before the weights: its errors should not take minutes
    template = ChatTemplate.from_metadata(source.metadata, tokenizer)
    backend = open_backend(backend_name, spec, threads)
    limited = None
    if limit is None:
        cache = backend.new_cache(n_slots, context, kv_type)
        weights: Weights = Resident(checkpoint, backend, on_progress)
    else:
        from ingle.engine.budget import Limited  # resident models need none of it

        slots = f" in each of {n_slots} slots" if n_slots > 1 else ""
        limited = Limited(checkpoint, backend, need, f"{context} positions{slots}")
        limited.fit(limit, on_progress)
        cache = backend.new_cache(n_slots, context, kv_type)
        weights = limited.window
    runner = Runner(spec, backend, weights, Alone(), cache)
    return Model(checkpoint, tokenizer, template, runner, Slots(cache, runner.lock, chunk), limited)


def context_of(checkpoint: Checkpoint, asked: int | None) -> int:
    """The context to use where `asked` was asked for. Raises ContextError when the model cannot have it."""
    most = checkpoint.spec.n_context
    if asked is not None and asked > most:
        raise ContextError(
            f"A context of {asked} was asked for, and {checkpoint.source.name} was made for {most}; ask for {most} or "
            "less."
        )
    return min(most, DEFAULT_CONTEXT) if asked is None else asked


def weights_bytes(checkpoint: Checkpoint, backend_name: str) -> int:
    """Bytes of the weights as a backend holds them: the native one rearranges them, the reference has float32."""
    if backend_name == "reference":
        return 4 * footprint(checkpoint).n_parameters
    from ingle.backends.native import NativeBackend

    headers = checkpoint.source.headers
    return sum(NativeBackend.bytes_of(headers[name]) for name in {part.tensor for part in checkpoint.parts()})
