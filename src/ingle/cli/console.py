"""What the verbs share in talking to a person: text out, notes, bars while loading and writing, whole files."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

from ingle.errors import UsageError
from ingle.files import write_whole

if TYPE_CHECKING:
    from rich.console import Console

    from ingle.cli.calls import CallWriter
    from ingle.engine.model import Model
    from ingle.text.tools import Tool

__all__ = [
    "SLOW_S",
    "Writer",
    "clean",
    "console",
    "json_line",
    "loading_bar",
    "new_writer",
    "notes",
    "read_stdin",
    "say",
    "size",
    "wants_colour",
    "write_new",
    "writing_bar",
]

SLOW_S = 1.0  # who waits longer than this wants to see why

# Control characters but tab and newline: a model must not be able to steer a terminal.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class Writer:
    """An answer on stdout as it comes. On a terminal, control characters are left out."""

    def __init__(self) -> None:
        self._terminal = sys.stdout.isatty()
        self._colour = wants_colour()
        self._newline = True

    def write(self, text: str, token_id: int | None = None, *, dim: bool = False) -> None:
        """token_id: the token that the text came with, which is of use only to who looks for calls."""
        if self._terminal:
            text = clean(text)
        if text:
            sys.stdout.write(f"\x1b[2m{text}\x1b[0m" if dim else text)
            sys.stdout.flush()
            self._newline = text.endswith("\n")

    def echo(self, prompt: str) -> None:
        """On a terminal, show the text that the answer goes on in; elsewhere stdout has the answer alone."""
        if self._terminal and self._colour:
            self.write(prompt, dim=True)
        elif self._terminal:
            self.write(prompt)

    def end(self) -> None:
        """Begin a new line, unless one has begun."""
        if not self._newline:
            self.write("\n")


def new_writer(model: Model, tools: Sequence[Tool] = ()) -> Writer | CallWriter:
    """What writes an answer of a model that has these tools."""
    if not tools:
        return Writer()
    from ingle.cli.calls import CallWriter
    from ingle.text.calls import family_of

    return CallWriter(family_of(model.template).scanner(tools))


def clean(text: str) -> str:
    """Text from a file or a model, without what could steer a terminal."""
    return _CONTROL.sub("", text)


def console(*, stderr: bool = False) -> Console:
    """A console that styles its text on terminals only, and where styles are wanted."""
    from rich.console import Console

    # emoji: a certificate's fingerprint may have ":AB:" in it, which Rich takes for one.
    return Console(stderr=stderr, highlight=False, emoji=False, color_system="auto" if wants_colour() else None)


def notes() -> Console:
    """The console for everything that is not the answer: stderr, with no line broken but by the terminal."""
    found = console(stderr=True)
    found.soft_wrap = True
    return found


def wants_colour() -> bool:
    """Whether a terminal may be given colours (no-color.org)."""
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def json_line(record: dict[str, Any]) -> str:
    """A record as one line of JSON; in ASCII where stdout cannot have its characters."""
    text = json.dumps(record, ensure_ascii=False, allow_nan=False)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        return json.dumps(record, allow_nan=False)
    return text


def read_stdin() -> str:
    """All of stdin, as UTF-8, without the newline that ends its last line. Raises UsageError for other bytes."""
    try:
        return sys.stdin.buffer.read().decode("utf-8").removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError as error:
        raise UsageError(f"The text on stdin is not UTF-8 (byte {error.start}); convert it first.") from None


@contextmanager
def loading_bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """A function (done, total) that draws a bar on stderr, if it is a terminal and the work takes over a second."""
    if not sys.stderr.isatty():
        yield lambda done, total: None
        return
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

    columns = TextColumn("{task.description}"), BarColumn(), TaskProgressColumn()
    bar = Progress(*columns, console=notes(), transient=True)
    task = bar.add_task(what, total=None)
    began = monotonic()

    def report(done: int, total: int) -> None:
        if not bar.live.is_started and monotonic() - began > SLOW_S:
            bar.start()
        bar.update(task, completed=done, total=total)

    try:
        yield report
    finally:
        if bar.live.is_started:
            bar.stop()


@contextmanager
def writing_bar(what: str) -> Iterator[tuple[Callable[[int], None], Callable[[int], None]]]:
    """(total bytes) and (n more bytes): a bar with the rate on stderr, where it is a terminal."""
    if not sys.stderr.isatty():
        yield lambda total: None, lambda n: None
        return
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=notes(), transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda total: bar.update(task, total=total), lambda n: bar.advance(task, n)


def say(text: str, style: str | None = None) -> None:
    """A note on stderr, of text from anywhere."""
    notes().print(clean(text), style=style, markup=False)


def write_new(path: Path, text: str) -> None:
    """Write a file that is whole or not there. Raises UsageError when the target exists."""
    if path.exists():
        raise UsageError(f"{path} exists; give another name.")
    write_whole(path, text)


def size(n_bytes: float) -> str:
    """A size for people, in powers of 1024."""
    for unit in ("B", "KiB", "MiB"):
        if n_bytes < 1024:
            return f"{n_bytes:,.0f} B" if unit == "B" else f"{n_bytes:,.1f} {unit}"
        n_bytes /= 1024
    return f"{n_bytes:,.2f} GiB"
