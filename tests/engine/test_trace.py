"""A trace: what is kept, and that its file is what the viewers of Chrome's Trace Event Format read."""

from __future__ import annotations

import json
from pathlib import Path
from threading import Barrier, Thread
from typing import Any

import pytest

from ingle.engine.trace import Trace

MIB = 1 << 20


def written(trace: Trace, path: Path) -> list[dict[str, Any]]:
    """The records of the file, each checked by the rules of its phase."""
    trace.write(path)
    whole = json.loads(path.read_text())
    assert set(whole) == {"displayTimeUnit", "traceEvents"}
    assert whole["displayTimeUnit"] in ("ms", "ns")
    for record in whole["traceEvents"]:
        assert isinstance(record["pid"], int)
        assert isinstance(record["name"], str)
        if record["ph"] == "M":
            names = {"process_name": "name", "thread_name": "name", "process_labels": "labels"}
            assert list(record["args"]) == [names.get(record["name"], "sort_index")]
            assert ("tid" in record) == record["name"].startswith("thread_")
        elif record["ph"] == "X":
            assert isinstance(record["tid"], int)
            assert record["ts"] >= 0
            assert record["dur"] >= 0
        else:
            assert record["ph"] == "C"
            assert record["ts"] >= 0
            assert all(isinstance(value, int | float) for value in record["args"].values())
    found: list[dict[str, Any]] = whole["traceEvents"]
    return found


def of(records: list[dict[str, Any]], phase: str) -> list[dict[str, Any]]:
    return [record for record in records if record["ph"] == phase]


def tracks(records: list[dict[str, Any]]) -> dict[int, str]:
    return {record["tid"]: record["args"]["name"] for record in of(records, "M") if record["name"] == "thread_name"}


def in_thread(name: str, *events: tuple[Any, ...], trace: Trace, n_bytes: int = 0) -> None:
    def add() -> None:
        for event in events:
            trace.add(*event, **({"n_bytes": n_bytes} if n_bytes else {}))

    thread = Thread(target=add, name=name)
    thread.start()
    thread.join()


