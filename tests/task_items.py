"""A few items of each task, written for these tests, in Hugging Face's columns and in the other forms people have."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Rows = list[dict[str, Any]]

_STEMS = ["What melts when it is warm?", "Which animal can fly?", "What do plants need\nto grow?"]
_ANSWERS = [
    ["a stone", "ice", "it's sand"],
    ["a cow", "a dog", 'a "bat"', "a trout"],
    ["light", "paint", "coins", "tea"],
]
_GOLD = [1, 2, 0]


def _labels(answers: Sequence[str], names: str = "ABCDE") -> dict[str, list[str]]:
    return {"text": list(answers), "label": list(names[: len(answers)])}


def _science(column: str, names: str = "ABCDE") -> Rows:
    return [
        {"id": f"q{i}", column: stem, "choices": _labels(answers, names), "answerKey": names[gold]}
        for i, (stem, answers, gold) in enumerate(zip(_STEMS, _ANSWERS, _GOLD, strict=True))
    ]


def _olmo(*, prompt: str = "Question: {}\nAnswer:") -> Rows:
    return [
        {"id": f"q{i}", "query": prompt.format(stem), "choices": answers, "gold": gold, "label": gold}
        for i, (stem, answers, gold) in enumerate(zip(_STEMS, _ANSWERS, _GOLD, strict=True))
    ]


def _ai2() -> Rows:
    return [
        {
            "id": f"q{i}",
            "question": {
                "stem": stem,
                "choices": [{"text": text, "label": "ABCD"[j]} for j, text in enumerate(answers)],
            },
            "answerKey": "ABCD"[gold],
        }
        for i, (stem, answers, gold) in enumerate(zip(_STEMS, _ANSWERS, _GOLD, strict=True))
    ]


_FIVE = [
    {"id": f"c{i}", "question": stem, "choices": _labels(["ice", "sand", "tin", "oak", "wool"]), "answerKey": "ABE"[i]}
    for i, stem in enumerate(_STEMS)
]
_PASSAGES = ["Ice -- Ice is frozen water.\nQuestion: it floats.", "Cats -- A cat sleeps."]
_SOCIAL = [
    {
        "context": "Ann lent Bob her bicycle.",
        "question": "How would Bob feel?",
        "answerA": "thankful",
        "answerB": "sleepy",
        "answerC": "hungry",
    },
    {
        "context": "Carl lost his key.",
        "question": "What will Carl do next?",
        "answerA": "sing",
        "answerB": "eat",
        "answerC": "look for it",
    },
]
_PROBLEMS = [
    [
        {"question": "Tom lives in  _  .", "options": ["a boat", "a tree", "a shop", "a tent"], "answer": "A"},
        {"question": "Who visits Tom?", "options": ["his aunt", "a fox", "no one", "a king"], "answer": "B"},
    ],
    [{"question": "Rain is  _  .", "options": ["dry", "wet", "loud", "old"], "answer": "B"}],
]
_ARTICLES = ['Tom\'s boat is red. A "fox" comes each day.', "Rain fell."]
_TRUTHS = [
    {
        "question": "Can goldfish fly?",
        "mc1_targets": {"No, they swim.": 1, "Yes, at night.": 0},
        "mc2_targets": {"No, they swim.": 1, "They can't fly.": 1, "Yes, at night.": 0},
    },
    {
        "question": "What is a square's number of sides?",
        "mc1_targets": {"Four.": 1, "Three.": 0, "Five.": 0},
        "mc2_targets": {"Four.": 1, "Three.": 0, "Five.": 0},
    },
]
_TRUTHS_HF: Rows = [
    {
        "question": row["question"],
        **{
            name: {"choices": list(row[name]), "labels": list(row[name].values())}  # type: ignore[attr-defined,call-overload]
            for name in ("mc1_targets", "mc2_targets")
        },
    }
    for row in _TRUTHS
]
_TRIVIA = [
    ('Which bird says "cuckoo"?', "Cuckoo", ["Cuckoo", "The cuckoo", "Cuculus"]),
    ("2 and 2", "4", ["4", "four"]),
]

#: By task: rows as on Hugging Face, and the same items in other forms, by the name of their file.
HUGGING_FACE: dict[str, Rows] = {
    "arc_easy": _science("question"),
    "arc_challenge": _science("question", "12345"),
    "openbookqa": _science("question_stem"),
    "commonsense_qa": _FIVE,
    "boolq": [
        {"passage": _PASSAGES[0], "question": "does ice float", "label": 1, "idx": 0},
        {"passage": _PASSAGES[1], "question": "is a cat a fish", "label": 0, "idx": 1},
    ],
    "piqa": [
        {"goal": "To dry a cup,", "sol1": "wipe it with a cloth.", "sol2": "fill it with soup.", "label": 0},
        {"goal": "Keep bread fresh", "sol1": "bury it", "sol2": "wrap it ", "label": 1},
    ],
    "social_iqa": [{**row, "label": label} for row, label in zip(_SOCIAL, ("1", "3"), strict=True)],
    "hellaswag": [
        {
            "ind": 4,
            "activity_label": "Cooking",
            "ctx_a": "A man holds a pan [title] He",
            "ctx_b": "stirs the  soup. then he",
            "endings": ["eats it. [step] slowly", "is a pan.", "flies.", "sings a song."],
            "label": "0",
        },
        {
            "ind": 9,
            "activity_label": "Roof",
            "ctx_a": "A ladder leans on a wall.",
            "ctx_b": "a woman",
            "endings": ["climbs it.", "paints a fish.", "is a wall.", "melts."],
            "label": "0",
        },
    ],
    "winogrande": [
        {"sentence": "Ann thanked Eve because _ had helped.", "option1": "Ann", "option2": "Eve", "answer": "2"},
        {"sentence": "The cup fits the box, so _ is small.", "option1": "the cup", "option2": "the box", "answer": "1"},
    ],
    "triviaqa": [
        {"question": question, "answer": {"value": value, "aliases": aliases}} for question, value, aliases in _TRIVIA
    ],
    "race": [{"article": a, "problems": repr(p)} for a, p in zip(_ARTICLES, _PROBLEMS, strict=True)],
    "truthfulqa_mc1": _TRUTHS_HF,
    "truthfulqa_mc2": _TRUTHS_HF,
    "lambada_openai": [{"text": "He put the kettle on the stove"}, {"text": "she looked at Don's boat"}],
    "wsc273": [
        {
            "text": "The cup does not fit into the box because it is too big.",
            "pronoun": "it",
            "pronoun_loc": 42,
            "options": ["the cup", "the box"],
            "label": 0,
        },
        {
            "text": "Ann thanked Eve because she had helped.",
            "pronoun": "she",
            "pronoun_loc": 24,
            "options": ["Ann", "Eve"],
            "label": 1,
        },
    ],
    "gsm8k": [
        {
            "question": f"Ann has {n} pens and buys 2. How many has she?",
            "answer": f"{n}+2=<<{n}+2={n + 2}>>\n#### {n + 2}",
        }
        for n in range(8)
    ],
}

OTHER_FORMS: list[tuple[str, str, Rows]] = [
    ("arc_easy", "docs/arc_easy_test.jsonl", _olmo()),
    ("arc_easy", "docs/arc_easy_val.jsonl", _ai2()),
    ("openbookqa", "docs/openbookqa_test.jsonl", _olmo()),
    ("openbookqa", "openbookqa.jsonl", _ai2()),
    (
        "commonsense_qa",
        "docs/csqa_val.jsonl",
        [
            {
                "id": row["id"],
                "query": f"Question: {row['question']}\nAnswer:",
                "choices": row["choices"]["text"],  # type: ignore[index]
                "gold": gold,
            }
            for row, gold in zip(_FIVE, (0, 1, 4), strict=True)
        ],
    ),
    (
        "boolq",
        "docs/boolq_val.jsonl",
        [
            {"query": f"{_PASSAGES[0]}\nQuestion: does ice float?\nAnswer:", "choices": ["yes", "no"], "gold": 0},
            {"query": f"{_PASSAGES[1]}\nQuestion: is a cat a fish?\nAnswer:", "choices": ["yes", "no"], "gold": 1},
        ],
    ),
    (
        "social_iqa",
        "docs/socialiqa_val.jsonl",
        [
            {**row, "label": gold, "query": "...", "choices": [row[f"answer{x}"] for x in "ABC"], "gold": gold}
            for row, gold in zip(_SOCIAL, (0, 2), strict=True)
        ],
    ),
    (
        "hellaswag",
        "docs/hellaswag_rc.jsonl",
        [
            {
                "query": "Cooking: A man holds a pan. He Stirs the soup. then he",
                "choices": ["eats it. slowly", "is a pan.", "flies.", "sings a song."],
                "gold": 0,
            },
            {
                "query": "Roof: A ladder leans on a wall. A woman",
                "choices": ["climbs it.", "paints a fish.", "is a wall.", "melts."],
                "gold": 0,
            },
        ],
    ),
    (
        "triviaqa",
        "triviaqa_sm_sub.jsonl",
        [
            {
                "context": 'Question: "Which bird says ""cuckoo""?"\nAnswer:',
                "answer": "Cuckoo",
                "aliases": ["Cuckoo", "The cuckoo", "Cuculus"],
            },
            {"context": "Question: 2 and 2\nAnswer:", "answer": "4", "aliases": ["4", "four"]},
        ],
    ),
    (
        "race",
        "race.jsonl",
        [{"article": a, **problem} for a, problems in zip(_ARTICLES, _PROBLEMS, strict=True) for problem in problems],
    ),
    ("truthfulqa_mc1", "TruthfulQA_mc_task.json", _TRUTHS),
    ("truthfulqa_mc2", "TruthfulQA_mc_task.json", _TRUTHS),
    (
        "lambada_openai",
        "lambada_openai.jsonl",
        [
            {"context": "He put the kettle on the", "continuation": "stove"},
            {"context": "she looked at Don's", "continuation": "boat"},
        ],
    ),
    (
        "wsc273",
        "winograd_wsc.jsonl",
        [
            {
                "context_options": [
                    "The cup does not fit into the box because the cup",
                    "The cup does not fit into the box because the box",
                ],
                "continuation": "is too big.",
                "gold": 0,
            },
            {
                "context_options": ["Ann thanked Eve because Ann", "Ann thanked Eve because Eve"],
                "continuation": "had helped.",
                "gold": 1,
            },
        ],
    ),
]


def write(path: Path, rows: Rows) -> Path:
    """As JSON Lines, or as one array where the name ends in .json."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".json":
        path.write_text(json.dumps(rows))
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def data_folder(folder: Path, *tasks: str) -> Path:
    """A folder with the items of these tasks, or of all, in Hugging Face's columns."""
    for task in tasks or HUGGING_FACE:
        write(folder / f"{task}.jsonl", HUGGING_FACE[task])
    return folder
