"""Local data: which file is taken, what is said about it, and that nothing in it does more harm than a sentence."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingle.errors import DataError, UsageError
from ingle.evaluate.tasks import SETS, plan_tasks
from ingle.evaluate.tasks.answers import f1_of_answer
from ingle.evaluate.tasks.catalog import TASKS
from ingle.evaluate.tasks.forms import FORMS, convert
from ingle.evaluate.tasks.local import find_source, read_rows
from task_items import HUGGING_FACE, OTHER_FORMS, data_folder, write


def test_each_task_once_in_the_order_asked_for() -> None:
    tasks = [planned.task for planned in plan_tasks(["melt", "arc_easy", "mobilellm", "wsc273"], None)]
    assert tasks == [*SETS["melt"], *(task for task in SETS["mobilellm"] if task not in SETS["melt"]), "wsc273"]


def test_sets_leave_out_what_has_no_data_and_say_so(tmp_path: Path) -> None:
    data_folder(tmp_path, "hellaswag", "arc_easy")
    planned = plan_tasks(["melt"], tmp_path)
    assert [plan.task for plan in planned if plan.source is not None] == ["hellaswag", "arc_easy"]
    left_out = {plan.task: str(plan.left_out) for plan in planned if plan.source is None}
    assert set(left_out) == set(SETS["melt"]) - {"hellaswag", "arc_easy"}
    assert left_out["winogrande"] == (
        f"The folder {tmp_path} has no data of winogrande; expected winogrande.jsonl there, or in its folder eval."
    )
    assert "truthfulqa_mc1.jsonl or TruthfulQA_mc_task.json" in left_out["truthfulqa_mc1"]


def test_a_task_asked_for_by_name_must_have_data(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no data of winogrande; expected winogrande"):
        plan_tasks(["melt", "winogrande"], tmp_path)
    with pytest.raises(DataError, match="is no folder"):
        plan_tasks(["winogrande"], tmp_path / "nothing")


@pytest.mark.parametrize("name", ["", "../arc_easy", "a/b", "a b", "/etc/passwd"])
def test_names_are_no_paths(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is no name of a task"):
        plan_tasks([name], tmp_path)


def test_a_file_under_the_name_of_the_task_comes_first(tmp_path: Path) -> None:
    write(tmp_path / "docs/arc_easy_val.jsonl", [{}])
    assert find_source("arc_easy", tmp_path).name == "docs/arc_easy_val.jsonl"  # type: ignore[union-attr]
    write(tmp_path / "docs/arc_easy_test.jsonl", [{}])
    assert find_source("arc_easy", tmp_path).name == "docs/arc_easy_test.jsonl"  # type: ignore[union-attr]
    data_folder(tmp_path, "arc_easy")
    write(tmp_path / "arc_easy.train.jsonl", [{}])
    source = find_source("arc_easy", tmp_path)
    assert source is not None
    assert (source.name, source.train) == ("arc_easy.jsonl", tmp_path / "arc_easy.train.jsonl")
    assert source.describe(7) == "the 7 items of the file"


def test_one_folder_for_all_evaluations(tmp_path: Path) -> None:
    """The tasks' data may lie in its `eval`; what lies in the folder itself comes first."""
    write(tmp_path / "eval/docs/arc_easy_val.jsonl", [{}])
    write(tmp_path / "eval/gsm8k_test.jsonl", [{}])
    write(tmp_path / "eval/gsm8k_train.jsonl", [{}])
    source = find_source("arc_easy", tmp_path)
    assert source is not None
    assert (source.name, source.known) == ("docs/arc_easy_val.jsonl", TASKS["arc_easy"].files[1])
    assert source == find_source("arc_easy", tmp_path / "eval")
    assert find_source("gsm8k", tmp_path).train == tmp_path / "eval/gsm8k_train.jsonl"  # type: ignore[union-attr]
    write(tmp_path / "arc_easy.jsonl", [{}])
    assert find_source("arc_easy", tmp_path).file == tmp_path / "arc_easy.jsonl"  # type: ignore[union-attr]


def test_which_items_a_published_file_has_is_said_only_where_the_count_is_right() -> None:
    known = TASKS["hellaswag"].files[0]
    assert known.describe(1000) == "validation split, a sample of 1,000 of its 10,042 items"
    assert known.describe(999) == "the 999 items of the file"
    assert TASKS["boolq"].files[0].describe(3270) == "validation split, all 3,270 items"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "has no items"),
        (b"\n \n", "has no items"),
        (b'{"a": 1}\n[1]\n', "line 2 is list; expected a JSON object"),
        (b'{"a": 1}\n{"a"', "line 2 is not JSON"),
        (b"\xff\xfe", "line 1 is not JSON"),
        (b"[" * 100_000, "line 1 is not JSON"),
        (b'{"a": "' + b"x" * (5 << 20) + b'"}', "line 1 has more than 4,194,304 bytes"),
    ],
)
def test_unsound_files(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "arc_easy.jsonl"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_rows(path)


def test_an_array_of_objects(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.json", [{"a": 1}, {"a": 2}])
    assert read_rows(path) == [{"a": 1}, {"a": 2}]
    path.write_text('{"a": 1}')
    with pytest.raises(DataError, match="no array of JSON objects"):
        read_rows(path)
    with pytest.raises(DataError, match="cannot be read"):
        read_rows(tmp_path / "nothing.jsonl")


def test_a_row_of_another_form_is_named(tmp_path: Path) -> None:
    for task, path, rows in OTHER_FORMS:
        if task == "race" or not any(form.fits(rows[0]) for form in FORMS.get(task, ())):
            continue
        broken = [rows[0], dict.fromkeys(rows[0])]
        with pytest.raises(DataError, match=f"^{path}, item 2 does not have sound values"):
            convert(task, broken, path)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 9)
    | st.text(max_size=12)
    | st.sampled_from(["A", "Question: \nAnswer:"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@given(st.data())
def test_any_values_are_converted_or_refused_in_a_sentence(data: st.DataObject) -> None:
    task, path, rows = data.draw(st.sampled_from(OTHER_FORMS))
    row = dict(data.draw(st.sampled_from(rows)))
    for name in data.draw(st.lists(st.sampled_from(sorted(row)), max_size=2)):
        row[name] = data.draw(JSON)
    row = json.loads(json.dumps(row))
    with suppress(DataError):
        assert len(convert(task, [row], path).rows) == 1


def test_rows_of_hugging_face_are_left_alone() -> None:
    for task, rows in HUGGING_FACE.items():
        converted = convert(task, rows, task)
        assert converted.rows is rows
        assert not converted.overrides


@pytest.mark.parametrize(
    ("answer", "names", "expected"),
    [
        ("The Onion!", ["onion"], 1.0),
        ("a red onion", ["onion", "leek"], 2 / 3),
        ("red onion soup", ["onion", "onion soup"], 0.8),
        ("onion onion", ["onion"], 2 / 3),
        ("tulip", ["onion"], 0.0),
        ("", ["onion"], 0.0),
        ("", ["the"], 0.0),
        ("the", ["The The"], 0.0),
        ("onion", [], 0.0),
        ("New-York", ["new york"], 1.0),
    ],
)
def test_f1(answer: str, names: list[str], expected: float) -> None:
    assert f1_of_answer(answer, names) == pytest.approx(expected)
