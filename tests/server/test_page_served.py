"""The chat page in a browser, with the server and the model that it is made for, and the guard before them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from page_browser import Visit, visits

from ingle.engine.model import Model
from ingle.engine.scheduler import Scheduler
from ingle.server.app import create_app
from ingle.server.guard import Guard
from ingle.server.served import Served
from ingle.server.settings import Settings
from serving import running

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "set_alarm",
            "description": "Set an alarm.",
            "parameters": {"type": "object", "properties": {"time": {"type": "string"}}, "required": ["time"]},
        },
    }
]


@pytest.fixture
def page(browser: Any, model: Model) -> Iterator[Visit]:
    """The page of a server of the bundled model."""
    scheduler = Scheduler(model)
    app = Guard(create_app(Served(model, scheduler, "ingle-tiny")), Settings())
    try:
        with running(app) as url, visits(browser, url) as begin:
            yield begin()
    finally:
        scheduler.close(0)


def test_a_conversation_with_the_real_server(page: Visit) -> None:
    page.page.get_by_label("Settings", exact=True).click()
    page.page.get_by_role("spinbutton", name="Temperature").fill("0")
    page.page.keyboard.press("Escape")
    page.send("Tell me a story about a little dog.")
    page.send("Tell me a story about a little cat.")
    assert all(len(answer) > 20 for answer in page.answers())
    assert len(page.answers()) == 2
    assert "tokens/s" in page.page.locator("[data-live]").inner_text()
    assert re.fullmatch(r"memory [0-9.]+ [MG]iB", page.page.get_by_text("memory ").inner_text())
    assert page.page.locator(".model option").all_inner_texts() == ["ingle-tiny"]


def test_a_tool_call_and_its_result_with_the_real_server(page: Visit) -> None:
    page.page.get_by_label("Settings", exact=True).click()
    page.page.locator("summary", has_text="Tools").click()
    page.page.get_by_label("Tools as JSON").fill(json.dumps(TOOLS))
    page.page.keyboard.press("Escape")
    page.send("Set an alarm for 7:30.")
    assert "set_alarm" in page.page.locator(".calls details").inner_text()
    page.page.get_by_label("Result of set_alarm").fill('{"ok": true}')
    page.page.get_by_role("button", name="Give the result").click()
    page.wait_for_answer(2)
    assert page.page.get_by_role("alert").count() == 0


def test_what_the_real_server_refuses_is_told(page: Visit) -> None:
    page.send("word " * 2000)
    told = page.page.get_by_role("alert").inner_text()
    assert told.endswith("the context holds 1024; shorten the prompt. A new conversation starts with an empty context.")
