"""Token shards: what goes in comes out, splits stay, a damaged or half-written folder is never used."""

from __future__ import annotations

import errno
import json
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ingle.errors import DataError, UsageError
from ingle.train.data.document import Document, Segment
from ingle.train.data.shard_format import ShardSet, open_shards
from ingle.train.data.shard_writer import ShardWriter
from ingle.train.data.shards import build_shards
from ingle.train.data.sources import Source
from train.data.small_shards import SIZE, TEXTS, Bytes, leftovers, texts_of, write_texts

# -- what goes in comes out --------------------------------------------------------------------------------------------


def test_documents_come_out_as_they_went_in(built: ShardSet, tmp_path: Path) -> None:
    train, validation = texts_of(built.train), texts_of(built.validation)
    assert sorted(train + validation) == sorted(TEXTS)
    assert train == [text for text in TEXTS if text in set(train)]  # in order
    assert 8 <= len(validation) <= 35
    assert built.train.n_targets == sum(len(text) for text in train)
    assert built.meta["sources"][0]["train"] == {"documents": len(train), "tokens": built.train.n_tokens}
    assert sorted(path.name for path in (tmp_path / "shards").iterdir()) == ["meta.json", "train", "validation"]
    assert not leftovers(tmp_path / "shards")


def test_many_files_hold_what_one_does(built: ShardSet, source: Source, tmp_path: Path) -> None:
    many = build_shards([source], Bytes(), tmp_path / "many", validation=0.1, seed=3, shard_tokens=64)
    assert len(many.train.tokens) > 10
    assert texts_of(many.train) == texts_of(built.train)


@pytest.mark.parametrize("shard_tokens", [2**28, 16])
def test_bits_say_what_is_learnt(tmp_path: Path, shard_tokens: int) -> None:
    rng = np.random.default_rng(1)
    writer = ShardWriter(tmp_path / "train", SIZE, shard_tokens)
    expected: list[bool] = []
    for n in (3, 16, 40, 5, 2, 33, 8):
        learn = rng.random(n) < 0.5 if n in (40, 2, 8) else None
        writer.add(rng.integers(0, SIZE, n), np.array([n]), learn, 0)
        expected += [True] * n if learn is None else learn.tolist()
    about = writer.finish()
    ShardWriter(tmp_path / "validation", SIZE, shard_tokens).finish()
    side = {"documents": 0, "tokens": 0, "learn": [], "digest": ""}
    meta = {"format": "ingle-token-shards", "version": 1, "vocabulary_size": SIZE, "vocabulary_digest": "v"}
    meta |= {"shard_tokens": shard_tokens, "sources": [{"weight": 1.0}], "train": about, "validation": side}
    (tmp_path / "meta.json").write_text(json.dumps(meta))
    train = open_shards(tmp_path).train
    assert train.learnt(np.arange(len(expected))).tolist() == expected
    files = [expected[begin : begin + shard_tokens] for begin in range(0, len(expected), shard_tokens)]
    assert about["learn"] == [not all(file) for file in files]
    assert not train.all_learnt


def test_answers_alone_are_learnt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    documents = [
        Document((Segment("ask", learn=False), Segment("answer")), "here"),
        Document((Segment("only asked", learn=False),), "here"),
        Document((Segment("text"),), "here"),
        Document((), "here"),
    ]
    monkeypatch.setattr("ingle.train.data.shards.read_documents", lambda source, count: iter(documents))
    source = write_texts(tmp_path / "a.jsonl", ["unused"])
    built = build_shards([source], Bytes(), tmp_path / "shards", validation=0.0)
    assert texts_of(built.train) == ["askanswer", "text"]
    assert built.train.learnt(np.arange(15)).tolist() == [False] * 3 + [True] * 12
    assert built.meta["dropped"] == {"nothing to learn": 1, "shorter than 2 tokens": 1}
    assert built.validation.n_documents == 0


@pytest.mark.parametrize(("size", "dtype"), [(65536, "uint16"), (65537, "uint32")])
def test_ids_take_as_many_bytes_as_they_need(source: Source, tmp_path: Path, size: int, dtype: str) -> None:
    built = build_shards([source], Bytes(size=size), tmp_path / "shards")
    assert built.train.tokens[0].dtype == dtype


# -- splits ------------------------------------------------------------------------------------------------------------


def test_added_documents_and_other_orders_keep_the_split(built: ShardSet, tmp_path: Path) -> None:
    more = write_texts(tmp_path / "more.jsonl", [*reversed(TEXTS), *(f"new {n}" for n in range(300)), *TEXTS])
    after = build_shards([more], Bytes(), tmp_path / "after", validation=0.1, seed=3)
    assert set(texts_of(built.validation)) == set(texts_of(after.validation)) & set(TEXTS)
    assert not set(texts_of(after.train)) & set(texts_of(after.validation))  # equal documents are on one side
    other = build_shards([more], Bytes(), tmp_path / "other", validation=0.1, seed=4)
    assert set(texts_of(other.validation)) != set(texts_of(after.validation))


