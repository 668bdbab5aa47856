"""`run_tasks` and the network: data that it fetches is used as local data is, and with local data it asks nobody."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ingle.engine.model import Model
from ingle.errors import DataError, UsageError
from ingle.evaluate.harness import run_tasks
from task_items import HUGGING_FACE, OTHER_FORMS, data_folder, write

pytest.importorskip("lm_eval", reason="lm-eval is not installed")

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of the peer's dependencies, while they are imported
    import datasets

    from ingle.evaluate.tasks import build

pytestmark = pytest.mark.filterwarnings("ignore")  # lm_eval's and its dependencies' own


def test_what_is_fetched_is_evaluated_as_local_data_is(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The middle-school part of RACE comes with a row for each question, and lies here with one for each article."""
    questions = next(rows for task, _, rows in OTHER_FORMS if task == "race")
    published = {
        ("allenai/ai2_arc", "ARC-Easy"): HUGGING_FACE["arc_easy"],
        ("ehovy/race", "middle"): questions,
    }
    tasks = ["arc_easy", "race_middle"]
    seen: list[str | None] = []

    def load_dataset(path: str, name: str | None = None, *, split: str | None = None, **_: Any) -> Any:
        seen.append(os.environ.get("HF_HUB_OFFLINE"))
        rows = datasets.Dataset.from_list(published.pop((path, name)))
        return rows if split == "test" else datasets.DatasetDict({"train": rows.select([]), "test": rows})

    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    with monkeypatch.context() as patch:
        patch.setattr(datasets, "load_dataset", load_dataset)
        fetched = run_tasks(model, tasks)
    assert not published
    assert seen == [None, None]
    data_folder(tmp_path, "arc_easy")
    write(tmp_path / "race_middle.jsonl", HUGGING_FACE["race"])
    for ours, local in zip(fetched, run_tasks(model, tasks, data=tmp_path), strict=True):
        assert ours.metrics == local.metrics
        assert ours.item_ids == local.item_ids
        assert ours.details["prompts"] == local.details["prompts"]
    assert [(each.task, each.details["data"], each.details["split"]) for each in fetched] == [
        ("arc_easy", "allenai/ai2_arc ARC-Easy", "test"),
        ("race_middle", "ehovy/race middle", "test"),
    ]
    assert fetched[0].notes == ("allenai/ai2_arc ARC-Easy: test.",)


def test_data_that_cannot_be_fetched(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise ConnectionError("no network in this test")

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    for task in ("boolq", "race_middle"):
        with pytest.raises(DataError, match=rf"of {task} is not on this machine .*data folder with {task}\.jsonl"):
            run_tasks(model, [task])


def test_a_task_that_nobody_knows(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """All definitions are looked through for it, which would take 10 s here."""
    asked: list[str | None] = []
    monkeypatch.setattr(build, "_manager", lambda folder: asked.append(folder) or SimpleNamespace(task_index={}))
    with pytest.raises(UsageError, match=r"There is no task and no set 'arc_esy'; the sets are mobilellm, melt, and "):
        run_tasks(model, ["arc_esy"])
    assert asked == [None]


#: A person's program: its environment says nothing of the network, and it was the first to import what reads it.
A_PROGRAM = """
import json, os, socket, sys
from pathlib import Path

asked, seen = [], []

def refuse(*what, **_):
    asked.append(repr(what))
    raise OSError("no network in this test")

for name in ("connect", "connect_ex", "sendto"):
    setattr(socket.socket, name, refuse)
socket.getaddrinfo = refuse

import ingle
from ingle.evaluate.harness import run_tasks

names = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE")
with ingle.load(sys.argv[1], threads=1) as model:
    run_tasks(
        model,
        sys.argv[3:],
        data=Path(sys.argv[2]),
        limit=1,
        on_progress=lambda *_: seen.append([os.environ.get(name) for name in names]),
    )

import datasets.config, huggingface_hub.constants

offline = [huggingface_hub.constants.HF_HUB_OFFLINE, datasets.config.HF_DATASETS_OFFLINE]
print(json.dumps({"asked": asked, "seen": seen, "offline": offline, "after": [os.environ.get(name) for name in names]}))
"""


def test_nothing_leaves_the_machine(toy: Path, tmp_path: Path) -> None:
    quiet = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TRANSFORMERS_"))}
    tasks = ["arc_easy", "truthfulqa_mc1", "triviaqa"]
    words = [sys.executable, "-c", A_PROGRAM, str(toy), str(data_folder(tmp_path, *tasks)), *tasks]
    done = subprocess.run(words, env=quiet, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["asked"] == []
    assert found["seen"]
    assert all(each == ["1", "1"] for each in found["seen"])
    assert found["offline"] == [True, True]
    assert found["after"] == [None, None]
