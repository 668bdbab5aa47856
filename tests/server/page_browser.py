"""A browser for the tests of the chat page; in each of them nothing may leave the origin, and nothing break."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

REPOSITORY = Path(__file__).parents[2]
MODULES = REPOSITORY / "web" / "chat" / "node_modules"
DESKTOP: dict[str, Any] = {"viewport": {"width": 1200, "height": 800}}
PHONE: dict[str, Any] = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
FLAGS = [
    "--no-sandbox",  # tests may run as root, in a container
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
# Runs before the page: whatever the policy forbids is noted.
WATCH = """
window.violations = [];
addEventListener("securitypolicyviolation", (e) => window.violations.push(`${e.violatedDirective} ${e.blockedURI}`));
"""


@contextmanager
def chromium() -> Iterator[Browser]:
    """Debian's Chromium. Skips where it, or Playwright, is missing."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="missing: Playwright for Python, of the extra test")
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("missing: Chromium (Debian: apt install chromium)")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        try:
            yield browser
        finally:
            browser.close()


class Visit:
    """A page of a fresh profile, and short ways to use it."""

    def __init__(self, browser: Browser, address: str, **options: Any) -> None:
        self.address = address
        self.context = browser.new_context(**{"reduced_motion": "reduce", **DESKTOP, **options})
        self.context.set_default_timeout(10_000)
        self.context.add_init_script(WATCH)
        self.requests: list[str] = []
        self.problems: list[str] = []
        self.context.on("request", lambda request: self.requests.append(request.url))
        self.context.on("weberror", lambda error: self.problems.append(str(error.error)))
        self.page = self.open()

    def open(self, path: str = "/") -> Page:
        page = self.context.new_page()
        page.goto(self.address + path)
        page.wait_for_selector(".composer textarea")
        page.wait_for_function("document.querySelector('.model option') || document.querySelector('dialog[open]')")
        return page

    def send(self, text: str) -> None:
        """Types and sends; returns when the answer is whole."""
        n = self.page.locator(".answer").count()
        self.page.get_by_label("Message", exact=True).fill(text)
        self.page.get_by_label("Send", exact=True).click()
        self.wait_for_answer(n + 1)

    def wait_for_answer(self, n: int) -> None:
        """Until there are `n` answers, the last of them whole."""
        self.page.wait_for_function(
            "n => document.querySelectorAll('.answer').length === n"
            " && document.querySelectorAll('.answer')[n - 1].getAttribute('aria-busy') !== 'true'",
            arg=n,
        )

    def wait_for_text(self, text: str) -> None:
        """Until an answer holds this text."""
        self.page.locator(".answer", has_text=text).first.wait_for()

    def answers(self) -> list[str]:
        return [text.strip() for text in self.page.locator(".answer .markdown").all_inner_texts()]

    def titles(self) -> list[str]:
        return self.page.locator(".row-title").all_inner_texts()

    def accessibility_problems(self) -> list[str]:
        """What axe-core finds, one line for each rule."""
        source = MODULES / "axe-core" / "axe.min.js"
        if not source.exists():
            pytest.skip("missing: web/chat/node_modules, which `make web` installs")
        self.page.evaluate(source.read_text() + ";0")
        result = self.page.evaluate("axe.run(document)")
        assert len(result["passes"]) > 20
        return [f"{v['id']}: {[node['target'] for node in v['nodes']][:3]}" for v in result["violations"]]

    def close(self) -> None:
        """Ends the visit; fails where a request left the origin, a script failed, or the policy was violated."""
        violations = [line for page in self.context.pages for line in page.evaluate("window.violations")]
        foreign = [url for url in self.requests if not url.startswith((self.address + "/", "blob:" + self.address))]
        self.context.close()
        assert foreign == []
        assert violations == []
        assert self.problems == []
        assert len(self.requests) > 5  # the watching works


@contextmanager
def visits(browser: Browser, address: str) -> Iterator[Callable[..., Visit]]:
    """Opens pages, each with options of a browser context. What holds for every visit is checked when all are over."""
    begun: list[Visit] = []

    def begin(**options: Any) -> Visit:
        begun.append(Visit(browser, address, **options))
        return begun[-1]

    yield begin
    for visit in begun:
        visit.close()
