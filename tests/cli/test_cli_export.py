"""`ingle export`."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from cli.processes import ingle
from ingle.cli import cli
from ingle.gguf import TensorType, open_gguf, quantize
from ingle.train.checkpoint import TrainedModel, save_model
from train.small_decoders import small_decoder, small_shape, trained


def export(*words: str | Path) -> tuple[int, str, str]:
    result = CliRunner().invoke(cli, ["export", *map(str, words)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def saved(folder: Path, model: TrainedModel | None = None, **changes: Any) -> Path:
    """A run's folder with its final model."""
    model = model or trained(small_decoder(small_shape(**changes)), name="Tiny")
    folder.mkdir(exist_ok=True)
    save_model(folder / "model", model.shape, model.tensors, model.tokenizer_json, model.info, model.quantized)
    return folder


def test_it_says_what_it_wrote_and_how_to_run_it(tmp_path: Path) -> None:
    out = tmp_path / "my model.gguf"
    status, stdout, stderr = export(saved(tmp_path / "run"), out, "--type", "q8_0")
    assert (status, stderr) == (0, "")
    lines = stdout.splitlines()
    assert lines[0].startswith(f"{out}: llama, q8_0, ")
    assert "bits per weight" in lines[0]
    # Rows of 40 (four heads of 10) have no blocks of 32.
    assert lines[1].startswith("F16 in the place of Q8_0 for 2 tensors (blk.0.attn_output.weight, ...): rows of 40")
    assert lines[2] == f"Run it: ingle run '{out}'"
    plain = saved(tmp_path / "plain", trained(small_decoder(small_shape(head_dim=8)), chat=False))
    assert export(plain, tmp_path / "plain.gguf")[1].endswith('plain.gguf "Once upon a time"\n')
    done = ingle("run", out, "The cat", "--max-tokens", "3", "--seed", "1")
    assert done.returncode == 0, done.stderr


def test_shared_layers(tmp_path: Path) -> None:
    run = saved(tmp_path / "run", sharing="immediate", head_dim=8)
    stdout = export(run, tmp_path / "shared.gguf")[1]
    assert "mobilellm, f16" in stdout
    assert "--expand writes it for others" in stdout
    stdout = export(run, tmp_path / "expanded.gguf", "--expand")[1]
    assert "llama, f16" in stdout
    assert "Only Ingle" not in stdout
    run = saved(tmp_path / "gelu", feed_forward="gelu", head_dim=8)
    assert "no other program has its feed-forward" in export(run, tmp_path / "gelu.gguf")[1]


def test_a_hugging_face_folder(tmp_path: Path) -> None:
    run, out = saved(tmp_path / "run"), tmp_path / "hf"
    status, stdout, stderr = export(run, out, "--hf", "--type", "bf16")
    assert (status, stderr) == (0, "")
    assert stdout.startswith(f"{out}: bf16, ")
    assert f'from_pretrained("{out}")' in stdout
    status, _, stderr = export(run, out, "--hf")
    assert status == 2
    assert "--force" in stderr
    assert export(run, out, "--hf", "--force")[0] == 0
    status, stdout, _ = export(out, tmp_path / "from_hf.gguf", "--type", "f32")
    assert status == 0
    with open_gguf(tmp_path / "from_hf.gguf") as file:
        assert file.metadata.get_str("tokenizer.chat_template").startswith("{%")


def test_a_template_in_a_file(tmp_path: Path) -> None:
    """Where the model learnt no conversations by our data, but by other means."""
    run = saved(tmp_path / "run", trained(small_decoder(small_shape()), chat=False))
    text = "{% for message in messages %}{{ message.role + ': ' + message.content + '\\n' }}{% endfor %}"
    (tmp_path / "chat.jinja").write_text("\ufeff" + text, "utf-8")
    status, stdout, stderr = export(run, tmp_path / "out.gguf", "--chat-template", tmp_path / "chat.jinja")
    assert (status, stderr) == (0, "")
    assert stdout.endswith("out.gguf\n")  # ready for a conversation
    with open_gguf(tmp_path / "out.gguf") as file:
        assert file.metadata.get_str("tokenizer.chat_template") == text
    assert export(run, tmp_path / "hf", "--hf", "--chat-template", tmp_path / "chat.jinja")[0] == 0
    assert json.loads((tmp_path / "hf" / "tokenizer_config.json").read_text())["chat_template"] == text


