"""`ingle serve`: the real program, started, asked, and stopped."""

from __future__ import annotations

import http.client
import json
import os
import re
import shlex
import signal
import socket
import ssl
import subprocess
import sys
import time
from contextlib import ExitStack, closing
from pathlib import Path
from shutil import which
from types import TracebackType
from typing import Any

import pytest
from click.testing import CliRunner

pytest.importorskip("fastapi", reason="missing: fastapi, of the extra serve")
pytest.importorskip("uvicorn", reason="missing: uvicorn, of the extra serve")
pytest.importorskip("cryptography", reason="missing: cryptography, of the extra serve")
pytest.importorskip("segno", reason="missing: segno, of the extra serve")

from cli.processes import INGLE, PATIENCE_S, Terminal
from ingle.cli import cli

ROOT = Path(__file__).parents[2]
KEY = "a-key-that-is-long-enough-0123456789"


class Serving:
    """`ingle serve WORDS --json --port 0`, until the `with` ends."""

    def __init__(self, *words: str | Path, **environment: str) -> None:
        self._open = ExitStack()
        self.process = subprocess.Popen(
            [*INGLE, "serve", *map(str, words), "--json", "--port", "0", "--threads", "1"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | environment,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.process.communicate()[1]
        self.record: dict[str, Any] = json.loads(line)

    def ask(self, method: str, path: str, body: object = None, **headers: str) -> http.client.HTTPResponse:
        connection = http.client.HTTPConnection("127.0.0.1", self.record["port"], timeout=PATIENCE_S)
        self._open.callback(connection.close)
        said = {"content-type": "application/json"} | {name.replace("_", "-"): text for name, text in headers.items()}
        connection.request(method, path, None if body is None else json.dumps(body), said)
        return self._open.enter_context(connection.getresponse())

    def stream(self, max_tokens: int) -> http.client.HTTPResponse:
        """A long answer, of which the beginning is there."""
        asked = {"model": self.record["model"], "prompt": "x", "max_tokens": max_tokens, "stream": True}
        answer = self.ask("POST", "/v1/completions", asked)
        assert answer.status == 200, answer.read()
        assert answer.readline().startswith(b"data: ")
        return answer

    def end(self, *signals: int) -> tuple[int, str]:
        """Exit status and stderr."""
        for number in signals:
            self.process.send_signal(number)
        _, stderr = self.process.communicate(timeout=PATIENCE_S)
        return self.process.returncode, stderr

    def __enter__(self) -> Serving:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._open.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()


def fails(*words: str | Path, **environment: str | None) -> str:
    """The sentence."""
    result = CliRunner(env=environment).invoke(cli, ["serve", *map(str, words)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("ingle: ")
    assert result.stderr.count("\n") == 1
    return result.stderr


def refuses(server: Serving) -> bool:
    """Whether it comes to take no more connections."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        try:
            server.ask("GET", "/health").close()
        except OSError:
            return True
        time.sleep(0.02)
    return False


def test_it_answers_until_ctrl_c(toy: Path) -> None:
    with Serving(toy) as server:
        record = server.record
        assert record["base_url"] == f"http://127.0.0.1:{record['port']}/v1"
        assert record["url"] == f"http://127.0.0.1:{record['port']}/"
        assert (record["model"], record["context"], record["slots"]) == ("toy", 256, 8)
        assert (record["key_needed"], record["fingerprint"]) == (False, None)
        assert record["pid"] == server.process.pid
        listed = json.load(server.ask("GET", "/v1/models"))
        assert [item["id"] for item in listed["data"]] == ["toy"]
        assert server.ask("GET", "/health").status == 200
        assert server.end(signal.SIGINT) == (0, "")


def test_the_bundled_model_by_another_name() -> None:
    with Serving("--name", "hearth", "--slots", "2", "--no-ui") as server:
        asked = {"model": "hearth", "messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 4}
        answer = json.load(server.ask("POST", "/v1/chat/completions", asked))
        assert answer["model"] == "hearth"
        assert answer["choices"][0]["message"]["content"]
        assert server.ask("GET", "/").status == 404
        assert server.end(signal.SIGTERM) == (0, "")


def test_the_attacks_on_the_real_application(toy: Path) -> None:
    """What the guard's own tests try on a toy, once on all of it."""
    with Serving(toy, INGLE_API_KEY=KEY) as server:
        key = {"authorization": f"Bearer {KEY}"}
        assert server.record["key_needed"] is True
        assert server.ask("GET", "/v1/models", **key).status == 200
        for path in ("/v1/models", "/metrics", "/openapi.json", "/docs"):
            assert server.ask("GET", path).status == 401
        assert server.ask("GET", "/v1/models", host="evil.example", **key).status == 403
        body = {"model": "toy", "prompt": "x", "max_tokens": 1}
        for origin in ("https://evil.example", "null", "http://localhost:3000"):
            assert server.ask("POST", "/v1/completions", body, origin=origin, **key).status == 403
        assert server.ask("POST", "/v1/completions", body, content_type="text/plain", **key).status == 415
        for path in ("/../../../../etc/passwd", "/%2e%2e/%2e%2e/settings.py", "/..%2f..%2fsettings.py", "//etc/passwd"):
            for headers in ({}, key):
                answer = server.ask("GET", path, **headers)
                assert answer.status in (400, 401, 404)
                assert b"root:" not in answer.read()
        counted = server.ask("GET", "/metrics", **key).read()
        assert b'ingle_refused_requests_total{code="origin_not_allowed"} 3.0' in counted
        page = server.ask("GET", "/health")
        assert page.status == 200
        assert "default-src 'none'" in page.headers["content-security-policy"]
        assert page.headers["server"] is None
        assert KEY.encode() not in page.read()
        status, stderr = server.end(signal.SIGINT)
        assert (status, stderr) == (0, "")


def test_keys_are_in_no_process_list_and_no_output(toy: Path) -> None:
    with Serving(toy, INGLE_API_KEY=KEY) as server:
        assert KEY not in json.dumps(server.record)
        shown = subprocess.run(["ps", "-o", "args=", "-p", str(server.process.pid)], capture_output=True, text=True)
        assert KEY not in shown.stdout
        server.ask("GET", f"/v1/models?key={KEY}", authorization=f"Bearer {KEY}x").read()
        server.ask("POST", "/v1/completions", {"model": KEY, "prompt": 1}, authorization=f"Bearer {KEY}").read()
        _, stderr = server.end(signal.SIGINT)
        assert KEY not in stderr


def test_a_key_on_the_command_line_is_refused(toy: Path) -> None:
    message = fails(toy, "--api-key", KEY)
    assert "INGLE_API_KEY" in message
    assert "--api-key-file" in message
    assert KEY not in message


def test_ctrl_c_lets_answers_end(endless: Path) -> None:
    with Serving(endless, "--context", "4000", "--slots", "1") as server:
        answer = server.stream(3_000)
        server.process.send_signal(signal.SIGINT)
        assert server.process.stderr is not None
        assert "Finishing 1 answer" in server.process.stderr.readline()
        assert refuses(server)
        assert answer.read().endswith(b"data: [DONE]\n\n")
        assert server.end() == (0, "")


def test_a_second_ctrl_c_stops_now(endless: Path) -> None:
    with Serving(endless, "--context", "110000", "--slots", "1") as server:
        server.stream(100_000)
        server.process.send_signal(signal.SIGINT)
        assert server.process.stderr is not None
        assert "Ctrl-C again" in server.process.stderr.readline()
        assert server.end(signal.SIGINT) == (130, "")


def test_a_port_in_use_is_told_before_the_model_is_loaded(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        message = fails(tmp_path / "none.gguf", "--port", str(port))
        assert f"Port {port}" in message
        assert "--port" in message


def test_a_second_one_takes_the_next_port(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = (
        "import sys; from ingle.server import addresses; addresses.DEFAULT_PORT = int(sys.argv.pop(1)); "
        "from ingle.cli import main; main()"
    )
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command = [sys.executable, "-c", script, str(port), "serve", str(toy), "--threads", "1"]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert process.stderr is not None
        shown = ""
        for line in process.stderr:
            shown += line
            if line.startswith("Ctrl-C"):
                break
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=PATIENCE_S)
    found = re.search(r"so it is port (\d+)", shown)
    assert found, shown
    assert f"http://127.0.0.1:{found[1]}/v1" in shown
    assert int(found[1]) > port
    assert process.returncode == 0


def test_a_network_gets_a_key_and_a_certificate(toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.delenv("INGLE_API_KEY", raising=False)
    with Terminal("serve", toy, "--lan", "--port", "0", "--threads", "1") as terminal:
        terminal.expect("Ctrl-C stops it")
        seen = terminal.seen
        url = re.search(r"Chat page +https://([^/]+):(\d+)/#key=(\S{43})\n", seen)
        assert url, seen
        key = url[3]
        assert seen.count(key) == 2  # in the address, and by itself
        assert "█▀▀▀▀▀█" in seen or "▀▀▀▀▀" in seen  # a corner of the QR code
        found = re.search(r"SHA-256 ((?:[0-9A-F]{2}:){31}[0-9A-F]{2})", seen)
        assert found, seen
        assert "there was none" in seen
        context = ssl.create_default_context(cafile=tmp_path / "ingle" / "certificate.pem")
        for authorization, status in ((f"Bearer {key}", 200), ("Bearer x", 401)):
            connection = http.client.HTTPSConnection("127.0.0.1", int(url[2]), timeout=PATIENCE_S, context=context)
            with closing(connection):
                connection.request("GET", "/v1/models", headers={"authorization": authorization})
                with connection.getresponse() as answer:
                    assert answer.status == status
        for path in tmp_path.rglob("*"):
            assert path.is_dir() or key.encode() not in path.read_bytes()
        arguments = Path(f"/proc/{terminal.process.pid}/cmdline")
        assert not arguments.exists() or key.encode() not in arguments.read_bytes()
        terminal.send("\x03")
        assert terminal.wait() == 0


def test_a_fingerprint_is_not_taken_for_pictures(capsys: pytest.CaptureFixture[str]) -> None:
    from ingle.cli.console import notes

    notes().print("D0:AB:EE:59:O2:00", markup=False)
    assert capsys.readouterr().err == "D0:AB:EE:59:O2:00\n"


def test_a_network_without_a_terminal_needs_a_key(toy: Path) -> None:
    for words in (["--lan"], ["--host", "0.0.0.0"], ["--lan", "--json"]):
        assert "INGLE_API_KEY" in fails(toy, *words, INGLE_API_KEY=None)


def test_a_state_folder_that_cannot_be_written(toy: Path) -> None:
    """As with a home that is read-only: it goes on with a certificate for this run."""
    with Serving(toy, "--host", "0.0.0.0", INGLE_API_KEY=KEY, XDG_STATE_HOME=os.devnull) as server:
        assert server.record["fingerprint"]
        assert server.record["url"].startswith("https://")
        assert KEY not in json.dumps(server.record)
        assert server.end(signal.SIGINT) == (0, "")


def test_what_cannot_be_is_told_before_the_model_is_loaded(tmp_path: Path) -> None:
    none = tmp_path / "none.gguf"
    text = tmp_path / "text"
    text.write_text("short\n")
    text.chmod(0o600)
    open_file = tmp_path / "open"
    open_file.write_text(f"{KEY}\n")
    open_file.chmod(0o644)
    for words, about in (
        (["--lan", "--host", "127.0.0.1"], "give one of them"),
        (["--host", "example.org"], "expected an address"),
        (["--host", "192.0.2.200", "--api-key-file", text], "has 5 characters"),
        (["--origin", "*"], "no origin"),
        (["--origin", "example.org"], "no origin"),
        (["--allow-host", "http://a"], "no host name"),
        (["--cert", text], "give both"),
        (["--cert", text, "--key-file", text], "no certificate"),
        (["--api-key-file", open_file], "chmod 600"),
        (["--port", "65536"], "--port"),
        (["--slots", "0"], "--slots"),
        (["--max-queue", "0"], "--max-queue"),
        (["--port", "0"], "none.gguf"),
    ):
        assert about in fails(none, *words, INGLE_API_KEY=None)


def test_packages_that_are_missing(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ingle.cli.serve.find_spec", lambda name: None if name == "uvicorn" else object())
    message = fails(toy)
    assert "(uvicorn)" in message
    assert "pip install 'ingle[serve]'" in message


def test_nothing_of_it_is_loaded_for_help() -> None:
    script = (
        "import sys; from ingle.cli import cli; cli(['serve', '--help'], standalone_mode=False); print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert not {"fastapi", "uvicorn", "cryptography", "segno", "numpy"} & set(done.stdout.split())


def serve_commands() -> list[str]:
    commands = []
    for document in ("README.md", "docs/serve.md"):
        for block in re.findall(r"```console\n(.*?)```", (ROOT / document).read_text(), re.DOTALL):
            commands += [line[2:] for line in block.splitlines() if "ingle serve" in line and line.startswith("$ ")]
    return list(dict.fromkeys(command.split("  #")[0].strip() for command in commands))


@pytest.mark.parametrize("command", serve_commands())
def test_commands_of_the_documents_serve(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each as written, on a terminal, where model.gguf is the bundled model and keys.txt holds a key."""
    from ingle.engine.model import bundled_model

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    (tmp_path / "model.gguf").symlink_to(bundled_model())
    (tmp_path / "keys.txt").write_text(KEY)
    (tmp_path / "keys.txt").chmod(0o600)
    words = shlex.split(command)
    while "=" in words[0]:
        name, _, value = words.pop(0).partition("=")
        monkeypatch.setenv(name, value)
    assert words[0] == "ingle"
    with Terminal(*words[1:], "--threads", "1") as terminal:
        terminal.expect("Ctrl-C stops it")
        assert " is served " in terminal.seen
        terminal.send("\x03")
        assert terminal.wait() == 0


def programs(language: str, beginning: str) -> list[str]:
    """What clients paste from the page. Its program for Node is run beside the client for Node; Open WebUI's image is
    not run: it comes from elsewhere."""
    page = (ROOT / "docs" / "serve.md").read_text()
    found = re.findall(rf"```{language}\n({beginning}.*?)```", page, re.DOTALL)
    return [text for text in found if "127.0.0.1:8080/v1" in text]


@pytest.mark.parametrize("package", ["openai", "langchain_openai"])
def test_a_program_of_the_page_works(package: str) -> None:
    pytest.importorskip(package, reason=f"missing: {package}, of the extra test")
    (text,) = programs("python", f"from {package} ")
    assert len(ran(sys.executable, "-c", text)) > 10


@pytest.mark.skipif(which("curl") is None, reason="missing: curl")
def test_a_command_of_the_page_works() -> None:
    (text,) = programs("bash", "curl ")
    assert (
        "content"
        in json.loads(ran("bash", "-c", text.replace("curl", "curl --fail --silent", 1)))["choices"][0]["message"]
    )


def ran(*words: str) -> str:
    """What a set-up says to the bundled model, whose server is at another port."""
    with Serving() as server:
        port = server.record["port"]
        there = [word.replace("127.0.0.1:8080", f"127.0.0.1:{port}") for word in words]
        done = subprocess.run(there, capture_output=True, text=True, timeout=2 * PATIENCE_S)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()
