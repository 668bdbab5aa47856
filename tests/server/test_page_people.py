"""The chat page in a browser: for every person and device, and against what a model may write."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from page_browser import PHONE, Visit


def test_an_attack_in_an_answer_stays_text(visit: Callable[..., Visit]) -> None:
    v = visit()
    v.send("attack")
    inside = "document.querySelector('.answer .markdown')"
    tags = v.page.evaluate(f"[...{inside}.querySelectorAll('*')].map((e) => e.localName)")
    assert not {"script", "img", "iframe", "style", "object", "embed", "form", "link", "video", "audio"} & set(tags)
    links = v.page.evaluate(f"[...{inside}.querySelectorAll('a')].map((a) => a.getAttribute('href'))")
    assert links == ["https://example.org/?a=1&b=2", "https://evil.example/steal?what=secret"]
    handlers = f"[...{inside}.querySelectorAll('*')].flatMap((e) => e.getAttributeNames())"
    assert not [name for name in v.page.evaluate(handlers) if name.startswith("on") or name in ("style", "ping", "src")]
    assert v.page.evaluate("window.pwned") is None
    assert "<script>window.pwned = 1</script>" in v.page.locator(".answer .markdown").inner_text()
    # and were it to reach the page as HTML after all, the policy stops it
    insert = (
        "() => { try { document.body.insertAdjacentHTML('beforeend', '<img src=x>') } catch (e) { return e.name } }"
    )
    assert v.page.evaluate(insert) == "TypeError"
    v.page.wait_for_function("window.violations.length === 1")
    v.page.evaluate("window.violations.length = 0")


def test_only_the_keyboard(visit: Callable[..., Visit]) -> None:
    v = visit()
    keys = v.page.keyboard
    keys.type("first")  # the field has the focus
    keys.press("Shift+Enter")
    keys.type("line two")
    keys.press("Enter")
    v.wait_for_answer(1)
    assert v.page.locator(".bubble").inner_text() == "first\nline two"
    keys.press("ArrowUp")  # edits the last message
    keys.press("Control+a")
    keys.type("better")
    keys.press("Enter")
    v.wait_for_text("Answer 2 to")
    v.wait_for_answer(1)
    keys.press("Control+k")
    assert v.page.locator(".welcome").is_visible()
    keys.type("other")
    keys.press("Enter")
    v.wait_for_answer(1)

    v.page.locator(".row-open").first.focus()
    keys.press("ArrowDown")
    keys.press("Enter")
    assert v.page.locator(".bubble").inner_text() == "better"
    v.page.locator(".row.current .row-open").focus()
    keys.press("F2")
    keys.type("Renamed")
    keys.press("Enter")
    assert v.titles() == ["other", "Renamed"]
    v.page.locator(".row-open").first.focus()
    keys.press("Delete")
    assert v.titles() == ["Renamed"]

    menu = v.page.get_by_label("This conversation")
    menu.focus()
    keys.press("Enter")
    keys.press("ArrowDown")
    assert v.page.evaluate("document.activeElement.textContent") == "Export as JSON"
    keys.press("Escape")
    assert v.page.evaluate("document.activeElement.getAttribute('aria-label')") == "This conversation"
    outline = v.page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"


def test_screen_readers_hear_sentences(visit: Callable[..., Visit]) -> None:
    v = visit()
    v.send("hello")
    region = v.page.get_by_role("log")
    assert region.get_attribute("aria-live") == "polite"
    assert region.locator("p").all_inner_texts() == [
        "Answering.",
        "Answer 1 to “hello”. It is short.",
        "End of the answer.",
    ]


def test_dark_follows_the_system_and_can_be_chosen(visit: Callable[..., Visit]) -> None:
    v = visit(color_scheme="dark")
    ground = "getComputedStyle(document.body).backgroundColor"
    dark = v.page.evaluate(ground)
    v.page.locator("label[title=Light]").click()
    light = v.page.evaluate(ground)
    assert light != dark
    v.page.reload()
    v.page.locator(".composer").wait_for()
    assert v.page.evaluate(ground) == light
    v.page.locator("label[title='As the system']").click()
    assert v.page.evaluate(ground) == dark
    v.page.emulate_media(color_scheme="light")
    assert v.page.evaluate(ground) == light


def test_on_a_phone(visit: Callable[..., Visit]) -> None:
    v = visit(**PHONE)
    v.page.get_by_text("Tell a story").tap()
    v.wait_for_answer(1)
    v.page.get_by_label("Message", exact=True).fill("a")
    v.page.keyboard.press("Enter")  # breaks the line, as on phones
    v.page.keyboard.type("b")
    v.page.get_by_label("Send", exact=True).tap()
    v.wait_for_answer(2)
    assert v.page.locator(".bubble").last.inner_text() == "a\nb"
    v.send("Tell me about sorting")
    assert v.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    v.page.get_by_role("button", name="Conversations").tap()
    side = v.page.get_by_role("complementary")
    assert side.is_visible()
    side.get_by_role("button", name="New conversation").tap()
    side.wait_for(state="hidden")
    assert v.page.locator(".welcome").is_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("device", ["desktop", "phone"])
def test_axe_finds_nothing(visit: Callable[..., Visit], device: str, scheme: str) -> None:
    v = visit(color_scheme=scheme, **(PHONE if device == "phone" else {}))
    assert v.accessibility_problems() == []
    for text in ("Tell me about sorting", "think", "set an alarm", "busy"):
        v.send(text)
    assert v.accessibility_problems() == []
    v.page.get_by_label("Settings", exact=True).click()
    v.page.locator("summary", has_text="Tools").click()
    assert v.accessibility_problems() == []
    v.page.keyboard.press("Escape")
    v.page.get_by_label("This conversation").click()
    assert v.accessibility_problems() == []
    v.page.keyboard.press("Escape")
    if device == "phone":
        v.page.get_by_role("button", name="Conversations").tap()
        assert v.accessibility_problems() == []
