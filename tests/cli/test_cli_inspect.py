"""`ingle inspect`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from click.testing import CliRunner

import toys
from ingle.cli import cli
from shared_data import shared


def inspect(*words: str | Path) -> str:
    result = CliRunner().invoke(cli, ["inspect", *map(str, words)])
    assert result.exit_code == 0, result.stderr
    return result.stdout


def record(*words: str | Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(inspect(*words, "--json"))
    return found


def test_the_record_of_a_gguf(toy: Path) -> None:
    found = record(toy, "--context", "128")
    n_vocab = len(toys.vocabulary())
    n_parameters = 2 * n_vocab * 32 + 32 + 2 * (2 * 32 + 2 * 32 * 32 + 2 * 16 * 32 + 3 * 64 * 32)
    assert (found["file"], found["name"], found["family"], found["problem"]) == (str(toy), "Toy", "llama", None)
    assert found["parameters"] == n_parameters
    assert found["weights_bytes"] == 4 * n_parameters
    assert found["types"] == {"F32": {"tensors": 21, "parameters": n_parameters, "bytes": 4 * n_parameters}}
    assert found["spec"]["n_embd"] == 32
    assert found["spec"]["schedule"] == [0, 1]
    tokenizer = found["tokenizer"]
    assert (tokenizer["model"], tokenizer["n_vocab"], tokenizer["chat_template"]) == ("gpt2", n_vocab, True)
    assert {"id": n_vocab - 1, "text": "<|im_end|>"} in tokenizer["ends"]
    memory = found["memory"]
    assert memory["context"] == 128
    assert memory["cache_bytes"] == 2 * 2 * 16 * 2 * 128  # keys and values, layers, width, f16, positions
    parts = ("weights_bytes", "cache_bytes", "buffers_bytes")
    assert memory["total_bytes"] == sum(memory[part] for part in parts)
    assert "tensors" not in found


def test_the_context_by_default_is_what_run_takes(tmp_path: Path, toy: Path) -> None:
    assert record(toy)["memory"]["context"] == 256
    assert record(toys.toy_gguf(tmp_path / "long.gguf", n_context=9999))["memory"]["context"] == 4096


def test_tensors(toy: Path) -> None:
    tensors = {tensor["name"]: tensor for tensor in record(toy, "--tensors")["tensors"]}
    assert len(tensors) == 21
    assert tensors["blk.1.attn_k.weight"] == {
        "name": "blk.1.attn_k.weight",
        "type": "F32",
        "shape": [16, 32],
        "bytes": 2048,
    }


def test_the_table_has_what_the_record_has(toy: Path) -> None:
    table = inspect(toy, "--tensors")
    for word in ("llama", "Toy", "35,808", "256", "<|im_end|>", "F32", "KiB", "blk.1.ffn_down.weight", "total"):
        assert word in table
    assert not any(line != line.rstrip() for line in table.splitlines())
    assert "blk.1" not in inspect(toy)


def test_a_hugging_face_directory(tmp_path: Path) -> None:
    found = record(toys.huggingface_llama(tmp_path / "hf"))
    assert (found["family"], found["tokenizer"]["chat_template"]) == ("llama", True)
    assert found["parameters"] == 35_808


def test_a_file_that_cannot_be_run_is_described_as_far_as_it_is_sound(tmp_path: Path) -> None:
    from gguf import GGUFWriter

    path = tmp_path / "vocab.gguf"
    writer = GGUFWriter(path, "nonesuch")
    writer.add_name("\x1b[31mRed")
    writer.add_tensor("something", np.zeros((4, 32), np.float32))
    for write in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
        write()
    writer.close()
    found = record(path)
    assert found["family"] is None
    assert "nonesuch" in found["problem"]
    assert found["spec"] is found["memory"] is None
    assert found["parameters"] == 128
    assert "no tokenizer" in found["tokenizer"]["problem"]
    table = inspect(path)
    assert "cannot run this" in table
    assert "[31mRed" in table
    assert "\x1b" not in table


def test_vocabulary_files() -> None:
    path = shared("tokenizers/ggml-vocab-llama-spm.gguf")
    found = record(path)
    assert found["tokenizer"]["n_vocab"] == 32_000
    assert found["problem"]
    assert "32,000" in inspect(path)
