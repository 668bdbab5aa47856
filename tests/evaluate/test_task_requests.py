"""What a task asks the model is what lm-evaluation-harness's own definition asks about the same items."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest

from ingle.errors import DataError
from ingle.evaluate.tasks.catalog import SETS, TASKS
from ingle.evaluate.tasks.plan import plan_tasks
from ingle.evaluate.tasks.surroundings import surroundings
from shared_data import DATA, shared

pytest.importorskip("lm_eval", reason="lm-eval is not installed")

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of the peer's dependencies, while they are imported
    import datasets
    import lm_eval.tasks

    from ingle.evaluate.tasks.build import build, check_items, set_shots

from task_items import HUGGING_FACE, OTHER_FORMS, data_folder, write

pytestmark = pytest.mark.filterwarnings("ignore")  # lm_eval's and its dependencies' own


def asked(task: Any) -> list[tuple[str, Any, Any]]:
    """The requests of a task: kind, arguments, and the place among those of one item."""
    with surroundings(offline=True):
        task.build_all_requests()
    return [(request.request_type, request.args, request.idx) for request in task.instances]


def ours(task: str, folder: Path, shots: int | None = 0) -> Any:
    [planned] = plan_tasks([task], folder)
    [built] = build(planned)
    set_shots(built, shots, seed=0)
    return built.task


def theirs(task: str, rows: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> Any:
    """lm_eval's own way from the name to the task; only the download is not one."""
    splits = dict.fromkeys(("train", "validation", "test"), datasets.Dataset.from_list(rows))
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: datasets.DatasetDict(splits))
    folder = Path(lm_eval.tasks.__file__).parent / TASKS[task].folder
    manager = lm_eval.tasks.TaskManager(include_path=str(folder), include_defaults=False)
    found = manager.load([task])["tasks"][task]
    found.set_config("num_fewshot", 0)
    return found