def test_validation_sources_are_kept_out_of_training(source: Source, tmp_path: Path) -> None:
    held_out = write_texts(tmp_path / "held_out.jsonl", [*TEXTS[:5], "another"])
    built = build_shards([source], Bytes(), tmp_path / "shards", validation=[held_out])
    assert texts_of(built.validation) == [*TEXTS[:5], "another"]
    assert texts_of(built.train) == TEXTS[5:]
    assert built.meta["dropped"] == {"also in validation": 5}
    assert set(built.validation.sources) == {1}


@pytest.mark.parametrize(
    ("texts", "validation", "message"),
    [
        (["one document"], 0.01, "A validation share of 0.01 of 1 documents leaves none"),
        (["a", "b"], 0.999999, "No document is left to train on: the validation share takes all"),
        ([""], 0.5, r"empty|nothing to learn"),
        ([], 0.5, "no document in it"),
    ],
)
def test_data_that_leave_nothing_are_refused(tmp_path: Path, texts: list[str], validation: float, message: str) -> None:
    source = write_texts(tmp_path / "few.jsonl", texts)
    with pytest.raises(DataError, match=message):
        build_shards([source], Bytes(), tmp_path / "shards", validation=validation)
    assert not (tmp_path / "shards").exists()
    assert not leftovers(tmp_path / "shards")


def test_validation_that_takes_all_training_documents_is_refused(source: Source, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="all documents are also in the validation data, 200 also in validation"):
        build_shards([source], Bytes(), tmp_path / "shards", validation=[source])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sources": []}, "needs 1 to 65536 sources of documents; 0 were"),
        ({"validation": []}, "validation sources is empty"),
        ({"validation": 1.0}, "from 0 to below 1"),
        ({"validation": float("nan")}, "from 0 to below 1"),
        ({"seed": -1}, "A seed is"),
        ({"sources": [Source("x", weight=5000.0)]}, "at most 1000 times"),
        ({"validation": [Source("y", weight=5000.0)]}, "weight of y is 5000.0"),
    ],
)
def test_impossible_arguments_are_refused(tmp_path: Path, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        build_shards(**{"sources": [Source("x")], "vocabulary": Bytes(), "folder": tmp_path / "s", **arguments})


def test_a_token_beyond_the_vocabulary_is_refused(source: Source, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="gave the token 256, and says it has 256"):
        build_shards([source], Bytes(size=256), tmp_path / "shards")


# -- building again ----------------------------------------------------------------------------------------------------


def test_nothing_is_built_twice_unless_something_changed(source: Source, tmp_path: Path) -> None:
    seen: list[tuple[int, int | None]] = []

    def build(*sources: Source, **changes: Any) -> tuple[ShardSet, int]:
        vocabulary = changes.pop("vocabulary", Bytes())
        arguments: dict[str, Any] = {"validation": 0.1, **changes}
        built = build_shards(sources, vocabulary, tmp_path / "s", on_progress=lambda *at: seen.append(at), **arguments)
        return built, vocabulary.calls

    first, calls = build(source)
    assert calls == 1
    size = Path(source.path_or_name).stat().st_size
    assert seen == [(size, size)]
    again, calls = build(source)
    assert (calls, again.digest) == (0, first.digest)
    weighted, calls = build(Source(source.path_or_name, weight=0.5))
    assert calls == 0
    assert weighted.train.weights.tolist() == [0.5]
    assert weighted.digest != first.digest
    assert build(source)[0].digest == first.digest
    for change in ({"seed": 1}, {"validation": 0.2}, {"vocabulary": Bytes("other")}, {"shard_tokens": 64}):
        assert build(source, **change)[1] == 1
    assert build(source)[1] == 1
    write_texts(Path(source.path_or_name), [*TEXTS, "one more"])
    assert build(source)[1] == 1
    (tmp_path / "s" / "train" / "ends.bin").unlink()
    repaired, calls = build(source)
    assert calls == 1
    assert "one more" in texts_of(repaired.train) + texts_of(repaired.validation)


def test_the_digest_is_of_the_content(built: ShardSet, tmp_path: Path) -> None:
    copy = write_texts(tmp_path / "copy.jsonl", TEXTS)
    assert build_shards([copy], Bytes(), tmp_path / "b", validation=0.1, seed=3).digest == built.digest
    changed = write_texts(tmp_path / "changed.jsonl", [TEXTS[0].replace("s", "t"), *TEXTS[1:]])
    assert build_shards([changed], Bytes(), tmp_path / "c", validation=0.1, seed=3).digest != built.digest


def test_a_folder_of_something_else_is_left_alone(source: Source, tmp_path: Path) -> None:
    thesis = tmp_path / "shards" / "thesis.txt"
    thesis.parent.mkdir()
    thesis.write_text("years of work")
    with pytest.raises(DataError, match=r"shards holds other files \(thesis.txt\)"):
        build_shards([source], Bytes(), thesis.parent)
    with pytest.raises(DataError, match="something else"):
        build_shards([source], Bytes(), thesis)
    assert thesis.read_text() == "years of work"


# -- full disks, killed and simultaneous builds ------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["os.fsync", "os.mkdir"])
def test_a_full_disk_is_one_sentence_and_leaves_nothing(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(where, full)
        with pytest.raises(DataError, match=r"written to .*/shards, because the disk or quota is full: free some"):
            build_shards([source], Bytes(), tmp_path / "shards")
    assert not leftovers(tmp_path / "shards")
    assert not (tmp_path / "shards").exists()


def test_an_error_of_the_caller_is_not_one_of_the_disk(source: Source, tmp_path: Path) -> None:
    def stop(*_: object) -> None:
        raise OSError(errno.ENOSPC, "of something else")

    with pytest.raises(OSError, match="of something else"):
        build_shards([source], Bytes(), tmp_path / "shards", on_progress=stop)
    assert not leftovers(tmp_path / "shards")


def test_a_file_over_the_limit_is_one_sentence_and_leaves_nothing(tmp_path: Path) -> None:
    source = write_texts(tmp_path / "long.jsonl", [f"{n}" * 9000 for n in range(60)])
    before = build_shards([write_texts(tmp_path / "short.jsonl", TEXTS)], Bytes(), tmp_path / "shards", validation=0.1)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, limits[1]))
    try:
        with pytest.raises(DataError, match=r"shards cannot be written to .*shards, because a file is larger than"):
            build_shards([source], Bytes(), tmp_path / "shards", validation=0.1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not leftovers(tmp_path / "shards")
    assert open_shards(tmp_path / "shards").digest == before.digest  # and what was there is there


BUILD = """
import sys, time
sys.path[:0] = [{tests!r}]
from train.data.small_shards import Bytes
from ingle.train.data.shards import build_shards
from ingle.train.data.sources import Source
build_shards([Source({path!r})], Bytes(), {folder!r}, validation=0.1, seed=3, on_progress={progress})
"""


def start(source: Source, folder: Path, progress: str = "None") -> subprocess.Popen[bytes]:
    here = str(Path(__file__).parents[2])
    script = BUILD.format(tests=here, path=source.path_or_name, folder=str(folder), progress=progress)
    return subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE)


