"""`run_tasks`: what comes out of it, and what is said where nothing can."""

from __future__ import annotations

import logging
import math
import os
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ingle.engine.model import Model, load
from ingle.errors import ContextError, DataError, TemplateError, UsageError
from ingle.evaluate.harness import _jackknife, _metrics, run_tasks
from task_items import HUGGING_FACE, data_folder, write

pytest.importorskip("lm_eval", reason="lm-eval is not installed")

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of the peer's dependencies, while they are imported
    import lm_eval
    from lm_eval.api.metrics import mean_stderr
    from lm_eval.api.registry import get_model

    from ingle.evaluate.adapter import IngleLM
    from ingle.evaluate.tasks.build import build, set_shots
    from ingle.evaluate.tasks.plan import plan_tasks
    from ingle.evaluate.tasks.surroundings import surroundings

pytestmark = pytest.mark.filterwarnings("ignore")  # lm_eval's and its dependencies' own


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything but the middle-school part of RACE."""
    folder = data_folder(tmp_path_factory.mktemp("data"))
    write(folder / "gsm8k_train.jsonl", HUGGING_FACE["gsm8k"])
    return folder


def test_results_are_those_of_the_harness(model: Model, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """lm_eval's own loop over the same tasks; its standard errors of means are closed forms."""
    says = lambda self, requests: [("4", "#### 5", "The cuckoo.")[len(it.args[0]) % 3] for it in requests]  # noqa: E731
    monkeypatch.setattr(IngleLM, "generate_until", says)
    tasks = ["arc_easy", "boolq", "truthfulqa_mc2", "winogrande", "race", "triviaqa", "gsm8k"]
    results = run_tasks(model, tasks, data=data)
    with surroundings(offline=True):
        built = [built for plan in plan_tasks(tasks, data) for built in build(plan)]
        for each in built:
            set_shots(each, None, seed=0)
        peers = lm_eval.evaluate(lm=IngleLM(model=model), task_dict={"tasks": {it.name: it.task for it in built}})
    assert [result.task for result in results] == tasks
    for result in results:
        expected = peers["results"][result.task]
        keys = {key: value for key, value in expected.items() if "," in key and "_stderr" not in key}
        assert {metric.name for metric in result.metrics} >= {key.split(",")[0] for key in keys if len(keys) == 1}
        for key, value in keys.items():
            name, _, kind = key.partition(",")
            metric = result.metric(name) or result.metric(f"{name} ({kind})")
            assert metric is not None
            assert metric.value == pytest.approx(value)
            assert metric.stderr == pytest.approx(expected[f"{name}_stderr,{kind}"])
            assert metric.n == len(HUGGING_FACE[result.task]) == len(result.item_ids)
            assert np.mean(metric.values) == pytest.approx(metric.value)


def test_what_a_result_says(model: Model, data: Path) -> None:
    [result] = run_tasks(model, ["piqa"], data=data)
    assert [metric.name for metric in result.metrics] == ["acc", "acc_norm"]
    assert result.metrics[0].stderr == pytest.approx(mean_stderr(list(result.metrics[0].values)))
    assert result.notes == ("piqa.jsonl: the 2 items of the file.",)
    assert result.seconds > 0
    assert result.details["chance"] == 0.5
    assert (result.details["data"], result.details["shots"], result.details["n_requests"]) == ("piqa.jsonl", 0, 4)


def test_item_ids_follow_from_the_items(model: Model, data: Path, tmp_path: Path) -> None:
    rows = HUGGING_FACE["arc_easy"]
    write(tmp_path / "arc_easy.jsonl", [rows[2], rows[0], rows[0]])
    [all_of_them] = run_tasks(model, ["arc_easy"], data=data)
    [again] = run_tasks(model, ["arc_easy"], data=data, shots=1)
    [others] = run_tasks(model, ["arc_easy"], data=tmp_path)
    assert again.item_ids == all_of_them.item_ids
    assert again.details["prompts"] != all_of_them.details["prompts"]
    assert len(set(all_of_them.item_ids)) == 3
    assert others.item_ids == tuple(all_of_them.item_ids[i] for i in (2, 0, 0))


