"""`--memory`: models that memory does not hold, answered from disk; and files that fail while they are read."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import toys
from cli.processes import INGLE, PATIENCE_S, ingle
from ingle.cli.chat import Conversation
from ingle.cli.eval_jobs import Job
from ingle.cli.eval_run import _import_first
from ingle.engine.model import load

SHORT = ("--max-tokens", "5", "--seed", "1", "--threads", "1")
LONG = ("--context", "2048", "--kv-type", "q4")
CHANGED = r"copy\.gguf (changed or failed while it was read|was written to while it was in use)"
MIB = 1 << 20


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """19 MiB of weights in 8 layers."""
    return toys.toy_gguf(tmp_path_factory.mktemp("memory") / "large.gguf", n_layers=8, n_embd=256)


@pytest.fixture(scope="module")
def endless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As large, and it says "a" for as long as one lets it."""
    letter = toys.vocabulary().index("a")

    def change(name: str, values: Any) -> Any:
        if name == "token_embd.weight":
            values[:] = 1.0
        if name.endswith(("attn_output.weight", "ffn_down.weight", "output.weight")):
            values[:] = 0.0
        if name == "output.weight":
            values[letter] = 1.0
        return values

    path = tmp_path_factory.mktemp("memory") / "endless.gguf"
    return toys.toy_gguf(path, n_layers=8, n_embd=256, n_context=2048, change=change)


def least(path: Path, *words: str) -> int:
    """What the program says it needs, MiB."""
    done = ingle("run", path, "hello", *words, "--threads", "1", "--memory", "1MiB")
    assert (done.returncode, done.stdout) == (2, "")
    found = re.search(r" does not run in 1\.0 MiB; (\d+)MiB would do: ", done.stderr)
    assert found, done.stderr
    return int(found[1])


@pytest.fixture(scope="module")
def budget(large: Path) -> str:
    """A little more than the least."""
    return f"{least(large) + 5}MiB"


@pytest.fixture(scope="module")
def tight(endless: Path) -> tuple[str, ...]:
    """Options for answers without end, with a little more memory than the least."""
    return *LONG, "--memory", f"{least(endless, *LONG) + 5}MiB"


