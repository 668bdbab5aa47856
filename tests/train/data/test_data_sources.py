"""Sources: every kind of file that is read, and a sentence for every one that cannot be."""

from __future__ import annotations

import codecs
import gzip
import io
import json
import lzma
import socket
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingle.errors import DataError, UsageError
from ingle.train.data import hub, json_records
from ingle.train.data.document import well_formed
from ingle.train.data.json_records import json_values
from ingle.train.data.sources import Document, Source, read_documents, source_bytes, source_files
from ingle.train.data.texts import split_documents
from shared_data import shared

STORIES = "One.\nTwo.\n<|endoftext|>\nThree.\r\n<|endoftext|>\r\n\n \n<|endoftext|>\n\nFour <|endoftext|> five."
TEXTS = ["One.\nTwo.", "Three.", "Four <|endoftext|> five."]


def read(path: Path | str, **more: Any) -> list[Document]:
    return list(read_documents(Source(str(path), **more)))


def texts(path: Path | str, **more: Any) -> list[str]:
    return [document.text for document in read(path, **more)]


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def lines(*records: object) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


def test_a_text_is_cut_at_its_separators(tmp_path: Path) -> None:
    path = write(tmp_path / "stories.txt", STORIES)
    found = read(path)
    assert [document.text for document in found] == TEXTS
    assert [document.origin for document in found] == [f"{path}:1", f"{path}:4", f"{path}:10"]
    assert all(segment.learn and not segment.special for document in found for segment in document.segments)


def test_the_articles_of_wikiextractor(tmp_path: Path) -> None:
    articles = '<doc id="1" url="u" title="A">\nA\n\nIt is.\n</doc>\n<doc id="2" url="u" title="B">\nB\n</doc>\n'
    found = read(write(tmp_path / "AA" / "wiki_00", articles).parent)
    assert [document.text for document in found] == ["A\n\nIt is.", "B"]
    assert [document.origin for document in found] == [f"{tmp_path}/AA/wiki_00:{line}" for line in (2, 7)]
    assert texts(write(tmp_path / "a.txt", "Write:\n" + articles)) == ["Write:\n" + articles.rstrip()]


def test_a_text_without_separators_is_one_document(tmp_path: Path) -> None:
    assert texts(write(tmp_path / "a.md", "# A\n\nb \r\n")) == ["# A\n\nb "]


@given(st.lists(st.text("ab\n <|endoftext>"), max_size=6).map("".join), st.integers(1, 30))
def test_the_cut_does_not_depend_on_how_a_text_comes(text: str, size: int) -> None:
    chunks = [text[start : start + size] for start in range(0, len(text), size)]
    assert list(split_documents(chunks)) == list(split_documents([text]))


