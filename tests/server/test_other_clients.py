"""The official client for Node, and curl."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

NODE = Path(__file__).parent / "node"
DOCUMENT = Path(__file__).parents[2] / "docs" / "serve.md"
#: What npm says where nobody answers it. Whatever else goes wrong is a failure: a lock file that is broken, say.
OUT_OF_REACH = re.compile("ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ECONNRESET|ETIMEDOUT|ENETUNREACH|EHOSTUNREACH|ENOTCACHED")


def run(*words: str, cwd: Path | None = None) -> str:
    done = subprocess.run(words, cwd=cwd, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="session")
def node_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the client in it, as its lock has it."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("missing: Node and npm")
    folder = tmp_path_factory.mktemp("node")
    for path in NODE.iterdir():
        if path.is_file():
            shutil.copy(path, folder)
    words = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefer-offline", "--fetch-retries=0"]
    try:
        done = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=120)
    except subprocess.TimeoutExpired:
        pytest.skip("missing: a registry of npm that answers within two minutes")
    if found := OUT_OF_REACH.search(done.stderr):
        pytest.skip(f"missing: a registry of npm, or the client in its cache ({found[0]})")
    assert done.returncode == 0, done.stderr
    return folder


def test_the_client_for_node(url: str, node_folder: Path) -> None:
    found = json.loads(run("node", "chat.mjs", url, cwd=node_folder))
    assert found["text"]
    assert found["streamed"]["text"] == found["text"]
    assert found["streamed"]["chunks"] > 3
    assert found["streamed"]["finish"] in ("stop", "length")
    assert found["streamed"]["usage"]["completion_tokens"] <= 12
    assert found["call"] == "set_alarm"
    assert found["response"]
    assert found["embedded"] == 256
    assert found["refused"] == {"status": 400, "param": "temperature", "isBadRequest": True}


def test_the_program_for_node_of_the_documents(url: str, node_folder: Path) -> None:
    (program,) = re.findall(r"```js\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    (node_folder / "documents.mjs").write_text(program.replace("http://127.0.0.1:8080", url))
    assert len(run("node", "documents.mjs", cwd=node_folder).strip()) > 10


def test_the_lock_names_no_host() -> None:
    lock = json.loads((NODE / "package-lock.json").read_text())
    hosts = {package["resolved"] for package in lock["packages"].values() if "resolved" in package}
    assert not hosts, "without `resolved`, npm asks the registry that it is set up for"
    assert all("integrity" in package for name, package in lock["packages"].items() if name)


@pytest.mark.skipif(shutil.which("curl") is None, reason="missing: curl")
def test_curl(url: str) -> None:
    body = json.dumps({"messages": [{"role": "user", "content": "Grüße, 世界"}], "max_tokens": 5, "stream": True})
    words = ["curl", "-sN", "--fail-with-body", f"{url}/v1/chat/completions", "-H", "Content-Type: application/json"]
    lines = [line for line in run(*words, "-d", body).split("\n") if line]
    assert all(line.startswith("data: ") for line in lines)
    assert lines[-1] == "data: [DONE]"
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    assert chunks[-1]["choices"][0]["finish_reason"] in ("stop", "length")
    assert json.loads(run("curl", "-s", f"{url}/v1/models"))["data"][0]["id"] == "tiny"