def test_triviaqa_has_f1_beside_exact_match(model: Model, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(IngleLM, "generate_until", lambda self, requests: [" the Cuckoo", " four or five"])
    [result] = run_tasks(model, ["triviaqa"], data=data)
    assert [metric.name for metric in result.metrics] == ["exact_match", "f1"]
    assert result.metrics[0].values == (1.0, 0.0)
    assert result.metrics[1].values == (1.0, pytest.approx(0.5))
    assert result.metrics[1].stderr == pytest.approx(0.25)


def test_left_out_tasks_have_a_result_that_says_so(model: Model, data: Path) -> None:
    results = {result.task: result for result in run_tasks(model, ["mobilellm"], data=data, limit=1)}
    assert len(results) == 11
    assert results["race_middle"].metrics == ()
    assert results["race_middle"].notes[0].startswith("Left out. The folder ")
    assert all(result.metrics for task, result in results.items() if task != "race_middle")


def test_limit_and_few_items(model: Model, data: Path) -> None:
    [result] = run_tasks(model, ["arc_easy"], data=data, limit=1)
    assert result.metrics[0].n == len(result.item_ids) == 1
    assert result.metrics[0].stderr is None  # one item says nothing about the spread
    assert "The first 1 of 3 items only." in result.notes


def test_shots_and_their_seed(model: Model, data: Path) -> None:
    [one] = run_tasks(model, ["gsm8k"], data=data, limit=2, shots=2, seed=3)
    [same] = run_tasks(model, ["gsm8k"], data=data, limit=2, shots=2, seed=3)
    [other] = run_tasks(model, ["gsm8k"], data=data, limit=2, shots=2, seed=4)
    assert one.details["prompts"] == same.details["prompts"] != other.details["prompts"]
    assert "2 examples before each question, from the split train, seed 3." in one.notes
    assert one.details["shots"] == 2


def test_perplexity_has_a_standard_error(model: Model, data: Path) -> None:
    [result] = run_tasks(model, ["lambada_openai"], data=data)
    perplexity = result.metric("perplexity")
    assert perplexity is not None
    assert not perplexity.higher_is_better
    assert perplexity.values == ()  # it is no mean
    assert perplexity.stderr is not None
    assert perplexity.stderr > 0


def test_the_jackknife_agrees_with_what_is_known() -> None:
    rng = np.random.default_rng(0)
    scores = rng.normal(2, 0.5, 1000).tolist()
    exact = np.std(scores, ddof=1) / len(scores) ** 0.5
    assert _jackknife(np.mean, scores[:100]) == pytest.approx(mean_stderr(scores[:100]))
    assert _jackknife(np.mean, scores) == pytest.approx(exact, rel=0.15)  # 200 groups
    of_exp = _jackknife(lambda values: math.exp(np.mean(values)), scores)
    assert of_exp == pytest.approx(math.exp(np.mean(scores)) * exact, rel=0.15)  # by the delta method
    assert _jackknife(np.mean, [1.0]) is None


def test_a_task_that_is_in_no_set_is_found_by_its_name(model: Model, tmp_path: Path) -> None:
    wrong = {f"distractor{i}": text for i, text in ((1, "sand"), (2, "oil"), (3, "air"))}
    row = {"question": "What is ice?", **wrong, "correct_answer": "water", "support": "Ice is frozen water."}
    write(tmp_path / "sciq.jsonl", [row, {**row, "question": "What is rain?"}])
    [result] = run_tasks(model, ["sciq"], data=tmp_path)
    assert [metric.name for metric in result.metrics] == ["acc", "acc_norm"]
    assert result.details["chance"] == 0.25


def test_progress(model: Model, data: Path) -> None:
    told: list[tuple[str, int, int]] = []
    run_tasks(model, ["boolq", "triviaqa"], data=data, on_progress=lambda *what: told.append(what))
    for task, total in (("boolq", 4), ("triviaqa", 2)):
        done = [(n, of) for name, n, of in told if name == task]
        assert done[-1] == (total, total)
        assert done == sorted(done)


def test_it_is_quiet_and_leaves_no_trace(
    model: Model, data: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from lm_eval import utils
    from lm_eval.api import task as harness_task

    monkeypatch.setenv("HF_DATASETS_OFFLINE", "0")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    before = (dict(os.environ), harness_task.tqdm, utils.env.from_string, logging.getLogger("lm_eval").level)
    run_tasks(model, ["boolq", "arc_easy", "gsm8k"], data=data, limit=1)
    with pytest.raises(DataError):
        run_tasks(model, ["winogrande", "race_middle"], data=data)
    assert capfd.readouterr() == ("", "")
    after = (dict(os.environ), harness_task.tqdm, utils.env.from_string, logging.getLogger("lm_eval").level)
    assert after == before


def test_unsound_items_are_named_before_anything_is_computed(model: Model, tmp_path: Path) -> None:
    good = HUGGING_FACE["arc_easy"]
    cases: list[tuple[str, list[dict[str, Any]], str]] = [
        ("arc_easy", [good[0], {**good[1], "answerKey": "E"}], "arc_easy.jsonl, item 2 is not what the task arc_easy"),
        ("arc_easy", [{"question": "?"}], "not what the task arc_easy needs .*columns of its data set on Hugging Face"),
        ("piqa", [HUGGING_FACE["piqa"][0], {**HUGGING_FACE["piqa"][1], "label": 2}], "piqa.jsonl, item 2 is not what"),
        ("piqa", [HUGGING_FACE["piqa"][0], {**HUGGING_FACE["piqa"][1], "goal": 3}], "values of different types"),
        ("winogrande", [{**HUGGING_FACE["winogrande"][0], "sentence": "no gap"}], "not what the task winogrande needs"),
        ("race", [{"article": "a", "question": "b", "options": ["c"], "answer": "A"}], "item 1 is no question of RACE"),
    ]
    told: list[Any] = []
    for task, rows, message in cases:
        write(tmp_path / f"{task}.jsonl", rows)
        data_folder(tmp_path, "boolq")
        with pytest.raises(DataError, match=message):
            run_tasks(model, ["boolq", task], data=tmp_path, on_progress=lambda *what: told.append(what))
    assert not told


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tasks": []}, "No task was given"),
        ({"tasks": ["boolq"], "limit": 0}, "limit is 0; expected a whole number of 1 or more"),
        ({"tasks": ["boolq"], "shots": -1}, "shots is -1; expected a whole number of 0 or more"),
        ({"tasks": ["boolq"], "shots": True}, "shots is True"),
    ],
)
def test_arguments_that_cannot_be(model: Model, data: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        run_tasks(model, data=data, **options)


def test_more_examples_than_there_are(model: Model, data: Path) -> None:
    with pytest.raises(DataError, match="boolq needs 2 examples to choose from, and has 1; ask for fewer"):
        run_tasks(model, ["boolq"], data=data, shots=2)


def test_without_the_harness(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ingle.evaluate.harness.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install 'ingle\[eval\]'"):
        run_tasks(model, ["boolq"])


def test_an_answer_that_the_context_cannot_hold(toy: Path, data: Path) -> None:
    with load(toy, context=64, threads=1) as small:
        with pytest.raises(ContextError, match="answers of up to 256 tokens, and the context holds 64"):
            run_tasks(small, ["triviaqa"], data=data)
        [result] = run_tasks(small, ["truthfulqa_mc1"], data=data)
    assert "5 prompts lost their beginning" in result.notes[-1]


def test_sampled_answers_are_refused(model: Model) -> None:
    lm = IngleLM(model=model)
    request = lm_eval.api.instance.Instance("generate_until", {}, ("Ann", {"do_sample": True, "temperature": 1.0}), 0)
    with pytest.raises(UsageError, match="only greedy ones"):
        lm.generate_until([request])


def test_the_harness_finds_the_model_by_its_name(toy: Path, data: Path) -> None:
    """As its command line does: `--model ingle --model_args path=...,context=256`."""
    with surroundings(offline=True):
        [built] = build(plan_tasks(["piqa"], data)[0])
        set_shots(built, 0, seed=0)
        arguments = f"path={toy},context=256,n_slots=2,threads=1"
        lm = get_model("ingle").create_from_arg_string(arguments, {"batch_size": 1, "device": "cpu"})
        assert (lm.max_length, lm.model.backend) == (256, "native")
        found = lm_eval.evaluate(lm=lm, task_dict={"tasks": {"piqa": built.task}}, apply_chat_template=True)
        lm.model.close()
    assert 0 <= found["results"]["piqa"]["acc,none"] <= 1
    prompt = found["samples"]["piqa"][0]["arguments"][0][0]
    assert prompt.startswith("<|im_start|>user\nQuestion: To dry a cup,")
    assert prompt.endswith("<|im_end|>\n<|im_start|>assistant\n")


def test_chat_prompts_have_the_models_control_tokens(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    lm = IngleLM(model=model)
    messages = [{"role": "user", "content": "Is it?"}]
    ids = lm.tok_encode(lm.apply_chat_template(messages))
    assert ids == model.template.encode_chat(messages)
    opened = lm.apply_chat_template([*messages, {"role": "assistant", "content": "It is"}], add_generation_prompt=False)
    assert opened.endswith("<|im_start|>assistant\nIt is")
    assert lm.chat_template(True) == model.template.source
    assert lm.chat_template(False) is None
    assert lm.tokenizer_name
    render = model.template.render
    monkeypatch.setattr(model.template, "render", lambda *a, **k: render(*a, **k).upper())
    with pytest.raises(TemplateError, match="changes the last message"):
        lm.apply_chat_template(messages, add_generation_prompt=False)


def test_what_a_text_without_a_context_is_predicted_after(model: Model) -> None:
    assert IngleLM(model=model).prefix_token_id == model.tokenizer.eos_id  # it has no token that begins a text
    assert IngleLM(model=model, prefix_token_id=7).prefix_token_id == 7


@pytest.mark.parametrize(
    ("known", "higher"), [({"acc": True}, True), ({"acc": False}, False), ({"acc": None}, True), ({}, True)]
)
def test_a_metric_that_the_harness_knows_no_direction_of_is_better_when_higher(
    known: dict[str, Any], higher: bool
) -> None:
    task = SimpleNamespace(aggregation=dict, higher_is_better=lambda: known)
    samples = [{"filter": "none", "acc": value} for value in (1.0, 0.0, 1.0)]
    [metric] = _metrics(task, {"acc,none": 2 / 3, "acc_stderr,none": "N/A", "alias": "t"}, samples)
    assert (metric.name, metric.higher_is_better, metric.values) == ("acc", higher, (1.0, 0.0, 1.0))
    assert metric.stderr == pytest.approx(mean_stderr([1.0, 0.0, 1.0]))
