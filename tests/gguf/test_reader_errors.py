"""Every way in which a file can be wrong gives one sentence that says which file, what is wrong, and what to do."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest

from gguf_bytes import (
    ARRAY,
    BOOL,
    F32,
    INT32,
    Q4_0,
    STRING,
    UINT8,
    UINT32,
    Tensor,
    array,
    file,
    pair,
    string,
    strings,
    u32,
    u64,
)
from ingle.errors import GGUFError, IngleError, UnsupportedError
from ingle.gguf import open_gguf
from ingle.gguf.types import UNSUPPORTED_TYPES


def nested(depth: int) -> bytes:
    return array(UINT8, 1, b"\x01") if depth == 1 else array(ARRAY, 1, nested(depth - 1))


HEADER = struct.Struct("<4sIQQ")
A = pair("a", UINT8, b"\x01")

CASES: dict[str, tuple[bytes, str]] = {
    # what the file is instead
    "empty": (b"", r"is empty \(0 bytes\).*download"),
    "two bytes": (b"GG", "2 bytes long, too short"),
    "magic alone": (b"GGUF", "ends inside the version"),
    "ggml": (b"lmgg" + bytes(60), "old GGML file: convert"),
    "ggmf": (b"fmgg" + bytes(60), "old GGMF file: convert"),
    "ggjt": (b"tjgg" + bytes(60), "old GGJT file: convert"),
    "ggla": (b"algg" + bytes(60), "old GGLA adapter: convert"),
    "git-lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git-lfs pointer.*git lfs pull"),
    "zip": (b"PK\x03\x04" + bytes(60), "zip archive or PyTorch checkpoint: convert"),
    "pickle": (b"\x80\x02}q" + bytes(60), "pickle.*never opens pickles"),
    "gzip": (b"\x1f\x8b\x08\0" + bytes(60), "gzip archive: unpack"),
    "zstd": (b"\x28\xb5\x2f\xfd" + bytes(60), "zstd archive: unpack"),
    "xz": (b"\xfd7zXZ\0" + bytes(60), "xz archive: unpack"),
    "hdf5": (b"\x89HDF\r\n" + bytes(60), "HDF5 file: convert"),
    "zeros": (bytes(4096), "run of zeros.*download"),
    "html": (b"\n<!DOCTYPE html><html><body>404", "web page.*download"),
    "html with byte-order mark": (b"\xef\xbb\xbf<html>", "web page.*download"),
    "safetensors": (u64(99) + b'{"__metadata__":{}}' + bytes(99), "safetensors file: convert"),
    "json": (b'{"architectures": ["LlamaForCausalLM"]}', "JSON file"),
    "noise": (b"\x93\x8f\x01\x77garbage", "unknown .first bytes 93 8f 01 77"),
    # the first fields
    "version 1": (file(version=1), "GGUF version 1, .* convert it again"),
    "version 0": (file(version=0), "GGUF version 0, "),
    "version 4": (file(version=4), "GGUF version 4, .* update Ingle"),
    "big-endian": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "big-endian"),
    "big-endian 2": (b"GGUF" + struct.pack(">IQQ", 2, 0, 0), "big-endian"),
    "many tensors": (file([A], n_tensors=2**63), f"announces {2**63} tensors"),
    "one tensor too many": (file([A], n_tensors=1), "announces 1 tensors"),
    "many keys": (file([A], n_pairs=2**64 - 1), f"announces {2**64 - 1} metadata keys"),
    "more keys than a file has": (file([A] * 100_000), "announces 100000 metadata keys"),
    # metadata
    "key runs out": (file([u64(100) + b"abc" + bytes(9)]), "ends inside the name of metadata key 0"),
    "key length absurd": (file([u64(2**62) + bytes(13)]), f"announces {2**62} bytes for the name of metadata key 0"),
    "key not UTF-8": (file([pair(b"\xff\xfe", UINT8, b"\x01")]), "not UTF-8 in the name of metadata key 0"),
    "terminal codes": (file([pair("a\n\x1b[2J", 99, b"\x01")]), r'the metadata "a\\n\\x1b\[2J" the unknown'),
    "key twice": (file([A, A]), 'the metadata key "a" twice'),
    "value type": (file([pair("a", 13, bytes(8))]), 'gives the metadata "a" the unknown value type 13'),
    "value runs out": (file([pair("a", 12, bytes(3))]), 'ends inside the metadata "a"'),
    "string length absurd": (file([pair("a", STRING, u64(2**40))]), f"announces {2**40} bytes"),
    "string runs out": (file([pair("a", STRING, u64(50) + b"abc")]), 'ends inside the metadata "a"'),
    "string not UTF-8": (file([pair("a", STRING, string(b"\xc3"))]), 'not UTF-8 in the metadata "a"'),
    "boolean": (file([pair("a", BOOL, b"\x02")]), "the value 2 instead of 0 or 1"),
    "booleans": (file([pair("a", ARRAY, array(BOOL, 3, b"\0\x01\x07"))]), "the value 7 instead of 0 or 1"),
    "element type": (file([pair("a", ARRAY, array(99, 0, b""))]), "unknown value type 99"),
    "array length absurd": (file([pair("a", ARRAY, array(INT32, 2**62, bytes(8)))]), f"announces {2**62} numbers"),
    "array runs out": (file([pair("a", ARRAY, array(INT32, 3, bytes(8)))]), "announces 3 numbers"),
    "string count absurd": (file([pair("a", ARRAY, array(STRING, 2**60, bytes(8)))]), f"announces {2**60} strings"),
    "strings run out": (file([pair("a", ARRAY, array(STRING, 2, u64(0) + u64(1)))]), 'ends inside the metadata "a"'),
    "a string jumps out": (
        file([pair("a", ARRAY, array(STRING, 2, u64(2**63) + u64(0)))]),
        'ends inside the metadata "a"',
    ),
    "nesting": (file([pair("a", ARRAY, nested(5))]), "nests arrays more than 4 deep"),
    "nested count absurd": (file([pair("a", ARRAY, array(ARRAY, 2**50, bytes(24)))]), f"announces {2**50} arrays"),
    "alignment 0": (file([pair("general.alignment", UINT32, u32(0))]), "general.alignment 0"),
    "alignment 24": (file([pair("general.alignment", UINT32, u32(24))]), "general.alignment 24"),
    "alignment 4": (file([pair("general.alignment", UINT32, u32(4))]), "general.alignment 4"),
    "alignment absurd": (file([pair("general.alignment", UINT32, u32(1 << 31))]), f"general.alignment {1 << 31}"),
    "alignment text": (
        file([pair("general.alignment", STRING, string("32"))]),
        "must be an integer, but is of type str",
    ),
    "split.count text": (file([pair("split.count", STRING, string("2"))]), '"split.count" .* must be an integer'),
    # tensors
    "tensor twice": (file([], [Tensor(), Tensor(offset=32)], bytes(64)), 'the tensor "t" twice'),
    "tensor name": (file([], [Tensor(b"\xff")], bytes(32)), "not UTF-8 in the name of tensor 0"),
    "no dimensions": (file([], [Tensor(n_dims=0)], bytes(32)), '"t" 0 dimensions, and 1 to 4'),
    "five dimensions": (file([], [Tensor(dims=(1,) * 5)], bytes(32)), '"t" 5 dimensions, and 1 to 4'),
    "dimensions absurd": (file([], [Tensor(n_dims=2**31)], bytes(32)), '"t" 2147483648 dimensions'),
    "empty tensor": (file([], [Tensor(dims=(8, 0))], bytes(32)), r"the empty shape \[0, 8\]"),
    "overflow": (file([], [Tensor(dims=(2**32, 2**32))], bytes(32)), f"reaches to byte {2**66 + 96}"),
    "overflow to zero": (file([], [Tensor(dims=(2**62, 4))], bytes(32)), f"reaches to byte {2**66 + 96}"),
    "unknown type": (file([], [Tensor(type=1000)], bytes(32)), '"t" the unknown type 1000: update Ingle'),
    "block": (file([], [Tensor(dims=(33,), type=Q4_0)], bytes(64)), "Q4_0, 32 weights per block, .* 33 weights"),
    "offset": (file([], [Tensor(offset=16)], bytes(64)), '"t" at 16, not a multiple of 32'),
    "data runs out": (file([], [Tensor()], bytes(31)), '"t" reaches to byte 96: it is cut short.*download'),
    "offset absurd": (file([], [Tensor(offset=2**64 - 32)], bytes(32)), "reaches to byte"),
    "overlap": (file([], [Tensor("a", (16,)), Tensor("b", offset=32)], bytes(64)), '"a" and "b" in the same bytes'),
    "same place": (file([], [Tensor("a"), Tensor("b")], bytes(64)), '"a" and "b" in the same bytes'),
    "overlap in reverse": (
        file([], [Tensor("b", offset=32), Tensor("a", (16,))], bytes(64)),
        '"a" and "b" in the same bytes',
    ),
}


@pytest.mark.parametrize(("content", "message"), CASES.values(), ids=CASES)
def test_each_fault_has_its_sentence(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    with pytest.raises(GGUFError, match=message) as caught:
        open_gguf(path)
    sentence = str(caught.value)
    assert str(path) in sentence, "names the file"
    assert "\n" not in sentence
    assert ":" in sentence.removeprefix(str(path)), "says what to do after a colon"
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


@pytest.mark.parametrize(("type_id", "name"), UNSUPPORTED_TYPES.items(), ids=UNSUPPORTED_TYPES.values())
def test_a_type_that_is_not_supported_is_named(tmp_path: Path, type_id: int, name: str) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(file([], [Tensor("blk.0.attn_q.weight", (256,), type_id)], bytes(512)))
    with pytest.raises(UnsupportedError, match=rf'"blk\.0\.attn_q\.weight" as {name}, and Ingle reads F32, .*Q6_K'):
        open_gguf(path)


def test_a_path_that_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(GGUFError, match=r"there is no file .*nothing\.gguf"):
        open_gguf(tmp_path / "nothing.gguf")
    with pytest.raises(GGUFError, match="directory or device"):
        open_gguf(tmp_path)
    with pytest.raises(GGUFError, match=r"cannot be read .*null"):
        open_gguf("model\0.gguf")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_is_refused_rather_than_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.gguf")
    with pytest.raises(GGUFError, match="not a file"):
        open_gguf(tmp_path / "pipe.gguf")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="the superuser may read everything")
def test_a_file_without_permission(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(file())
    path.chmod(0)
    with pytest.raises(GGUFError, match="permission"):
        open_gguf(path)


def test_deep_nesting_within_the_bound_is_read(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(file([pair("a", ARRAY, nested(4))]))
    assert "a" in open_gguf(path).metadata


def test_a_long_walk_over_a_sparse_file_is_refused(tmp_path: Path) -> None:
    """A file of zeros costs nothing on disk, so a count that fits its size is still bounded."""
    path = tmp_path / "model.gguf"
    path.write_bytes(file([pair("a", ARRAY, array(STRING, 2**25, b""))]))
    os.truncate(path, 2**30)
    with pytest.raises(IngleError, match=f"announces {2**25} strings"):
        open_gguf(path)


def test_sound_neighbours_of_the_faults(tmp_path: Path) -> None:
    """The cases above fail for their fault, not for how they are built."""
    path = tmp_path / "model.gguf"
    path.write_bytes(
        file(
            [A, pair("b", ARRAY, strings(["", "x"])), pair("general.alignment", UINT32, u32(32))],
            [Tensor("a", (16,), F32), Tensor("b", (32,), Q4_0, 64)],
            bytes(64 + 18),
        )
    )
    assert len(open_gguf(path).tensors) == 2
