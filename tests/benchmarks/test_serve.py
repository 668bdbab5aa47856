"""benchmarks/serve.py: what it reads out of streams, its goal, and a whole small run beside a made-up server."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import serve
import serve_report as report
from engine_results import NATIVE, Results, read_results
from serve_load import Answer, Exchange, percentile, summary
from serve_runs import Cell

from ingle.engine.model import bundled_model

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
CELL = Cell("a.gguf", 2, 8, 8, 32, 200, 100, 64, 512)
HEAD = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


def event(content: str | None = None, **more: Any) -> bytes:
    choices = [] if content is None else [{"index": 0, "delta": {"content": content}}]
    return b"data: " + json.dumps({"choices": choices, **more}).encode() + b"\n\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


USAGE = event(usage={"prompt_tokens": 7, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 4}})


def test_texts_have_the_time_of_their_last_byte() -> None:
    """The first two events come in one chunk, which comes in two pieces; an empty text is none."""
    first = chunk(event("") + event("a"))
    pieces = [(1.0, HEAD + first[:20]), (2.0, first[20:]), (2.5, chunk(event("b")))]
    pieces += [(4.0, chunk(event("c") + USAGE + b"data: [DONE]\n\n")), (4.5, chunk(b""))]
    answer = Exchange(0.5, pieces).said()
    assert answer == Answer("", 1.5, [0.5, 1.5], 7, 4, 3)


def test_several_texts_at_once_are_one_wait() -> None:
    pieces = [(1.0, HEAD + chunk(event("a") + event("b"))), (3.0, chunk(event("c") + USAGE) + chunk(b""))]
    assert Exchange(0.0, pieces).said().gaps_s == [2.0]


@pytest.mark.parametrize(
    ("pieces", "error"),
    [
        ([], "no reply"),
        ([b"HTTP/1.1 429 Too Many Requests\r\n\r\nlater"], "HTTP/1.1 429 Too Many Requests later"),
        ([HEAD + chunk(event("a", error={"message": "cut"}))], "cut"),
        ([HEAD + chunk(event("a"))], "without usage"),
        ([HEAD + chunk(event("")) + chunk(USAGE)], "without text"),
        ([HEAD + b"40\r\ndata: {"], "without text"),
        ([HEAD + event("a")], "cannot be read"),
        ([HEAD + chunk(b"data: {\n\n")], "cannot be read"),
    ],
)
def test_what_is_no_answer_is_an_error(pieces: list[bytes], error: str) -> None:
    assert error in Exchange(0.0, [(1.0, piece) for piece in pieces]).said().error


def test_percentiles_are_values_that_occurred() -> None:
    assert percentile([4.0, 1.0, 3.0, 2.0], 0.5) == 2.0
    assert percentile([float(i) for i in range(1, 101)], 0.99) == 99.0
    assert percentile([1.0, 2.0], 0.99) == 2.0
    assert percentile([], 0.5) == 0.0


def test_errors_are_counted_and_give_no_figures() -> None:
    run = summary([Answer("", 1.0, [0.5], 7, 4, 3), Answer("", 3.0, [0.1], 7, 0, 2), Answer("broken")])
    assert (run["n_errors"], run["errors"]) == (1, ["broken"])
    assert (run["ttft_p50_s"], run["ttft_p99_s"], run["itl_p50_s"]) == (1.0, 3.0, 0.1)
    assert (run["prompt_tokens"], run["cached_tokens"], run["completion_tokens"]) == (14, 4, 5)
    assert run["answer_tokens"] == [2, 3]


def made(*runs: dict[str, tuple[float, float]], cell: Cell = CELL, lengths: int = CELL.answer) -> Results:
    """Rounds of contenders with these tokens/s and TTFT p99."""
    results = Results(Cell)
    sizes = {"n_bytes": 1, "context": 512, "bytes_per_token": 1, "weights_per_token": 1, "block_weights": 1}
    results.add({"record": "file", "file": "a.gguf", "shape": "S", "type": "Q4_0", "attention_width": 1, **sizes})
    for number, by in enumerate(runs):
        keys = ("ttft_p50_s", "itl_p50_s", "itl_p99_s", "server_cpu_s", "peak_bytes", "n_errors", "cached_tokens")
        full = {
            name: dict.fromkeys(keys, 0) | {"tokens_per_s": rate, "ttft_p99_s": first, "completion_tokens": 1}
            for name, (rate, first) in by.items()
        }
        full = {name: run | {"prompt_tokens": 2, "answer_tokens": [lengths]} for name, run in full.items()}
        content = {"cell": vars(cell), "round": number, "others": 0.0, "wall_s": 1.0, "runs": full}
        results.add({"record": "round", **content})
    return results


@pytest.mark.parametrize(
    ("ours", "verdict"),
    [((130.0, 1.0), "1.30, met"), ((129.0, 1.0), "1.29, not met"), ((130.0, 1.1), "1.30, not met")],
)
def test_the_goal_is_of_speed_and_of_the_first_token(ours: tuple[float, float], verdict: str) -> None:
    results = made({"ingle": ours, "llama-server": (100.0, 1.0)})
    assert f"| {verdict} |" in report.tables(results)
    other = Cell(**(vars(CELL) | {"clients": 4}))
    assert "met" not in report.tables(made({"ingle": ours, "llama-server": (100.0, 1.0)}, cell=other))


def test_ratios_are_of_runs_of_the_same_round() -> None:
    rounds = [{"ingle": (a, 1.0), "llama-server": (b, 1.0)} for a, b in ((10.0, 10.0), (20.0, 5.0), (30.0, 25.0))]
    assert "| 1.20 (1.00-4.00), not met |" in report.tables(made(*rounds))  # of the medians: 2


def test_answers_of_other_lengths_are_told() -> None:
    runs = {"ingle": (130.0, 1.0), "llama-server": (100.0, 1.0)}
    assert "NOT THE SAME" not in report.tables(made(runs))
    assert "answers had 63 to 63 tokens" in report.tables(made(runs, lengths=63))


PEER = """#!{python}
import json, sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
words = sys.argv[1:]
if "--version" in words:
    sys.exit(print("version: 7 (made up)"))
