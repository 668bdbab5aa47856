"""The folder of a run: what is in it, who may write to it, and a log that survives a full disk and a kill.

config.toml   what was asked for, complete        tokenizer.json   the vocabulary
log.jsonl     a record per line, see `Log`        data/            the token shards
curves.png    loss, throughput, MFU               checkpoints/     see `checkpoint`
README.md     all this in words, with figures     model/           the final model
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ingle.errors import IngleError, TrainingError
from ingle.files import write_whole
from ingle.train.config import BUDGETS, Config

__all__ = ["Log", "RunFolder", "locked", "read_log", "toml"]

# What may differ when a run goes on: where and how it is computed and watched, not what is computed.
_FREE = {
    *("device", "compile", "distributed", "threads", "micro_tokens"),
    *("checkpoint_minutes", "validate_every", "validation_tokens"),
}


class RunFolder:
    """The places in a run's folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.toml"
        self.log = path / "log.jsonl"
        self.curves = path / "curves.png"
        self.readme = path / "README.md"
        self.tokenizer = path / "tokenizer.json"
        self.data = path / "data"
        self.checkpoints = path / "checkpoints"
        self.model = path / "model"

    def expect_free(self) -> None:
        """Raise TrainingError if the folder holds anything but a run in which nothing was trained yet."""
        ours = {self.config.name, self.log.name, self.tokenizer.name, "tokenizer_config.json", self.data.name, ".lock"}
        try:
            names = {entry.name for entry in self.path.iterdir()} if self.path.exists() else set()
        except OSError as error:
            raise TrainingError(f"The run's folder {self.path} cannot be used: {error.strerror}.") from None
        if not names <= ours or any(record["event"] == "step" for record in read_log(self.log)):
            raise TrainingError(
                f"{self.path} exists; --resume goes on with the run in it, or give another folder with --out."
            )

    def create(self, config: Config) -> None:
        """Begin a run in the folder. Raises OSError."""
        for stale in (self.log, self.tokenizer, self.path / "tokenizer_config.json"):
            stale.unlink(missing_ok=True)
        write_whole(self.config, toml(config.to_dict()))

    def go_on(self, config: Config) -> None:
        """Check that `config` can go on with the run in the folder, and note what has changed. Raises TrainingError."""
        before = self.read_config()
        if difference := _refused(before.to_dict(), config.to_dict()):
            raise TrainingError(f"The run in {self.path} {difference}")
        if config != before:
            write_whole(self.config, toml(config.to_dict()))

    def read_config(self) -> Config:
        """The configuration that the folder's run has. Raises TrainingError."""
        try:
            sections = tomllib.loads(self.config.read_text("utf-8"))
            return Config.from_dict(sections, self.path)
        except FileNotFoundError:
            raise TrainingError(f"There is no run in {self.path} to go on with: it has no config.toml.") from None
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, IngleError) as error:
            raise TrainingError(f"{self.config} is damaged: {error}") from None


def _refused(before: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """What keeps a run from going on, as the end of a sentence."""
    budgets = [next((kind, part["train"][kind]) for kind in BUDGETS if kind in part["train"]) for part in (before, now)]
    (kind, amount), (new_kind, new_amount) = budgets
    if new_kind != kind:
        return f"has a budget of {kind}; it can go on with more {kind}, not with a budget of {new_kind}."
    if new_amount < amount:
        return f"has a budget of {amount:,} {kind}; give as much or more to go on, not {new_amount:,}."
    for section in dict.fromkeys((*before, *now)):
        old, new = before.get(section), now.get(section)
        if old is None or new is None:
            return f"was begun with{'' if old else 'out'} [{section}]; begin a new run to change that."
        for name in dict.fromkeys((*old, *new)):
            if section == "train" and (name in _FREE or name in BUDGETS):
                continue
            if old.get(name) != new.get(name):
                was, now_is = (_value(part[name]) if name in part else "not set" for part in (old, new))
                return f"was begun with {section}.{name} = {was}, now it is {now_is}; begin a new run to change that."
    return None


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Only one process trains in a folder. Raises TrainingError where another one does. A kill unlocks it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = open(folder / ".lock", "w")  # noqa: SIM115
    except OSError as error:
        raise TrainingError(f"The run's folder {folder} cannot be used: {error.strerror}.") from None
    with file:
        try:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except ImportError:  # no such locks on Windows
            pass
        except OSError:
            raise TrainingError(f"Another process is training in {folder}; wait for it, or stop it.") from None
        yield


class Log:
    """log.jsonl: records {"event": "start" | "step" | "validation" | "checkpoint" | "warning" | "end", ...}, each with
    the number of steps taken when it was written.

    What cannot be written (a full disk) is kept in memory and written later; a line is whole or not there.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.records: list[dict[str, Any]] = []
        self._pending: list[bytes] = []

    def cut(self, step: int) -> None:
        """Read what is there, and drop the records after `step`: they are about to happen again."""
        kept = [record for record in read_log(self.path) if record.get("step", 0) <= step]
        kept = [record for record in kept if record.get("event") != "end"]
        write_whole(self.path, "".join(_line(record) for record in kept))
        self.records = kept

    def append(self, record: dict[str, Any]) -> bool:
        """Write a record; False if it could not be written yet."""
        self.records.append(record)
        self._pending.append(_line(record).encode())
        try:
            with open(self.path, "ab", buffering=0) as file:
                whole = file.tell()
                try:
                    data = b"".join(self._pending)
                    while data:
                        data = data[file.write(data) :]
                except OSError:
                    file.truncate(whole)
                    raise
        except OSError:
            return False
        self._pending.clear()
        return True


def read_log(path: Path) -> list[dict[str, Any]]:
    """The records of a log, each with its "event"; lines that are not whole are left out."""
    records = []
    try:
        with open(path, "rb") as file:
            for line in file:
                try:
                    record = json.loads(line)
                except ValueError:
                    continue
                if not isinstance(record, dict) or not isinstance(record.get("event"), str):
                    continue
                if type(record.get("step", 0)) is int:
                    records.append(record)
    except FileNotFoundError:
        pass
    return records


def _line(record: Mapping[str, Any]) -> str:
    return json.dumps(record, allow_nan=False) + "\n"


def toml(sections: Mapping[str, Mapping[str, Any]]) -> str:
    """Sections of plain values as TOML."""
    parts = []
    for section, table in sections.items():
        parts.append(f"[{section}]\n" + "".join(f"{name} = {_value(value)}\n" for name, value in table.items()))
    return "\n".join(parts)


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{name} = {_value(item)}" for name, item in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_value, value)) + "]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return str(value).lower() if isinstance(value, bool) else repr(value)
