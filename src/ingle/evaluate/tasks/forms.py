"""The forms in which people have the data of the tasks, made into the columns that Hugging Face's data sets have.

What a file holds is told by the columns of its first row, not by its name:

    Hugging Face's own columns              taken as they are
    query, choices, gold                    documents of OLMo's evaluation (already cut and cleaned)
    question: {stem, choices}, answerKey    the files of the Allen Institute for AI (ARC, OpenBookQA, CommonsenseQA)
    context, answer, aliases                TriviaQA in LLM Foundry
    context, continuation                   LAMBADA in LLM Foundry
    context_options, continuation, gold     the Winograd schemas in LLM Foundry
    question, mc1_targets, mc2_targets      TruthfulQA's own file, with {answer: 1 or 0} for each set of targets
    article, question, options, answer      RACE, one row a question; rows of the same article become one item
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, TypeAlias

from ingle.errors import DataError

__all__ = ["FORMS", "Converted", "Row", "convert", "group_race"]

Row: TypeAlias = dict[str, Any]
_LETTERS = "ABCDEFGHIJ"


@dataclass(frozen=True, slots=True)
class Converted:
    """Rows in Hugging Face's columns. overrides: what the task's definition must then leave out."""

    rows: list[Row]
    overrides: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Form:
    """A form other than Hugging Face's. columns: that it has. `tells`: what else must hold."""

    columns: tuple[str, ...]
    convert: Callable[[Row], Row]
    overrides: Mapping[str, Any] = field(default_factory=dict)
    tells: Callable[[Row], bool] = lambda row: True

    def fits(self, row: Row) -> bool:
        return all(column in row for column in self.columns) and self.tells(row)


def convert(task: str, rows: list[Row], where: str) -> Converted:
    """The rows of a file in Hugging Face's columns. `where` begins the errors: DataError for a row of another form."""
    if task in ("race", "race_middle") and "problems" not in rows[0]:
        return Converted(group_race(rows, where))
    form = next((form for form in FORMS.get(task, ()) if form.fits(rows[0])), None)
    if form is None:
        return Converted(rows)
    converted = []
    for number, row in enumerate(rows, start=1):
        try:
            converted.append(form.convert(row))
        except (KeyError, TypeError, ValueError, IndexError, AttributeError):
            columns = ", ".join(form.columns)
            raise DataError(
                f"{where}, item {number} does not have sound values in {columns}, as the first has."
            ) from None
    return Converted(converted, form.overrides)


def group_race(rows: Iterable[Row], where: str) -> list[Row]:
    """RACE, one row a question, as lm-evaluation-harness wants it: one row an article, its `problems` as text."""
    articles: dict[str, list[Row]] = {}
    for number, row in enumerate(rows, start=1):
        problem = {name: row.get(name) for name in ("question", "options", "answer")}
        options, article = problem["options"], row.get("article")
        sound = isinstance(options, list) and len(options) == 4 and all(isinstance(text, str) for text in options)
        if not (sound and isinstance(problem["question"], str) and problem["answer"] in tuple("ABCD")):
            raise DataError(f"{where}, item {number} is no question of RACE: article, question, 4 options, answer A-D.")
        if not isinstance(article, str):
            raise DataError(f"{where}, item {number} is no question of RACE: it has no article.")
        articles.setdefault(article, []).append(problem)
    return [{"article": article, "problems": repr(problems)} for article, problems in articles.items()]


def _between(text: str, before: str, after: str) -> str:
    if not (text.startswith(before) and text.endswith(after)):
        raise ValueError(text)
    return text[len(before) : len(text) - len(after)]


def _texts(values: object) -> list[str]:
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise TypeError("texts")
    return values


def _labelled(choices: object) -> Row:
    texts = _texts(choices)
    return {"text": texts, "label": list(_LETTERS[: len(texts)])}


def _index(row: Row) -> int:
    gold, n_choices = row["gold"], len(row["choices"])
    if type(gold) is not int or not 0 <= gold < n_choices:
        raise ValueError(gold)
    return gold


def _question_of(column: str) -> Callable[[Row], Row]:
    def from_olmo(row: Row) -> Row:
        question = _between(row["query"], "Question: ", "\nAnswer:")
        answer = _LETTERS[_index(row)]
        return {"id": row["id"], column: question, "choices": _labelled(row["choices"]), "answerKey": answer}

    return from_olmo


