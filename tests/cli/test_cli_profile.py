"""`ingle run --profile`: where the time went, on stderr or in the record."""

from __future__ import annotations

import json
import re
from pathlib import Path

from cli.processes import Terminal, ingle
from ingle.cli.profile import verdict
from ingle.engine.profile import KINDS, PhaseWork, Roof, Work

SHORT = ("--max-tokens", "4", "--seed", "1", "--threads", "1")
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
