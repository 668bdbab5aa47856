"""Reading sound files: values, types, shapes, splits, and agreement with the gguf package's reader."""

from __future__ import annotations

import gc
from pathlib import Path

import gguf
import numpy as np
import pytest

from gguf_bytes import ARRAY, F32, STRING, UINT16, Tensor, file, pair, sound, string, strings, u64
from ingle.errors import GGUFError, UsageError
from ingle.gguf import GGUFFile, Metadata, TensorType, ValueType, open_gguf
from shared_data import DATA, needs

VOCABULARIES = sorted((DATA / "tokenizers").glob("*.gguf"))


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def test_every_kind_of_value(tmp_path: Path) -> None:
    metadata = open_gguf(write(tmp_path / "m.gguf", sound())).metadata
    assert metadata["general.architecture"] == "llama"
    expected = {
        "uint8": 255,
        "int8": -1,
        "uint16": 65535,
        "int16": -2,
        "uint32": 7,
        "int32": -7,
        "float32": float(np.float32(0.1)),
        "bool": True,
        "uint64": 2**63,
        "int64": -(2**63),
        "float64": 0.1,
    }
    for name, value in expected.items():
        assert metadata[f"a.{name}"] == value
        assert type(metadata[f"a.{name}"]) is type(value)
        assert metadata.type_of(f"a.{name}") is ValueType[name.upper()]
    assert metadata["strings"] == ["a", "", "häuser", "日本"]
    assert metadata["no.strings"] == []
    numbers = metadata.get_array("numbers")
    assert numbers.dtype == np.int32
    assert numbers.tolist() == [1, -2, 3]
    assert metadata.get_array("flags").tolist() == [False, True, True]
    assert metadata.get_array("no.numbers").size == 0
    inner, texts = metadata["nested"]
    assert (inner.element_type, inner.value.tolist()) == (ValueType.UINT8, [1, 2])
    assert (texts.element_type, list(texts.value)) == (ValueType.STRING, ["x"])


def test_tensors_are_read_only_views_in_numpy_order(tmp_path: Path) -> None:
    path = write(tmp_path / "m.gguf", sound())
    with open_gguf(path) as opened:
        matrix, blocks = opened.tensors.values()
        assert (matrix.name, matrix.shape, matrix.type, matrix.n_bytes) == ("matrix", (3, 4), TensorType.F32, 48)
        assert (blocks.name, blocks.shape, blocks.type, blocks.n_bytes) == ("blocks", (2, 32), TensorType.Q4_0, 36)
        assert matrix.data.tolist() == list(range(48))
        assert blocks.data.tolist() == list(range(36))
        assert matrix.data.base is not None
        assert not matrix.data.flags.writeable
        content = path.read_bytes()
        for info in (matrix, blocks):
            assert info.path == path
            assert content[info.offset : info.offset + info.n_bytes] == info.data.tobytes()
        assert opened.n_bytes == len(content)
        assert opened.paths == (path,)


def test_views_outlive_the_file_and_close_is_final(tmp_path: Path) -> None:
    with open_gguf(write(tmp_path / "m.gguf", sound())) as opened:
        data = opened.tensors["matrix"].data
        texts = opened.metadata.get_strings("strings")
    opened.close()
    gc.collect()
    assert data.sum() == sum(range(48))
    assert list(texts) == ["a", "", "häuser", "日本"]
    with pytest.raises(UsageError, match="was closed"):
        _ = opened.tensors


def test_version_2_is_the_same_layout(tmp_path: Path) -> None:
    content = bytearray(sound())
    content[4] = 2
    assert len(open_gguf(write(tmp_path / "m.gguf", bytes(content))).tensors) == 2


def test_another_alignment(tmp_path: Path) -> None:
    pairs = [pair("general.alignment", 4, b"\x80\0\0\0")]
    tensors = [Tensor("a", (8,), F32, 0), Tensor("b", (8,), F32, 128)]
    content = file(pairs, tensors, bytes(32) + bytes(96) + bytes(range(32)), alignment=128)
    assert open_gguf(write(tmp_path / "m.gguf", content)).tensors["b"].data.tolist() == list(range(32))


def test_strings_are_not_decoded_before_they_are_used(tmp_path: Path) -> None:
    content = file([pair("tokens", ARRAY, strings(["fine", b"\xff\xfe"]))])
    metadata = open_gguf(write(tmp_path / "m.gguf", content)).metadata
    tokens = metadata.get_strings("tokens")
    assert len(tokens) == 2
    with pytest.raises(GGUFError, match=r'string 1 of the metadata "tokens" of .*m\.gguf is not UTF-8'):
        list(tokens)


