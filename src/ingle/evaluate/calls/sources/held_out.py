"""Held-out requests with the tools that are offered beside the right one, drawn by a hash of the request's text."""

from __future__ import annotations

import hashlib
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from ingle.errors import UsageError
from ingle.evaluate.calls.item import Expected, Item
from ingle.evaluate.calls.sources import clinc, nlu, sgd, snips
from ingle.evaluate.calls.sources.catalogue import CLINC_TOOLS, NLU_TOOLS, SNIPS_TOOLS, Entry
from ingle.evaluate.calls.sources.request import Request, Split, normalised, split_of
from ingle.text.tools import Tool

__all__ = ["N_TOOLS", "items", "new_kinds", "tools_of"]

N_TOOLS = 8  # offered with each request

#: Texts that are held out here and stand in another data set's training split, or among other text that the bundled
#: model learnt from (its own household sentences, Dolly): tests leave them out.
_ELSEWHERE = frozenset(
    (
        "i need a rental car",
        "i m hungry where should i go",
        "what alarms do i have set",
        "what alarms do i have",
        "let me see my alarms",
        "i need to set an alarm",
        "why is the sky blue",
        "how many harry potter books are there",
        "is the earth flat",
        "how many moons does mars have",
        "open youtube",
        "add eggs to my grocery list",
    )
)

#: The tools that are offered with a request, in any order.
_Offering = Callable[[Request, random.Random], list[Tool]]


def items(source: str, folder: Path, split: Split = "test") -> list[Item]:
    """The items of a source. Texts that occur twice (by `normalised`) are taken once.

    Raises UsageError for a source that is none, DataError for files that are missing or not sound.
    """
    if source == "snips":
        found = snips.requests(folder)
        offered = tools_of(found, SNIPS_TOOLS.values())
        return _items(source, _of(found, split), lambda request, rng: list(offered.values()))
    if source in ("hwu64", "slurp"):
        hwu = nlu.hwu64(folder)
        found = hwu if source == "hwu64" else nlu.slurp(folder)
        return _items(source, _of(found, split), _Offer(tools_of([*hwu, *found], NLU_TOOLS.values()), NLU_TOOLS))
    if source == "clinc150":
        found = clinc.in_scope(folder)
        told = [request for request in found if request.tool]
        return _items(source, _of(told, split), _Offer(tools_of(told, CLINC_TOOLS.values()), CLINC_TOOLS))
    if source == "out_of_scope":
        part = {"train": "train", "validation": "val", "test": "test"}[split]
        # Most of these requests are questions: a tool for questions of any kind would fit them.
        entries = {**SNIPS_TOOLS, **{name: entry for name, entry in NLU_TOOLS.items() if entry.subject != "fact"}}
        tools = tools_of([*snips.requests(folder), *nlu.hwu64(folder)], entries.values())
        seen = _seen(split, clinc.in_scope(folder))
        found = [request for request in clinc.out_of_scope(folder, part) if normalised(request.text) not in seen]
        return _items(source, found, _Offer(tools, entries))
    if source in ("sgd", "sgd_new"):
        return _sgd(source, folder, split)
    raise UsageError(f"There is no source of requests named {source!r}.")


def tools_of(requests: Iterable[Request], entries: Iterable[Entry]) -> dict[str, Tool]:
    """The tools by name; their arguments are the slots that their requests have, the most frequent first."""
    slots: dict[str, Counter[str]] = defaultdict(Counter)
    for request in requests:
        if request.tool:
            slots[request.tool].update(name for name, _ in request.slots)
    return {
        entry.name: Tool(
            entry.name,
            entry.description,
            {"type": "object", "properties": {name: {"type": "string"} for name, _ in slots[entry.name].most_common()}},
        )
        for entry in entries
    }


class _Offer:
    """The right tool and others, up to two of its subject among them; for talk, tools of any subject."""

    def __init__(self, tools: dict[str, Tool], entries: dict[str, Entry]) -> None:
        self._tools = tools
        self._subjects = {entry.name: entry.subject for entry in entries.values()}

    def __call__(self, request: Request, rng: random.Random) -> list[Tool]:
        others = [name for name in self._tools if name != request.tool]
        rng.shuffle(others)
        alike = [name for name in others if self._subjects[name] == request.subject][:2]
        names = [request.tool, *alike] if request.tool else []
        names += [name for name in others if self._subjects[name] != request.subject][: N_TOOLS - len(names)]
        return [self._tools[name] for name in names if name]


def new_kinds(folder: Path) -> set[str]:
    """Kinds of services ("Alarm", "Trains" ...) that only parts other than the training part of SGD have."""
    kinds = [{service.rpartition("_")[0] for service in sgd.tools(folder, part)} for part in ("train", "test")]
    return kinds[1] - kinds[0]


def _sgd(source: str, folder: Path, split: Split) -> list[Item]:
    part = {"train": "train", "validation": "dev", "test": "test"}[split]
    new, services = new_kinds(folder), sgd.tools(folder, part)
    seen = _seen(split, (request for _, request in sgd.requests(folder, "train")))
    found = [
        (service, request)
        for service, request in sgd.requests(folder, part)
        if (service.rpartition("_")[0] in new) == (source == "sgd_new") and normalised(request.text) not in seen
    ]
    own: dict[str, str] = {}
    for service, request in found:
        own.setdefault(normalised(request.text), service)  # the first of a text is taken

    def offer(request: Request, rng: random.Random) -> list[Tool]:
        service = own[normalised(request.text)]
        others = [name for name in services if name.rpartition("_")[0] != service.rpartition("_")[0]]
        rng.shuffle(others)
        offered = list(services[service])
        names = {tool.name for tool in offered}
        for tool in (tool for name in others for tool in services[name]):
            if len(offered) < N_TOOLS and tool.name not in names:
                offered.append(tool)
                names.add(tool.name)
        return offered

    return _items(source, [request for _, request in found], offer)


def _seen(split: Split, training: Iterable[Request]) -> set[str]:
    """Texts (normalised) of the training part: of data sets that come split, the other parts have some of them too."""
    return set() if split == "train" else {normalised(request.text) for request in training}


def _of(requests: Sequence[Request], split: Split) -> list[Request]:
    return [request for request in requests if split_of(request.text) == split]


def _items(source: str, requests: Iterable[Request], offer: _Offering) -> list[Item]:
    found: dict[str, Item] = {}
    for request in requests:
        if normalised(request.text) in _ELSEWHERE:
            continue
        digest = hashlib.sha256(f"{source} {normalised(request.text)}".encode()).hexdigest()[:12]
        rng = random.Random(digest)
        tools = offer(request, rng)
        rng.shuffle(tools)
        expected = (Expected(request.tool, {name: (value,) for name, value in request.slots}),) if request.tool else ()
        message = {"role": "user", "content": request.text}
        found.setdefault(digest, Item(f"{source}-{digest}", source, (message,), tuple(tools), expected))
    return [found[digest] for digest in sorted(found)]
