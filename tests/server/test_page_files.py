"""The built files of the chat page: as web/chat/ makes them, small, and under the policy that the page promises."""

from __future__ import annotations

import gzip
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from ingle.server.page import CONTENT_SECURITY_POLICY, page_routes

REPOSITORY = Path(__file__).parents[2]
SOURCES = REPOSITORY / "web" / "chat"
STATIC = REPOSITORY / "src" / "ingle" / "server" / "static"
SCRIPT_LIMIT_BYTES = 150 * 1024


def test_a_rebuild_gives_the_same_bytes(tmp_path: Path) -> None:
    if shutil.which("node") is None:
        pytest.skip("missing: Node")
    if not (SOURCES / "node_modules" / "esbuild").is_dir():
        pytest.skip("missing: web/chat/node_modules, which `make web` installs")
    subprocess.run(["node", SOURCES / "build.mjs", tmp_path], check=True, capture_output=True)
    built = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    committed = {path.name: path.read_bytes() for path in STATIC.iterdir()}
    assert sorted(built) == sorted(committed)
    assert [name for name in built if built[name] != committed[name]] == [], "run `make web` and commit what it writes"


def test_scripts_are_small() -> None:
    size = sum(len(gzip.compress(path.read_bytes(), 9)) for path in STATIC.glob("*.js"))
    assert 1024 < size < SCRIPT_LIMIT_BYTES


def test_the_page_names_only_its_own_files() -> None:
    page = (STATIC / "index.html").read_text()
    named = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert sorted(named) == ["app.js", "icon.svg", "style.css", "theme.js"]
    assert not re.search(r"<script(?![^>]*\bsrc=)", page)  # no inline script
    assert not re.search(r"<style|\bstyle=|\bon\w+=", page)
    assert "url(" not in (STATIC / "style.css").read_text()


def test_bundled_licences_are_named() -> None:
    notice = (STATIC / "NOTICE.txt").read_text()
    for library in ("preact", "marked", "highlight.js"):
        assert re.search(rf"^{re.escape(library)} \d+\.\d+\.\d+ \(", notice, re.MULTILINE)


def test_the_lock_file_names_no_registry() -> None:
    lock = (SOURCES / "package-lock.json").read_text()
    assert '"resolved"' not in lock


def test_page_routes_answer_with_the_policy() -> None:
    with TestClient(Starlette(routes=page_routes())) as client:
        for path, kind in (("/", "text/html"), ("/app.js", "javascript"), ("/style.css", "text/css")):
            answer = client.get(path)
            assert answer.status_code == 200
            assert kind in answer.headers["content-type"]
            assert answer.headers["content-security-policy"] == CONTENT_SECURITY_POLICY
            assert answer.headers["x-content-type-options"] == "nosniff"
            again = client.get(path, headers={"If-None-Match": answer.headers["etag"]})
            assert again.status_code == 304
        for path in ("/page.py", "/../page.py", "/%2e%2e/page.py", "/static/", "/nothing.js"):
            assert client.get(path).status_code == 404
    assert "unsafe" not in CONTENT_SECURITY_POLICY
    assert CONTENT_SECURITY_POLICY.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