@given(st.text("ab\n", max_size=60), st.integers(1, 9))
def test_a_long_text_is_cut_and_nothing_is_lost(text: str, limit: int) -> None:
    parts = [part for _, part in split_documents([text], limit)]
    assert all(0 < len(part) <= limit for part in parts)
    assert "".join(parts).replace("\n", "") == text.replace("\n", "")


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz", "a.txt.xz", "a.tar", "a.tar.gz", "a.tgz", "a.tar.xz"])
def test_compressed_files_and_archives(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if ".t" in name and name != "a.txt" and not name.startswith("a.txt"):
        with tarfile.open(path, "w:" + {"gz": "gz", "xz": "xz", "tgz": "gz"}.get(name.split(".")[-1], "")) as archive:
            for inner, content in (("x/a.txt", STORIES), ("x/b.bin", "no"), ("x/.c.txt", "no")):
                member = tarfile.TarInfo(inner)
                member.size = len(content.encode())
                archive.addfile(member, io.BytesIO(content.encode()))
            link = tarfile.TarInfo("x/d.txt")
            link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
            archive.addfile(link)
    else:
        pack = {".gz": gzip.compress, ".xz": lzma.compress}.get(path.suffix, bytes)
        write(path, pack(STORIES.encode()))
    assert texts(path) == TEXTS


def test_a_folder_is_its_files_in_order(tmp_path: Path) -> None:
    write(tmp_path / "b.txt", "b")
    write(tmp_path / "a" / "c.jsonl", lines({"text": "c"}))
    write(tmp_path / "z.json", json.dumps([{"text": "z"}]))
    for hidden in (".git/d.txt", ".e.txt", "f.png", "README.md", "LICENSE.txt"):
        write(tmp_path / hidden, "no")
    assert texts(tmp_path) == ["c", "b", "z"]
    assert [file.name for file in source_files(Source(str(tmp_path)))] == ["c.jsonl", "b.txt", "z.json"]
    assert source_bytes(Source(str(tmp_path))) == 1 + 14 + 15


def test_parquet_is_read_in_parts(tmp_path: Path) -> None:
    table = pyarrow.table({"text": [f"row {n}" for n in range(1000)], "license": ["mit"] * 1000})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet", row_group_size=300)
    told: list[int] = []
    found = list(read_documents(Source(str(tmp_path / "a.parquet")), count=told.append))
    assert [document.text for document in found] == [f"row {n}" for n in range(1000)]
    assert (found[-1].origin, found[-1].licence) == (f"{tmp_path}/a.parquet:row 1000", "mit")
    assert len(told) > 1
    assert 0.9 < sum(told) / (tmp_path / "a.parquet").stat().st_size <= 1


def test_parquet_has_conversations(tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    pyarrow.parquet.write_table(pyarrow.table({"messages": [messages], "text": [None]}), tmp_path / "a.parquet")
    assert texts(tmp_path / "a.parquet") == ["<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n"]


@pytest.mark.parametrize(
    "content",
    [
        '[{"text": "a"}, {"text": "b"}]',
        ' [ \n{"text":\n"a"}\n,{"text": "b"}\n]\n',
        '{"text": "a"}\n{"text": "b"}\n',
        '{"text":\n "a"}{"text": "b"}',
    ],
)
def test_json_is_an_array_or_values_in_a_row(tmp_path: Path, content: str) -> None:
    assert texts(write(tmp_path / "a.json", content)) == ["a", "b"]


values = st.recursive(st.one_of(st.integers(), st.text(max_size=3)), lambda v: st.lists(v, max_size=3), max_leaves=5)


@given(st.lists(values, max_size=5), st.integers(1, 20), st.sampled_from([None, 1]))
def test_an_array_of_json_does_not_depend_on_how_it_comes(found: list[Any], size: int, indent: int | None) -> None:
    text = json.dumps(found, indent=indent)
    chunks = [text[start : start + size] for start in range(0, len(text), size)]
    read_back = list(json_values(chunks, "a.json"))
    assert [value for _, value in read_back] == found
    assert [line for line, _ in read_back] == [line for line, _ in json_values([text], "a.json")]


def test_the_licence_is_the_records_or_the_sources_or_that_of_the_card_beside_it(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", lines({"text": "a", "license": "mit"}, {"text": "b"}))
    assert [document.licence for document in read(path)] == ["mit", None]
    assert [document.licence for document in read(path, licence="mine")] == ["mit", "mine"]
    write(tmp_path / "LICENSE", "You may.")
    assert [document.licence for document in read(path)] == ["mit", "see LICENSE"]
    write(tmp_path / "README.md", "---\ntags: [a]\nlicense: cc-by-4.0\n---\nlicense: no\n")
    assert [document.licence for document in read(path)] == ["mit", "cc-by-4.0"]


def test_a_field_may_be_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", lines({"text": "a", "body": "b"}))
    assert texts(path, text_field="body") == ["b"]


def test_the_bytes_read_are_told(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt.gz", gzip.compress(STORIES.encode() * 99))
    told: list[int] = []
    list(read_documents(Source(str(path)), count=told.append))
    assert sum(told) == path.stat().st_size == source_bytes(Source(str(path)))


def test_a_long_file_is_not_read_before_it_is_asked_for(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", lines(*({"text": "x" * 1000} for _ in range(20000))))
    told: list[int] = []
    documents = read_documents(Source(str(path)), count=told.append)
    next(documents)
    assert sum(told) < path.stat().st_size / 4


# What cannot be read


def complaint(path: Path | str, **more: Any) -> str:
    with pytest.raises(DataError) as caught:
        read(path, **more)
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.txt", b"abc\xe4def", "a.txt is not UTF-8 at byte 3; convert it (for a file in Latin-1: iconv"),
        ("a.txt", codecs.BOM_UTF8 + b"abc\xe4", "is not UTF-8 at byte 6;"),
        ("a.txt", b"x" * (1 << 20) + b"\xc3\xa4" * 3 + b"\xff", f"is not UTF-8 at byte {(1 << 20) + 6};"),
        ("a.txt", b"abc\xc3", "is not UTF-8 at byte 3;"),
        ("a.txt", "\ufeffabc".encode("utf-16-le"), "a.txt is in UTF-16 or UTF-32; convert it"),
        ("a.txt", b"ab\0c", "a.txt has a zero byte at offset 2, so it is not a text"),
        ("a.txt", b"", "a.txt has no document in it; give a source with text."),
        ("a.txt", b" \n<|endoftext|>\n", "has no document in it"),
        ("a.jsonl", b"\n\n", "has no document in it"),
        (
            "a.jsonl",
            b'{"text": "a"}\n{"text": "b"\n',
            "a.jsonl:2: this is not JSON (expecting ',' delimiter, character",
        ),
        ("a.jsonl", b'{"text": "a"}\n\xe4\n', "a.jsonl:2 is not UTF-8 at byte 14; convert it"),
        ("a.jsonl", b'{"text": "a"}\n[1]\n', "a.jsonl:2: this is a list; expected an object with fields such as"),
        ("a.jsonl", b"[" * 100000, "a.jsonl:1: this is not JSON (nested too deeply)"),
        ("a.json", b'[{"text": "a"},\n{"text": "b"', "a.json:2: this is not JSON (expecting ',' delimiter"),
        ("a.json", b'[{"text": "a"},\n', "a.json:2: the JSON array has no end; the file was not copied as a whole."),
        ("a.json", b'[{"text": "a"}] 7', "a.json:1: there is more after the end of the JSON array"),
        ("a.json", b"[" * 100000, "a.json:1: this is not JSON (nested too deeply)"),
        ("a.parquet", b"PAR1 and no more", "a.parquet is not a sound Parquet file ("),
        ("a.txt.gz", gzip.compress(b"abc" * 999)[:-9], "a.txt.gz ends in the middle; it was not copied or downloaded"),
        ("a.txt.xz", lzma.compress(b"abc" * 999)[:-9], "a.txt.xz ends in the middle"),
        ("a.txt.gz", b"abc", "a.txt.gz is not sound (Not a gzipped file"),
        ("a.txt.xz", b"abcdefgh", "a.txt.xz is not sound (Input format not supported by decoder); get the file again."),
        ("a.tar", b"abc" * 999, "a.tar is not sound ("),
        ("a.csv", b"a,b", "a.csv is of no kind that can be read (.txt, .text, .md, .jsonl"),
        ("a.jsonl.zst", b"abc", "unpack it with `zstd -d` first"),
    ],
)
def test_files_that_cannot_be_read(tmp_path: Path, name: str, content: bytes, sentence: str) -> None:
    assert sentence in complaint(write(tmp_path / name, content))


def test_a_parquet_file_that_is_cut(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": ["a" * 999, "b"]}), path)
    path.write_bytes(path.read_bytes()[:-20])
    assert "a.parquet is not a sound Parquet file (" in complaint(path)


def test_a_line_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_records, "MAX_RECORD_BYTES", 1 << 20)
    path = write(tmp_path / "a.jsonl", b"[" + b"1," * (1 << 20))
    assert "a.jsonl:1: the line is longer than 1 MiB; expected one record of JSON in each line." in complaint(path)
    path = write(tmp_path / "a.json", b"[[" + b"1," * (1 << 20))
    assert "a.json:1: this is not JSON" in complaint(path)


def test_broken_records_are_told_and_passed_over(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", lines({"text": "a"}) + "{\n" + lines({"x": 1}, {"text": "b"}))
    write(tmp_path / "b.txt", b"\xff")
    write(tmp_path / "c.txt", "c")
    told: list[DataError] = []
    found = read_documents(Source(str(tmp_path)), broken=told.append)
    assert [document.text for document in found] == ["a", "b", "c"]
    starts = [
        f"{tmp_path}/a.jsonl:2: this is not JSON",
        f"{tmp_path}/a.jsonl:3: there is no field",
        f"{tmp_path}/b.txt",
    ]
    assert [str(error).startswith(start) for error, start in zip(told, starts, strict=True)] == [True] * 3


def test_nothing_but_broken_records_is_an_error(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", lines({"x": 1}, {"x": 2}))
    told: list[DataError] = []
    with pytest.raises(DataError, match=r"no document that can be read; the first error: .*a\.jsonl:1: there is no"):
        list(read_documents(Source(str(path)), broken=told.append))
    assert len(told) == 2


def test_missing_files_and_empty_folders(tmp_path: Path) -> None:
    write(tmp_path / "stories.txt", "a")
    assert complaint(tmp_path / "storys.txt") == (
        f"There is no {tmp_path}/storys.txt; did you mean {tmp_path}/stories.txt?"
    )
    assert complaint(tmp_path / "qqq") == f"There is no {tmp_path}/qqq in {tmp_path}."
    assert complaint(tmp_path / "no" / "qqq").endswith(f"(there is no folder {tmp_path}/no either).")
    write(tmp_path / "pictures" / "a.png", b"a")
    assert "pictures has nothing to read; expected files that end in .txt" in complaint(tmp_path / "pictures")


def test_an_archive_without_texts(tmp_path: Path) -> None:
    write(tmp_path / "a.png", b"a")
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.add(tmp_path / "a.png", "a.png")
    assert "a.tar has no file in it that can be read; expected ones that end in .txt" in complaint(tmp_path / "a.tar")


def test_sources_that_cannot_be() -> None:
    with pytest.raises(UsageError, match="got nothing"):
        Source("")
    for weight in (0, -1.0, "1", float("nan")):
        with pytest.raises(UsageError, match=f"The weight of a is {weight!r}; expected a positive number"):
            Source("a", weight=weight)  # type: ignore[arg-type]


def test_half_characters_become_a_mark(tmp_path: Path) -> None:
    assert texts(write(tmp_path / "a.jsonl", '{"text": "a\\ud83d b \\ud83d\\ude00"}')) == ["a\ufffd b \U0001f600"]
    assert well_formed("\udc00") == "\ufffd"


# Data sets by name


class Rows:
    """What `datasets.load_dataset` gives."""

    def __init__(self, rows: list[Any], licence: str | None = None) -> None:
        self.rows = rows
        self.info = SimpleNamespace(license=licence)

    def __iter__(self) -> Iterator[Any]:
        for row in self.rows:
            if isinstance(row, Exception):
                raise row
            yield row


@pytest.fixture
def hugging_face(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A stand-in for the package, and for a network: nothing is fetched."""

    def load_dataset(path: str, name: str | None = None, **options: Any) -> Rows:
        package.calls.append((path, name, options))
        if isinstance(package.result, Exception):
            raise package.result
        result: Rows = package.result
        return result

    package = SimpleNamespace(load_dataset=load_dataset, calls=[], result=Rows([{"text": "a"}, {"text": "b"}], "mit"))
    card = SimpleNamespace(load=lambda path: SimpleNamespace(data=SimpleNamespace(license=["cc0-1.0", path])))
    package.load = SimpleNamespace(DatasetCard=card)
    monkeypatch.setitem(sys.modules, "datasets", package)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: [])
    return package


def test_a_data_set_by_name(hugging_face: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    found = read("hf:owner/name/config", split="test")
    assert [(document.text, document.origin, document.licence) for document in found] == [
        ("a", "hf:owner/name/config:row 1", "mit"),
        ("b", "hf:owner/name/config:row 2", "mit"),
    ]
    assert hugging_face.calls == [("owner/name", "config", {"split": "test", "streaming": True})]
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err == "hf:owner/name/config: reading the split test from huggingface.co as it is needed\n"
    assert source_files(Source("hf:owner/name")) == []
    assert source_bytes(Source("hf:owner/name")) is None


def test_the_licence_of_a_data_set_is_on_its_card(hugging_face: SimpleNamespace) -> None:
    hugging_face.result = Rows([{"text": "a"}])
    assert read("hf:owner/name")[0].licence == "cc0-1.0, owner/name"
    assert read("hf:owner/name", licence="mine")[0].licence == "mine"
    hugging_face.load.DatasetCard = None
    assert read("hf:owner/name")[0].licence is None


class DatasetNotFoundError(Exception):
    """Named like the package's."""


@pytest.mark.parametrize(
    ("result", "sentence"),
    [
        (
            DatasetNotFoundError("x"),
            "hf:a/b is not to be had: no such data set, or it wants an account; check",
        ),
        (ConnectionError("x"), "hf:a/b cannot be fetched, huggingface.co is out of reach; go online or give local"),
        (ValueError("Bad split: x.\n"), "hf:a/b cannot be read (Bad split: x); check name, configuration and split."),
        (Rows([{"text": "a"}, TimeoutError()]), "hf:a/b cannot be fetched"),
    ],
)
def test_data_sets_that_cannot_be_had(hugging_face: SimpleNamespace, result: Any, sentence: str) -> None:
    hugging_face.result = result
    assert sentence in complaint("hf:a/b")


@pytest.mark.parametrize("name", ["hf:", "hf:a//b", "hf:a/b/c/d"])
def test_names_that_are_none(hugging_face: SimpleNamespace, name: str) -> None:
    assert "is no name of a data set; expected hf:OWNER/NAME or" in complaint(name)
    assert hugging_face.calls == []


def test_offline_is_told_at_once(hugging_face: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    for name in ("HF_ENDPOINT", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(socket, "getaddrinfo", fail)
    assert "hf:a/b cannot be fetched, huggingface.co is out of reach" in complaint("hf:a/b")
    assert hugging_face.calls == []
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")  # only the proxy can know
    assert len(read("hf:a/b")) == 2


def test_the_package_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match="need the package datasets: pip install"):
        hub.hub_records("a/b", "train")


def test_real_data() -> None:
    assert len(read(shared("text/pb-source_en.tar.xz"))) == 396
    wiki = texts(shared("text/enwiki_extract_20x1MB.tar.xz"))
    assert len(wiki) > 1000
    assert not any("<doc id=" in text or "</doc>" in text for text in wiki)
    assert len(read(shared("text/tinystories_train_first2MiB_cased.txt"))) == 2317
    assert len(read(shared("instruct/dolly15k_en.jsonl"))) == 15015
    assert len(read(shared("api_calls/glaive_toolcall_en_demo.json"))) == 300
