"""From logits to one token: penalties, cut-offs, temperature, and one random number per step.

The order is: frequency and presence penalties, bias, grammar, repeat penalty, top-k, top-p, min-p, temperature, draw.
The NumPy sampler here defines what is right; the native one gives the same token for the same logits, seed and step,
and is what `Sampler` uses where it is built.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ingle.errors import BackendError, UsageError

__all__ = [
    "NOT_ALLOWED",
    "NOT_FINITE",
    "Sample",
    "Sampler",
    "SamplingParams",
    "sample_numpy",
    "top_logprobs",
    "uniform",
    "with_penalties",
]

MASK = (1 << 64) - 1
NOT_FINITE = (
    "The model's logits are not finite numbers; its file is damaged or needs another conversion: check it against its "
    "source, or try another quantisation."
)
NOT_ALLOWED = "The model gives no probability to any token that its grammar allows; use another one."

# (logits f32 [V], history i32 [n], repeat_penalty, top_k, top_p, min_p, temperature, uniform) -> (token_id, logprob)
SampleFunction = Callable[
    [NDArray[np.float32], NDArray[np.int32], float, int, float, float, float, float], tuple[int, float]
]


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How a token is drawn.

    temperature: divides the logits before the draw; 0 takes the most likely token, the lowest id where several are.
    top_k: only the k most likely tokens; 0 = all.
    top_p: only the most likely tokens that together have this probability (arXiv 1904.09751); 1 = all.
    min_p: only tokens at least this fraction as likely as the most likely one (arXiv 2407.01082); 0 = all.
    repeat_penalty: logits of tokens among the last `repeat_last_n` (prompt and answer) are divided by it where positive
        and multiplied where negative (CTRL, arXiv 1909.05858); 1 = none. repeat_last_n: 0 = none, -1 = all.
    frequency_penalty, presence_penalty: what logits of the answer's own tokens lose, for each time that they stand in
        it, and once; see `with_penalties`. -2 to 2, 0 = none.
    logit_bias: what is added to the logits of tokens, -100 to 100.
    seed: the same seed gives the same text, on any number of threads. None = one from the system's randomness.
    """

    temperature: float = 0.8
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    repeat_penalty: float = 1.0
    repeat_last_n: int = 64
    seed: int | None = None
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        _number("temperature", self.temperature, 0.0, 1e3)
        _number("top_p", self.top_p, 0.0, 1.0, above=True)
        _number("min_p", self.min_p, 0.0, 1.0)
        _number("repeat_penalty", self.repeat_penalty, 0.0, 1e3, above=True)
        _integer("top_k", self.top_k, 0, 2**31 - 1)
        _integer("repeat_last_n", self.repeat_last_n, -1, 2**31 - 1)
        if self.seed is not None:
            _integer("seed", self.seed, 0, MASK)
        _number("frequency_penalty", self.frequency_penalty, -2.0, 2.0)
        _number("presence_penalty", self.presence_penalty, -2.0, 2.0)
        for token_id, bias in self.logit_bias.items():
            _integer("A token of logit_bias", token_id, 0, 2**31 - 1)
            _number(f"logit_bias of token {token_id}", bias, -100.0, 100.0)

    @property
    def changes_logits(self) -> bool:
        """Whether a draw is from other logits than the model's, before any cut-off."""
        return bool(self.frequency_penalty or self.presence_penalty or self.logit_bias)

    def with_seed(self) -> SamplingParams:
        """These, with a seed from the system's randomness where there is none: what can be repeated."""
        # 53 bits: a seed must survive JSON and JavaScript.
        return self if self.seed is not None else replace(self, seed=int.from_bytes(os.urandom(7)) >> 3)


def _number(name: str, value: object, low: float, high: float, above: bool = False) -> None:
    sound = isinstance(value, (int, float, np.floating, np.integer)) and not isinstance(value, bool)
    if not sound or not (low < value if above else low <= value) or not value <= high:  # type: ignore[operator]
        bounds = f"above {low:g} and at most {high:g}" if above else f"from {low:g} to {high:g}"
        raise UsageError(f"{name} is {value!r}; expected a number {bounds}.")


def _integer(name: str, value: object, low: int, high: int) -> None:
    if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or not low <= value <= high:
        raise UsageError(f"{name} is {value!r}; expected a whole number from {low} to {high}.")


class Sample(NamedTuple):
    """A drawn token and the natural logarithm of the probability the model itself gave it."""

    token_id: int
    logprob: float