@pytest.fixture
def failing(endless: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    path = tmp_path / "copy.gguf"
    path.write_bytes(endless.read_bytes())
    return path


def test_the_answer_is_the_same_and_the_record_tells_of_the_disk(large: Path, budget: str) -> None:
    whole = json.loads(ingle("run", large, "hello", *SHORT, "--json").stdout)
    assert "window" not in whole
    done = ingle("run", large, "hello", *SHORT, "--json", "--memory", budget)
    assert done.stderr == ""
    record = json.loads(done.stdout)
    said = [(token["id"], token["logprob"]) for token in record["tokens"]]
    assert said == [(token["id"], token["logprob"]) for token in whole["tokens"]]
    window = record["window"]
    assert window["streamed_bytes"] > 2 * MIB
    assert window["read_bytes"] >= window["passes"] * window["streamed_bytes"] - window["ring_bytes"]
    assert window["pinned_bytes"] + window["streamed_bytes"] > 18 * MIB
    assert window["passes"] == len(record["tokens"])
    assert 0 <= window["waited_share"] <= 1
    assert window["disk_bytes_per_s"] > 0
    assert window["floor_s_per_token"] > 0
    assert record["timings"]["peak_memory_bytes"] <= int(budget.removesuffix("MiB")) * MIB


def test_verbose_tells_of_it(large: Path, budget: str) -> None:
    done = ingle("run", large, "hello", *SHORT, "--verbose", "--memory", budget)
    assert re.search(r"^window: +[\d.]+ MiB of weights stay in memory, [\d.]+ MiB are read for each", done.stderr, re.M)
    assert re.search(
        r"^disk: +[\d.]+ MiB read at [\d.]+ \w+/s; \d+% of the answer's time was waiting", done.stderr, re.M
    )
    assert re.search(r"^floor: +[\d.]+ s a token for reading; a token took [\d.]+ s", done.stderr, re.MULTILINE)
    done = ingle("run", large, "hello", *SHORT, "--verbose", "--memory", "900MiB")
    assert "of weights stay in memory; nothing is read from disk" in done.stderr
    assert "floor:" not in done.stderr


def test_a_trace_has_readers_and_waiting(large: Path, budget: str, tmp_path: Path) -> None:
    target = tmp_path / "trace.json"
    done = ingle("run", large, "hello", *SHORT, "--memory", budget, "--profile", target)
    assert done.returncode == 0
    assert re.search(r"^waiting +[\d.]+ +[\d.]+%", done.stderr, re.MULTILINE)
    events = json.loads(target.read_text())["traceEvents"]
    tracks = [event["args"]["name"] for event in events if event["name"] == "thread_name"]
    assert tracks[:2] == ["computing", "waiting for the disk"]
    assert [track for track in tracks if track.startswith("ingle-loader")] == tracks[2:] != []
    found = {event["cat"] for event in events if event["ph"] == "X"}
    assert found == {"compute", "wait", "read"}
    (total, *_) = [event["args"]["MiB"] for event in reversed(events) if event["name"] == "read, MiB"]
    assert total > 3
    by_track: dict[int, float] = {}
    for event in sorted((e for e in events if e["ph"] == "X"), key=lambda e: float(e["ts"])):
        assert event["ts"] >= by_track.get(event["tid"], 0.0) - 0.01, "a track's events are one after the other"
        by_track[event["tid"]] = event["ts"] + event["dur"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--memory", "much"], "'much' is no size; expected one such as 1.5GiB"),
        (["--memory", "2"], "'2' is less than 1 MiB"),
        (["--memory", "900MiB", "--backend", "reference"], "native backend"),
    ],
)
def test_limits_that_cannot_be(large: Path, words: list[str], told: str) -> None:
    done = ingle("run", large, "hello", *SHORT, *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert told in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_directory_is_to_be_converted_first(tmp_path: Path) -> None:
    done = ingle("run", toys.huggingface_llama(tmp_path / "hf"), "hello", *SHORT, "--memory", "900MiB")
    assert (done.returncode, done.stdout) == (2, "")
    assert "ingle convert" in done.stderr


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def write_into(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        file.write(bytes(64))


def wait_for_reads(pid: int, n_bytes: int) -> None:
    """Until a process has read so much."""
    counts = Path(f"/proc/{pid}/io")
    deadline = time.monotonic() + PATIENCE_S
    while int(counts.read_text().split()[1]) < n_bytes:
        assert time.monotonic() < deadline, "the program reads nothing"
        time.sleep(0.01)


@pytest.mark.parametrize("damage", [cut, write_into])
@pytest.mark.parametrize("as_json", [False, True])
def test_a_file_that_fails_while_it_is_read(
    failing: Path, tight: tuple[str, ...], damage: Callable[[Path], None], as_json: bool
) -> None:
    """What was said stays, one sentence says why it ended, and no wrong token came."""
    if as_json and not Path("/proc/self/io").exists():
        pytest.skip("missing: /proc/self/io, which says how much a process has read")
    words = ["run", str(failing), "x", "--max-tokens", "1800", "--threads", "1", *tight]
    process = subprocess.Popen(
        [*INGLE, *words, *(["--json"] if as_json else [])],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    head = b""
    if as_json:  # nothing is said before the end
        wait_for_reads(process.pid, 20 * failing.stat().st_size)
    else:
        head = process.stdout.read(3)
    damage(failing)
    rest, stderr = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 2, stderr
    assert re.fullmatch(rf"ingle: .*{CHANGED}.*\n", stderr.decode()), stderr
    if as_json:
        record = json.loads(rest)
        assert record["finish_reason"] == "error"
        assert re.search(CHANGED, record["error"])
        text = record["text"]
        assert text
    else:
        text = (head + rest).decode()
        assert text.endswith("a\n")
    assert set(text) <= {"a", "\n"}


def test_a_file_that_is_deleted_is_still_there(failing: Path, tight: tuple[str, ...]) -> None:
    words = ["run", str(failing), "x", "--max-tokens", "20", "--threads", "1", *tight]
    with subprocess.Popen([*INGLE, *words], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        head = process.stdout.read(1)
        failing.unlink()
        assert head + process.communicate(timeout=PATIENCE_S)[0] == b"a" * 20 + b"\n"
        assert process.returncode == 0


def test_in_a_conversation_the_next_turn_can_be_tried(
    failing: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A disk that fails and is well again."""
    sound, stat = failing.read_bytes(), failing.stat()
    with load(failing, memory=4 << 30, threads=1) as model:
        assert model.window is not None
        from ingle.engine.open_window import fit, least_of

        fit(model.window, least_of(model.window))
        talk = Conversation(model, None, {"max_tokens": 4, "temperature": 0.0}, interactive=True)

        def messages() -> Any:
            yield "one"
            cut(failing)
            yield "two"
            failing.write_bytes(sound)
            os.utime(failing, ns=(stat.st_atime_ns, stat.st_mtime_ns))
            yield "three"

        lines = messages()
        talk.run(lambda: next(lines, None))
    captured = capsys.readouterr()
    assert captured.out.replace("\n", "") in {"a" * 8 + "a" * n for n in range(5)}
    assert captured.err.count("GGUFError:") == 1
    assert re.search(CHANGED, captured.err)


def test_a_server_goes_on(failing: Path, tight: tuple[str, ...]) -> None:
    for package in ("fastapi", "uvicorn", "cryptography", "segno"):
        pytest.importorskip(package, reason=f"missing: {package}, of the extra serve")
    from cli.test_cli_serve import Serving

    limit = int(tight[-1].removesuffix("MiB")) + 60  # what a server is made of, and a cache for several
    with Serving(failing, *LONG, "--memory", f"{limit}MiB") as server:
        assert 1 <= server.record["slots"] <= 8
        page = server.ask("GET", "/metrics").read().decode()
        for name in ("pinned_bytes", "streamed_bytes", "read_bytes_total", "waited_seconds_total"):
            assert re.search(rf"^ingle_window_{name} ", page, re.MULTILINE), page
        answer = server.stream(1800)
        cut(failing)
        last = [line for line in answer.read().decode().splitlines() if line][-1]
        error = json.loads(last.removeprefix("data: "))["error"]
        assert error["code"] == "model_file_failed"
        assert str(failing.parent) not in error["message"]
        assert server.ask("GET", "/health").status == 200
        asked = {"model": server.record["model"], "prompt": "x", "max_tokens": 2}
        assert server.ask("POST", "/v1/completions", asked).status == 500
        status, stderr = server.end(signal.SIGINT)
        assert status == 0
        assert re.search(CHANGED, stderr)
        assert "Traceback" not in stderr


def test_what_tasks_need_is_imported_before_the_model_is_given_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    imported: list[str] = []
    monkeypatch.setattr("ingle.cli.eval_run.import_module", imported.append)
    plain = Job("perplexity", {}, lambda model, on_progress: [])
    _import_first([plain])
    assert imported == []
    _import_first([plain, replace(plain, packages=("lm_eval",))])
    assert imported == ["lm_eval.evaluator"]


def test_perplexity_is_the_same(large: Path, budget: str, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("the cat and the dog are in the house and the bird is out. " * 30)
    limit = int(budget.removesuffix("MiB"))
    found = []
    other = ["--reference", str(large)]
    for words in ([], ["--memory", f"{limit + 20}MiB"], other, ["--memory", f"{3 * limit}MiB", *other]):
        done = ingle("eval", large, "--text", text, "--json", "--threads", "1", *words)
        assert done.returncode == 0, done.stderr
        (task,) = json.loads(done.stdout)["results"]
        found.append({metric["name"]: metric["value"] for metric in task["metrics"]})
    assert found[0]
    assert found[1] == found[0]
    assert len(found[2]) > len(found[0])
    assert found[3] == found[2]