def test_string_arrays_behave_like_sequences(tmp_path: Path) -> None:
    tokens = open_gguf(write(tmp_path / "m.gguf", sound())).metadata.get_strings("strings")
    assert tokens[0] == "a"
    assert tokens[-1] == "日本"
    assert tokens[1:3] == ["", "häuser"]
    assert "häuser" in tokens
    assert tokens.index("日本") == 3
    assert tokens != ["a"]
    assert tokens != "a"
    with pytest.raises(IndexError):
        tokens[4]


# -- agreement with the gguf package -----------------------------------------------------------------------------------


def assert_equal_to_gguf_reader(opened: GGUFFile, path: Path) -> None:
    theirs = gguf.GGUFReader(path)
    fields = {name: field for name, field in theirs.fields.items() if not name.startswith("GGUF.")}
    assert list(opened.metadata) == list(fields)
    for name, field in fields.items():
        typed = opened.metadata.typed(name)
        assert typed.type == field.types[0]
        ours = list(typed.value) if typed.type is ValueType.ARRAY else typed.value
        assert ours == field.contents(), name
        if typed.type is ValueType.ARRAY and len(ours):
            assert typed.element_type == field.types[1]
    assert list(opened.tensors) == [tensor.name for tensor in theirs.tensors]
    for tensor in theirs.tensors:
        info = opened.tensors[tensor.name]
        assert info.shape == tuple(reversed(tensor.shape.tolist()))
        assert info.type.id == tensor.tensor_type
        assert info.offset == tensor.data_offset
        assert info.data.tobytes() == tensor.data.tobytes()


@needs("tokenizers")
@pytest.mark.parametrize("path", VOCABULARIES, ids=lambda path: path.stem)
def test_real_vocabularies_equal_the_gguf_reader(path: Path) -> None:
    opened = open_gguf(path)
    assert_equal_to_gguf_reader(opened, path)
    n_tokens = len(opened.metadata.get_strings("tokenizer.ggml.tokens"))
    assert n_tokens > 30_000
    assert opened.metadata.get_array("tokenizer.ggml.token_type").shape == (n_tokens,)


