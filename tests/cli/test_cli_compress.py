"""`ingle compress`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from cli.processes import ingle
from ingle.cli import cli
from ingle.gguf import TensorType, open_gguf
from ingle.train.checkpoint import load_run_model, save_model
from ingle.train.shape import Shape
from ingle.train.trainer import train
from story_teller import STORY_TELLER
from train.small_runs import config, write_text


def compress(*words: str | Path) -> tuple[int, str, str]:
    result = CliRunner().invoke(cli, ["compress", *map(str, words)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def figures(*words: str | Path) -> dict[str, Any]:
    status, stdout, stderr = compress(*words, "--json")
    assert (status, stderr) == (0, "")
    found: dict[str, Any] = json.loads(stdout)
    return found


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a step, with its config and data; its weights are random, and larger than they were."""
    folder = tmp_path_factory.mktemp("compress")
    train(config(folder, steps=1), folder / "run")
    model = load_run_model(folder / "run")
    tensors = {name: 3 * tensor for name, tensor in model.tensors.items()}
    save_model(folder / "run" / "model", model.shape, tensors, model.tokenizer_json)
    return folder / "run"


def test_a_run_has_all_that_is_needed(run: Path, tmp_path: Path) -> None:
    status, stdout, stderr = compress(run, tmp_path / "q4.gguf", "--scheme", "q4_0", "--method", "gptq")
    assert (status, stderr) == (0, "")
    lines = stdout.splitlines()
    assert lines[0].startswith(f"{tmp_path / 'q4.gguf'}: q4_0 by gptq, ")
    assert "bits per weight (Q8_0 " in lines[0]
    assert [line.split()[0] for line in lines[1:]] == ["Calibrated", "loss", "before", "after"]
    done = ingle("run", tmp_path / "q4.gguf", "the cat", "--max-tokens", "3", "--seed", "1")
    assert done.returncode == 0, done.stderr


def test_figures_and_a_folder(run: Path, tmp_path: Path) -> None:
    found = figures(run, tmp_path / "small", "--scheme", "q4_1", "--method", "hqq")
    model = load_run_model(tmp_path / "small")
    assert sum(found["types"].values()) == found["parameters"] == model.shape.n_parameters
    assert found["bits_per_weight"] == pytest.approx(8 * found["weights_bytes"] / found["parameters"])
    assert found["loss_before"] != found["loss_after"]
    assert found["loss_after"] == pytest.approx(found["loss_before"], rel=0.05)
    assert found["perplexity_after"] == pytest.approx(2.718281828 ** found["loss_after"])
    assert found["calibration_tokens"] == 0
    again = compress(run, tmp_path / "small", "--scheme", "q8_0")
    assert again[0] == 2
    assert "--force" in again[2]
    assert compress(run, tmp_path / "small", "--scheme", "q8_0", "--force")[0] == 0
    assert load_run_model(tmp_path / "small").info["quantization"]["scheme"] == "q8_0"


def test_a_gguf_file_and_texts(tmp_path: Path) -> None:
    """A model that is really trained: 4 bits cost something, W8A8 next to nothing."""
    story = "Once upon a time there was a little girl named Lily. She had a red ball and a small dog named Max. "
    more = "One day she went to the park with her mom. They saw a big tree and sat down to eat. Lily was very happy. "
    (tmp_path / "calibrate.txt").write_text("\n<|endoftext|>\n".join([story + more, more]))
    (tmp_path / "held.txt").write_text(more + story)
    texts = "--calibrate", tmp_path / "calibrate.txt", "--held-out", tmp_path / "held.txt"
    found = {}
    for scheme, method in (("q4_0", "gptq"), ("w8a8", "rtn")):
        out = tmp_path / f"{scheme}.gguf"
        found[scheme] = figures(STORY_TELLER, out, "--scheme", scheme, "--method", method, *texts)
    before = found["q4_0"]["loss_before"]
    assert found["w8a8"]["loss_before"] == before
    assert abs(found["w8a8"]["loss_after"] - before) < 0.02
    assert abs(found["q4_0"]["loss_after"] - before) < 0.5
    assert 30 < found["q4_0"]["calibration_tokens"] < 150
    assert found["q4_0"]["bits_per_weight"] < 5.3 < found["w8a8"]["bits_per_weight"]
    with open_gguf(tmp_path / "q4_0.gguf") as file:
        assert file.tensors["blk.3.ffn_down.weight"].type is TensorType.Q4_0
        assert file.tensors["token_embd.weight"].type is TensorType.Q8_0
    stdout = compress(STORY_TELLER, tmp_path / "again.gguf", "--scheme", "q4_0", "--method", "gptq", *texts)[1]
    assert "tokens only" in stdout


def test_without_text_the_loss_is_not_measured(tmp_path: Path) -> None:
    stdout = compress(STORY_TELLER, tmp_path / "m.gguf", "--scheme", "q4_0")[1]
    assert "The loss was not measured; --held-out SOURCE measures it." in stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--scheme", "q4_0", "--method", "gptq"], "gptq calibrates with text"),
        (["--scheme", "q8_0", "--method", "gptq"], "8 bits"),
        (["--scheme", "q4_0", "--method", "gptq", "--calibrate", "T", "--held-out", "T"], "give two sources"),
        (["--scheme", "q4_0", "--method", "gptq", "--calibrate", "EMPTY"], "empty.txt"),
        (["--scheme", "q4_0", "--held-out", "MISSING"], "missing.txt"),
        (["--scheme", "q5"], "q5"),
        ([], "--scheme"),
    ],
)
def test_what_cannot_be_is_said_in_a_sentence(words: list[str], message: str, tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("")
    names = {"T": write_text(tmp_path), "EMPTY": tmp_path / "empty.txt", "MISSING": tmp_path / "missing.txt"}
    status, stdout, stderr = compress(STORY_TELLER, tmp_path / "out.gguf", *(names.get(word, word) for word in words))
    assert (status, stdout) == (2, "")
    assert message in stderr
    assert stderr.count("\n") == 1
    assert not (tmp_path / "out.gguf").exists()


def test_places_that_cannot_be_written(run: Path, tmp_path: Path) -> None:
    model = tmp_path / "m.gguf"
    model.write_bytes(STORY_TELLER.read_bytes())
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    for source, out, message in (
        (model, model, "is, or holds, the model"),
        (run, run, "is, or holds, the model"),
        (run, run.parent, "is, or holds, the model"),
        (model, tmp_path / "no" / "m.gguf", "does not exist"),
        (model, tmp_path / "mine", "not a model's folder"),
        (tmp_path / "nothing", tmp_path / "x.gguf", "does not exist"),
    ):
        status, _, stderr = compress(source, out, "--scheme", "q8_0", "--force")
        assert status == 2
        assert message in stderr
    assert (tmp_path / "mine" / "letter.txt").read_text() == "dear"


def test_a_tokenizer_that_is_not_the_models(run: Path, tmp_path: Path) -> None:
    model = load_run_model(run)
    small = Shape(**model.shape.to_dict() | {"vocabulary": 64})
    tensors = dict(model.tensors)
    tensors["token_embd.weight"] = tensors["token_embd.weight"][:64]
    save_model(tmp_path / "cut", small, tensors, model.tokenizer_json)
    text = write_text(tmp_path)
    status, _, stderr = compress(tmp_path / "cut", tmp_path / "out", "--scheme", "q8_0", "--held-out", text)
    assert status == 2
    assert "288 tokens and the model 64" in stderr