class Sampler:
    """Draws the tokens of one answer. Step n uses the n-th number of the seed's sequence, whatever happened before."""

    def __init__(self, params: SamplingParams, function: SampleFunction | None = None) -> None:
        """`function` draws one token; None = the native one, or NumPy's where the native core is not built."""
        self.params = params.with_seed()
        native = None if function else native_sample()
        self._function = function or native or sample_numpy
        self._checks = native is not None  # the native one looks for what is not finite itself
        self._changes = self.params.changes_logits
        self._bias = _Bias(self.params) if _Bias.is_all(self.params) else None
        self._said: dict[int, int] = {}  # how often each token; only where that changes anything
        self._step = 0

    def sample(
        self,
        logits: NDArray[np.float32],
        history: Sequence[int] | NDArray[np.int32] = (),
        allowed: NDArray[np.bool_] | None = None,
    ) -> Sample:
        """Draw the next token from logits float32 [V].

        history: the tokens so far, prompt and answer. allowed: bool [V], the only tokens that may be drawn; None = all.
        Raises BackendError when the logits are not finite numbers, or give no probability to any token allowed.
        """
        p = self.params
        recent = _NOTHING
        if p.repeat_penalty != 1.0 and p.repeat_last_n != 0:
            last = history if p.repeat_last_n < 0 else history[-p.repeat_last_n :]
            recent = np.asarray(last, dtype=np.int32)
        assert p.seed is not None
        u = uniform(p.seed, self._step) if p.temperature else 0.0  # nothing is drawn at temperature 0
        rest = recent, p.repeat_penalty, p.top_k, p.top_p, p.min_p, p.temperature, u
        if allowed is None and not self._changes:
            # One NaN makes the maximum NaN, so this finds them all. -inf is an ordinary "never".
            if not self._checks and not math.isfinite(float(logits.max())):
                raise BackendError(NOT_FINITE)
            sample = Sample(*self._function(logits, *rest))
            self._step += 1
            return sample
        if (allowed is not None or not self._checks) and not math.isfinite(float(logits.max())):
            raise BackendError(NOT_FINITE)
        if allowed is None and self._bias is not None:
            best, logprob = self._function(logits, _NOTHING, 1.0, 0, 1.0, 0.0, 0.0, 0.0)
            if (token_id := self._bias.likeliest(logits, best)) is not None:
                self._step += 1
                return Sample(token_id, logprob + float(logits[token_id]) - float(logits[best]))
        changed = with_penalties(logits, self._said, p) if self._changes else logits
        if allowed is not None:
            changed = np.where(allowed, changed, np.float32(-np.inf))
            if changed.max() == -np.inf:
                raise BackendError(NOT_ALLOWED)
        token_id, _ = self._function(changed, *rest)
        return self._step_to(logits, token_id)

    def forced(self, logits: NDArray[np.float32], token_id: int) -> Sample:
        """A step whose token can be no other, by logits float32 [V]: what `sample` gives where only it is allowed.

        Raises BackendError when the logits are not finite numbers, or give it no probability.
        """
        if not math.isfinite(float(logits.max())):
            raise BackendError(NOT_FINITE)
        if logits[token_id] == -np.inf:
            raise BackendError(NOT_ALLOWED)
        return self._step_to(logits, token_id)

    def _step_to(self, logits: NDArray[np.float32], token_id: int) -> Sample:
        self._step += 1
        if self._changes:
            self._said[token_id] = self._said.get(token_id, 0) + 1
        # The draw of the likeliest gives its probability, and how much less likely this one is stands in the logits.
        best, logprob = self._function(logits, _NOTHING, 1.0, 0, 1.0, 0.0, 0.0, 0.0)
        return Sample(token_id, logprob + float(logits[token_id]) - float(logits[best]))


_NOTHING = np.empty(0, dtype=np.int32)


class _Bias:
    """`logit_bias` where that alone changes the likeliest token: then few logits need a look, and no copy is made."""

    @staticmethod
    def is_all(params: SamplingParams) -> bool:
        """Whether it is, with these parameters."""
        others = params.frequency_penalty or params.presence_penalty or params.repeat_penalty != 1.0
        return bool(params.logit_bias) and params.temperature == 0 and not others

    def __init__(self, params: SamplingParams) -> None:
        self._ids = np.array(sorted(params.logit_bias), np.int64)
        self._values = np.array([params.logit_bias[int(token_id)] for token_id in self._ids], np.float32)

    def likeliest(self, logits: NDArray[np.float32], best: int) -> int | None:
        """The likeliest token with the bias. best: the one without; None where that itself has a bias."""
        ids = self._ids[: np.searchsorted(self._ids, len(logits))]  # the others are no tokens
        at = int(np.searchsorted(ids, best))
        if at < len(ids) and ids[at] == best:
            return None
        if not len(ids):
            return best
        changed = logits[ids] + self._values[: len(ids)]
        first = int(changed.argmax())
        return min((-float(changed[first]), int(ids[first])), (-float(logits[best]), best))[1]


