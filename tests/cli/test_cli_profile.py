"""`ingle run --profile`: where the time went, on stderr or in the record."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

import toys
from cli.processes import Terminal, ingle
from ingle.cli import cli
from ingle.cli.profile import verdict
from ingle.engine.profile import KINDS, PhaseWork, Roof, Work
from ingle.errors import GGUFError

SHORT = ("--max-tokens", "4", "--seed", "1", "--threads", "1")
ROOFS = SimpleNamespace(read_bandwidth=lambda n, threads: 1.0, multiply_rate=lambda threads: 1.0, isa=lambda: "paper")
ROOF = Roof(isa="paper", threads=1, read_bytes=1 << 20, read_gb_per_s=10.0, multiply_gop_per_s=100.0)


def test_the_tables_are_on_stderr() -> None:
    """With the bundled model."""
    plain = ingle("run", "Once upon a time", *SHORT)
    done = ingle("run", "Once upon a time", *SHORT, "--profile")
    assert (done.returncode, done.stdout) == (0, plain.stdout)
    prefill, decode, floors = re.findall(r"^(prefill|decode|floors): (.*)$", done.stderr, re.MULTILINE)
    assert re.fullmatch(r"\d+ tokens in 1 step, [\d.,]+ ms, [\d.,]+ tokens/s; floor [\d.,]+ ms \(\d+%\)", prefill[1])
    assert re.fullmatch(r"3 tokens, [\d.,]+ ms, [\d.,]+ tokens/s; floor [\d.,]+ ms \(\d+%\)", decode[1])
    assert re.fullmatch(r"[\d.,]+ GB/s \(reading [\d.]+ MiB\), [\d,]+ GOP/s \(\w+\); threads: 1", floors[1])
    lines = done.stderr.splitlines()
    for kind in (*KINDS, "rest"):
        first, second = (line.split() for line in lines if line.startswith(f"{kind} "))
        assert len(first) == len(second) == (4 if kind == "rest" else 9)
    assert sum(line.startswith("bounded by ") for line in lines) == 2
    assert all(len(line) <= 80 for line in lines if line.startswith((*KINDS, "rest", " ")))
    assert "\x1b" not in done.stderr


def test_the_record_has_the_profile(plain: Path) -> None:
    done = ingle("run", plain, "the cat", *SHORT, "--profile", "--json")
    assert done.stderr == ""
    record = json.loads(done.stdout)
    profile = record["profile"]
    assert set(profile) == {"isa", "threads", "read_bytes", "read_gb_per_s", "multiply_gop_per_s", "phases"}
    assert profile["threads"] == 1
    timings = record["timings"]
    assert profile["phases"]["prefill"]["rows"] == timings["prompt_tokens"]
    assert profile["phases"]["decode"]["rows"] == timings["n_tokens"] - 1
    assert "profile" not in json.loads(ingle("run", plain, "the cat", *SHORT, "--json").stdout)


def test_on_a_terminal(plain: Path) -> None:
    with Terminal("run", plain, "the cat", *SHORT, "--profile", "--backend", "reference") as terminal:
        assert terminal.wait() == 0
        assert "feed_forward" in terminal.seen
        assert "\x1b[1mprefill" in terminal.raw


def test_a_conversation_has_no_profile(plain: Path) -> None:
    done = ingle("run", plain, "--profile")
    assert (done.returncode, done.stdout) == (2, "")
    assert "--profile is about one answer; give a prompt" in done.stderr


def traced(*words: str | Path) -> tuple[int, str, str]:
    done = ingle("run", *SHORT, *words)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("where", ["behind", "joined", "before the model"])
def test_a_file_for_a_trace(plain: Path, tmp_path: Path, where: str) -> None:
    target = tmp_path / "trace.json"
    words: list[str | Path] = {
        "behind": [plain, "the cat", "--profile", target],
        "joined": [plain, f"--profile={target}", "the cat"],
        "before the model": ["--profile", target, plain, "the cat"],
    }[where]
    status, stdout, stderr = traced(*words)
    assert (status, stdout) == (0, ingle("run", plain, "the cat", *SHORT).stdout)
    assert "feed_forward" in stderr
    assert f"{target} can be opened in ui.perfetto.dev" in stderr
    events = json.loads(target.read_text())["traceEvents"]
    names = [event["name"] for event in events if event["ph"] == "X"]
    assert names[:3] == ["embed", "attention 0", "feed_forward 0"]
    assert names.count("logits") == 4


def test_what_follows_the_flag_is_its_file_only_where_it_ends_so(plain: Path, tmp_path: Path) -> None:
    for words in (
        [plain, "--profile", "Why?"],
        ["--profile", plain, "Why?"],
        [plain, "Why?", "--profile"],
        [plain, "--profile", "--", "data.json"],
    ):
        status, stdout, stderr = traced(*words)
        assert status == 0, stderr
        assert stdout
        assert "decode" in stderr
        assert "can be opened" not in stderr
    assert list(tmp_path.glob("*.json")) == []


def test_traces_that_cannot_be_written_are_refused_before_anything_is_computed(plain: Path, tmp_path: Path) -> None:
    there = tmp_path / "there.json"
    there.write_text("mine")
    for given, told in (
        (f"--profile={tmp_path / 'trace.txt'}", "ends in .json"),
        (f"--profile={there}", "there.json exists; give --profile another name"),
        (f"--profile={tmp_path / 'nowhere' / 'a.json'}", "does not exist; make it first"),
    ):
        status, stdout, stderr = traced(plain, "the cat", given)
        assert (status, stdout) == (2, "")
        assert told in stderr
    assert there.read_text() == "mine"


def test_the_trace_of_an_answer_that_an_error_ended(
    plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def script(tokens: list[int]) -> int:
        if len(tokens) > 4:
            raise GGUFError("The file changed.")
        return 1

    monkeypatch.setattr("ingle.cli.run.open_model", lambda path, options: toys.scripted_model(plain, script)[0])
    monkeypatch.setattr("ingle.engine.profile.attrgetter", lambda name: lambda block: 0)
    monkeypatch.setattr("ingle.engine.profile._core", ROOFS)
    result = CliRunner().invoke(cli, ["run", str(plain), "abc", "--profile", str(tmp_path / "a.json")])
    assert result.exit_code == 2
    assert result.stderr.endswith("ingle: The file changed.\n")
    assert json.loads((tmp_path / "a.json").read_text())["traceEvents"]


def test_the_verdict_names_the_bound_and_the_worst_first() -> None:
    phase = PhaseWork(steps=2, rows=2, time_s=9.0)
    phase.kinds["attention"] = Work(2, 1.5, weight_bytes=10**10)
    phase.kinds["feed_forward"] = Work(2, 4.5, weight_bytes=2 * 10**10, operations=10**11)
    phase.kinds["logits"] = Work(2, 0.5, weight_bytes=10**10)  # faster than memory: it was in a cache
    expected = "bounded by memory; above the floor, ms a step: feed_forward 1,250.00, rest 1,250.00, attention 250.00"
    assert verdict(phase, ROOF) == expected
    only = PhaseWork(steps=1, rows=9, time_s=2.0)
    only.kinds["logits"] = Work(1, 2.0, weight_bytes=1, operations=2 * 10**11)
    assert verdict(only, ROOF) == "bounded by the multiplier; above the floor, ms a step: nothing"
