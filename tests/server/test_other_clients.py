"""The official client for Node, and curl."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

NODE = Path(__file__).parent / "node"


def run(*words: str, cwd: Path | None = None) -> str:
    done = subprocess.run(words, cwd=cwd, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="session")
def node_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the client in it, as its lock has it."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("Node and npm are not installed")
    folder = tmp_path_factory.mktemp("node")
    for path in NODE.iterdir():
        if path.is_file():
            shutil.copy(path, folder)
    words = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefer-offline", "--fetch-retries=0"]
    try:
        done = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=120)
    except subprocess.TimeoutExpired:
        pytest.skip("npm took too long to install the client")
    if done.returncode:
        pytest.skip("npm could not install the client (no network, and none in its cache)")
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


def test_the_lock_names_no_host() -> None:
    lock = json.loads((NODE / "package-lock.json").read_text())
    hosts = {package["resolved"] for package in lock["packages"].values() if "resolved" in package}
    assert not hosts, "without `resolved`, npm asks the registry that it is set up for"
    assert all("integrity" in package for name, package in lock["packages"].items() if name)


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
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
