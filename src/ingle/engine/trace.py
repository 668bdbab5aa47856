"""What happened when: computing, waiting and reading, as a picture to be looked at in a browser.

The file is in Chrome's format, which https://ui.perfetto.dev and chrome://tracing open (N. Duca and D. Sinclair, "Trace
Event Format"). It has one track for computing, one for waiting, one for each thread that reads, and two counters: how
much was read, and how fast.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from os import PathLike
from pathlib import Path
from sys import intern
from threading import current_thread, get_ident
from time import perf_counter
from typing import Any, Literal, NamedTuple

from ingle.files import write_whole

__all__ = ["Event", "Trace", "TraceKind"]

TraceKind = Literal["compute", "wait", "read"]

MOST_EVENTS = 100_000  # 40 MB of memory, and a hundred tokens of a model of 7B that comes from disk
MIB = 1 << 20
_PROCESS = 1
_TRACKS = {"compute": 1, "wait": 2}  # of reading there is one for each thread, after these
_FIRST_READER = 10


class Event(NamedTuple):
    """Something that took from `began_s` to `ended_s` of `perf_counter`, in a thread."""

    kind: TraceKind
    name: str
    began_s: float
    ended_s: float
    thread: int
    details: dict[str, float | int | str] | None


class Trace:
    """Events as they are added, until there are `most_events`; those that come later are only counted."""

    def __init__(self, most_events: int = MOST_EVENTS) -> None:
        self.began_s = perf_counter()
        self.n_left_out = 0
        self._most = most_events
        self._events: list[Event] = []
        self._threads: dict[int, str] = {}

    def add(self, kind: TraceKind, name: str, began_s: float, ended_s: float, /, **details: float | int | str) -> None:
        """Something has ended, in the thread that calls; may be called from any, and takes a microsecond.

        began_s, ended_s: by `perf_counter`. details: shown when the event is clicked; `n_bytes` of what was read is
        added up in the counters.
        """
        # Without a lock: `append` and setting an item are each one step to other threads. Some events more than the
        # most may be kept, and one left out may not be counted, where threads come at the same moment.
        if len(self._events) >= self._most:
            self.n_left_out += 1
            return
        thread = get_ident()
        if kind == "read" and thread not in self._threads:
            self._threads[thread] = current_thread().name
        self._events.append(Event(kind, intern(name), began_s, ended_s, thread, details or None))

    @property
    def events(self) -> list[Event]:
        """What was added so far, in that order."""
        return self._events.copy()

    def write(self, path: str | PathLike[str]) -> None:
        """Write the file, whole or not at all. Raises OSError."""
        write_whole(Path(path), self._lines())

    def _lines(self) -> Iterator[str]:
        """The file, a line for each event: it may be large, and memory short."""
        events = sorted(self._events, key=lambda event: event.began_s)
        readers = {event.thread for event in events if event.kind == "read"}
        tracks = {thread: track for track, thread in enumerate(sorted(readers, key=self._name_of), start=_FIRST_READER)}
        yield '{"displayTimeUnit":"ms","traceEvents":[\n'
        for record in self._named(tracks):
            yield f"{_json(record)},\n"
        began_s = min(self.began_s, events[0].began_s) if events else self.began_s
        for event in events:
            track = tracks[event.thread] if event.kind == "read" else _TRACKS[event.kind]
            yield f"{_json(_slice(event, track, began_s))},\n"
        yield from (f"{_json(record)},\n" for record in _counters(events, began_s))
        # The last of a JSON list has no comma behind it: it is a record that is always there.
        yield f"{_json(_about('process_labels', labels=self._label()))}\n]}}\n"

    def _named(self, tracks: dict[int, int]) -> Iterator[dict[str, Any]]:
        """The names of the tracks, and their order."""
        yield _about("process_name", name="ingle")
        names = {_TRACKS["compute"]: "computing", _TRACKS["wait"]: "waiting for the disk"}
        for track, name in (names | {track: self._name_of(thread) for thread, track in tracks.items()}).items():
            yield {**_about("thread_name", name=name), "tid": track}
            yield {**_about("thread_sort_index", sort_index=track), "tid": track}

    def _name_of(self, thread: int) -> str:
        return self._threads.get(thread, f"thread {thread}")

    def _label(self) -> str:
        return f"the last {self.n_left_out:,} events are left out" if self.n_left_out else "complete"


def _slice(event: Event, track: int, began_s: float) -> dict[str, Any]:
    """A complete event ("X"); times in microseconds since `began_s`."""
    return {
        "ph": "X",
        "cat": event.kind,
        "name": event.name,
        "pid": _PROCESS,
        "tid": track,
        "ts": _us(event.began_s - began_s),
        "dur": _us(max(0.0, event.ended_s - event.began_s)),
        **({"args": event.details} if event.details else {}),
    }


def _counters(events: list[Event], began_s: float) -> Iterator[dict[str, Any]]:
    """What was read so far, and how fast; of what several threads read together, evenly over the time it took them."""
    changes: list[tuple[float, float, int]] = []  # when; how many bytes a second more are read; bytes that are there
    for first_s, last_s, n_bytes in _reads(events):
        if n_bytes and last_s > first_s:
            rate = n_bytes / (last_s - first_s)
            changes += [(first_s, rate, 0), (last_s, -rate, n_bytes)]
    rate, total, n_running = 0.0, 0, 0
    for when_s, change, n_bytes in sorted(changes):
        n_running += 1 if change > 0 else -1
        rate = rate + change if n_running else 0.0  # what rounding leaves over is no reading
        total += n_bytes
        at = {"ph": "C", "pid": _PROCESS, "ts": _us(when_s - began_s)}
        yield {**at, "name": "reading, MiB/s", "args": {"MiB/s": round(rate / MIB, 1)}}
        if n_bytes:
            yield {**at, "name": "read, MiB", "args": {"MiB": round(total / MIB, 3)}}


def _reads(events: list[Event]) -> list[tuple[float, float, int]]:
    """(begin, end, bytes) of all that was read: threads that read the same at the same time read one thing together.

    events: by rising begin.
    """
    found: list[tuple[float, float, int]] = []
    which: dict[str, int] = {}  # by name, the last one
    for event in events:
        if event.kind != "read":
            continue
        n_bytes = (event.details or {}).get("n_bytes", 0)
        assert isinstance(n_bytes, int)
        index = which.get(event.name)
        if index is not None and event.began_s <= found[index][1]:
            first_s, last_s, n_before = found[index]
            found[index] = first_s, max(last_s, event.ended_s), n_before + n_bytes
        else:
            which[event.name] = len(found)
            found.append((event.began_s, event.ended_s, n_bytes))
    return found


def _about(what: str, **values: str | int) -> dict[str, Any]:
    """A metadata event ("M")."""
    return {"ph": "M", "name": what, "pid": _PROCESS, "args": values}


def _us(seconds: float) -> float:
    return round(seconds * 1e6, 3)


def _json(record: dict[str, Any]) -> str:
    return json.dumps(record, separators=(",", ":"), allow_nan=False)
