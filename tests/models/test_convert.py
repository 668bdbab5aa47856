"""Conversion: right values in every file type, bounded memory, whole files or none."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ingle.errors import ModelFileError, UsageError
from ingle.gguf import TensorType, ValueType, open_gguf
from ingle.models.checkpoint import open_checkpoint
from ingle.models.convert import convert
from ingle.models.source import open_source
from models.checkpoints_on_disk import CONFIG, MIXTRAL, llama_arrays, mixtral_arrays, save

SQUARE = CONFIG | {"hidden_size": 256, "intermediate_size": 512, "vocab_size": 96}
#: the root mean square error of a tensor's weights, relative to theirs
ERRORS = {"f32": 0.0, "f16": 5e-4, "bf16": 3e-3, "q8_0": 8e-3, "q4_0": 0.12, "q4_k_m": 0.1}


def tokenizer(directory: Path, n_vocab: int) -> dict[str, Any]:
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": [f"{directory.name}{i}" for i in range(n_vocab)],
        "tokenizer.ggml.scores": np.linspace(0, -1, n_vocab).astype(np.float32),
        "tokenizer.ggml.bos_token_id": 1,
    }


def files_in(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


@pytest.mark.parametrize("file_type", ERRORS)
@pytest.mark.parametrize("dtype", ["f32", "f16"])
def test_values_survive_in_every_file_type(file_type: str, dtype: str, tmp_path: Path) -> None:
    arrays = llama_arrays(SQUARE, np.float16 if dtype == "f16" else np.float32)
    hf = save(tmp_path / "hf", arrays, SQUARE, shards=3)
    convert(hf, tmp_path / "out.gguf", file_type, threads=2)
    source, converted = open_source(hf), open_source(tmp_path / "out.gguf")
    assert set(converted.tensors) == set(source.tensors)
    for name, tensor in converted.tensors.items():
        expected = source.tensors[name].float32()
        assert tensor.shape == expected.shape
        error = np.linalg.norm(tensor.float32() - expected) / np.linalg.norm(expected)
        assert error <= (0 if tensor.type is TensorType.F32 else ERRORS[file_type])
    types = {name: converted.headers[name].type for name in ("blk.0.ffn_up.weight", "output_norm.weight")}
    base = {"q4_k_m": TensorType.Q4_K}.get(file_type) or TensorType.parse(file_type)
    assert types == {"blk.0.ffn_up.weight": base, "output_norm.weight": TensorType.F32}
    assert converted.metadata.get_int("general.quantization_version") == 2
    assert open_checkpoint(tmp_path / "out.gguf").spec == open_checkpoint(hf).spec


def test_file_types_have_their_numbers(tmp_path: Path) -> None:
    hf = save(tmp_path / "hf", llama_arrays())
    for name, number in {"f32": 0, "f16": 1, "q4_0": 2, "q8_0": 7, "bf16": 32}.items():
        with open_gguf(convert(hf, tmp_path / f"{name}.gguf", name)) as file:
            assert file.metadata.get_int("general.file_type") == number


def test_blocks_lie_in_the_order_of_computing(tmp_path: Path) -> None:
    with open_gguf(convert(save(tmp_path / "hf", llama_arrays()), tmp_path / "out.gguf")) as file:
        layers = [name.split(".")[1] for name in file.tensors if name.startswith("blk.")]
        assert next(iter(file.tensors)) == "token_embd.weight"
        assert layers == sorted(layers)


def test_tokenizer_travels_from_directory_to_file_to_file(tmp_path: Path) -> None:
    hf = save(tmp_path / "words", llama_arrays())
    first = convert(hf, tmp_path / "first.gguf", "f16", extra_metadata=tokenizer)
    second = convert(first, tmp_path / "second.gguf", "q8_0")
    with open_gguf(first) as a, open_gguf(second) as b:
        for key, value in tokenizer(hf, 70).items():
            for metadata in (a.metadata, b.metadata):
                assert metadata.get_strings(key) == value if key.endswith("tokens") else np.all(metadata[key] == value)
            assert b.metadata.type_of(key) == a.metadata.type_of(key)
        assert b.metadata.type_of("llama.context_length") is ValueType.UINT32
        same = set(a.metadata) - {"general.file_type"}
        assert all(np.all(np.asarray(a.metadata[key]) == np.asarray(b.metadata[key])) for key in same)
        assert "ingle.requantized_from" not in b.metadata


def test_a_gguf_file_converts_like_its_checkpoint(tmp_path: Path) -> None:
    hf = save(tmp_path / "hf", llama_arrays())
    direct = convert(hf, tmp_path / "direct.gguf", "q8_0")
    twice = convert(convert(hf, tmp_path / "f32.gguf", "f32"), tmp_path / "twice.gguf", "q8_0")
    with open_gguf(direct) as a, open_gguf(twice) as b:
        assert all(np.array_equal(a.tensors[name].data, b.tensors[name].data) for name in a.tensors)


def test_experts_are_quantised_one_by_one_to_the_same_bits(tmp_path: Path) -> None:
    hf = save(tmp_path / "hf", mixtral_arrays(), MIXTRAL)
    direct = convert(hf, tmp_path / "direct.gguf", "q8_0")
    twice = convert(convert(hf, tmp_path / "f32.gguf", "f32"), tmp_path / "twice.gguf", "q8_0")
    with open_gguf(direct) as a, open_gguf(twice) as b:
        assert a.tensors["blk.1.ffn_up_exps.weight"].shape == (4, 96, 64)
        assert all(np.array_equal(a.tensors[name].data, b.tensors[name].data) for name in a.tensors)


def test_quantising_again_is_noted_and_kept_bits_are_kept(tmp_path: Path) -> None:
    q8 = convert(save(tmp_path / "hf", llama_arrays()), tmp_path / "q8.gguf", "q8_0")
    q4 = convert(q8, tmp_path / "q4.gguf", "q4_0")
    same = convert(q8, tmp_path / "same.gguf", "q8_0")
    with open_gguf(q8) as before, open_gguf(q4) as again, open_gguf(same) as copied:
        assert again.metadata.get_str("ingle.requantized_from") == "Q8_0"
        assert "ingle.requantized_from" not in copied.metadata
        assert all(np.array_equal(copied.tensors[n].data, before.tensors[n].data) for n in before.tensors)


def test_memory_is_bounded_by_slabs_not_by_the_model(tmp_path: Path) -> None:
    """136 MB of weights, the largest tensor 67 MB, pass through a few slabs of 16 MiB (as they are and quantised)."""
    config = CONFIG | {"hidden_size": 1024, "vocab_size": 16384, "intermediate_size": 2048, "num_hidden_layers": 2}
    arrays = llama_arrays(config | {"vocab_size": 8}, np.float32)
    arrays["model.embed_tokens.weight"] = np.ones((16384, 1024), np.float32)
    del arrays["lm_head.weight"]
    hf = save(tmp_path / "hf", arrays, config | {"tie_word_embeddings": True})
    n_bytes = sum(array.nbytes for array in arrays.values())
    del arrays
    open_source(hf).close()  # imports, once
    for file_type, slabs in (("f32", 1), ("q8_0", 8)):
        tracemalloc.start()
        convert(hf, tmp_path / "out.gguf", file_type, threads=1)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < slabs * 16 * 2**20, (file_type, peak)
        assert n_bytes > 100e6


def test_progress_sums_to_the_total(tmp_path: Path) -> None:
    totals: list[int] = []
    steps: list[int] = []
    out = convert(
        save(tmp_path / "hf", llama_arrays()),
        tmp_path / "q.gguf",
        "q8_0",
        on_start=totals.append,
        on_bytes=steps.append,
    )
    with open_gguf(out) as file:
        assert totals == [sum(steps)] == [sum(info.n_bytes for info in file.tensors.values())]


def test_interrupted_leaves_what_was_there(tmp_path: Path) -> None:
    hf = save(tmp_path / "hf", llama_arrays())
    out = tmp_path / "out.gguf"
    out.write_bytes(b"precious")
    before = files_in(tmp_path)

    def interrupt(n: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(hf, out, "q8_0", on_bytes=interrupt)
    assert out.read_bytes() == b"precious"
    assert files_in(tmp_path) == before


def test_killed_half_way_leaves_no_target(tmp_path: Path) -> None:
    hf = save(tmp_path / "hf", llama_arrays())
    script = f"""
        import os, signal
        from ingle.models.convert import convert
        seen = []
        def die(n):
            seen.append(n)
            if len(seen) == 9:
                os.kill(os.getpid(), signal.SIGKILL)
        convert({str(hf)!r}, {str(tmp_path / "out.gguf")!r}, "q8_0", on_bytes=die)
    """
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], env=os.environ | {"PYTHONPATH": path_here()}
    )
    assert ended.returncode == -signal.SIGKILL
    assert not (tmp_path / "out.gguf").exists()
    open_checkpoint(convert(hf, tmp_path / "out.gguf", "q8_0"))  # what was left behind is not in the way


def path_here() -> str:
    import ingle

    return str(Path(str(ingle.__file__)).parent.parent)


def test_targets_that_cannot_be(tmp_path: Path) -> None:
    hf = save(tmp_path / "hf", llama_arrays())
    out = convert(hf, tmp_path / "out.gguf", "f16")
    before = out.read_bytes()
    for target in (out, tmp_path / "hf" / ".." / "out.gguf"):
        with pytest.raises(UsageError, match="is the model that is being converted"):
            convert(out, target, "q8_0")
    (tmp_path / "link.gguf").hardlink_to(out)
    with pytest.raises(UsageError, match="is the model that is being converted"):
        convert(out, tmp_path / "link.gguf", "q8_0")
    with pytest.raises(UsageError, match="is the model that is being converted"):
        convert(hf, hf / "model.safetensors", "q8_0")
    with pytest.raises(UsageError, match="is a directory"):
        convert(hf, tmp_path, "q8_0")
    with pytest.raises(UsageError, match='no file type called "q9_9"'):
        convert(hf, tmp_path / "x.gguf", "q9_9")
    assert out.read_bytes() == before


def test_no_room_is_said_before_a_byte_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hf = save(tmp_path / "hf", llama_arrays())
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 1000})())
    with pytest.raises(ModelFileError, match=r"needs .* GiB, and its disk has .* free"):
        convert(hf, tmp_path / "out.gguf", "f16")
    assert files_in(tmp_path) == {"hf"}


@pytest.mark.parametrize("value", [1e6, np.inf, np.nan])
def test_values_that_a_type_cannot_hold_name_the_tensor(value: float, tmp_path: Path) -> None:
    arrays = llama_arrays()
    arrays["model.layers.1.mlp.up_proj.weight"][5, 7] = value
    hf = save(tmp_path / "hf", arrays)
    with pytest.raises(UsageError, match=r"Tensor blk\.1\.ffn_up\.weight cannot be stored as F16: "):
        convert(hf, tmp_path / "out.gguf", "f16")
    assert files_in(tmp_path) == {"hf"}
