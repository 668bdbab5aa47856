"""What an evaluation found: metrics with standard errors, the items they were measured on, and the file of it all.

The file is JSON, one object:

    {"format": "ingle-eval", "version": 1, "model": {...}, "settings": {...}, "versions": {...},
     "results": [{"task", "seconds", "notes", "details", "item_ids": [...],
                  "metrics": [{"name", "value", "stderr", "n", "higher_is_better", "values": [...]}]}]}

JSON has no infinity and no NaN; they are written as the strings "inf", "-inf" and "nan".
"""

from __future__ import annotations

import hashlib
import json
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ingle.errors import DataError
from ingle.files import read_bytes, write_whole

__all__ = ["EvalResult", "Metric", "ModelInfo", "TaskResult", "item_id"]

FORMAT, VERSION = "ingle-eval", 1
MAX_BYTES = 512 * 2**20  # of a file; a task of 10,000 items with three metrics has about 0.5 MiB
_STRANGE = ("inf", "-inf", "nan")


def item_id(*texts: str) -> str:
    """A short name for an item that follows from its content alone, so that two runs over the same item agree on it.

    Give all that the item is: the question, each choice, the answer. 16 hex digits: of 100,000 items two share a name
    by accident once in 4 billion data sets.
    """
    digest = hashlib.blake2b(digest_size=8)
    for text in texts:
        data = text.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "little") + data)  # the length: ("ab", "c") is not ("a", "bc")
    return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class Metric:
    """One figure. stderr: of `value`, None where there is none. n: the items (or documents) it is a mean of.

    values: the figure of each item, in the order of the task's `item_ids`; () where an item has none of its own. An
    item that the metric does not concern (the slots of a request that wants no call) has NaN there.
    counts: every value is a yes (1) or a no (0), also where all are no.
    Raises ValueError for figures that contradict each other, which is a mistake of the code that made them.
    """

    name: str
    value: float
    stderr: float | None
    n: int
    higher_is_better: bool = True
    values: tuple[float, ...] = ()
    counts: bool = False

    def __post_init__(self) -> None:
        if not self.name:
            raise ValueError("A metric has no name.")
        if self.n < 0:
            raise ValueError(f"{self.name} is measured on {self.n} items.")
        if self.stderr is not None and self.stderr < 0:
            raise ValueError(f"{self.name} has a standard error of {self.stderr}.")

    @property
    def is_share(self) -> bool:
        """Whether this is a share of items, or a score from 0 to 1 like one, which people read in percent.

        Of figures that are better when lower (a divergence in nats is no share), only those that count items; a
        divergence of 0 everywhere counts none.
        """
        counts = self.counts or (
            1 in self.values and all(value in (0, 1) or math.isnan(value) for value in self.values)
        )
        return -1e-9 <= self.value <= 1 + 1e-9 and (self.higher_is_better or counts)


