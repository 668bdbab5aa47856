"""Conversations in which ingle-tiny learns to call tools: public requests and household ones under ever new schemas.

`python calls.py SHARED_DATA TOKENIZER OUT --conversations N` writes JSON Lines. Only requests of the training split are
used, and no changed request whose words are in another split. One conversation has several requests to the same tools:
reading the tools once, the model learns from many answers.
"""

from __future__ import annotations

import argparse
import json
import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import household
from prompt import REFUSAL, signature, system
from vary import Shown, styled, vary

from ingle.evaluate.calls.sources import clinc, held_out, nlu, sgd, snips
from ingle.evaluate.calls.sources.catalogue import CLINC_TOOLS, NLU_TOOLS, SNIPS_TOOLS
from ingle.evaluate.calls.sources.files import read_lines
from ingle.evaluate.calls.sources.request import Request, split_of
from ingle.text.tools import Tool

#: How often each pool is drawn; "mixed" joins tools of several.
SHARES = {"snips": 16, "nlu": 28, "sgd": 28, "clinc": 9, "household": 9, "mixed": 10}
#: Subjects of services that tools of other pools share.
SAME = {
    "restaurants": "restaurant",
    "movies": "cinema",
    "ridesharing": "taxi",
    "buses": "transport",
    "hotels": "hotel",
    "flights": "transport",
    "trains": "transport",
    "rentalcars": "rental",
    "banks": "bank",
    "travel": "places",
}
#: Subjects whose tools could answer a request of the first.
ALIKE = {
    "restaurant": ("places",),
    "media": ("cinema",),
    "alarm": ("timer",),
    "music": ("radio",),
    "fact": ("definition",),
    clinc.OUT_OF_SCOPE: ("fact",),  # most are questions, so a tool for questions of any kind fits
}
REFUSED = 0.4  # of the requests
LENGTHS = (0.25, 0.6, 1.0, 1.0, 1.0)  # of a conversation, as shares of the longest