@pytest.mark.parametrize("task", HUGGING_FACE)
def test_rows_of_hugging_face(task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine, peers = ours(task, data_folder(tmp_path, task)), theirs(task, HUGGING_FACE[task], monkeypatch)
    assert asked(mine) == asked(peers)
    assert mine.aggregation() == peers.aggregation()
    assert mine.get_config("metric_list") == peers.get_config("metric_list")
    assert mine.VERSION == peers.VERSION
    assert [mine.doc_to_target(doc) for doc in mine.eval_docs] == [peers.doc_to_target(doc) for doc in peers.eval_docs]


@pytest.mark.parametrize(("task", "path", "rows"), OTHER_FORMS, ids=[f"{t} {p}" for t, p, _ in OTHER_FORMS])
def test_other_forms(
    task: str, path: str, rows: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / path, rows)
    mine, peers = ours(task, tmp_path), theirs(task, HUGGING_FACE[task], monkeypatch)
    assert asked(mine) == asked(peers)
    judged = [
        [task.doc_to_text(doc) if task.multiple_input else task.doc_to_target(doc) for doc in task.eval_docs]
        for task in (mine, peers)
    ]
    assert judged[0] == judged[1]


def test_the_middle_school_part_of_race_is_asked_like_the_other(tmp_path: Path) -> None:
    write(tmp_path / "race_middle.jsonl", HUGGING_FACE["race"])
    data_folder(tmp_path, "race")
    middle, high = ours("race_middle", tmp_path), ours("race", tmp_path)
    assert asked(middle) == asked(high)
    assert (middle.task_name, high.task_name) == ("race_middle", "race")


def test_labels_of_piqa_in_a_second_file(tmp_path: Path) -> None:
    rows = [{name: row[name] for name in ("goal", "sol1", "sol2")} for row in HUGGING_FACE["piqa"]]
    write(tmp_path / "piqa_valid.jsonl", rows)
    with pytest.raises(DataError, match=r"piqa_valid-labels\.lst cannot be read.* has no labels, so they are needed"):
        ours("piqa", tmp_path)
    (tmp_path / "piqa_valid-labels.lst").write_text("0\n1\n")
    task = ours("piqa", tmp_path)
    assert [task.doc_to_target(doc) for doc in task.eval_docs] == [0, 1]
    (tmp_path / "piqa_valid-labels.lst").write_text("0\n")
    with pytest.raises(DataError, match="1 labels; expected one, 0 or 1, for each of 2 items"):
        ours("piqa", tmp_path)


def test_examples_come_from_the_training_file_or_the_other_items(tmp_path: Path) -> None:
    rows = HUGGING_FACE["gsm8k"]
    write(tmp_path / "gsm8k_test.jsonl", rows[:6])
    [built] = build(plan_tasks(["gsm8k"], tmp_path)[0])
    with pytest.raises(DataError, match="gsm8k needs 6 examples to choose from, and has 5; ask for fewer"):
        set_shots(built, 6, seed=1)
    assert "from the other items" in str(set_shots(built, 5, seed=1))
    for (_, (prompt, _), _), row in zip(asked(built.task), rows[:6], strict=True):
        assert prompt.count("Question: ") == 6
        assert prompt.count(f"Question: {row['question']}\n") == 1  # not among its own examples
        assert prompt.endswith(f"Question: {row['question']}\nAnswer:")
    write(tmp_path / "gsm8k_train.jsonl", rows[6:])
    [built] = build(plan_tasks(["gsm8k"], tmp_path)[0])
    assert "from the split train" in str(set_shots(built, 1, seed=1))
    assert all(any(row["question"] in args[0] for row in rows[6:]) for _, args, _ in asked(built.task))
    set_shots(built, 2, seed=1)
    assert all(all(row["question"] in args[0] for row in rows[6:]) for _, args, _ in asked(built.task))
    with pytest.raises(DataError, match="gsm8k needs 3 examples to choose from, and has 2; ask for fewer"):
        set_shots(built, 3, seed=1)


def test_examples_follow_from_the_seed(tmp_path: Path) -> None:
    data_folder(tmp_path, "gsm8k")
    prompts = []
    for seed in (1, 1, 2):
        [built] = build(plan_tasks(["gsm8k"], tmp_path)[0])
        set_shots(built, 3, seed)
        prompts.append(asked(built.task))
    assert prompts[0] == prompts[1] != prompts[2]


def test_a_definition_that_fixes_its_examples_keeps_them(tmp_path: Path) -> None:
    data_folder(tmp_path, "truthfulqa_mc1")
    [built] = build(plan_tasks(["truthfulqa_mc1"], tmp_path)[0])
    assert "fixes" in str(set_shots(built, 3, seed=0))
    assert asked(built.task) == asked(ours("truthfulqa_mc1", tmp_path))


def real(path: str) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in shared(f"eval/{path}").open()]
    assert len(rows) > 100
    return rows


@pytest.mark.parametrize(
    ("task", "path"),
    [
        ("arc_easy", "docs/arc_easy_test.jsonl"),
        ("arc_challenge", "docs/arc_challenge_val.jsonl"),
        ("hellaswag", "docs/hellaswag_rc.jsonl"),
        ("boolq", "docs/boolq_val.jsonl"),
    ],
)
def test_published_items_keep_their_prompts_and_choices(task: str, path: str) -> None:
    """OLMo's prompts of these tasks are lm_eval's: what was taken apart must come out whole."""
    rows = real(path)
    expected = [
        (row["query"], f" {choice}") for row in rows for choice in sorted(row["choices"], key=_order_of(task, row))
    ]
    assert [args for _, args, _ in asked(ours(task, DATA / "eval"))] == expected


def _order_of(task: str, row: dict[str, Any]) -> Any:
    """lm_eval's BoolQ has the choices no, yes; OLMo's the other way round."""
    return row["choices"].index if task != "boolq" else lambda choice: choice == "yes"


@pytest.mark.parametrize("task", [task for task in dict.fromkeys(sum(SETS.values(), ())) if TASKS[task].files])
def test_every_published_item_can_be_used(task: str) -> None:
    shared(f"eval/{TASKS[task].files[0].path}")
    with surroundings(offline=True):
        [built] = build(plan_tasks([task], DATA / "eval")[0])
        items = check_items(built, None)
    assert len(items.ids) == len(built.task.eval_docs) == TASKS[task].files[0].n_items
    n_again = 19 if task == "social_iqa" else 0  # items that are the same word for word
    assert len(set(items.ids)) == len(items.ids) - n_again
    assert "items" in built.split
