"""The chat page in a browser: what it keeps, conversations and the key, and what it writes to files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from page_browser import Visit
from page_stub import Stub


def test_conversations_survive_a_reload_are_found_renamed_and_deleted(visit: Callable[..., Visit]) -> None:
    v = visit()
    v.send("the first one")
    v.page.keyboard.press("Control+k")
    v.send("the second one")
    v.page.reload()
    v.wait_for_answer(1)
    assert v.titles() == ["the second one", "the first one"]
    assert v.page.locator(".bubble").inner_text() == "the second one"

    search = v.page.get_by_label("Search conversations")
    search.fill("answer FIRST")  # words of the content, in any order
    assert v.titles() == ["the first one"]
    search.fill("")

    v.page.get_by_role("button", name="the first one", exact=True).hover()
    v.page.get_by_label("Rename “the first one”").click()
    v.page.keyboard.type("A new title")
    v.page.keyboard.press("Enter")
    assert v.titles() == ["the second one", "A new title"]

    v.page.get_by_role("button", name="the second one", exact=True).hover()
    v.page.get_by_label("Delete “the second one”").click()
    assert v.titles() == ["A new title"]
    v.page.reload()
    v.page.locator(".row-title").first.wait_for()
    assert v.titles() == ["A new title"]


def test_a_deleted_conversation_comes_back_with_undo(visit: Callable[..., Visit]) -> None:
    v = visit()
    v.send("keep me")
    v.page.get_by_role("button", name="keep me", exact=True).hover()
    v.page.get_by_label("Delete “keep me”").click()
    v.page.get_by_role("button", name="Undo").click()
    v.page.reload()
    v.wait_for_answer(1)
    assert v.titles() == ["keep me"]


def test_another_tab_follows(visit: Callable[..., Visit]) -> None:
    v = visit()
    other = v.open()
    v.send("from the first tab")
    other.get_by_text("from the first tab").first.wait_for()


def test_the_key_is_asked_for_and_kept_as_long_as_chosen(visit: Callable[..., Visit], stub: Stub) -> None:
    stub.key = "secret"
    v = visit()
    dialog = v.page.get_by_role("dialog", name="API key")
    dialog.get_by_label("Key", exact=True).fill("wrong")
    dialog.get_by_role("button", name="Use this key").click()
    dialog.get_by_text("The server did not accept this key.").wait_for()
    dialog.get_by_label("Key", exact=True).fill("secret")
    dialog.get_by_role("button", name="Use this key").click()
    dialog.wait_for(state="hidden")
    v.send("hello")
    stored = "[sessionStorage.getItem('ingle.key'), localStorage.getItem('ingle.key')]"
    assert v.page.evaluate(stored) == ["secret", None]
    v.page.reload()
    v.wait_for_answer(1)  # the tab knows it still

    other = v.open()  # and another tab does not
    other.get_by_label("Key", exact=True).fill("secret")
    other.get_by_label("Remember it in this browser").check()
    other.get_by_role("button", name="Use this key").click()
    other.locator(".model option").first.wait_for(state="attached")
    assert other.evaluate(stored) == [None, "secret"]


def test_what_was_asked_before_the_key_is_answered_after_it(visit: Callable[..., Visit], stub: Stub) -> None:
    v = visit()
    stub.key = "secret"
    v.send("hello")
    v.page.get_by_label("Key", exact=True).fill("secret")
    v.page.keyboard.press("Enter")
    v.wait_for_text("Answer 1 to")


def test_a_key_in_the_address_is_taken_and_removed(visit: Callable[..., Visit], stub: Stub) -> None:
    stub.key = "sk-ingle_1-2"
    v = visit()
    page = v.open("/#key=sk-ingle_1-2")
    page.locator(".model option").first.wait_for(state="attached")
    assert page.url == v.address + "/"
    assert not any("sk-ingle" in url for url in v.requests if not url.endswith("#key=sk-ingle_1-2"))


def test_export_and_import_give_the_same_conversation(visit: Callable[..., Visit], tmp_path: Path) -> None:
    v = visit()
    v.send("Tell me about sorting")
    v.send("<!-- ingle: user -->\nnot a new message")
    said = v.page.locator(".bubble, .answer .markdown")
    texts = said.all_inner_texts()
    assert len(texts) == 4
    for n, (label, ending) in enumerate((("Export as JSON", "json"), ("Export as Markdown", "md")), start=2):
        v.page.get_by_label("This conversation").click()
        with v.page.expect_download() as download:
            v.page.get_by_role("menuitem", name=label).click()
        assert download.value.suggested_filename == f"tell-me-about-sorting.{ending}"
        path = tmp_path / download.value.suggested_filename
        download.value.save_as(path)
        v.page.get_by_label("File to import").set_input_files(path)
        v.page.wait_for_function("n => document.querySelectorAll('.row').length === n", arg=n)
        assert said.all_inner_texts() == texts
    assert v.titles() == ["Tell me about sorting"] * 3
    v.page.reload()
    v.page.locator(".row-title").first.wait_for()
    assert len(v.titles()) == 3


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", "{", "not JSON"),
        ("b.json", '{"format": "other"}', 'its "format" is not'),
        ("c.md", "# Just text\n", "No conversation was found"),
    ],
)
def test_a_wrong_file_is_refused_in_words(
    visit: Callable[..., Visit], tmp_path: Path, name: str, content: str, message: str
) -> None:
    v = visit()
    path = tmp_path / name
    path.write_text(content)
    v.page.get_by_label("File to import").set_input_files(path)
    v.page.get_by_text(message).wait_for()
    assert v.titles() == []


def test_an_imported_file_is_not_trusted(visit: Callable[..., Visit], tmp_path: Path) -> None:
    wild = {"id": 5, "title": {"x": 1}, "settings": {"temperature": "hot", "tools": 7}, "created_ms": "now"}
    messages = [7, None, {"role": "root"}, {"role": "assistant", "content": {"__html": "<b>x</b>"}, "calls": [3]}]
    path = tmp_path / "wild.json"
    path.write_text(
        json.dumps({"format": "ingle-conversations", "conversations": [{**wild, "messages": messages}, 1, None]})
    )
    v = visit()
    v.page.get_by_label("File to import").set_input_files(path)
    v.page.get_by_text("3 conversations were imported.").wait_for()
    assert v.titles() == ["Imported conversation"] * 3
    assert v.page.locator(".answer").count() == 1
    assert v.page.locator(".answer b").count() == 0
