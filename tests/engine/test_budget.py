"""What a limit on memory leaves for weights, who is refused, and what happens when memory runs out or is taken away."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import ingle
import toys
from ingle.engine import budget, memory
from ingle.engine.budget import Relief
from ingle.engine.model import Model
from ingle.errors import MemoryLimitError, UnsupportedError, UsageError

MIB = 1 << 20
PROCESS = 50 * MIB


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return toys.toy_gguf(tmp_path / "toy.gguf", n_layers=6, n_embd=256)  # 8 MiB of blocks


@pytest.fixture(autouse=True)
def a_small_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "resident_bytes", lambda: PROCESS)
    for free in ("available_bytes", "system_bytes", "group_bytes"):
        monkeypatch.setattr(budget, free, lambda: 1 << 30)


def load(path: Path, limit: int | None, **options: int) -> Model:
    return ingle.load(path, memory=limit, threads=1, n_slots=1, **options)


def least(path: Path) -> int:
    """What the refusal of a limit says would do."""
    with pytest.raises(MemoryLimitError) as caught:
        load(path, MIB)
    found = re.search(r"does not run in 1\.0 MiB; (\d+)MiB would do", str(caught.value))
    assert found is not None, caught.value
    return int(found[1]) * MIB


@pytest.fixture
def limited(path: Path) -> Iterator[Model]:
    with load(path, least(path)) as model:
        yield model


def answer(model: Model) -> list[int]:
    return [token.token_id for token in model.generate("the end of", max_tokens=8, temperature=0, ignore_eos=True)]


def test_the_least_that_a_refusal_names_is_enough_and_less_is_not(path: Path) -> None:
    enough = least(path)
    with load(path, None) as model:
        expected = answer(model)
        assert model.window is None
    with load(path, enough) as model:
        assert answer(model) == expected
        assert model.window is not None
        assert model.weights_bytes == model.window.stats().held_bytes < 4 * MIB
    with pytest.raises(MemoryLimitError, match="would do"):
        load(path, enough - 2 * MIB)


def test_the_parts_of_a_refusal_add_up(path: Path) -> None:
    with pytest.raises(MemoryLimitError) as caught:
        load(path, MIB)
    said = str(caught.value)
    parts = [float(n) for n in re.findall(r"([\d.]+) MiB (?:for|would)", said)]
    assert len(parts) == 4, said
    assert parts[0] == (PROCESS + budget.RESERVE_BYTES) / MIB
    assert 0 <= least(path) / MIB - sum(parts) < 1.2


def test_more_context_leaves_less_for_weights(path: Path) -> None:
    with load(path, 74 * MIB, context=256) as long, load(path, 74 * MIB, context=32) as short:
        assert long.weights_bytes < short.weights_bytes
        assert answer(long) == answer(short)


def test_a_limit_that_everything_fits_in_streams_nothing(path: Path) -> None:
    with load(path, 900 * MIB) as model, load(path, None) as whole:
        assert model.window is not None
        assert model.window.linked is not None
        assert model.window.stats().streamed_bytes == 0
        assert answer(model) == answer(whole)


def test_a_limit_above_what_is_free_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "available_bytes", lambda: 4 * MIB)
    with pytest.raises(MemoryLimitError, match=r"and only 4\.0 MiB are free"):
        load(path, 900 * MIB)


def test_the_limit_may_be_changed_while_answering(limited: Model, path: Path) -> None:
    with load(path, None) as whole:
        expected = answer(whole)
    said = []
    limits = iter([76, 64, 900, 63, 900])
    for token in limited.generate("the end of", max_tokens=8, temperature=0, ignore_eos=True):
        said.append(token.token_id)
        if (limit := next(limits, None)) is not None:
            try:
                limited.limit_memory(limit * MIB)
            except MemoryLimitError:
                assert limit < 73
    assert said == expected
    assert limited.window is not None
    assert limited.window.stats().streamed_bytes == 0


def test_a_limit_too_low_changes_nothing(limited: Model) -> None:
    assert limited.window is not None
    before = limited.window.plan
    with pytest.raises(MemoryLimitError, match="would do"):
        limited.limit_memory(MIB)
    assert limited.window.plan == before
    answer(limited)


def test_a_model_that_was_loaded_whole_has_no_limit_to_change(path: Path) -> None:
    with load(path, None) as model, pytest.raises(UsageError, match="loaded whole"):
        model.limit_memory(900 * MIB)


def test_the_reference_keeps_everything(path: Path) -> None:
    with pytest.raises(UsageError, match="for the native backend"):
        ingle.load(path, memory=900 * MIB, backend="reference")


@pytest.mark.parametrize("memory", [0, -1, True, 1.5, "1GiB"])
def test_what_is_no_limit(path: Path, memory: object) -> None:
    with pytest.raises(UsageError, match="memory is"):
        ingle.load(path, memory=memory)  # type: ignore[arg-type]


def test_when_memory_runs_out_some_is_given_back_and_the_answer_goes_on(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(Relief, "EVERY_S", 0.0)
    free = {"bytes": 1 << 30}
    monkeypatch.setattr(budget, "system_bytes", lambda: free["bytes"])
    with load(path, None) as whole:
        expected = answer(whole)
    with load(path, 900 * MIB) as model:
        assert model.window is not None
        held = model.window.stats().held_bytes
        said = []
        with caplog.at_level(logging.WARNING):
            for token in model.generate("the end of", max_tokens=8, temperature=0, ignore_eos=True):
                said.append(token.token_id)
                if token.index == 2:
                    assert not caplog.records
                    free["bytes"] = Relief.LOW_BYTES + 1
                if token.index == 3:
                    assert not caplog.records  # low, but not too low
                    free["bytes"] = Relief.LOW_BYTES - 1
        assert said == expected
        assert model.window.stats().held_bytes < held
        assert "Memory is running out" in caplog.text
        n_told = len(caplog.records)
        answer(model)  # nothing is left to give: nothing more is said
        assert len(caplog.records) == n_told


@pytest.mark.parametrize(
    ("limit", "held", "room", "gives"),
    [
        (500, 440, 58, False),  # nearly full of what is ours
        (500, 440, 10, True),  # others of the group have taken what we were to have
        (500, 100, 90, False),
        (500, 100, 20, True),
        (500, 499, 1, False),
    ],
)
def test_a_group_that_allows_what_the_limit_is_may_be_nearly_full(
    path: Path, monkeypatch: pytest.MonkeyPatch, limit: int, held: int, room: int, gives: bool
) -> None:
    monkeypatch.setattr(budget, "system_bytes", lambda: 8 << 30)
    monkeypatch.setattr(budget, "group_bytes", lambda: limit * MIB - PROCESS)
    monkeypatch.setattr(Relief, "EVERY_S", 0.0)
    with load(path, limit * MIB) as model:
        assert model.window is not None
        before = model.window.stats().held_bytes
        monkeypatch.setattr(budget, "group_bytes", lambda: room * MIB)
        monkeypatch.setattr(budget, "resident_bytes", lambda: held * MIB)
        answer(model)
        assert (model.window.stats().held_bytes < before) == gives


def test_a_group_with_room_to_spare_is_not_let_fill_up(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Relief, "EVERY_S", 0.0)
    monkeypatch.setattr(budget, "group_bytes", lambda: 600 * MIB - PROCESS)
    with load(path, 500 * MIB) as model:  # others may have 100 MiB
        assert model.window is not None
        before = model.window.stats().held_bytes
        monkeypatch.setattr(budget, "resident_bytes", lambda: 490 * MIB)
        for room, gives in ((110, False), (60, False), (49, True)):
            monkeypatch.setattr(budget, "group_bytes", lambda room=room: room * MIB)
            answer(model)
            assert (model.window.stats().held_bytes < before) == gives


def test_memory_is_given_back_in_the_middle_of_a_pass(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Relief, "EVERY_S", 0.0)
    with load(path, None) as whole:
        expected = answer(whole)
    calls = 0
    for at in (3, 7, 16, 25, 40):

        def system_bytes(at: int = at) -> int:
            nonlocal calls
            calls += 1
            return Relief.LOW_BYTES - 1 if calls == at else 1 << 30

        with load(path, 76 * MIB) as model:
            calls = 0
            monkeypatch.setattr(budget, "system_bytes", system_bytes)
            assert answer(model) == expected
            assert calls > at


def test_memory_is_looked_at_twice_a_second(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = []
    monkeypatch.setattr(budget, "system_bytes", lambda: looks.append(1) or 1 << 30)
    times = [0.0, 0.3, 0.4, 0.6, 0.7, 1.2]
    relief = Relief(iter(times).__next__)
    with load(path, 900 * MIB) as model:
        assert model.window is not None
        for _ in times:
            relief(model.window)
    assert len(looks) == 3


def test_directories_are_to_be_converted_first(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    from ingle.models.checkpoint import Checkpoint

    whole = Checkpoint.attention
    monkeypatch.setattr(
        Checkpoint,
        "attention",
        lambda self, layer: {role: replace(t, stored=None) for role, t in whole(self, layer).items()},
    )
    with pytest.raises(UnsupportedError, match="convert it to GGUF first"):
        load(path, 900 * MIB)


def test_buffers_are_counted_for_what_is_asked() -> None:
    from backends.decoders import spec_of

    spec = spec_of(n_vocab=1000)
    one = memory.need(spec, 0, 64).buffers_bytes
    assert memory.need(spec, 0, 64, logit_rows=9).buffers_bytes - one == 8 * 8 * 1000
    assert memory.need(spec, 0, 32).buffers_bytes < one


LEAVING = """
import sys, ingle
model = ingle.load(sys.argv[1], memory=int(sys.argv[2]), threads=1, n_slots=1)
print(next(model.generate("the end", max_tokens=1, temperature=0)).index)
"""


def test_a_program_may_end_while_blocks_are_read(tmp_path: Path) -> None:
    """A loader that came back from native code to an interpreter that had gone would abort the process."""
    path = toys.toy_gguf(tmp_path / "toy.gguf", n_layers=12, n_embd=512)
    for _ in range(3):
        command = [sys.executable, "-c", LEAVING, str(path), str(160 * MIB)]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert (ended.returncode, ended.stdout, ended.stderr) == (0, "0\n", "")
