"""The chat page in a browser: asking and answering."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from page_browser import Visit
from page_stub import Stub


def test_a_message_is_answered_as_markdown_and_measured(visit: Callable[..., Visit], stub: Stub) -> None:
    v = visit()
    v.send("Tell me about sorting")
    page = v.page
    assert page.locator(".answer h3").inner_text() == "Sorting, in three ways"
    assert page.locator(".answer ol > li").count() == 3
    assert page.locator(".answer ol ul > li").count() == 2
    assert page.locator(".answer td").count() == 12
    assert page.locator(".answer .code").count() == 2
    assert page.locator(".answer .code .hl-keyword").first.inner_text() == "from"
    assert page.locator(".answer a").get_attribute("rel") == "noopener noreferrer nofollow"
    assert "tokens" in page.locator("[data-live]").inner_text()
    assert "memory 166 MiB" in page.locator(".live-line").inner_text()
    body = stub.bodies[0]
    assert body["stream"] is True
    assert body["model"] == "ingle-tiny"
    assert body["messages"] == [{"role": "user", "content": "Tell me about sorting"}]
    assert not {"temperature", "top_p", "min_p", "max_tokens", "seed", "tools"} & set(body)  # the server's defaults


def test_streamed_text_is_the_text_drawn_at_once(visit: Callable[..., Visit]) -> None:
    v = visit()
    v.send("Tell me about sorting")
    streamed = v.page.locator(".answer .markdown").inner_html()
    v.page.reload()
    v.wait_for_answer(1)
    assert v.page.locator(".answer .markdown").inner_html() == streamed


def test_code_is_copied_as_it_was_written(visit: Callable[..., Visit]) -> None:
    v = visit(permissions=["clipboard-read", "clipboard-write"])
    v.send("Tell me about sorting")
    v.page.get_by_label("Copy code").last.click()
    v.page.get_by_label("Copied").wait_for()
    assert (
        v.page.evaluate("navigator.clipboard.readText()") == "sort -u words.txt | head -n 3   # three words, each once"
    )


@pytest.mark.parametrize("how", ["button", "Escape"])
def test_stop_keeps_what_came_and_leaves_the_server(visit: Callable[..., Visit], stub: Stub, how: str) -> None:
    v = visit()
    v.page.get_by_label("Message", exact=True).fill("slow please")
    v.page.keyboard.press("Enter")
    v.wait_for_text("word3")
    if how == "button":
        v.page.get_by_label("Stop the answer").click()
    else:
        v.page.keyboard.press("Escape")
    v.wait_for_answer(1)
    assert v.page.get_by_text("You stopped this answer.").is_visible()
    assert v.answers()[0].startswith("word0 word1 word2")
    assert stub.disconnected.wait(5)
    v.send("and now?")
    assert [m["role"] for m in stub.bodies[1]["messages"]] == ["user", "assistant", "user"]


def test_regenerate_replaces_the_answer(visit: Callable[..., Visit], stub: Stub) -> None:
    v = visit()
    v.send("hello")
    v.page.get_by_label("Answer again").click()
    v.wait_for_text("Answer 2 to")
    v.wait_for_answer(1)
    assert v.answers() == ["Answer 2 to “hello”. It is short."]
    assert stub.bodies[0]["messages"] == stub.bodies[1]["messages"]


def test_edit_asks_again_from_there_and_undo_brings_the_rest_back(visit: Callable[..., Visit], stub: Stub) -> None:
    v = visit()
    v.send("one")
    v.send("two")
    v.page.locator(".question").first.hover()
    v.page.get_by_label("Edit message").first.click()
    v.page.locator(".editor textarea").fill("three")
    v.page.keyboard.press("Enter")
    v.wait_for_answer(1)
    assert [m["content"] for m in stub.bodies[2]["messages"]] == ["three"]
    assert v.answers() == ["Answer 3 to “three”. It is short."]
    v.page.get_by_role("button", name="Undo").click()
    v.wait_for_answer(2)
    assert v.page.locator(".bubble").all_inner_texts() == ["one", "two"]


def test_settings_reach_the_server_and_new_conversations(visit: Callable[..., Visit], stub: Stub) -> None:
    v = visit()
    v.page.get_by_label("Settings", exact=True).click()
    v.page.get_by_label("System prompt").fill("Be brief.")
    for label, value in (
        ("Temperature", "0.5"),
        ("Top p", "0.9"),
        ("Min p", "0.05"),
        ("Max tokens", "64"),
        ("Seed", "7"),
    ):
        v.page.get_by_role("spinbutton", name=label).fill(value)
    v.page.get_by_role("button", name="Done").click()
    v.page.locator(".model select").select_option("llama-3.2-1b")
    v.send("hello")
    v.page.reload()
    v.wait_for_answer(1)
    v.page.keyboard.press("Control+k")
    v.send("again")
    for body in stub.bodies:
        sampling = {name: body[name] for name in ("temperature", "top_p", "min_p", "max_tokens", "seed")}
        assert sampling == {"temperature": 0.5, "top_p": 0.9, "min_p": 0.05, "max_tokens": 64, "seed": 7}
        assert body["messages"][0] == {"role": "system", "content": "Be brief."}
        assert body["model"] == "llama-3.2-1b"


def test_a_setting_out_of_range_is_not_sent(visit: Callable[..., Visit], stub: Stub) -> None:
    v = visit()
    v.page.get_by_label("Settings", exact=True).click()
    v.page.get_by_role("spinbutton", name="Top p").fill("7")
    v.page.keyboard.press("Escape")
    v.send("hello")
    assert "top_p" not in stub.bodies[0]


def test_a_tool_call_is_folded_and_its_result_goes_back(visit: Callable[..., Visit], stub: Stub) -> None:
    v = visit()
    v.page.get_by_label("Settings", exact=True).click()
    v.page.locator("summary", has_text="Tools").click()
    tools = [{"type": "function", "function": {"name": "set_alarm", "parameters": {"type": "object"}}}]
    v.page.get_by_label("Tools as JSON").fill(json.dumps(tools))
    v.page.keyboard.press("Escape")
    v.send("set an alarm for 7:30")
    assert stub.bodies[0]["tools"] == tools
    fold = v.page.locator(".calls details")
    assert fold.get_attribute("open") is None
    assert "set_alarm" in fold.inner_text()
    fold.locator("summary").click()
    assert '"time": "7:30"' in fold.locator("pre").inner_text()
    v.page.get_by_label("Result of set_alarm").fill('{"ok": true}')
    v.page.get_by_role("button", name="Give the result").click()
    v.wait_for_answer(2)
    call = {"id": "call_1", "type": "function", "function": {"name": "set_alarm", "arguments": '{"time": "7:30"}'}}
    assert stub.bodies[1]["messages"][1:] == [
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": '{"ok": true}', "tool_call_id": "call_1"},
    ]
    assert v.answers() == ["The alarm is set."]


def test_thoughts_are_folded(visit: Callable[..., Visit]) -> None:
    v = visit()
    v.send("think hard")
    assert v.page.locator(".answer summary").inner_text().strip() == "Thoughts"
    assert v.page.locator(".answer > .markdown").inner_text() == "Forty-two."


@pytest.mark.parametrize(
    ("prompt", "problem"),
    [("busy", "All slots are taken. It asks to try again in 7 s."), ("break it", "The model stopped working.")],
)
def test_errors_are_told_and_tried_again(visit: Callable[..., Visit], stub: Stub, prompt: str, problem: str) -> None:
    v = visit()
    v.send(prompt)
    assert v.page.get_by_role("alert").inner_text() == problem
    v.page.get_by_label("Try again").click()
    v.page.wait_for_function("document.querySelectorAll('.answer').length === 1")
    v.wait_for_answer(1)
    assert len(stub.bodies) == 2


def test_a_server_that_is_gone_is_told(visit: Callable[..., Visit]) -> None:
    v = visit()
    v.context.route("**/v1/chat/completions", lambda route: route.abort())
    v.send("hello")
    assert "The server cannot be reached" in v.page.get_by_role("alert").inner_text()


def test_what_was_stopped_or_left_open_still_makes_turns(visit: Callable[..., Visit], stub: Stub) -> None:
    v = visit()
    v.send("set an alarm")
    v.send("busy")  # the call has no result, and this no answer
    v.page.get_by_label("Message", exact=True).fill("hello")
    v.page.keyboard.press("Enter")
    v.wait_for_answer(2)
    roles = [(message["role"], message["content"]) for message in stub.bodies[-1]["messages"]]
    assert roles == [
        ("user", "set an alarm"),
        ("assistant", None),
        ("tool", "No result was given."),
        ("user", "busy\n\nhello"),
    ]