def with_penalties(logits: NDArray[np.float32], said: Mapping[int, int], params: SamplingParams) -> NDArray[np.float32]:
    """A copy of logits [V] with `logit_bias`, and less for the tokens that the answer has: `said` so often each.

    OpenAI's definition: minus frequency_penalty for each time, and minus presence_penalty once.
    """
    changed = logits.copy()
    for token_id, times in said.items():
        changed[token_id] -= times * params.frequency_penalty + params.presence_penalty
    for token_id, bias in params.logit_bias.items():
        if token_id < len(changed):  # matrices may have rows for more than there are tokens
            changed[token_id] += bias
    return changed


def top_logprobs(logits: NDArray[np.float32], n: int) -> tuple[tuple[int, float], ...]:
    """The n likeliest tokens by logits [V], falling, the lower id first where two are equal, with their logprobs."""
    raw = logits.astype(np.float64)
    ids = _best(raw, min(n, len(raw)))
    most = raw[ids[0]]
    total = math.log(np.exp(raw - most).sum())
    return tuple((int(token_id), float(raw[token_id] - most - total)) for token_id in ids)


def native_sample() -> SampleFunction | None:
    """The native sampler, or None where the native core is not built."""
    try:
        function: SampleFunction = import_module("ingle._core").sample
    except ImportError:
        return None
    return function


def uniform(seed: int, step: int) -> float:
    """A number in [0, 1) for each step of a seed: SplitMix64 (Steele, Lea, Flood, 2014) as a counter.

    >>> uniform(0, 0) != uniform(0, 1) != uniform(1, 0)
    True
    """
    # The seed is mixed first: neighbouring seeds must not be one sequence that is shifted by a few steps.
    return (_mix((_mix(seed) + (step + 1) * 0x9E3779B97F4A7C15) & MASK) >> 11) * 2.0**-53


def _mix(z: int) -> int:
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def sample_numpy(
    logits: NDArray[np.float32],
    history: NDArray[np.int32],
    repeat_penalty: float,
    top_k: int,
    top_p: float,
    min_p: float,
    temperature: float,
    u: float,
) -> tuple[int, float]:
    """The definition of a draw. All sums are float64, over candidates in the order (logit falling, id rising)."""
    raw = logits.astype(np.float64)
    penalised = raw
    if repeat_penalty != 1.0 and len(history):
        penalised = raw.copy()
        seen = np.unique(history)
        penalised[seen] = np.where(raw[seen] > 0, raw[seen] / repeat_penalty, raw[seen] * repeat_penalty)

    if temperature == 0:
        token_id = int(penalised.argmax())
    else:
        ids = _best(penalised, top_k)
        falling = penalised[ids] - penalised[ids[0]]
        weights = np.exp(falling)
        sums = np.cumsum(weights)
        # The shortest beginning that has at least top_p of the candidates' probability; it is never empty.
        likely = np.append(0.0, sums[:-1]) < top_p * sums[-1]
        keep = np.flatnonzero(likely & (weights >= min_p))
        n = 1 + int(keep[-1]) if len(keep) else 1  # both conditions only ever turn false
        with np.errstate(over="ignore"):  # a tiny temperature makes -inf of all but the first: that is meant
            sums = np.cumsum(np.exp(falling[:n] / temperature))
        token_id = int(ids[min(int(np.searchsorted(sums, u * sums[-1], side="right")), n - 1)])

    return token_id, _logprob(raw, token_id)


def _logprob(logits: NDArray[np.float64], token_id: int) -> float:
    """The natural logarithm of the probability that the logits [V] themselves give a token."""
    top = logits.max()
    return float(logits[token_id] - top - math.log(np.exp(logits - top).sum()))


def _best(logits: NDArray[np.float64], k: int) -> NDArray[np.intp]:
    """Indices of the k largest (k = 0: all), by falling value and rising index."""
    if 0 < k < len(logits):
        smallest = np.partition(logits, len(logits) - k)[len(logits) - k]
        ids = np.flatnonzero(logits >= smallest)
    else:
        ids = np.arange(len(logits))
    ids = ids[np.argsort(-logits[ids], kind="stable")]
    return ids[:k] if k else ids
