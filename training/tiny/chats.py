"""Short exchanges: greetings, thanks, simple questions, and what ingle-tiny says of itself.

`python chats.py SHARED_DATA STORY_REQUESTS OUT` writes JSON Lines. What people say to small talk is from the training
split of CLINC150; the answers, and the simple questions, are in chats.toml.
"""

from __future__ import annotations

import json
import random
import sys
import tomllib
from collections import defaultdict
from pathlib import Path
from typing import Any

from ingle.evaluate.calls.sources.files import read_json
from ingle.evaluate.calls.sources.request import split_of

_DATA: dict[str, Any] = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
SMALL_TALK: dict[str, list[str]] = _DATA["small_talk"]
QUESTIONS: list[tuple[list[str], list[str]]] = [(row["asked"], row["answers"]) for row in _DATA["questions"]]
NEEDS_A_TOOL: list[str] = _DATA["needs_a_tool"]


def main(shared: Path, stories: Path, out: Path) -> None:
    rng = random.Random(5)
    said: dict[str, list[str]] = defaultdict(list)
    for part in ("train", "val"):
        for text, intent in read_json(shared / "api_calls" / "clinc150_data_full.json")[part]:
            if split_of(text) == "train":
                said[intent].append(text)
    wishes = [json.loads(line)["messages"] for line in stories.read_text(encoding="utf-8").splitlines()]
    wishes = [messages for messages in wishes if len(messages[1]["content"]) < 900]
    impossible = [intent for intent in said if intent not in SMALL_TALK]

    def turn() -> list[dict[str, Any]]:
        kind = rng.random()
        if kind < 0.4:
            intent = rng.choice(list(SMALL_TALK))
            asked, answer = rng.choice(said[intent]), rng.choice(SMALL_TALK[intent])
        elif kind < 0.88:
            texts, answers = rng.choice(QUESTIONS)
            asked, answer = rng.choice(texts), rng.choice(answers)
        else:
            asked, answer = rng.choice(said[rng.choice(impossible)]), rng.choice(NEEDS_A_TOOL)
        style = rng.random()
        if style < 0.4:
            asked = asked[0].upper() + asked[1:] + rng.choice((".", "?", "!", ""))
        elif style < 0.6:
            asked += rng.choice(("?", ".", "!"))
        return [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]

    with out.open("w", encoding="utf-8") as file:
        for _ in range(6000):
            messages = [message for _ in range(rng.randint(1, 6)) for message in turn()]
            if rng.random() < 0.2:
                messages += rng.choice(wishes)
                if rng.random() < 0.5:
                    messages += turn()
            file.write(json.dumps({"messages": messages}, ensure_ascii=False) + "\n")
    print(f"{out.name}: {out.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]))