@dataclass(frozen=True, slots=True)
class TaskResult:
    """What one task found. The first metric is the one that the task is known by.

    item_ids: a name for each item that is the same in every run over the same item, and another for another item: see
    `item_id`. Raises ValueError where a metric's `values` are not as many as the items.

    details: whatever else a reader may want, in JSON's types. These names are understood:
        "chance": the first metric's score by guessing.
        "weights": {metric: [a weight for each item]}, where the value is the weighted mean of the items' values.
        "settings": {name: value} of what this task was measured with and others were not.
        "asked": what `ingle eval` was asked for when it made this: {"task": name, "settings": {name: value}}.
        "prompts": a digest of all that the model was asked, word for word.
    """

    task: str
    metrics: tuple[Metric, ...]
    item_ids: tuple[str, ...] = ()
    seconds: float = 0.0
    notes: tuple[str, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        names = [metric.name for metric in self.metrics]
        if not self.task or len(set(names)) < len(names):
            raise ValueError(f"The task {self.task!r} has the metrics {names}; expected a name, and no metric twice.")
        for metric in self.metrics:
            if metric.values and len(metric.values) != len(self.item_ids):
                raise ValueError(
                    f"{self.task}: {metric.name} has {len(metric.values)} values for {len(self.item_ids)} items."
                )

    def metric(self, name: str) -> Metric | None:
        """The metric of this name, if there is one."""
        return next((metric for metric in self.metrics if metric.name == name), None)


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """Which model it was. file: its name without the folders it lay in. bits: of a weight, on average."""

    name: str
    file: str
    bytes: int
    sha256: str
    architecture: str
    n_parameters: int
    bits: float


@dataclass(frozen=True, slots=True)
class EvalResult:
    """All that one model was measured with. settings, versions: in JSON's types."""

    model: ModelInfo
    settings: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    results: tuple[TaskResult, ...] = ()

    def task(self, name: str) -> TaskResult | None:
        """The result of this task, if there is one."""
        return next((result for result in self.results if result.task == name), None)

    def with_results(self, *results: TaskResult) -> EvalResult:
        """With these results too; one of a task that was there takes its place."""
        by_task = {result.task: result for result in (*self.results, *results)}
        return replace(self, results=tuple(by_task.values()))

    def to_dict(self) -> dict[str, Any]:
        """As in the file."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "model": {name: getattr(self.model, name) for name in ModelInfo.__slots__},
            "settings": _plain(self.settings),
            "versions": dict(self.versions),
            "results": [_task_to_dict(result) for result in self.results],
        }

    @classmethod
    def from_dict(cls, record: object, where: str = "The result") -> EvalResult:
        """What `to_dict` made. Raises DataError, which begins with `where`, for anything else."""
        reader = _Reader(where)
        top = reader.mapping(record, "the file")
        if top.get("format") != FORMAT:
            raise DataError(f"{where} is no result of ingle eval; expected one that it wrote with --out.")
        if type(top.get("version")) is not int or top["version"] != VERSION:
            raise DataError(
                f"{where} has version {top.get('version')!r}, and this Ingle reads {VERSION}; use the Ingle that wrote "
                "it, or evaluate again."
            )
        results = tuple(reader.task(value) for value in reader.array(top.get("results"), "results"))
        names = [result.task for result in results]
        if len(set(names)) < len(names):
            raise reader.wrong("results", "each task once")
        versions = reader.mapping(top.get("versions"), "versions")
        return cls(
            reader.model(top.get("model")),
            reader.mapping(top.get("settings"), "settings"),
            {name: reader.text(value, "versions") for name, value in versions.items()},
            results,
        )

    def save(self, path: Path) -> None:
        """Write the file beside its place and rename it when it is whole; one that was there is replaced.

        Raises OSError.
        """
        text = json.dumps(self.to_dict(), ensure_ascii=False, allow_nan=False, separators=(",", ":")) + "\n"
        # Half a surrogate pair, which JSON can spell and UTF-8 cannot, is written as JSON spells it: "\ud800".
        write_whole(path, text.encode("utf-8", "backslashreplace"))

    @classmethod
    def load(cls, path: Path) -> EvalResult:
        """Read a file that `save` wrote. Raises DataError for one that cannot be read or is not sound."""
        data = read_bytes(path, MAX_BYTES, advice="expected a result that ingle eval wrote with --out")
        try:
            record = json.loads(data, parse_constant=_no_constant)
        except (ValueError, RecursionError):
            raise DataError(f"{path} is not JSON; expected a result that ingle eval wrote with --out.") from None
        return cls.from_dict(record, str(path))


def _no_constant(name: str) -> float:
    raise ValueError(name)


def _number(value: float) -> float | int | str:
    """A number as JSON has it: 1.0 as 1, and what JSON lacks as a string."""
    if not math.isfinite(value):
        return "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"
    return int(value) if value.is_integer() and abs(value) < 2**53 else value


def _plain(value: Any) -> Any:
    """A value of details or settings as JSON can have it."""
    if isinstance(value, Mapping):
        return {str(name): _plain(entry) for name, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    return _number(value) if isinstance(value, float) and not math.isfinite(value) else value


def _task_to_dict(result: TaskResult) -> dict[str, Any]:
    return {
        "task": result.task,
        "seconds": _number(float(result.seconds)),
        "notes": list(result.notes),
        "details": _plain(result.details),
        "item_ids": list(result.item_ids),
        "metrics": [
            {
                "name": metric.name,
                "value": _number(float(metric.value)),
                "stderr": None if metric.stderr is None else _number(float(metric.stderr)),
                "n": int(metric.n),
                "higher_is_better": bool(metric.higher_is_better),
                **({"counts": True} if metric.counts else {}),
                "values": [_number(float(value)) for value in metric.values],
            }
            for metric in result.metrics
        ],
    }


class _Reader:
    """Values of a file that anyone may have written, each checked for its type."""

    def __init__(self, where: str) -> None:
        self.where = where

    def wrong(self, name: str, expected: str) -> DataError:
        return DataError(f"{self.where} has {name} that is not {expected}; evaluate again.")

    def mapping(self, value: object, name: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise self.wrong(name, "a JSON object")
        return value

    def array(self, value: object, name: str) -> list[Any]:
        if not isinstance(value, list):
            raise self.wrong(name, "a list")
        return value

    def text(self, value: object, name: str) -> str:
        if not isinstance(value, str):
            raise self.wrong(name, "text")
        return value

    def texts(self, value: object, name: str) -> tuple[str, ...]:
        return tuple(self.text(entry, name) for entry in self.array(value, name))

    def number(self, value: object, name: str) -> float:
        if isinstance(value, str) and value in _STRANGE:
            return float(value)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or abs(value) > sys.float_info.max:
            raise self.wrong(name, "a number")  # a JSON integer may be larger than any float, and 1e999 reads as one
        return float(value)

    def count(self, value: object, name: str) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**63:
            raise self.wrong(name, "a whole number of 0 or more")
        return value

    def model(self, value: object) -> ModelInfo:
        record = self.mapping(value, "model")
        return ModelInfo(
            name=self.text(record.get("name"), "model.name"),
            file=self.text(record.get("file"), "model.file"),
            bytes=self.count(record.get("bytes"), "model.bytes"),
            sha256=self.text(record.get("sha256"), "model.sha256"),
            architecture=self.text(record.get("architecture"), "model.architecture"),
            n_parameters=self.count(record.get("n_parameters"), "model.n_parameters"),
            bits=self.number(record.get("bits"), "model.bits"),
        )

    def task(self, value: object) -> TaskResult:
        record = self.mapping(value, "results")
        name = self.text(record.get("task"), "task")
        try:
            return TaskResult(
                name,
                tuple(self.metric(entry, name) for entry in self.array(record.get("metrics"), f"{name}.metrics")),
                self.texts(record.get("item_ids"), f"{name}.item_ids"),
                self.number(record.get("seconds"), f"{name}.seconds"),
                self.texts(record.get("notes"), f"{name}.notes"),
                self.mapping(record.get("details"), f"{name}.details"),
            )
        except ValueError as error:
            raise DataError(f"{self.where} is not sound: {error}") from None

    def metric(self, value: object, task: str) -> Metric:
        record = self.mapping(value, f"{task}.metrics")
        name = self.text(record.get("name"), f"{task}.metrics.name")
        stderr, better = record.get("stderr"), record.get("higher_is_better")
        if not isinstance(better, bool):
            raise self.wrong(f"{task}.{name}.higher_is_better", "true or false")
        return Metric(
            name,
            self.number(record.get("value"), f"{task}.{name}.value"),
            None if stderr is None else self.number(stderr, f"{task}.{name}.stderr"),
            self.count(record.get("n"), f"{task}.{name}.n"),
            better,
            tuple(self.number(entry, f"{task}.{name}.values") for entry in self.array(record.get("values"), name)),
            record.get("counts") is True,
        )
