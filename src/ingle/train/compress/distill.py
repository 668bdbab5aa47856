"""Learning from a teacher: the loss of knowledge distillation (Hinton et al., arXiv 1503.02531).

loss = (1 - w) CE(target, student) + w T^2 KL(softmax(teacher / T) || softmax(student / T)), summed over the targets
that count.
MobileLLM found that this costs 2.6 to 3.2 times the time and gains nothing at its size; it is here to be measured.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ingle.errors import CheckpointError, UnsupportedError, UsageError
from ingle.train.decoder import Decoder
from ingle.train.loss import IGNORED

if TYPE_CHECKING:
    from ingle.train.data.vocabulary import Vocabulary

__all__ = ["DecoderTeacher", "Distiller", "Teacher", "TransformersTeacher", "distillation_sum", "load_teacher"]

_ROWS = 1024  # positions whose logits, the teacher's and the student's, exist at once


class Teacher(Protocol):
    """A model that says what it would have predicted; it is never trained."""

    vocabulary: int

    def hidden(self, tokens: Tensor, documents: Tensor | None) -> Tensor:
        """The last hidden states [B, T, E'] of `tokens` [B, T]; `documents` as in `Decoder.forward`."""

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits [n, V'] of hidden states [n, E'], float32; V' is at least `vocabulary`."""


class DecoderTeacher:
    """One of our own decoders."""

    def __init__(self, decoder: Decoder) -> None:
        self.decoder = decoder.eval().requires_grad_(False)
        self.vocabulary = decoder.shape.vocabulary

    @torch.no_grad()
    def hidden(self, tokens: Tensor, documents: Tensor | None) -> Tensor:
        return self.decoder.hidden(tokens, documents)

    @torch.no_grad()
    def logits(self, hidden: Tensor) -> Tensor:
        return F.linear(*self.decoder.head(hidden)).float()


class TransformersTeacher:
    """A causal language model of the package `transformers`, for families that a `Decoder` is not."""

    def __init__(self, model: Any, vocabulary: int) -> None:
        self.model = model.eval().requires_grad_(False)
        self.vocabulary = vocabulary
        config = model.config
        self._reach = getattr(config, "max_position_embeddings", None)  # a table of positions ends there
        self._cap = getattr(config, "final_logit_softcapping", None)
        self._scale = getattr(config, "logit_scale", None) or 1 / (getattr(config, "logits_scaling", None) or 1)

    @torch.no_grad()
    def hidden(self, tokens: Tensor, documents: Tensor | None) -> Tensor:
        if self._reach is not None and tokens.shape[1] > self._reach:
            raise UsageError(
                f"The teacher reads {self._reach:,} positions at most, rows have {tokens.shape[1]:,}; set "
                f"data.positions to {self._reach} or less."
            )
        at = torch.arange(tokens.shape[1], device=tokens.device)
        seen = (at[:, None] >= at).expand(len(tokens), -1, -1)
        if documents is not None:
            seen = seen & (documents[:, :, None] == documents[:, None, :])
        mask = torch.zeros(seen.shape, device=tokens.device).masked_fill(~seen, torch.finfo(torch.float32).min)
        dtype = torch.get_autocast_dtype(tokens.device.type) if torch.is_autocast_enabled(tokens.device.type) else None
        mask = mask.to(dtype or self.model.dtype)[:, None]
        found = self.model.base_model(input_ids=tokens, attention_mask=mask, use_cache=False)
        hidden: Tensor = found.last_hidden_state
        return hidden

    @torch.no_grad()
    def logits(self, hidden: Tensor) -> Tensor:
        z: Tensor = self.model.get_output_embeddings()(hidden).float() * self._scale
        return z if self._cap is None else (z / self._cap).tanh() * self._cap


def load_teacher(path: Path, vocabulary: Vocabulary, device: torch.device | str = "cpu") -> Teacher:
    """The teacher at `path`: a run or model folder, a GGUF file or a Hugging Face folder.

    `vocabulary` is the student's. A Hugging Face model that is no `Decoder` is run by `transformers`, without code from
    its folder. Raises UsageError when the teacher's tokens are not the student's, and the errors of `load_model`.
    """
    from ingle.train.compress.compress import decoder_of
    from ingle.train.data.vocabulary import load_vocabulary
    from ingle.train.load import load_model

    _expect_same_tokens(load_vocabulary(path), vocabulary, path)
    try:
        return DecoderTeacher(decoder_of(load_model(path), device))
    except UnsupportedError:
        if not (path.is_dir() and (path / "config.json").is_file()):
            raise
        return _with_transformers(path, vocabulary.size, device)


def _expect_same_tokens(theirs: Vocabulary, ours: Vocabulary, path: Path) -> None:
    """Every id of the student must stand for the same text in the teacher."""
    mine, other = ours.tokenizer.get_vocab(), theirs.tokenizer.get_vocab()
    differing = [text for text, token_id in mine.items() if other.get(text) != token_id]
    if differing:
        raise UsageError(
            f"The teacher {path} has other tokens than the student ({len(differing):,} of {len(mine):,} differ, such "
            f"as {min(differing)!r}); a teacher must have the student's tokenizer: set data.tokenizer to {path}."
        )


def _with_transformers(path: Path, vocabulary: int, device: torch.device | str) -> TransformersTeacher:
    try:
        from transformers import AutoModelForCausalLM
    except ImportError:
        raise UsageError(f"The teacher {path} needs the package transformers; install it.") from None
    try:
        model: Any = AutoModelForCausalLM.from_pretrained(
            str(path), local_files_only=True, trust_remote_code=False, use_safetensors=True, dtype=torch.float32
        )
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"transformers cannot load the teacher {path}: {' '.join(str(error).split())}") from None
    teacher = TransformersTeacher(model.to(torch.device(device)), vocabulary)
    # What a family does behind its last layer is not in every configuration: see whether we do the same.
    tokens = torch.arange(min(16, vocabulary), device=device)[None]
    with torch.no_grad():
        expected = model(input_ids=tokens, use_cache=False).logits[0].float()
    found = teacher.logits(teacher.hidden(tokens, None)[0])
    if found.shape[1] < vocabulary or not torch.allclose(found, expected, rtol=1e-3, atol=1e-3):
        raise UnsupportedError(f"The teacher {path} ends in a way that Ingle does not know; choose another teacher.")
    return teacher


