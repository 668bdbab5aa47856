"""Results and their file."""

from __future__ import annotations

import json
import math
import stat
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingle.errors import DataError
from ingle.evaluate.result import EvalResult, Metric, ModelInfo, TaskResult, item_id

MODEL = ModelInfo("tiny", "tiny.gguf", 123, "ab" * 32, "llama", 1000, 4.5)
ARC = TaskResult(
    "arc_easy",
    (
        Metric("acc", 2 / 3, 1 / 3, 3, values=(1.0, 0.0, 1.0)),
        Metric("ppl", 12.5, None, 3, higher_is_better=False),
        Metric("refused", 0.0, 0.0, 3, False, (0.0, 0.0, 0.0), counts=True),
    ),
    ("a", "b", "é"),
    seconds=1.25,
    notes=("one note",),
    details={"chance": 0.25, "nested": {"list": [1, None, "x"]}},
)
RESULT = EvalResult(MODEL, {"shots": 0, "limit": None}, {"ingle": "0.1.0"}, (ARC, TaskResult("empty", ())))


def test_the_file_gives_back_what_was_saved(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    RESULT.save(path)
    assert EvalResult.load(path) == RESULT
    RESULT.with_results(TaskResult("piqa", ())).save(path)  # replaces
    assert [result.task for result in EvalResult.load(path).results] == ["arc_easy", "empty", "piqa"]
    assert [child.name for child in tmp_path.iterdir()] == ["result.json"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_details_that_json_lacks(tmp_path: Path) -> None:
    strange = TaskResult("t", (), details={"a": (1, float("nan")), 2: {"b": float("-inf"), "c": True}})
    EvalResult(MODEL, results=(strange,)).save(tmp_path / "r.json")
    assert EvalResult.load(tmp_path / "r.json").results[0].details == {
        "a": [1, "nan"],
        "2": {"b": "-inf", "c": True},
    }


def test_texts_that_utf8_cannot_hold(tmp_path: Path) -> None:
    """A request with half of a surrogate pair, which JSON can spell, does not cost the result of it all."""
    strange = TaskResult("t", (), notes=("\ud83d \U0001f525 é \\ud800",), details={"request": "\udc00"})
    EvalResult(MODEL, results=(strange,)).save(tmp_path / "r.json")
    assert EvalResult.load(tmp_path / "r.json").results == (strange,)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    RESULT.save(path)
    with pytest.raises(TypeError):
        EvalResult(MODEL, {"what": object()}).save(path)
    assert EvalResult.load(path) == RESULT
    assert [child.name for child in tmp_path.iterdir()] == ["result.json"]


@given(st.floats(), st.floats(min_value=0) | st.none(), st.lists(st.floats(), max_size=5))
def test_every_float_survives(value: float, stderr: float | None, values: list[float]) -> None:
    metric = Metric("m", value, stderr, len(values), values=tuple(values))
    made = EvalResult(MODEL, results=(TaskResult("t", (metric,), tuple(map(str, range(len(values))))),))
    text = json.dumps(made.to_dict(), allow_nan=False)
    again = EvalResult.from_dict(json.loads(text)).results[0].metrics[0]
    for one, other in zip((value, stderr, *values), (again.value, again.stderr, *again.values), strict=True):
        assert one == other or (math.isnan(one) and math.isnan(other))  # type: ignore[arg-type]


def test_a_task_that_was_there_is_replaced_in_its_place() -> None:
    again = RESULT.with_results(TaskResult("arc_easy", (), seconds=9))
    assert [(result.task, result.seconds) for result in again.results] == [("arc_easy", 9), ("empty", 0.0)]
    assert RESULT.task("arc_easy") is ARC
    assert RESULT.task("piqa") is None
    assert ARC.metric("ppl") is ARC.metrics[1]
    assert ARC.metric("f1") is None


def test_figures_that_contradict_each_other() -> None:
    for make in (
        lambda: Metric("", 1.0, None, 1),
        lambda: Metric("acc", 1.0, None, -1),
        lambda: Metric("acc", 1.0, -0.1, 1),
        lambda: TaskResult("", ()),
        lambda: TaskResult("t", (Metric("acc", 1.0, None, 2, values=(1.0, 1.0)),), ("a",)),
        lambda: TaskResult("t", (Metric("acc", 1.0, None, 0), Metric("acc", 0.5, None, 0))),
    ):
        with pytest.raises(ValueError, match=r".+"):
            make()


def changes() -> list[tuple[str, Any]]:
    """(place, what stands there instead): each makes a sound file unsound."""
    return [
        ("format", "csv"),
        ("version", 2),
        ("version", True),
        ("model", None),
        ("model.sha256", 5),
        ("model.bytes", -1),
        ("model.n_parameters", 1.5),
        ("model.bits", "many"),
        ("settings", []),
        ("versions", {"ingle": 1}),
        ("results", {}),
        ("results.0", "arc"),
        ("results.0.task", None),
        ("results.0.task", "empty"),
        ("results.0.item_ids", ["a", "b"]),
        ("results.0.item_ids", ["a", "b", 3]),
        ("results.0.notes", "none"),
        ("results.0.details", None),
        ("results.0.seconds", None),
        ("results.0.metrics", None),
        ("results.0.metrics.0", []),
        ("results.0.metrics.0.name", ""),
        ("results.0.metrics.0.value", True),
        ("results.0.metrics.0.value", 10**400),
        ("results.0.metrics.0.stderr", -0.5),
        ("results.0.metrics.0.n", 2**70),
        ("results.0.metrics.0.higher_is_better", 1),
        ("results.0.metrics.0.values", [1, 0]),
        ("results.0.metrics.0.values", [1, 0, "one"]),
        ("results.0.metrics.1.name", "acc"),
    ]


@pytest.mark.parametrize(("place", "value"), changes(), ids=lambda v: str(v)[:40])
def test_unsound_files_are_one_sentence(place: str, value: Any, tmp_path: Path) -> None:
    record = RESULT.to_dict()
    EvalResult.from_dict(record)  # sound before
    at: Any = record
    *way, last = place.split(".")
    for step in way:
        at = at[int(step)] if isinstance(at, list) else at[step]
    at[int(last) if isinstance(at, list) else last] = value
    path = tmp_path / "odd.json"
    path.write_text(json.dumps(record))
    with pytest.raises(DataError, match=r"odd\.json"):
        EvalResult.load(path)


@pytest.mark.parametrize("text", ["", "[]", "null", "{", '{"format": NaN}', "[" * 100_000, "\xff"])
def test_files_that_are_no_results(text: str, tmp_path: Path) -> None:
    path = tmp_path / "odd.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match=r"odd\.json"):
        EvalResult.load(path)
    with pytest.raises(DataError, match="cannot be read"):
        EvalResult.load(tmp_path)
    with pytest.raises(DataError, match="cannot be read"):
        EvalResult.load(tmp_path / "none.json")


def test_item_ids_are_of_the_content() -> None:
    assert item_id("a", "b") == item_id("a", "b")
    assert len({item_id(*texts) for texts in (("ab", "c"), ("a", "bc"), ("abc",), ("abc", ""), ("c", "ab"), ())}) == 6
    assert item_id("\ud800")  # half a surrogate pair, as JSON may hold
    assert item_id("wake me at six") == "d1b2ce51ba7f7a43"  # files made earlier must pair
