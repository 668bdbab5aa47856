"""A run from text to model: what it leaves, and that an interruption leaves no trace in it."""

from __future__ import annotations

import errno
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from train.small_runs import config, losses, records, sections

torch = pytest.importorskip("torch")

from ingle.errors import DataError, MemoryLimitError, TrainingError, UsageError  # noqa: E402
from ingle.train import checkpoint as checkpoint_module  # noqa: E402
from ingle.train import keeper as keeper_module  # noqa: E402
from ingle.train import trainer as trainer_module  # noqa: E402
from ingle.train.checkpoint import load_checkpoint, load_run_model  # noqa: E402
from ingle.train.config import Config  # noqa: E402
from ingle.train.trainer import train  # noqa: E402

EVERY_STEP = 1e-9  # minutes


def at_step(step: int, act: Callable[[], Any]) -> Callable[[dict[str, Any]], None]:
    """For on_event: act when a step is done."""

    def on_event(event: dict[str, Any]) -> None:
        if event["event"] == "step" and event["step"] == step:
            act()

    return on_event


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 6 steps that nothing interrupted. Its folder's parent has the data."""
    folder = tmp_path_factory.mktemp("whole")
    train(config(folder), folder / "run")
    return folder / "run"


def test_a_run_leaves_a_model_and_its_story(whole: Path) -> None:
    found = {path.name for path in whole.iterdir()} - {".lock"}
    assert found == {
        *("config.toml", "README.md", "log.jsonl", "curves.png", "tokenizer.json", "checkpoints", "model"),
    }
    assert [step for step, _ in losses(whole)] == [1, 2, 3, 4, 5, 6]
    assert losses(whole)[-1][1] < losses(whole)[0][1]
    last = records(whole, "step")[-1]
    assert last["tokens"] == 6 * 128
    assert last["done"] == 1
    model = load_run_model(whole)
    assert model.tokenizer_json == (whole / "tokenizer.json").read_bytes()
    assert sum(tensor.numel() for tensor in model.tensors.values()) == model.shape.n_parameters
    readme = (whole / "README.md").read_text()
    assert "stories.txt" in readme
    assert f"{records(whole, 'validation')[-1]['loss']:.4f} nats/token" in readme
    assert (whole / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_the_validation_loss_is_that_of_the_model(whole: Path) -> None:
    """Computed anew from the files that the run left."""
    from ingle.train.data.loader import validation_rows
    from ingle.train.data.shards import open_shards
    from ingle.train.data.vocabulary import load_vocabulary
    from ingle.train.decoder import Decoder

    model = load_run_model(whole)
    decoder = Decoder(model.shape)
    decoder.load_state_dict(model.tensors)
    rows = validation_rows(open_shards(whole.parent / "shards").validation, 32, 2)
    with torch.no_grad():
        nats = float(decoder(*(torch.from_numpy(x) for x in (rows.tokens, rows.targets, rows.documents))))
    counted = rows.targets[rows.targets >= 0]
    assert records(whole, "validation")[-1]["loss"] == pytest.approx(nats / len(counted), rel=1e-5)
    vocabulary = load_vocabulary(whole)
    text = vocabulary.decode([int(i) for i in counted]).replace("<|endoftext|>", "")
    bits = nats / math.log(2) / len(text.encode())
    assert records(whole, "validation")[-1]["bits_per_byte"] == pytest.approx(bits, rel=1e-5)


def test_a_stopped_run_goes_on_as_if_nothing_had_been(whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    wanted = config(whole.parent)
    result = train(wanted, out, on_event=at_step(3, terminate))
    assert (result.status, result.signal, result.step) == ("stopped", signal.SIGTERM, 3)
    assert not (out / "model").exists()
    result = train(wanted, out, resume=True)
    assert (result.status, result.step) == ("finished", 6)
    assert losses(out) == losses(whole)
    model, expected = (path / "model" / "model.safetensors" for path in (out, whole))
    assert model.read_bytes() == expected.read_bytes()


def test_other_micro_batches_give_the_same_curve(whole: Path, tmp_path: Path) -> None:
    train(config(whole.parent, micro_tokens=32), tmp_path / "run")
    for (step, loss), (other_step, other) in zip(losses(tmp_path / "run"), losses(whole), strict=True):
        assert step == other_step
        assert loss == pytest.approx(other, rel=1e-4)


def test_a_longer_budget_goes_on_from_the_end(whole: Path, tmp_path: Path) -> None:
    train(config(whole.parent, steps=2), tmp_path / "run")
    result = train(config(whole.parent, steps=4), tmp_path / "run", resume=True)
    assert result.step == 4
    assert [step for step, _ in losses(tmp_path / "run")] == [1, 2, 3, 4]


KILLED = """
import sys, time
from pathlib import Path
sys.path.insert(0, {tests!r})
from train.small_runs import config
from ingle.train import checkpoint
from ingle.train.trainer import train

write, written = checkpoint.write_tensors, []

def slow(path, tensors):
    written.append(path)
    if len(written) == 6:  # the optimizer of the third checkpoint
        path.write_bytes(b"half of it")
        print("now", flush=True)
        time.sleep(60)
    return write(path, tensors)

checkpoint.write_tensors = slow
train(config(Path({data!r}), checkpoint_minutes=1e-9), Path({out!r}))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
def test_a_kill_in_mid_checkpoint_costs_nothing_but_the_steps_since_the_last(whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    script = KILLED.format(tests=str(Path(__file__).parent.parent), data=str(whole.parent), out=str(out))
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "now\n"
        process.kill()
    assert sorted(path.name for path in (out / "checkpoints").iterdir()) == [
        ".step-00000003.part",
        "step-00000001",
        "step-00000002",
    ]
    assert [step for step, _ in losses(out)] == [1, 2, 3]
    train(config(whole.parent), out, resume=True)
    assert losses(out) == losses(whole)
    assert not (out / "checkpoints" / ".step-00000003.part").exists()


def test_a_damaged_checkpoint_is_passed_over(whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    wanted = config(whole.parent, checkpoint_minutes=EVERY_STEP)
    train(wanted, out, on_event=at_step(3, terminate))
    path = out / "checkpoints" / "step-00000003" / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    events: list[dict[str, Any]] = []
    train(wanted, out, resume=True, on_event=events.append)
    warnings = [event["text"] for event in events if event["event"] == "warning"]
    assert any("SHA-256" in text and "step-00000002, which is whole" in text for text in warnings)
    assert losses(out) == losses(whole)


def test_when_all_checkpoints_are_damaged_it_says_so(whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    train(config(whole.parent), out, on_event=at_step(2, terminate))
    (out / "checkpoints" / "step-00000002" / "state.json").write_text("{")
    with pytest.raises(TrainingError, match=r"No checkpoint of this run is whole: .*state\.json is not JSON"):
        train(config(whole.parent), out, resume=True)


def test_a_state_that_lacks_something_is_a_sentence(whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    train(config(whole.parent), out, on_event=at_step(2, terminate))
    path = out / "checkpoints" / "step-00000002" / "state.json"
    state = json.loads(path.read_text())
    del state["tokens"]
    path.write_text(json.dumps(state))
    with pytest.raises(
        TrainingError, match="step-00000002 is not what was written: KeyError 'tokens'; delete that folder"
    ):
        train(config(whole.parent), out, resume=True)


def test_a_full_disk_costs_no_step(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second checkpoint does not fit; training goes on, the third one is written."""
    out = tmp_path / "run"
    write, written = checkpoint_module.write_tensors, []

    def full(path: Path, tensors: Any) -> str:
        written.append(path)
        if len(written) == 3:
            path.write_bytes(b"x")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return write(path, tensors)

    monkeypatch.setattr(checkpoint_module, "write_tensors", full)
    events: list[dict[str, Any]] = []
    train(config(whole.parent, checkpoint_minutes=EVERY_STEP), out, on_event=events.append)
    (text,) = [event["text"] for event in events if event["event"] == "warning"]
    assert text.startswith("The checkpoint of step 2 cannot be written: No space left on device.")
    assert "step-00000001 is whole" in text
    assert [record["step"] for record in records(out, "checkpoint")] == [1, 3, 4, 5, 6]
    assert losses(out) == losses(whole)


def test_a_disk_that_stays_full_is_an_error_at_the_end(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    train(config(whole.parent), out, on_event=at_step(2, terminate))

    def full(*anything: Any, **more: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(keeper_module, "save_checkpoint", full)
        patch.setattr(keeper_module, "save_model", full)
        patch.setattr(keeper_module, "draw_curves", full)
        with pytest.raises(TrainingError, match=r"cannot be written to .*No space left.*--resume.*step-00000002"):
            train(config(whole.parent), out, resume=True)
        with pytest.raises(TrainingError, match=r"checkpoint of step 4 cannot be written.*step-00000002"):
            train(config(whole.parent), out, resume=True, on_event=at_step(4, terminate))
    train(config(whole.parent), out, resume=True)
    assert losses(out) == losses(whole)


def test_a_loss_that_is_no_number_stops_the_run_and_spares_the_checkpoint(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    loss = trainer_module._Loop._loss

    def bad(self: Any, *batch: Any) -> Any:
        return loss(self, *batch) * (float("nan") if self.step == 3 else 1)

    with monkeypatch.context() as patch:
        patch.setattr(trainer_module._Loop, "_loss", bad)
        with pytest.raises(TrainingError) as caught:
            train(config(whole.parent, checkpoint_minutes=EVERY_STEP), out)
    text = str(caught.value)
    assert text.startswith("In step 4, after 384 tokens and at a learning rate of ")
    assert "the loss is nan" in text
    assert "step-00000003 is good" in text
    assert "smaller train.lr" in text
    assert load_checkpoint(out / "checkpoints" / "step-00000003").step == 3
    train(config(whole.parent), out, resume=True)
    assert losses(out) == losses(whole)


def test_a_gradient_that_is_no_number_is_named(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build = trainer_module.build_optimizer

    def poisoned(decoder: Any, recipe: Any) -> Any:
        weight = decoder.blk[1].ffn_up.weight
        weight.register_hook(lambda gradient: torch.full_like(gradient, float("inf")))
        return build(decoder, recipe)

    monkeypatch.setattr(trainer_module, "build_optimizer", poisoned)
    with pytest.raises(TrainingError, match=r"In step 1, .*gradient of blk\.1\.ffn_up\.weight .*no checkpoint yet"):
        train(config(whole.parent), tmp_path / "run")


def test_too_little_memory_is_a_sentence(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def greedy(self: Any, *batch: Any) -> Any:
        return torch.empty(2**60)

    monkeypatch.setattr(trainer_module._Loop, "_loss", greedy)
    with pytest.raises(MemoryLimitError, match=r"more memory than .*micro_tokens"):
        train(config(whole.parent), tmp_path / "run")


def test_a_second_signal_stops_at_once(whole: Path, tmp_path: Path) -> None:
    def interrupt_twice() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(
            config(whole.parent, checkpoint_minutes=EVERY_STEP), tmp_path / "run", on_event=at_step(3, interrupt_twice)
        )
    assert [path.name for path in sorted((tmp_path / "run" / "checkpoints").iterdir())] == [
        "step-00000001",
        "step-00000002",
    ]
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_the_clock_can_be_the_budget(whole: Path, tmp_path: Path) -> None:
    wanted = config(whole.parent, minutes=0.02)
    train(wanted, tmp_path / "run", on_event=at_step(2, terminate))
    first = records(tmp_path / "run", "step")
    result = train(wanted, tmp_path / "run", resume=True)
    assert result.elapsed_s >= 0.02 * 60
    second = records(tmp_path / "run", "step")
    assert second[: len(first)] == first
    assert second[len(first)]["elapsed_s"] > first[-1]["elapsed_s"]
    assert second[-1]["lr"] < max(record["lr"] for record in second)


def test_epochs_and_tokens_are_counted_in_steps(whole: Path, tmp_path: Path) -> None:
    assert train(config(whole.parent, tokens=300), tmp_path / "tokens").step == 3
    result = train(config(whole.parent, epochs=0.1), tmp_path / "epochs")
    rows = records(whole, "start")[0]["train_tokens"] / 32
    assert result.step == pytest.approx(0.1 * rows / 4, abs=1.5)


def test_quantisation_is_trained_for_from_its_start_on(whole: Path, tmp_path: Path) -> None:
    from ingle.train.config import Quantize

    plain, out = config(whole.parent), tmp_path / "run"
    wanted = replace(plain, quantize=Quantize("q4_0", 0.5))
    train(wanted, out, on_event=at_step(4, terminate))
    shutil.copytree(out, tmp_path / "longer")
    train(wanted, out, resume=True)
    train(wanted, tmp_path / "other")
    longer = replace(wanted, budget=replace(wanted.budget, amount=10))
    train(longer, tmp_path / "longer", resume=True, on_event=at_step(5, terminate))
    assert losses(tmp_path / "longer") == losses(out)[:5]  # by now it would not have begun
    assert losses(out)[:3] == losses(whole)[:3]
    assert losses(out)[3] != losses(whole)[3]
    assert losses(out) == losses(tmp_path / "other")
    assert load_run_model(out).info["scheme"] == "q4_0"
    assert "--type q4_0" in (out / "README.md").read_text()


def test_a_model_to_start_from_brings_shape_and_tokenizer(whole: Path, tmp_path: Path) -> None:
    wanted = replace(config(whole.parent, steps=1, lr=1e-9, muon_lr=1e-9), model={}, start=str(whole))
    wanted = replace(wanted, data=replace(wanted.data, tokenizer=None))
    train(wanted, tmp_path / "run")
    before, after = load_run_model(whole), load_run_model(tmp_path / "run")
    assert after.shape == before.shape
    assert after.tokenizer_json == before.tokenizer_json
    for name, tensor in before.tensors.items():
        torch.testing.assert_close(after.tensors[name], tensor, rtol=1e-5, atol=1e-6)


def test_a_model_that_is_its_own_teacher_has_nothing_to_learn(whole: Path, tmp_path: Path) -> None:
    from ingle.train.config import Distill

    wanted = replace(config(whole.parent, steps=1), model={}, start=str(whole), distill=Distill(str(whole), 1.0, 2.0))
    train(wanted, tmp_path / "run")
    assert losses(tmp_path / "run")[0][1] == pytest.approx(0, abs=1e-4)
    assert records(tmp_path / "run", "validation")[-1]["loss"] > 1


def test_another_tokenizer_than_the_models_is_refused(whole: Path, tmp_path: Path) -> None:
    wanted = replace(config(whole.parent), model={}, start=str(whole))
    wanted = replace(wanted, data=replace(wanted.data, tokenizer=300))
    with pytest.raises(UsageError, match=r"data\.tokenizer is another one than that of the model to start from"):
        train(wanted, tmp_path / "run")


def test_no_validation(whole: Path, tmp_path: Path) -> None:
    wanted = config(whole.parent, steps=2)
    result = train(replace(wanted, data=replace(wanted.data, validation=0.0, shards=None)), tmp_path / "run")
    assert result.validation is None
    assert records(tmp_path / "run", "validation") == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": {"width": 48}}, r"model\.width = 32, now it is 48"),
        ({"train": {"seed": 2}}, r"train\.seed = 1, now it is 2"),
        ({"train": {"lr": 0.5}}, r"train\.lr = [\d.]+, now it is 0\.5"),
        ({"data": {"tokenizer": 300}}, r"data\.tokenizer = 288, now it is 300"),
        ({"train": {"steps": 5}}, r"a budget of 6 steps; give as much or more"),
        ({"quantize": {"scheme": "q8_0"}}, r"begun without \[quantize\]"),
    ],
)
def test_what_a_run_is_cannot_change(whole: Path, change: dict[str, dict[str, Any]], message: str) -> None:
    found = sections(whole.parent)
    for section, values in change.items():
        found.setdefault(section, {}).update(values)
    before = (whole / "log.jsonl").read_bytes()
    with pytest.raises(TrainingError, match=message):
        train(Config.from_dict(found, whole.parent), whole, resume=True)
    assert (whole / "log.jsonl").read_bytes() == before


def test_a_folder_with_something_in_it_is_not_overwritten(whole: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"exists; --resume goes on with the run in it, or .*--out"):
        train(config(whole.parent), whole)
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(TrainingError, match="exists"):
        train(config(whole.parent), tmp_path)
    with pytest.raises(TrainingError, match=r"no run in .*no config\.toml"):
        train(config(whole.parent), tmp_path, resume=True)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_run_that_could_not_begin_can_be_begun_again(whole: Path, tmp_path: Path) -> None:
    out, good = tmp_path / "run", config(whole.parent, steps=1)
    with pytest.raises(UsageError, match=r"batch_tokens is 100, which is no whole number of rows of 32 positions; 96 "):
        train(config(whole.parent, batch_tokens=100), out)
    missing = {"path_or_name": str(tmp_path / "stories.txt")}
    with pytest.raises(UsageError, match=re.escape("stories.txt, which does not exist")):
        train(replace(good, data=replace(good.data, train=(missing,))), out)
    (tmp_path / "empty.txt").write_text("")
    empty = {"path_or_name": str(tmp_path / "empty.txt")}
    with pytest.raises(DataError):
        train(replace(good, data=replace(good.data, train=(empty,), shards=None)), out)
    assert train(good, out).status == "finished"


def test_one_process_per_folder(whole: Path, tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    from ingle.train.run_folder import locked

    with locked(whole), pytest.raises(TrainingError, match="Another process is training"):
        train(config(whole.parent), whole, resume=True)