def test_a_file_of_the_gguf_writer_equals_the_gguf_reader(tmp_path: Path) -> None:
    path = tmp_path / "theirs.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_uint32("llama.block_count", 2)
    writer.add_float32("llama.rope.freq_base", 1e6)
    writer.add_array("tokens", ["a", "b", "ç"])
    writer.add_array("scores", [0.5, -1.5])
    rng = np.random.default_rng(0)
    writer.add_tensor("half", rng.standard_normal((5, 7)).astype(np.float16))
    quantized = gguf.quants.quantize(rng.standard_normal((2, 3, 64)).astype(np.float32), gguf.GGMLQuantizationType.Q8_0)
    writer.add_tensor("experts", quantized, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    opened = open_gguf(path)
    assert opened.tensors["experts"].shape == (2, 3, 64)
    assert_equal_to_gguf_reader(opened, path)


# -- split files -------------------------------------------------------------------------------------------------------


def split_part(number: int, count: int, tensors: list[Tensor], n_tensors: int, extra: tuple[bytes, ...] = ()) -> bytes:
    pairs = [
        *extra,
        pair("split.no", UINT16, number.to_bytes(2, "little")),
        pair("split.count", UINT16, count.to_bytes(2, "little")),
        pair("split.tensors.count", 5, n_tensors.to_bytes(4, "little")),
    ]
    return file(pairs, tensors, bytes([number]) * 32 * len(tensors))


def split_model(directory: Path, count: int = 3) -> list[Path]:
    """The first part has the metadata and one tensor, the second two, the others one each."""
    paths = [directory / f"m-{i + 1:05d}-of-{count:05d}.gguf" for i in range(count)]
    for i, path in enumerate(paths):
        tensors = [Tensor(f"t{i}", (8,), F32, 0)] + ([Tensor("more", (8,), F32, 32)] if i == 1 else [])
        extra = (pair("general.name", STRING, string("split")),) if i == 0 else ()
        path.write_bytes(split_part(i, count, tensors, count + 1, extra))
    return paths


def test_the_first_part_opens_all(tmp_path: Path) -> None:
    paths = split_model(tmp_path)
    opened = open_gguf(paths[0])
    assert opened.paths == tuple(paths)
    assert opened.n_bytes == sum(path.stat().st_size for path in paths)
    assert list(opened.tensors) == ["t0", "t1", "more", "t2"]
    assert [opened.tensors[f"t{i}"].data[0] for i in range(3)] == [0, 1, 2]
    assert opened.tensors["more"].path == paths[1]
    assert dict(opened.metadata) == {"general.name": "split"}, "a whole has no part numbers"


def test_a_later_part_names_the_first(tmp_path: Path) -> None:
    paths = split_model(tmp_path)
    with pytest.raises(GGUFError, match=r"part 2 of 3 .* open the first, m-00001-of-00003\.gguf"):
        open_gguf(paths[1])


def test_a_missing_part_is_named(tmp_path: Path) -> None:
    paths = split_model(tmp_path)
    paths[2].unlink()
    with pytest.raises(GGUFError, match=r"part 3, m-00003-of-00003\.gguf, is not beside it"):
        open_gguf(paths[0])


def test_a_renamed_first_part_is_told_its_name(tmp_path: Path) -> None:
    paths = split_model(tmp_path)
    renamed = paths[0].rename(tmp_path / "model.gguf")
    with pytest.raises(GGUFError, match=r"must be called model-00001-of-00003\.gguf"):
        open_gguf(renamed)


def test_a_part_of_another_split_is_refused(tmp_path: Path) -> None:
    paths = split_model(tmp_path)
    paths[2].write_bytes(paths[1].read_bytes())
    with pytest.raises(GGUFError, match="should be part 3 of 3, but says it is part 2 of 3"):
        open_gguf(paths[0])


def test_a_tensor_in_two_parts_is_refused(tmp_path: Path) -> None:
    paths = split_model(tmp_path)
    paths[2].write_bytes(split_part(2, 3, [Tensor("t0", (8,), F32, 0)], 4))
    with pytest.raises(GGUFError, match='"t0" is both in'):
        open_gguf(paths[0])


def test_the_number_of_tensors_of_all_parts_is_checked(tmp_path: Path) -> None:
    paths = split_model(tmp_path)
    paths[2].write_bytes(split_part(2, 3, [Tensor("t2"), Tensor("t3", (8,), F32, 32)], 4))
    with pytest.raises(GGUFError, match="announces 4 tensors, but its 3 parts hold 5"):
        open_gguf(paths[0])


def test_a_huge_number_of_parts_allocates_nothing(tmp_path: Path) -> None:
    path = tmp_path / "m-00001-of-00003.gguf"
    path.write_bytes(file([pair("split.count", 10, u64(2**60))]))
    with pytest.raises(GGUFError, match="first of 1152921504606846976 parts"):
        open_gguf(path)


# -- typed getters -----------------------------------------------------------------------------------------------------


def test_getters_return_the_value_or_the_default() -> None:
    metadata = Metadata({"i": 3, "f": 0.5, "b": True, "s": "x", "n": np.array([1, 2], np.int32), "t": ["a"]})
    assert (metadata.get_int("i"), metadata.get_float("f"), metadata.get_bool("b")) == (3, 0.5, True)
    assert metadata.get_float("i") == 3.0
    assert (metadata.get_str("s"), list(metadata.get_strings("t"))) == ("x", ["a"])
    assert metadata.get_array("n").tolist() == [1, 2]
    assert metadata.get_int("missing", 5) == 5
    assert metadata.get_str("missing", None) is None
    assert metadata.get_strings("missing", ()) == ()


GETTERS = ["get_int", "get_float", "get_bool", "get_str", "get_array", "get_strings"]


@pytest.mark.parametrize("getter", GETTERS)
def test_a_missing_key_without_default_is_an_error(getter: str) -> None:
    with pytest.raises(GGUFError, match=r'^file\.gguf has no metadata "llama\.block_count"'):
        getattr(Metadata({}, "file.gguf"), getter)("llama.block_count")


@pytest.mark.parametrize(
    ("getter", "value", "message"),
    [
        ("get_int", "x", "must be an integer, but is of type string"),
        ("get_int", True, "must be an integer, but is of type bool"),
        ("get_int", 1.0, "must be an integer, but is of type float32"),
        ("get_int", [1], "must be an integer, but is an array of int32"),
        ("get_float", "x", "must be a number, but is of type string"),
        ("get_float", True, "must be a number, but is of type bool"),
        ("get_bool", 1, "must be a boolean, but is of type uint32"),
        ("get_str", 1, "must be a string, but is of type uint32"),
        ("get_str", ["x"], "must be a string, but is an array of string"),
        ("get_array", ["x"], "must be an array of numbers, but is an array of string"),
        ("get_array", 1, "must be an array of numbers, but is of type uint32"),
        ("get_strings", [1], "must be an array of strings, but is an array of int32"),
        ("get_strings", "x", "must be an array of strings, but is of type string"),
    ],
)
def test_a_wrong_type_is_an_error_even_with_a_default(getter: str, value: object, message: str) -> None:
    with pytest.raises(GGUFError, match=f'"k" of file {message}'):
        getattr(Metadata({"k": value}, "file"), getter)("k", None)


def test_updated_keeps_types_and_order() -> None:
    old = Metadata({"a": np.uint8(1), "b": 2, "c": np.int64(3)})
    new = old.updated({"b": "two", "d": 4}, remove=["a"])
    assert dict(new) == {"b": "two", "c": 3, "d": 4}
    assert [new.type_of(key).name for key in new] == ["STRING", "INT64", "UINT32"]
    assert dict(old) == {"a": 1, "b": 2, "c": 3}