@pytest.mark.parametrize(
    ("content", "about"),
    [
        (b"{% for", "not sound"),
        (b"{{ messages[0].content }}", "leaves out what a message of the assistant says"),
        (b"\xff\xfe{", "not a text in UTF-8"),
        (b"x" * (1 << 21), "at most"),
        (None, "No such file"),
    ],
)
def test_templates_that_cannot_be(tmp_path: Path, content: bytes | None, about: str) -> None:
    if content is not None:
        (tmp_path / "chat.jinja").write_bytes(content)
    words = "--chat-template", tmp_path / "chat.jinja"
    status, stdout, stderr = export(saved(tmp_path / "run"), tmp_path / "out.gguf", *words)
    assert (status, stdout) == (2, "")
    assert stderr.count("\n") == 1
    assert about in stderr
    assert not (tmp_path / "out.gguf").exists()


def test_blocks_of_a_compressed_model_choose_the_type(tmp_path: Path) -> None:
    model = trained(small_decoder(small_shape(head_dim=8, tied=False)))
    blocks = {
        name: (TensorType.Q4_1, quantize(tensor.numpy(), TensorType.Q4_1).tobytes())
        for name, tensor in model.tensors.items()
        if name.startswith("blk.") and tensor.ndim == 2
    }
    model = TrainedModel(model.shape, model.tensors, model.tokenizer_json, {}, blocks)
    assert "llama, q4_1" in export(saved(tmp_path / "run", model), tmp_path / "out.gguf")[1]
    with open_gguf(tmp_path / "out.gguf") as file:
        assert file.tensors["blk.1.ffn_down.weight"].data.tobytes() == blocks["blk.1.ffn_down.weight"][1]


@pytest.mark.parametrize(
    ("model", "out", "words", "about"),
    [
        ("run", "out.bin", [], "does not end in .gguf"),
        ("run", "out.gguf", ["--hf"], "leave --hf away"),
        ("run", "no/such/out", ["--hf"], "does not exist"),
        ("run", "run", ["--hf", "--force"], "holds the model to export"),
        ("run", ".", ["--hf", "--force"], "holds the model to export"),
        ("run", "mine", ["--hf", "--force"], "no Hugging Face folder"),
        ("run", "taken.gguf", [], "--force"),
        ("run", "hf", ["--hf", "--type", "q8_0"], "f32, bf16 or f16"),
        ("run", "out.gguf", ["--type", "q3"], "q3"),
        ("mine", "out.gguf", [], "no trained model"),
        ("none.gguf", "out.gguf", [], "does not exist"),
        ("taken.gguf", "out.gguf", [], "taken.gguf"),
        ("bare", "out.gguf", [], "tokenizer"),
    ],
)
def test_what_cannot_be(tmp_path: Path, model: str, out: str, words: list[str], about: str) -> None:
    whole = trained(small_decoder(small_shape()))
    saved(tmp_path / "run", whole)
    saved(tmp_path / "bare", TrainedModel(whole.shape, whole.tensors))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    (tmp_path / "taken.gguf").write_text("mine")
    status, stdout, stderr = export(tmp_path / model, tmp_path / out, *words)
    assert (status, stdout) == (2, "")
    assert stderr.count("\n") == 1
    assert about in stderr
    assert sorted(os.listdir(tmp_path)) == ["bare", "mine", "run", "taken.gguf"]
    assert (tmp_path / "taken.gguf").read_text() == "mine"
    assert os.listdir(tmp_path / "mine") == ["notes.txt"]


def test_without_pytorch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    status, _, stderr = export(tmp_path, tmp_path / "out.gguf")
    assert status == 2
    assert "pip install 'ingle[train]'" in stderr