def test_each_kind_has_its_track_and_each_reader_one_of_its_own(tmp_path: Path) -> None:
    trace = Trace()
    zero = trace.began_s
    started = Barrier(2)  # both live at once: a thread's number may be given again when it has ended

    def read(name: str, at: float) -> None:
        started.wait(10)
        trace.add("read", name, zero + at, zero + at + 1, n_bytes=3 * MIB, direct="yes")
        started.wait(10)

    threads = [Thread(target=read, args=(f"blk.{i}.q", i / 2), name=f"loader {i}") for i in (1, 0)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    trace.add("compute", "attention 0", zero + 2, zero + 2.5)
    trace.add("wait", "attention 1", zero + 2.5, zero + 2.75)
    records = written(trace, tmp_path / "a.json")
    assert tracks(records) == {1: "computing", 2: "waiting for the disk", 10: "loader 0", 11: "loader 1"}
    slices = {record["name"]: record for record in of(records, "X")}
    assert slices["blk.1.q"] == {
        "ph": "X",
        "cat": "read",
        "name": "blk.1.q",
        "pid": 1,
        "tid": 11,
        "ts": pytest.approx(5e5, abs=0.01),
        "dur": pytest.approx(1e6, abs=0.01),
        "args": {"n_bytes": 3 * MIB, "direct": "yes"},
    }
    assert (slices["attention 0"]["tid"], slices["attention 1"]["tid"], slices["blk.0.q"]["tid"]) == (1, 2, 10)
    assert "args" not in slices["attention 0"]
    assert "complete" in [record["args"].get("labels") for record in of(records, "M")]


def test_counters_add_up_what_was_read(tmp_path: Path) -> None:
    trace = Trace()
    zero = trace.began_s
    in_thread("a", ("read", "one", zero + 1, zero + 3), trace=trace, n_bytes=4 * MIB)
    in_thread("b", ("read", "two", zero + 2, zero + 3), trace=trace, n_bytes=6 * MIB)
    in_thread("c", ("read", "nothing", zero + 2, zero + 2), ("read", "unknown", zero + 2, zero + 9), trace=trace)
    trace.add("compute", "logits", zero, zero + 4, n_bytes=100 * MIB)  # from memory
    counters = of(written(trace, tmp_path / "a.json"), "C")
    rates = [(round(r["ts"] / 1e6, 3), r["args"]["MiB/s"]) for r in counters if r["name"] == "reading, MiB/s"]
    # Two events at one time: the later one counts.
    assert [dict(rates)[when] for when in (1, 2, 3)] == [2.0, 8.0, 0.0]
    totals = [(round(r["ts"] / 1e6, 3), r["args"]["MiB"]) for r in counters if r["name"] == "read, MiB"]
    assert sorted(dict(totals).items()) == [(3.0, 10.0)]


def test_threads_that_read_one_thing_together_are_one_read(tmp_path: Path) -> None:
    """The one that finds it whole has its bytes; those that read it later are another read."""
    trace = Trace()
    zero = trace.began_s
    for began, ended, n_bytes in ((1.0, 2.0, 0), (1.5, 3.0, 8 * MIB), (1.5, 3.5, 0), (5.0, 6.0, 8 * MIB)):
        trace.add("read", "blk.0.q", zero + began, zero + ended, n_bytes=n_bytes)
    counters = of(written(trace, tmp_path / "a.json"), "C")
    rates = [(round(r["ts"] / 1e6, 3), r["args"]["MiB/s"]) for r in counters if r["name"] == "reading, MiB/s"]
    assert rates == [(1.0, 3.2), (3.5, 0.0), (5.0, 8.0), (6.0, 0.0)]
    totals = [(round(r["ts"] / 1e6, 3), r["args"]["MiB"]) for r in counters if r["name"] == "read, MiB"]
    assert totals == [(3.5, 8.0), (6.0, 16.0)]


def test_times_before_the_trace_was_made_and_clocks_that_stand_still(tmp_path: Path) -> None:
    trace = Trace()
    trace.add("compute", "early", trace.began_s - 1, trace.began_s)
    trace.add("compute", "none", trace.began_s, trace.began_s)
    early, none = of(written(trace, tmp_path / "a.json"), "X")
    assert (early["ts"], none["ts"], none["dur"]) == (0, pytest.approx(1e6), 0)


def test_an_empty_trace_is_one_too(tmp_path: Path) -> None:
    records = written(Trace(), tmp_path / "a.json")
    assert {record["ph"] for record in records} == {"M"}


def test_names_may_be_anything(tmp_path: Path) -> None:
    trace = Trace()
    trace.add("wait", 'a "name" \n\u2028é', trace.began_s, trace.began_s + 1)
    (event,) = of(written(trace, tmp_path / "a.json"), "X")
    assert event["name"] == 'a "name" \n\u2028é'


def test_it_is_bounded_and_says_so(tmp_path: Path) -> None:
    trace = Trace(most_events=3)
    for index in range(1003):
        trace.add("compute", f"attention {index}", trace.began_s, trace.began_s + 1)
    assert [event.name for event in trace.events] == ["attention 0", "attention 1", "attention 2"]
    assert trace.n_left_out == 1000
    labels = [record["args"].get("labels") for record in of(written(trace, tmp_path / "a.json"), "M")]
    assert "the last 1,000 events are left out" in labels


def test_threads_add_at_once() -> None:
    trace = Trace()

    def add(number: int) -> None:
        for index in range(2000):
            trace.add("read", f"{number}", index, index + 1, n_bytes=1)

    threads = [Thread(target=add, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(event.name for event in trace.events) == sorted([str(number) for number in range(4)] * 2000)


def test_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file") as raised:
        Trace().write(tmp_path / "nowhere" / "a.json")
    assert raised.value.filename == str(tmp_path / "nowhere" / "a.json")
