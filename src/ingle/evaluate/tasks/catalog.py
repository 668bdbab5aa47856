"""Which tasks the sets have, where lm-evaluation-harness defines each, and the local files that hold its data.

The prompts and metrics are lm-evaluation-harness's own; nothing here repeats them.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

__all__ = ["SETS", "TASKS", "KnownFile", "TaskEntry"]


@dataclass(frozen=True, slots=True)
class KnownFile:
    """A data file as some project publishes it. path: inside the data folder. n_items of the split's n_in_split."""

    path: str
    split: str
    n_items: int
    n_in_split: int | None = None

    def describe(self, n_found: int) -> str:
        """Which items these are, in words, where the file has `n_found`."""
        if n_found != self.n_items:
            return f"the {n_found:,} items of the file"
        if self.n_in_split is None:
            return f"{n_found:,} items {self.split}"
        if self.n_items == self.n_in_split:
            return f"{self.split} split, all {n_found:,} items"
        return f"{self.split} split, a sample of {n_found:,} of its {self.n_in_split:,} items"


@dataclass(frozen=True, slots=True)
class TaskEntry:
    """A task that needs no search. folder: of its definition, inside lm_eval/tasks.

    files: tried in this order, after the task's own `<task>.jsonl`. train: where the examples before a question come
    from. base: the definition's task name, where ours is another.
    """

    folder: str
    files: tuple[KnownFile, ...] = ()
    train: str | None = None
    base: str | None = None


_TRUTHFUL = (KnownFile("TruthfulQA_mc_task.json", "validation", 817, 817),)

#: By the name that lm-evaluation-harness gives the task; "race" is RACE's high-school part, and the middle is ours.
TASKS = MappingProxyType(
    {
        "arc_easy": TaskEntry(
            "arc",
            (
                KnownFile("docs/arc_easy_test.jsonl", "test", 2376, 2376),
                KnownFile("docs/arc_easy_val.jsonl", "validation", 570, 570),
            ),
        ),
        "arc_challenge": TaskEntry(
            "arc",
            (KnownFile("docs/arc_challenge_val.jsonl", "validation", 299, 299),),
        ),
        "boolq": TaskEntry("super_glue/boolq", (KnownFile("docs/boolq_val.jsonl", "validation", 3270, 3270),)),
        "piqa": TaskEntry(
            "piqa",
            (
                KnownFile("docs/piqa_val.jsonl", "validation", 1838, 1838),
                KnownFile("piqa_valid.jsonl", "validation", 1838, 1838),
            ),
        ),
        "social_iqa": TaskEntry("siqa", (KnownFile("docs/socialiqa_val.jsonl", "validation", 1954, 1954),)),
        "hellaswag": TaskEntry(
            "hellaswag",
            (KnownFile("docs/hellaswag_rc.jsonl", "validation", 1000, 10042),),
        ),
        "openbookqa": TaskEntry("openbookqa", (KnownFile("docs/openbookqa_test.jsonl", "test", 500, 500),)),
        "winogrande": TaskEntry("winogrande"),
        "triviaqa": TaskEntry(
            "triviaqa",
            (KnownFile("triviaqa_sm_sub.jsonl", "sampled by LLM Foundry from a split it does not name", 3000),),
        ),
        "race": TaskEntry("race"),
        "race_middle": TaskEntry("race", base="race"),
        "truthfulqa_mc1": TaskEntry("truthfulqa", _TRUTHFUL),
        "truthfulqa_mc2": TaskEntry("truthfulqa", _TRUTHFUL),
        "lambada_openai": TaskEntry("lambada", (KnownFile("lambada_openai.jsonl", "test", 5153, 5153),)),
        "wsc273": TaskEntry("wsc273", (KnownFile("winograd_wsc.jsonl", "test", 273, 273),)),
        "commonsense_qa": TaskEntry("commonsense_qa", (KnownFile("docs/csqa_val.jsonl", "validation", 1221, 1221),)),
        "gsm8k": TaskEntry("gsm8k", (KnownFile("gsm8k_test.jsonl", "test", 1319, 1319),), "gsm8k_train.jsonl"),
    }
)

#: MobileLLM (Liu et al., 2024), tables 3 to 5; MELT (Laskaridis et al., 2024), table 4.
SETS = MappingProxyType(
    {
        "mobilellm": (
            "arc_easy",
            "arc_challenge",
            "boolq",
            "piqa",
            "social_iqa",
            "hellaswag",
            "openbookqa",
            "winogrande",
            "triviaqa",
            "race_middle",
            "race",
        ),
        "melt": ("hellaswag", "winogrande", "truthfulqa_mc1", "truthfulqa_mc2", "arc_easy", "arc_challenge"),
    }
)