def test_a_killed_build_leaves_what_the_next_one_removes(source: Source, tmp_path: Path) -> None:
    folder = tmp_path / "shards"
    process = start(source, folder, progress="lambda *_: time.sleep(60)")
    while not (tmp_path / ".shards.partial" / "train" / "ends.bin").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert leftovers(folder) == [".shards.partial"]
    assert not folder.exists()
    (tmp_path / ".shards.partial" / "litter").write_text("of the killed one")
    built = build_shards([source], Bytes(), folder)
    assert sorted(TEXTS) == sorted(texts_of(built.train) + texts_of(built.validation))
    assert not leftovers(folder)
    assert not (folder / "litter").exists()


def test_processes_that_build_the_same_at_once_do_not_disturb_each_other(source: Source, tmp_path: Path) -> None:
    folder = tmp_path / "shards"
    processes = [start(source, folder, progress="lambda *_: time.sleep(0.2)") for _ in range(3)]
    for process in processes:
        _, errors = process.communicate(timeout=60)
        assert (process.returncode, errors) == (0, b"")
    vocabulary = Bytes()
    built = build_shards([source], vocabulary, folder, validation=0.1, seed=3)
    assert vocabulary.calls == 0
    assert len(texts_of(built.train)) + len(texts_of(built.validation)) == len(TEXTS)
    assert not leftovers(folder)


def test_a_build_waits_for_another_and_takes_what_it_made(source: Source, tmp_path: Path) -> None:
    inside, go_on = threading.Event(), threading.Event()
    results: list[ShardSet] = []

    def pause(*_: object) -> None:
        inside.set()
        assert go_on.wait(30)

    def first() -> None:
        results.append(build_shards([source], Bytes(), tmp_path / "shards", on_progress=pause))

    second = Bytes()
    threads = [threading.Thread(target=first)]
    threads[0].start()
    assert inside.wait(30)
    threads.append(threading.Thread(target=lambda: results.append(build_shards([source], second, tmp_path / "shards"))))
    threads[1].start()
    time.sleep(0.1)
    go_on.set()
    for thread in threads:
        thread.join(30)
    assert len(results) == 2
    assert second.calls == 0
    assert results[0].digest == results[1].digest