@dataclass
class Pool:
    """Tools of one kind, and the requests of each."""

    tools: dict[str, Tool]
    subjects: dict[str, str]
    requests: dict[str, list[Request]]
    values: dict[str, dict[str, list[str]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.requests = {name: found for name, found in self.requests.items() if found and name in self.tools}
        for name, requests in self.requests.items():
            kept: dict[str, list[str]] = defaultdict(list)
            for request in requests:
                for slot, value in request.slots:
                    kept[slot].append(value)
            self.values[name] = kept


class Writer:
    """Draws conversations."""

    def __init__(self, data: Path, seed: int, questions: Sequence[str] = ()) -> None:
        """questions: of general knowledge, which no tool here answers but those of the subject "fact"."""
        self.rng = random.Random(seed)
        self.pools = pools(data)
        self.refused = [r for r in [*clinc.in_scope(data)] if r.tool is None and split_of(r.text) == "train"]
        self.refused += [r for r in nlu.hwu64(data) if r.tool is None and split_of(r.text) == "train"] * 3
        self.refused += [r for r in clinc.out_of_scope(data, "train") if split_of(r.text) != "test"] * 12
        self.refused += [Request(text, None, (), "fact") for text in questions if split_of(text) == "train"]
        every = [r for name in ("snips", "nlu", "sgd") for rs in self.pools[name].requests.values() for r in rs]
        self.phrases = sorted({value for r in every for _, value in r.slots if 2 < len(value) < 30})
        self.elsewhere = [replace(r, subject=SAME.get(r.subject, r.subject)) for r in every]
        self.household = {tool.name: tool for tool in household.TOOLS}

    def conversation(self, count: Any, longest: int) -> dict[str, Any]:
        """count(messages) gives the tokens of a conversation."""
        rng = self.rng
        kind = rng.choices(list(SHARES), list(SHARES.values()))[0]
        chosen = self.choose(kind)
        plain = rng.random() < 0.45
        style = "snake" if plain or rng.random() < 0.7 else rng.choice(("camel", "pascal", "dotted"))
        shown: dict[tuple[str, str], Shown] = {}
        names: set[str] = set()
        for pool, name in chosen:
            made = self.show(pool, name, plain)
            made = Shown(styled(made.name, style), made.description, made.properties, made.arguments)
            if made.name not in names:
                names.add(made.name)
                shown[pool, name] = made
        order = list(shown)
        rng.shuffle(order)
        tools = [shown[key] for key in order]
        messages: list[dict[str, Any]] = [{"role": "system", "content": self.listed(tools, [])}]
        subjects = {self.subject(*key) for key in order} | {"joke" if "joke" in str(names) else ""}
        length, limit = rng.choice(LENGTHS) * longest, longest
        for _ in range(64):
            turn = self.refusal(subjects) if rng.random() < REFUSED else self.call(rng.choice(order), shown)
            if turn is None:
                continue
            if count([*messages, *turn]) > limit:
                break
            messages += turn
            if count(messages) > length:
                break
        messages[0]["content"] = self.listed(tools, [c for m in messages for c in m.get("tool_calls", ())])
        return {"messages": messages}

    def listed(self, tools: Sequence[Shown], calls: Sequence[dict[str, Any]]) -> str:
        """What the system turn says; now and then arguments that every call gives are marked as required."""
        lines, marking = [], self.rng.random() < 0.35
        for tool in tools:
            given = [set(call["arguments"]) for call in calls if call["name"] == tool.name]
            always = set.intersection(*given) if given else set(list(tool.properties)[:1])
            marked = marking and bool(calls) and self.rng.random() < 0.6
            required = [name for name in tool.properties if marked and name in always and self.rng.random() < 0.7]
            lines.append(signature(tool.name, tool.description, {"properties": tool.properties, "required": required}))
        return system(lines)

    def choose(self, kind: str) -> list[tuple[str, str]]:
        """The tools on offer, as (pool, name)."""
        rng = self.rng
        n = rng.choice((1, 2, 3, 4, 5, 6, 7, 8, 8, 8, 8))
        if kind == "snips":
            names = list(self.pools["snips"].requests)
            return [("snips", name) for name in (names if rng.random() < 0.6 else rng.sample(names, min(n, 7)))]
        if kind == "sgd":
            services: dict[str, list[str]] = defaultdict(list)
            for name in self.pools["sgd"].requests:
                services[name.partition("/")[0]].append(name)
            found: list[tuple[str, str]] = []
            used: set[str] = set()
            for service in rng.sample(list(services), len(services)):
                if service.rpartition("_")[0] not in used and len(found) < n:
                    used.add(service.rpartition("_")[0])
                    found += [("sgd", name) for name in services[service]]
            return found[: max(n, 2)]
        if kind == "mixed":
            pairs = [(pool, name) for pool in self.pools for name in self.pools[pool].requests]
            rng.shuffle(pairs)
            seen: dict[str, str] = {}
            return [(pool, name) for pool, name in pairs if seen.setdefault(self.subject(pool, name), pool) == pool][:n]
        names = list(self.pools[kind].requests)
        rng.shuffle(names)
        first = names[0]
        alike = [name for name in names[1:] if self.subject(kind, name) == self.subject(kind, first)]
        picked = dict.fromkeys([first, *alike[: rng.randint(0, 3)], *names])
        return [(kind, name) for name in picked][:n]

    def subject(self, pool: str, name: str) -> str:
        return self.pools[pool].subjects[name]

    def show(self, pool: str, name: str, plain: bool) -> Shown:
        tool = self.pools[pool].tools[name]
        properties = {argument: dict(schema) for argument, schema in tool.parameters["properties"].items()}
        for schema in properties.values():
            schema.pop("description", None)
        if plain:
            return Shown(tool.name, tool.description, properties, {argument: argument for argument in properties})
        if pool == "household":  # its types matter to its sentences
            kept = [argument for argument in properties if self.rng.random() > 0.1]
            made = vary(tool.name, tool.description, kept, {}, self.rng)
            return Shown(
                made.name,
                made.description,
                {new: properties[old] for old, new in made.arguments.items()},
                made.arguments,
            )
        return vary(tool.name, tool.description, list(properties), self.pools[pool].values[name], self.rng)

    def call(self, key: tuple[str, str], shown: dict[tuple[str, str], Shown]) -> list[dict[str, Any]] | None:
        pool, name = key
        rng, made = self.rng, shown[key]
        if pool == "household":
            text, arguments = household.request(self.household[name], rng, self.phrases)
            known = {made.arguments[a]: v for a, v in arguments.items() if a in made.arguments}
            call = {"name": made.name, "arguments": {a: known[a] for a in made.properties if a in known}}
            if rng.random() < 0.3:
                text = text[0].upper() + text[1:] + rng.choice((".", "?", "", "!"))
            if split_of(text) == "test":
                return None
        else:
            request = rng.choice(self.pools[pool].requests[name])
            changed = self.changed(request, self.pools[pool].values[name])
            made_call = made.call(changed.slots)
            if made_call is None or split_of(changed.text) != "train":
                return None
            text, call = changed.text, made_call
        return [{"role": "user", "content": text}, {"role": "assistant", "tool_calls": [call]}]

    def refusal(self, subjects: set[str]) -> list[dict[str, Any]] | None:
        request = self.rng.choice(self.refused if self.rng.random() < 0.7 else self.elsewhere)
        alike = {request.subject, *ALIKE.get(request.subject, ())}
        if alike & subjects or "search" in subjects:  # anything can be searched for
            return None
        text = self.dressed(request.text, ())[0]
        if split_of(text) == "test":
            return None
        return [{"role": "user", "content": text}, {"role": "assistant", "content": REFUSAL}]

    def changed(self, request: Request, values: dict[str, list[str]]) -> Request:
        """The request with other values, other case, other punctuation."""
        rng = self.rng
        text, slots = request.text, list(request.slots)
        if slots and rng.random() < 0.45:
            for index, (name, value) in enumerate(slots):
                others = sum(value in other for _, other in slots)
                if rng.random() < 0.6 and text.count(value) == 1 and others == 1 and len(value) > 1:
                    new = rng.choice(values[name]) if rng.random() < 0.8 else rng.choice(self.phrases)
                    text = text.replace(value, new)
                    slots[index] = (name, new)
        text, found = self.dressed(text, tuple(slots))
        return Request(text, request.tool, found, request.subject)

    def dressed(self, text: str, slots: Sequence[tuple[str, str]]) -> tuple[str, tuple[tuple[str, str], ...]]:
        rng, kind = self.rng, self.rng.random()
        if kind < 0.2:
            text, slots = text.lower(), [(name, value.lower()) for name, value in slots]
        elif kind < 0.3 and not any(text.rstrip().endswith(value) for _, value in slots):
            text = text.rstrip(".?! ")
        elif kind < 0.36 and not any(text.startswith(value) for _, value in slots):
            text = rng.choice(("Please ", "please ", "Hey, ", "Can you ", "ok, ")) + text[0].lower() + text[1:]
        return text, tuple(slots)


def pools(data: Path) -> dict[str, Pool]:
    """The tools and their training requests."""
    hwu = [*nlu.hwu64(data), *nlu.slurp(data)]
    found = {}
    for name, requests, entries in (
        ("snips", snips.requests(data), SNIPS_TOOLS),
        ("nlu", hwu, NLU_TOOLS),
        ("clinc", [r for r in clinc.in_scope(data) if r.tool], CLINC_TOOLS),
    ):
        tools = held_out.tools_of(nlu.hwu64(data) if name == "nlu" else requests, entries.values())
        by_tool: dict[str, list[Request]] = defaultdict(list)
        seen = set()
        for request in requests:
            if request.tool and split_of(request.text) == "train" and request.text not in seen:
                seen.add(request.text)
                by_tool[request.tool].append(request)
        found[name] = Pool(tools, {e.name: e.subject for e in entries.values()}, by_tool)
    services: dict[str, list[Request]] = defaultdict(list)
    for service, request in sgd.requests(data, "train"):
        if split_of(request.text) == "train":
            services[f"{service}/{request.tool}"].append(request)
    sgd_tools = {f"{s}/{t.name}": t for s, tools in sgd.tools(data, "train").items() for t in tools}
    subjects = {name: name.partition("/")[0].rpartition("_")[0].lower() for name in sgd_tools}
    subjects = {name: SAME.get(subject, subject) for name, subject in subjects.items()}
    found["sgd"] = Pool(sgd_tools, subjects, services)
    house = {
        t.name: Tool(t.name, t.description, {"type": "object", "properties": t.properties}) for t in household.TOOLS
    }
    blank = {name: [Request("-", name)] for name in house}
    found["household"] = Pool(house, {t.name: t.subject for t in household.TOOLS}, blank)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("tokenizer", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--conversations", type=int, default=12000)
    parser.add_argument("--longest", type=int, default=980, help="tokens")
    parser.add_argument("--questions", type=Path, help="questions.jsonl of texts.py: requests that no tool fits")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(given.tokenizer))
    lengths: dict[str, int] = {}

    def tokens(text: str) -> int:
        if text not in lengths:
            lengths[text] = len(tokenizer.encode(text).ids)
        return lengths[text]

    def count(messages: list[dict[str, Any]]) -> int:
        said = [
            m.get("content") or "<tool_call>\n" + json.dumps(m["tool_calls"][0]) + "\n</tool_call>" for m in messages
        ]
        return sum(tokens(text) + 5 for text in said)

    asked = read_lines(given.questions) if given.questions else ()
    questions = [str(record["messages"][0]["content"]) for record in asked]
    writer = Writer(given.data / "api_calls", given.seed, questions)
    written = turns = size = 0
    with given.out.open("w", encoding="utf-8") as file:
        for _ in range(given.conversations):
            record = writer.conversation(count, given.longest)
            if len(record["messages"]) > 1:
                written += 1
                turns += len(record["messages"]) // 2
                size += count(record["messages"])
                file.write(json.dumps(record, ensure_ascii=False) + "\n")
            lengths.clear()
    print(f"{given.out.name}: {written} conversations, {turns} answers, {size / 1e6:.1f} million tokens")


if __name__ == "__main__":
    main()