class Distiller:
    """The loss that a trainer takes in place of `Decoder.forward`.

    weight: the teacher's share w of the loss, from 0 to 1. temperature: T, above 0. Raises UsageError otherwise, or
    when the teacher knows fewer tokens than the student asks for.
    """

    def __init__(self, teacher: Teacher, weight: float = 0.5, temperature: float = 1.0) -> None:
        if not 0 <= weight <= 1:
            raise UsageError(f"The teacher's share of the loss is {weight}; expected a number from 0 to 1.")
        if not 0 < temperature < float("inf"):
            raise UsageError(f"The temperature of distillation is {temperature}; expected a number above 0.")
        self.teacher, self.weight, self.temperature = teacher, weight, temperature

    def loss(self, decoder: Decoder, tokens: Tensor, targets: Tensor, documents: Tensor | None = None) -> Tensor:
        """Sum of the losses in nats, float32 scalar; arguments as those of `Decoder.forward`."""
        if self.teacher.vocabulary < decoder.shape.vocabulary:
            raise UsageError(
                f"The teacher knows {self.teacher.vocabulary:,} tokens and the student {decoder.shape.vocabulary:,}; "
                "choose a teacher with the student's tokenizer."
            )
        x, weight = decoder.head(decoder.hidden(tokens, documents))
        if torch.is_autocast_enabled(x.device.type):
            x = x.to(torch.get_autocast_dtype(x.device.type))
        taught = self.teacher.hidden(tokens, documents).flatten(0, 1)
        return distillation_sum(
            x.flatten(0, 1), weight, targets.flatten(), self.teacher, taught, self.weight, self.temperature
        )


class _Distillation(torch.autograd.Function):
    """As `loss._CrossEntropy`: gradients are made in the forward pass, chunk by chunk."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, targets: Tensor, teacher: Teacher, taught: Tensor, share: float, t: float
    ) -> Tensor:
        matrix = weight.to(x.dtype)
        total = torch.zeros((), device=x.device)
        dx, dweight = torch.empty_like(x), torch.zeros_like(weight)
        for begin in range(0, len(x), _ROWS):
            rows = slice(begin, begin + _ROWS)
            soft = teacher.logits(taught[rows])[:, : len(weight)]
            loss, dlogits = _chunk(x[rows] @ matrix.T, soft, targets[rows], share, t)
            total += loss
            dx[rows] = dlogits @ matrix
            dweight += dlogits.T @ x[rows]
        ctx.save_for_backward(dx, dweight)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        dx, dweight = ctx.saved_tensors
        return dx * gradient, dweight * gradient, None, None, None, None, None


def _chunk(logits: Tensor, soft: Tensor, targets: Tensor, share: float, t: float) -> tuple[Tensor, Tensor]:
    """Loss summed over the chunk, and its gradient by the student's logits [n, V]; `soft` are the teacher's."""
    z = logits.float()
    counts = (targets != IGNORED)[:, None]
    target = targets.clamp(min=0)[:, None]
    log_p = z.log_softmax(-1)
    log_student, log_teacher = (z / t).log_softmax(-1), (soft / t).log_softmax(-1)
    teacher = log_teacher.exp()
    divergence = (teacher * (log_teacher - log_student)).sum(-1, keepdim=True)
    loss = ((share * t * t * divergence - (1 - share) * log_p.gather(1, target)) * counts).sum()
    hard = log_p.exp().scatter_add(1, target, torch.full_like(target, -1, dtype=z.dtype))
    gradient = ((1 - share) * hard + share * t * (log_student.exp() - teacher)) * counts
    return loss, gradient.to(logits.dtype)


def distillation_sum(
    x: Tensor, weight: Tensor, targets: Tensor, teacher: Teacher, taught: Tensor, share: float, temperature: float
) -> Tensor:
    """Sum over the targets of `x` [N, E] @ `weight` [V, E] against the `teacher`'s `taught` [N, E'], float32 scalar.

    Gradients by x and weight are exact up to the rounding of x's dtype; never more than 1024 positions have logits.
    """
    total: Tensor = _Distillation.apply(x, weight, targets, teacher, taught, share, temperature)  # type: ignore[no-untyped-call]
    return total
