"""Distillation: the loss and its gradients are those of the plain formula, without whole logits."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from compress_decoders import decoder_of, tokens_of

from ingle.errors import UsageError
from ingle.train.checkpoint import TrainedModel, save_model
from ingle.train.compress import distill
from ingle.train.compress.distill import DecoderTeacher, Distiller, TransformersTeacher, load_teacher
from ingle.train.data.vocabulary import Vocabulary, train_tokenizer
from ingle.train.decoder import Decoder
from ingle.train.loss import IGNORED


def plain(student: Decoder, teacher: Decoder, tokens, targets, documents, w: float, t: float):  # type: ignore[no-untyped-def]
    """The definition, with all logits."""
    z, soft = student.logits(tokens, documents).flatten(0, 1), teacher.logits(tokens, documents).flatten(0, 1)
    targets = targets.flatten()
    ce = F.cross_entropy(z, targets, ignore_index=IGNORED, reduction="sum")
    kl = F.kl_div(F.log_softmax(z / t, -1), F.softmax(soft.detach() / t, -1), reduction="none").sum(-1)
    return (1 - w) * ce + w * t * t * kl[targets != IGNORED].sum()


@pytest.mark.parametrize(("w", "t"), [(0.5, 1.0), (0.3, 2.5), (1.0, 1.0), (0.0, 3.0)])
@pytest.mark.parametrize("tied", [True, False])
def test_loss_and_gradients(w: float, t: float, tied: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distill, "_ROWS", 48)  # several chunks, the last one shorter
    student, teacher = decoder_of(tied=tied), decoder_of(seed=5, width=96, head_dim=48)
    tokens, targets = tokens_of(), tokens_of(seed=3)
    targets[:, ::5] = IGNORED
    documents = torch.arange(32).div(12, rounding_mode="floor").expand(4, -1)
    expected = plain(student, teacher, tokens, targets, documents, w, t)
    expected.backward()
    gradients = {name: p.grad.clone() for name, p in student.named_parameters() if p.grad is not None}
    student.zero_grad()
    found = Distiller(DecoderTeacher(teacher), w, t).loss(student, tokens, targets, documents)
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    (2 * found).backward()
    for name, parameter in student.named_parameters():
        assert parameter.grad is not None
        assert torch.allclose(parameter.grad, 2 * gradients[name], rtol=1e-4, atol=1e-4), name
    assert all(p.grad is None for p in teacher.parameters())


def test_without_weight_it_is_the_students_own_loss() -> None:
    student = decoder_of()
    loss = Distiller(DecoderTeacher(decoder_of(seed=2)), 0.0).loss(student, tokens_of(), tokens_of(seed=3))
    assert loss.item() == pytest.approx(student(tokens_of(), tokens_of(seed=3)).item(), rel=1e-6)


def test_a_teacher_of_itself_has_nothing_to_say() -> None:
    student = decoder_of()
    loss = Distiller(DecoderTeacher(decoder_of()), 1.0, 2.0).loss(student, tokens_of(), tokens_of(seed=3))
    assert abs(loss.item()) < 1e-3
    loss.backward()
    assert max(float(p.grad.abs().max()) for p in student.parameters() if p.grad is not None) < 1e-3


def test_only_a_chunk_has_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distill, "_ROWS", 16)
    sizes = []

    class Watching(DecoderTeacher):
        def logits(self, hidden: torch.Tensor) -> torch.Tensor:
            sizes.append(len(hidden))
            return super().logits(hidden)

    Distiller(Watching(decoder_of(seed=2))).loss(decoder_of(), tokens_of(), tokens_of(seed=3)).backward()
    assert sizes == [16] * 8


def test_in_bfloat16() -> None:
    student, teacher = decoder_of(), decoder_of(seed=2)
    distiller = Distiller(DecoderTeacher(teacher))
    exact = distiller.loss(student, tokens_of(), tokens_of(seed=3)).item()
    with torch.autocast("cpu", torch.bfloat16):
        loss = distiller.loss(student, tokens_of(), tokens_of(seed=3))
    loss.backward()
    assert loss.item() == pytest.approx(exact, rel=0.02)


def test_a_student_learns_from_a_teacher() -> None:
    """A teacher that knows the rule of the data teaches more in a step than the data say (one sample of many)."""
    generator = torch.Generator().manual_seed(0)
    rule = torch.softmax(torch.randn(64, 64, generator=generator) * 2, -1)  # next token given this one

    class Knows:
        vocabulary = 64

        def hidden(self, tokens: torch.Tensor, documents: torch.Tensor | None) -> torch.Tensor:
            return F.one_hot(tokens, 64).float()

        def logits(self, hidden: torch.Tensor) -> torch.Tensor:
            return hidden @ rule.log()

    def batch() -> torch.Tensor:
        rows = [torch.randint(64, (4, 1), generator=generator)]
        for _ in range(32):
            rows.append(torch.multinomial(rule[rows[-1][:, 0]], 1, generator=generator))
        return torch.cat(rows, 1)

    held = torch.cat([batch() for _ in range(16)])
    batches = [batch() for _ in range(60)]
    losses = {}
    for weight in (0.0, 0.9):
        student = decoder_of()
        optimizer = torch.optim.Adam(student.parameters(), 2e-3)
        for part in batches:
            loss = Distiller(Knows(), weight).loss(student, part[:, :-1], part[:, 1:])
            optimizer.zero_grad()
            (loss / 128).backward()
            optimizer.step()
        with torch.no_grad():
            losses[weight] = student(held[:, :-1], held[:, 1:]).item() / held[:, 1:].numel()
    assert losses[0.9] < losses[0.0] - 0.05


def test_settings_that_cannot_be() -> None:
    teacher = DecoderTeacher(decoder_of())
    for weight, temperature in ((-0.1, 1), (1.1, 1), (0.5, 0), (0.5, float("inf")), (0.5, float("nan"))):
        with pytest.raises(UsageError, match="expected a number"):
            Distiller(teacher, weight, temperature)
    with pytest.raises(UsageError, match="64 tokens and the student 128"):
        Distiller(teacher).loss(decoder_of(vocabulary=128), tokens_of(), tokens_of())


# -- teachers on disk -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return train_tokenizer(["the quick brown fox jumps over the lazy dog. " * 20], 272)


def test_a_models_folder(vocabulary: Vocabulary, tmp_path: Path) -> None:
    decoder = decoder_of(vocabulary=272)
    model = TrainedModel(decoder.shape, {name: p.detach() for name, p in decoder.named_parameters()})
    save_model(tmp_path / "m", model.shape, model.tensors, vocabulary.to_json().encode())
    teacher = load_teacher(tmp_path / "m", vocabulary)
    assert teacher.vocabulary == 272
    found = teacher.logits(teacher.hidden(tokens_of(), None)[0])
    assert torch.equal(found, decoder.logits(tokens_of())[0])
    other = train_tokenizer(["sphinx of black quartz, judge my vow. " * 20], 272)
    with pytest.raises(UsageError, match="other tokens than the student"):
        load_teacher(tmp_path / "m", other)


def test_a_family_of_transformers(vocabulary: Vocabulary, tmp_path: Path) -> None:
    """GPT-2 is no `Decoder`; it teaches all the same, and sees documents apart."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=288, n_positions=64, n_embd=32, n_layer=2, n_head=2)
    model = transformers.GPT2LMHeadModel(config).eval()
    model.save_pretrained(tmp_path)
    vocabulary.save(tmp_path / "tokenizer.json")
    teacher = load_teacher(tmp_path, vocabulary)
    assert isinstance(teacher, TransformersTeacher)
    tokens = tokens_of()
    with torch.no_grad():
        expected = model(tokens).logits
    assert torch.allclose(teacher.logits(teacher.hidden(tokens, None)[1]), expected[1], atol=1e-4)
    documents = torch.arange(32).ge(20).int().expand(4, -1)
    apart = teacher.hidden(tokens, documents)
    changed = tokens.clone()
    changed[:, :20] = 7
    assert torch.allclose(teacher.hidden(changed, documents)[:, 20:], apart[:, 20:], atol=1e-5)
    assert not torch.allclose(teacher.hidden(changed, None)[:, 20:], teacher.hidden(tokens, None)[:, 20:], atol=1e-3)
    student = decoder_of(vocabulary=272)
    loss = Distiller(teacher, 0.5).loss(student, tokens, tokens, documents)
    assert loss.isfinite()
    with pytest.raises(UsageError, match="reads 64 positions at most, rows have 65"):
        teacher.hidden(torch.zeros(1, 65, dtype=torch.int64), None)
