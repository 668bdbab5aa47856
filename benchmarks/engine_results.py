"""What `engine.py` measures, and the JSON Lines file that keeps it (and `serve.py`): written round by round, continued.

A cell is one file, number of threads, instruction set and work. A round of a cell is one run of each contender, one
right after the other. The file has lines of three kinds, in any order: {"record": "session"} says where and with what
rounds are measured, {"record": "file"} describes a model file, {"record": "round"} has the runs of one round. A round
that was disturbed is there too, and so are its repetitions: the quietest one counts.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from measuring import QUIET

NATIVE = "native"  # the best instruction set that each engine finds by itself
OURS, FLOOR = "ingle", "floor"  # contenders; the others are peers

Run = dict[str, Any]
Session = dict[str, Any]


@dataclass(frozen=True, order=True)
class Cell:
    """What one round measures.

    isa: NATIVE, or what INGLE_ISA forces. prompt: tokens of the prompt, 0 = none. decode: tokens after an empty prompt,
    0 = none. sequences: how many are decoded at once; 0 = this is about one.
    """

    file: str
    isa: str
    threads: int
    prompt: int
    decode: int
    sequences: int = 0

    @property
    def work(self) -> str:
        """In words."""
        if self.sequences:
            return f"{self.sequences} sequences of {self.decode}"
        parts = [f"decode {self.decode}"] * bool(self.decode) + [f"prefill {self.prompt}"] * bool(self.prompt)
        return ", ".join(parts)


@dataclass(frozen=True)
class File:
    """A model file. shape: a key of make_shape.SHAPES, or the model's own name. type: such as "Q4_K_M".

    bytes_per_token: what a decoded token reads. weights_per_token: numbers it is multiplied with, of which
    block_weights are in the blocks: all that a prompt's tokens but the last are multiplied with. attention_width:
    values in the queries of one position, over all layers.
    """

    file: str
    n_bytes: int
    shape: str
    type: str
    context: int
    bytes_per_token: int
    weights_per_token: int
    block_weights: int
    attention_width: int

    def prompt_operations(self, n_tokens: int) -> float:
        """Of a prompt: 2 for each weight of the blocks and token; 4 for each query value and key that it may see."""
        return n_tokens * (2.0 * self.block_weights + 2.0 * (n_tokens + 1) * self.attention_width)


@dataclass
class Round:
    """One attempt at one round. others: the largest share of the processors that others took during one of its runs."""

    number: int
    runs: dict[str, Run]
    others: float
    wall_s: float

    @property
    def quiet(self) -> bool:
        return self.others <= QUIET


@dataclass
class Results:
    """All that a file of results says. cell_type: what its rounds are of."""

    cell_type: type[Any] = Cell
    sessions: list[Session] = field(default_factory=list)
    files: dict[str, File] = field(default_factory=dict)
    attempts: dict[Any, list[Round]] = field(default_factory=lambda: defaultdict(list))

    def add(self, record: Mapping[str, Any]) -> None:
        """Take in one line. Raises KeyError, TypeError or ValueError for what is no line of such a file."""
        kind = record["record"]
        if kind == "session":
            self.sessions.append(dict(record))
        elif kind == "file":
            self.files[record["file"]] = File(**{each.name: record[each.name] for each in fields(File)})
        elif kind == "round":
            one = Round(record["round"], record["runs"], record["others"], record["wall_s"])
            self.attempts[self.cell_type(**record["cell"])].append(one)
        else:
            raise ValueError(kind)

    def rounds(self, cell: Any) -> list[Round]:
        """The attempt that counts of each round, in order: the quietest of those with the most contenders."""
        best: dict[int, Round] = {}
        for attempt in self.attempts.get(cell, []):
            known = best.get(attempt.number)
            if known is None or (-len(attempt.runs), attempt.others) < (-len(known.runs), known.others):
                best[attempt.number] = attempt
        return [best[number] for number in sorted(best)]

    def is_done(self, cell: Any, number: int, contenders: Iterable[str], retries: int) -> bool:
        """Whether a round needs no more runs: all took part and it was quiet, or was repeated often enough."""
        wanted = set(contenders)
        full = [each for each in self.attempts.get(cell, []) if each.number == number and wanted <= set(each.runs)]
        return len(full) > retries or any(each.quiet for each in full)


def read_results(path: Path, cell_type: type[Any] = Cell) -> Results:
    """Read a file of results. A last line that is cut off (a run that was killed) is left out; so is its round.

    Ends the program with a message for a line that is no such record.
    """
    results = Results(cell_type)
    lines = path.read_text(encoding="utf-8").split("\n")
    for number, line in enumerate(lines, 1):
        if not line:
            continue
        try:
            results.add(json.loads(line))
        except (KeyError, TypeError, ValueError):
            if number == len(lines):  # no line feed behind it
                print(f"{path}: the last line is cut off; its round is measured again.", file=sys.stderr)
                break
            sys.exit(f"{path}, line {number}: expected a record of such results; name another file.")
    for cell in results.attempts:
        if cell.file not in results.files or not results.sessions:
            sys.exit(f"{path} has runs of {cell.file}, and not what it is or where they were made; name another file.")
    return results


class Journal:
    """Appends records to a file and to `results`, each whole and at once, so that an interruption loses one round."""

    def __init__(self, path: Path | None, results: Results) -> None:
        self.results = results
        self._path = path
        if path is not None and path.exists():
            data = path.read_bytes()
            if not data.endswith(b"\n"):
                path.write_bytes(data[: data.rfind(b"\n") + 1])  # the cut-off line that read_results told of

    def write(self, kind: str, content: Mapping[str, Any]) -> None:
        """One record."""
        record = {"record": kind, **content}
        self.results.add(record)
        if self._path is not None:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")

    def write_round(self, cell: Any, one: Round) -> None:
        """The runs of one attempt at a round."""
        content = {"cell": asdict(cell), "round": one.number, "others": round(one.others, 4)}
        self.write("round", content | {"wall_s": round(one.wall_s, 2), "runs": one.runs})
