"""What lm-evaluation-harness needs around it to be quiet, private and quick; all is put back afterwards."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from typing import Any

__all__ = ["surroundings"]

_PRIVATE = {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
_OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}


@contextmanager
def surroundings(*, offline: bool) -> Iterator[None]:
    """While lm_eval runs: no bars and no warnings on the terminal; with `offline`, no library asks the network.

    huggingface_hub reads the environment once, when it is imported; but with local data nothing of it is called.
    lm_eval compiles the template of a prompt again for each item, 2 ms each time: here each is compiled once.
    """
    with ExitStack() as stack:
        stack.enter_context(_environment(_PRIVATE | _OFFLINE if offline else _PRIVATE))
        logger = logging.getLogger("lm_eval")
        stack.callback(logger.setLevel, logger.level)
        logger.setLevel(logging.ERROR)
        import datasets
        import lm_eval.api.task
        import lm_eval.utils

        if not datasets.are_progress_bars_disabled():
            stack.callback(datasets.enable_progress_bars)
            datasets.disable_progress_bars()
        stack.enter_context(_changed(lm_eval.api.task, "tqdm", _no_bar))  # which has no other switch
        templates = lm_eval.utils.env
        stack.enter_context(_changed(templates, "from_string", lru_cache(templates.from_string)))
        yield


def _no_bar(items: Iterable[Any], **_: object) -> Iterable[Any]:
    return items


@contextmanager
def _changed(owner: Any, name: str, value: object) -> Iterator[None]:
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


@contextmanager
def _environment(wanted: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