value = lambda name: words[words.index(name) + 1]
assert "-fa" in words and value("-np") == "2" and int(value("-c")) == 2 * 160 and value("-t") == "1"

class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        assert self.path == "/health"
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert body["stream"] and len(body["messages"]) == 2
        if "FAIL" in words:
            return self.send_error(500)
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        n = body["max_tokens"]
        said = [{{"choices": [{{"index": 0, "delta": {{"content": "x"}}}}]}}] * n
        for one in [*said, {{"choices": [], "usage": {{"prompt_tokens": 9, "completion_tokens": n}}}}]:
            data = b"data: " + json.dumps(one).encode() + b"\\n\\n"
            self.wfile.write(b"%x\\r\\n%b\\r\\n" % (len(data), data))
        self.wfile.write(b"0\\r\\n\\r\\n")
    def log_message(self, *words):
        pass

ThreadingHTTPServer(("127.0.0.1", int(value("--port"))), Handler).serve_forever()
"""


def run_serve(*words: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(BENCHMARKS / "serve.py"), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)


def test_a_whole_run_is_continued_and_reported(tmp_path: Path) -> None:
    pytest.importorskip("uvicorn", reason="missing: uvicorn, of the extra serve")
    peer, results = tmp_path / "llama server", tmp_path / "results.jsonl"
    peer.write_text(PEER.format(python=sys.executable))
    peer.chmod(0o755)
    command = ["--llama-server", f"'{peer}' -fa 1", "--json", results, "--threads", "1", "--slots", "2"]
    command += ["--context", "160", "--system", "40", "--own", "20", "--answer", "8", "--requests", "2"]
    command += ["--rounds", "1", "--retries", "0", bundled_model()]
    assert run_serve(*command, "--clients", "1").returncode == 0
    done = run_serve(*command, "--clients", "1,3")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("tokens/s") == 2  # the first round was there
    found = read_results(results, Cell)
    assert [cell.clients for cell in found.attempts] == [1, 3]
    for cell in found.attempts:
        (one,) = found.rounds(cell)
        assert set(one.runs) == {"ingle", "llama-server -fa 1"}
        ours = one.runs["ingle"]
        assert ours["n_errors"] == 0
        assert 0 < ours["completion_tokens"] <= 8 * cell.requests
        assert max(ours["answer_tokens"]) <= 8
        assert ours["cached_tokens"] > 0  # the system prompt, from the second request on
        assert ours["ttft_p99_s"] >= ours["ttft_p50_s"] > 0
    assert str(tmp_path) not in results.read_text()
    assert found.sessions[-1]["peers"][NATIVE]["llama-server -fa 1"]["flags"] == ["-fa", "1"]

    done = run_serve("--report", results)
    assert done.returncode == 0, done.stderr
    assert "7 (made up)" in done.stdout
    assert "| 3 | llama-server -fa 1 |" in done.stdout


def test_a_peer_that_fails_is_told(tmp_path: Path) -> None:
    pytest.importorskip("uvicorn", reason="missing: uvicorn, of the extra serve")
    peer = tmp_path / "llama-server"
    peer.write_text(PEER.format(python=sys.executable))
    peer.chmod(0o755)
    sizes = ["--slots", "2", "--context", "160", "--system", "40", "--own", "20", "--answer", "4", "--requests", "1"]
    how = ["--threads", "1", "--clients", "1", "--rounds", "1", "--retries", "0"]
    done = run_serve("--llama-server", f"{peer} -fa FAIL", *sizes, *how, bundled_model())
    assert done.returncode == 1
    assert "given up. llama-server -fa FAIL gave no answer: HTTP/1.1 500" in done.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "name at least one MODEL.gguf"),
        (["nowhere.gguf"], "there is no file nowhere.gguf"),
        ([str(bundled_model()), "--llama-server", "nowhere"], "no program at nowhere"),
        ([str(bundled_model()), "--clients", "1,-1"], "1 or more"),
        ([str(bundled_model()), "--answer", "400"], "--context must hold"),
    ],
)
def test_wrong_words_get_one_sentence(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        serve.parse(words)
    assert message in capsys.readouterr().err