def _stem_of(column: str) -> Callable[[Row], Row]:
    def from_ai2(row: Row) -> Row:
        choices = row["question"]["choices"]
        listed = {name: [choice[name] for choice in choices] for name in ("text", "label")}
        return {"id": row["id"], column: row["question"]["stem"], "choices": listed, "answerKey": row["answerKey"]}

    return from_ai2


def _boolq(row: Row) -> Row:
    passage, found, question = _between(row["query"], "", "?\nAnswer:").rpartition("\nQuestion: ")
    if not found:
        raise ValueError("query")
    return {"passage": passage, "question": question, "label": ("no", "yes").index(row["choices"][_index(row)])}


def _social_iqa(row: Row) -> Row:
    texts = {name: row[name] for name in ("context", "question", "answerA", "answerB", "answerC")}
    return {**texts, "label": str(_index(row) + 1)}


def _hellaswag(row: Row) -> Row:
    return {"query": row["query"], "choices": _texts(row["choices"]), "label": str(_index(row))}


def _truthful(row: Row) -> Row:
    """The right answer of mc1 comes first, as in Hugging Face's data set: the task's target is 0."""
    made: Row = {"question": row["question"]}
    for name in ("mc1_targets", "mc2_targets"):
        marked = sorted(row[name].items(), key=lambda pair: -pair[1])  # stable: within each mark the order stays
        made[name] = {"choices": [text for text, _ in marked], "labels": [mark for _, mark in marked]}
    if made["mc1_targets"]["labels"].count(1) != 1:
        raise ValueError("mc1_targets")
    return made


def _triviaqa(row: Row) -> Row:
    """The file was made from a table: where a question holds quotes, they are doubled and a pair surrounds it."""
    question = _between(row["context"], "Question: ", "\nAnswer:")
    if len(question) > 1 and question[0] == question[-1] == '"' and '"' not in question[1:-1].replace('""', ""):
        question = question[1:-1].replace('""', '"')
    return {"question": question, "answer": {"value": row["answer"], "aliases": _texts(row["aliases"])}}


def _lambada(row: Row) -> Row:
    return {"text": " ".join((row["context"], row["continuation"]))}


def _winograd(row: Row) -> Row:
    """A sentence up to its pronoun, with either option in the pronoun's place, and how it goes on."""
    options = _texts(row["context_options"])
    different = (i for i, (a, b) in enumerate(zip(*options, strict=False)) if a != b)
    n_shared = next(different, min(map(len, options)))
    start = options[0].rfind(" ", 0, n_shared) + 1  # a whole word: "city" and "clerk" share a letter
    text = f"{options[0][:start]}_ " + row["continuation"]
    tails = [option[start:] for option in options]
    if len(tails) != 2 or row["gold"] not in (0, 1):
        raise ValueError("context_options")
    return {"text": text, "pronoun": "_", "pronoun_loc": start, "options": tails, "label": row["gold"]}


_OLMO = ("query", "choices", "gold")
_AI2 = ("question", "answerKey")


def _science(column: str) -> tuple[Form, ...]:
    nested = Form(_AI2, _stem_of(column), tells=lambda row: isinstance(row["question"], dict))
    return Form(_OLMO, _question_of(column)), nested


_TRUTHFUL = (
    Form(
        ("question", "mc1_targets", "mc2_targets"),
        _truthful,
        tells=lambda row: isinstance(row["mc1_targets"], dict) and "choices" not in row["mc1_targets"],
    ),
)

#: By task; what fits none of them is taken for Hugging Face's own columns.
FORMS: Mapping[str, tuple[Form, ...]] = MappingProxyType(
    {
        "arc_easy": _science("question"),
        "arc_challenge": _science("question"),
        "openbookqa": _science("question_stem"),
        "commonsense_qa": _science("question"),
        "boolq": (Form(_OLMO, _boolq),),
        "social_iqa": (Form((*_OLMO, "answerA"), _social_iqa),),
        "hellaswag": (Form(_OLMO, _hellaswag, {"process_docs": None}),),  # which would clean the text a second time
        "truthfulqa_mc1": _TRUTHFUL,
        "truthfulqa_mc2": _TRUTHFUL,
        "triviaqa": (Form(("context", "answer", "aliases"), _triviaqa),),
        "lambada_openai": (Form(("context", "continuation"), _lambada),),
        "wsc273": (Form(("context_options", "continuation", "gold"), _winograd, {"process_docs": None}),),
    }
)
