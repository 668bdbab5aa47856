"""benchmarks/engine.py: its arithmetic on made-up results, its plan, and a whole tiny run beside a made-up peer."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ingle.engine.model import bundled_model

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
sys.path.append(str(BENCHMARKS))

import engine_figures as figures  # noqa: E402
import engine_report as report  # noqa: E402
from engine_plan import contenders, expected_s, plan  # noqa: E402
from engine_results import Cell, Journal, Results, Round, read_results  # noqa: E402
from measuring import read_objects, run_process  # noqa: E402

import engine  # noqa: E402

CELL = Cell("a.gguf", "native", 1, 512, 128)
FILE = {"record": "file", "file": "a.gguf", "n_bytes": 1 << 30, "shape": "tinyllama-1.1b", "type": "Q4_0"}
FILE |= {"context": 2048, "bytes_per_token": 10**9, "weights_per_token": 2 * 10**9, "block_weights": 10**9}
FILE |= {"attention_width": 0}
SESSION: dict[str, Any] = {
    "record": "session",
    "date": "2026-11-22T10:00+00:00",
    "machine": {"processor": "P", "n_cpus": 2, "memory_gib": 8, "system": "Linux x86_64", "python": "3.11"},
    "ingle": {"version": "1", "core": "c", "isa": "amx", "compiler": "GCC"},
    "peers": {"native": {"llama.cpp": {"version": "v9", "compiler": "GCC", "options": ["A=ON"], "flags": []}}},
    "notes": ["a note"],
}


def a_round(
    number: int, ours: float, peer: float, bandwidth: float | None = None, others: float = 0.0, cell: Cell = CELL
) -> dict[str, Any]:
    """Decode rates, and prefill 100 times those."""
    runs: dict[str, Any] = {
        name: {"decode_tokens_per_s": rate, "prefill_tokens_per_s": 100 * rate, "peak_bytes": 2 << 30}
        for name, rate in (("ingle", ours), ("llama.cpp", peer))
    }
    runs["ingle"] |= {"load_s": 0.6, "load_peak_bytes": 1.5 * (1 << 30)}
    if bandwidth is not None:
        runs["floor"] = {"gb_per_s": bandwidth, "gop_per_s": 20000.0, "read_s": 0.5}
    content = {"cell": vars(cell), "round": number, "others": others, "wall_s": 10.0, "runs": runs}
    return {"record": "round", **content}


def made(*rounds: dict[str, Any]) -> Results:
    results = Results()
    for record in (SESSION, FILE, *rounds):
        results.add(record)
    return results


def test_ratios_are_of_runs_of_the_same_round() -> None:
    results = made(a_round(0, 10.0, 5.0), a_round(1, 30.0, 10.0), a_round(2, 4.0, 4.0))
    # Pair by pair 2, 3 and 1; the ratio of the medians would be 10 / 5 as well, so look at the ends too.
    assert figures.compared(results, CELL, "decode", "llama.cpp") == "2.00 (1.00-3.00), met"
    results = made(a_round(0, 10.0, 10.0), a_round(1, 20.0, 5.0), a_round(2, 30.0, 25.0))
    assert figures.compared(results, CELL, "decode", "llama.cpp").startswith("1.20 ")  # medians alone: 2.00


def test_a_goal_is_missed_or_forbidden_by_the_floor() -> None:
    """The goal is 1.25: at 14 GB/s and 1 GB a token 14 tokens/s are possible, beside a peer of 12 that is 1.17."""
    slow = made(a_round(0, 11.0, 10.0, bandwidth=14.0))
    assert figures.compared(slow, CELL, "decode", "llama.cpp") == "1.10, not met"
    assert figures.forbidden(slow, CELL, "decode") is None
    near = made(a_round(0, 13.0, 12.0, bandwidth=14.0))
    assert figures.compared(near, CELL, "decode", "llama.cpp") == "1.08, floor forbids"
    assert figures.forbidden(near, CELL, "decode") == (
        "TinyLlama-1.1B Q4_0, decode, 1 thread: the floor is 14.0 GB/s / 1000.0 MB of weights a token = 14.0 tokens/s; "
        "llama.cpp has 12.0, so no engine can be more than 1.17 times as fast. The goal is 1.25."
    )
    assert "* TinyLlama-1.1B Q4_0, decode, 1 thread: the floor is" in report.tables(near)
    # Prefill: 20000 GOP/s over 2 GOP a token are 10000 tokens/s, 8.3 times the peer's 1200.
    assert figures.most(near, CELL, "prefill", "llama.cpp") == pytest.approx(10000 / 1200)
    assert figures.forbidden(near, CELL, "prefill") is None


def test_share_of_the_floor_load_and_memory() -> None:
    text = report.tables(made(a_round(0, 12.0, 6.0, bandwidth=15.0), a_round(1, 15.0, 6.0)))
    (row,) = [line for line in text.splitlines() if "80%" in line]  # 12 of 15; the second round has no floor
    assert "80%, not met | 2.50 |" in row
    assert "| 12% | 16.67 |" in row  # prefill: 1200 of 10000
    (row,) = [line for line in text.splitlines() if "1024" in line]
    assert "| 0.60 | 1.20, met | 1.50, not met | 2048 | 2048 |" in row


def test_goals_of_forced_instruction_sets_long_prompts_and_sequences() -> None:
    file = made().files["a.gguf"]
    assert figures.goal(file, CELL, "decode") == 1.25
    assert figures.goal(file, Cell("a.gguf", "avx2", 1, 512, 128), "prefill") == 1.2
    assert figures.goal(file, Cell("a.gguf", "portable", 1, 512, 128), "prefill") is None
    assert figures.goal(file, Cell("a.gguf", "native", 1, 4096, 0), "prefill") == 4.0
    cell = Cell("a.gguf", "native", 2, 0, 64, 8)
    record = a_round(0, 1.0, 1.0, cell=cell)
    record["runs"] = {"ingle": {"one_tokens_per_s": 10.0, "many_tokens_per_s": 39.0}}
    text = report.tables(made(record))
    assert "## 8 sequences of 64 tokens" in text
    assert "| TinyLlama-1.1B Q4_0 | 2 | 10.0 | 39.0 | 3.90, not met |" in text


def test_attention_counts_what_a_token_may_see() -> None:
    """Two tokens, one layer of one query value: the first sees one key, the second two; 4 operations each."""
    file = made().files["a.gguf"]
    small = type(file)(**{**vars(file), "block_weights": 0, "attention_width": 1})
    assert small.prompt_operations(2) == 4 * (1 + 2)


def test_the_quietest_attempt_counts_and_noise_is_told() -> None:
    loud, louder, quiet = (a_round(0, rate, 1.0, others=share) for rate, share in ((2, 0.2), (3, 0.9), (4, 0.01)))
    assert figures.compared(made(loud, louder), CELL, "decode", "llama.cpp") == "2.00, met, NOT QUIET"
    assert figures.compared(made(loud, quiet, louder), CELL, "decode", "llama.cpp") == "4.00, met"
    assert "NOT QUIET: in 1 of 1 rounds" in report.page(made(loud), None)
    assert "Quiet: in none of 1 rounds" in report.page(made(quiet), None)


def test_a_round_is_done_when_all_took_part_quietly_or_often_enough() -> None:
    names = ["ingle", "llama.cpp"]
    assert not made().is_done(CELL, 0, names, retries=0)
    assert made(a_round(0, 1, 1)).is_done(CELL, 0, names, retries=3)
    assert not made(a_round(0, 1, 1)).is_done(CELL, 1, names, retries=3)
    assert not made(a_round(0, 1, 1)).is_done(CELL, 0, [*names, "floor"], retries=0)
    loud = [a_round(0, 1, 1, others=0.5)] * 2
    assert not made(*loud).is_done(CELL, 0, names, retries=2)
    assert made(*loud).is_done(CELL, 0, names, retries=1)


def test_contenders_take_turns_and_the_floor_is_measured_in_every_second_round() -> None:
    peers = {"native": {"llama.cpp": ["x"], "ik_llama.cpp": ["y"]}}
    assert contenders(CELL, 0, peers) == ["ingle", "llama.cpp", "ik_llama.cpp", "floor"]
    assert contenders(CELL, 1, peers) == ["llama.cpp", "ik_llama.cpp", "ingle"]
    assert contenders(Cell("a.gguf", "avx2", 1, 512, 128), 1, peers) == ["ingle"]
    assert contenders(Cell("a.gguf", "native", 1, 0, 64, 8), 0, peers) == ["ingle"]


def test_plan_leaves_out_what_a_context_does_not_hold() -> None:
    path = str(bundled_model())
    options = engine.parse(["--threads", "1,2", "--prompts", "512,4096", "--sequences", "8", "--isa", "avx2", path])
    cells = plan(options, [made().files["a.gguf"]])
    assert {cell.isa for cell in cells} == {"avx2"}
    assert [(c.threads, c.prompt, c.decode, c.sequences) for c in cells] == [
        (1, 512, 128, 0),
        (1, 0, 64, 8),
        (2, 512, 128, 0),
        (2, 0, 64, 8),
    ]


def test_expected_time_is_that_of_earlier_rounds() -> None:
    results = made(a_round(0, 1, 1))
    assert expected_s(CELL, 1, {}, results) == 10.0
    other = Cell("a.gguf", "native", 1, 1024, 128)  # twice the prompt: guessed from the cell that is known
    assert 10.0 < expected_s(other, 1, {}, results) < 20.0


def test_a_line_that_is_cut_off_is_measured_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "results.jsonl"
    lines = [json.dumps(record) for record in (SESSION, FILE, a_round(0, 2, 1), a_round(1, 2, 1))]
    path.write_text("\n".join(lines)[:-20])
    results = read_results(path)
    assert "cut off" in capsys.readouterr().err
    assert [each.number for each in results.rounds(CELL)] == [0]
    Journal(path, results).write_round(CELL, Round(1, a_round(1, 2, 1)["runs"], 0.0, 1.0))
    assert [each.number for each in read_results(path).rounds(CELL)] == [0, 1]


@pytest.mark.parametrize("line", ["{", "[]", '{"record": "round"}', '{"record": "else"}'])
def test_what_is_no_results_is_refused(tmp_path: Path, line: str) -> None:
    path = tmp_path / "results.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(SystemExit, match="line 1: expected a record of"):
        read_results(path)


def test_another_machine_or_build_is_another_series() -> None:
    engine.check_same(SESSION, made(), Path("r.jsonl"))
    with pytest.raises(SystemExit, match="another build of Ingle"):
        engine.check_same(SESSION | {"ingle": {}}, made(), Path("r.jsonl"))
    with pytest.raises(SystemExit, match="another machine"):
        engine.check_same(SESSION | {"machine": {}}, made(), Path("r.jsonl"))


def test_output_of_programs() -> None:
    assert read_objects('[INFO] x\n{"a": 1}\nb\n{"a": 2}\n') == [{"a": 1}, {"a": 2}]
    assert read_objects('words\n[\n {"a": 1},\n {"a": 2}\n]\n') == [{"a": 1}, {"a": 2}]
    with pytest.raises(SystemExit, match=r"status 3.*\n.*\nbecause"):
        run_process([sys.executable, "-c", "import sys; print('because', file=sys.stderr); sys.exit(3)"])


PEER = """#!{python}
import json, sys
words = sys.argv[1:]
if "--version" in words:
    sys.exit(print("version: 7 (made up)"))
value = lambda name: int(words[words.index(name) + 1])
assert "-fa" in words and value("-t") == 1
with open({count!r}, "a") as file:
    file.write("x")
if value("-p") == 13:
    sys.exit("the peer dies of 13")
tests = [{{"n_prompt": value("-p"), "n_gen": 0, "avg_ts": 10.0}}] * (value("-p") > 0)
tests += [{{"n_prompt": 0, "n_gen": value("-n"), "avg_ts": 5.0}}] * (value("-n") > 0)
print(json.dumps(tests, indent=1))
"""


INTERRUPTING = """#!{python}
import os, signal, sys, time
if "--version" in sys.argv:
    sys.exit()
if os.path.exists({seen!r}):
    os.kill(os.getppid(), signal.SIGINT)
    time.sleep(60)
open({seen!r}, "w").close()
print('{{"n_prompt": 8, "n_gen": 0, "avg_ts": 10.0}}')
"""


def run_engine(*words: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(BENCHMARKS / "engine.py"), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)


def test_a_whole_run_is_continued_and_reported(tmp_path: Path) -> None:
    peer, count, results = tmp_path / "llama bench", tmp_path / "count", tmp_path / "results.jsonl"
    peer.write_text(PEER.format(python=sys.executable, count=str(count)))
    peer.chmod(0o755)
    command = ["--llama-bench", f"'{peer}' -fa 1", "--json", results]
    command += ["--threads", "1", "--decode", "4", "--retries", "0"]
    work = ["--pairs", "1", "--prompts", "8,13", "--sequences", "2", bundled_model()]
    done = run_engine(*command, *work)
    assert done.returncode == 1
    assert "decode 4, prefill 8, round 1" in done.stderr
    assert "prefill 13 was given up" in done.stderr
    assert "the peer dies of 13" in done.stderr
    assert "## 2 sequences of 64 tokens" in done.stdout
    assert count.read_text() == "xx"

    planned = run_engine(*command, "--pairs", "2", "--dry-run", "--prompts", "8", bundled_model())
    assert "1 of 2 rounds of ingle, llama.cpp, floor" in planned.stdout
    done = run_engine(*command, "--pairs", "2", "--prompts", "8", bundled_model())
    assert done.returncode == 0, done.stderr
    assert count.read_text() == "xxx"  # the first round was there
    (cell,) = [cell for cell in read_results(results).attempts if cell.prompt == 8]
    first, second = read_results(results).rounds(cell)
    assert set(first.runs) == {"ingle", "llama.cpp", "floor"}
    assert list(second.runs) == ["llama.cpp", "ingle"]
    assert first.runs["ingle"]["decode_tokens_per_s"] > 0
    assert str(tmp_path) not in results.read_text()

    words = ["--report", results]
    try:
        import matplotlib  # noqa: F401

        words += ["--picture", tmp_path / "roofline.png"]
    except ImportError:
        pass
    done = run_engine(*words)
    assert done.returncode == 0, done.stderr
    assert "7 (made up)" in done.stdout
    assert "run with -fa 1" in done.stdout
    assert "medians of 2 rounds" in done.stdout
    if len(words) > 2:
        assert (tmp_path / "roofline.png").read_bytes().startswith(b"\x89PNG")
        assert "](roofline.png)" in done.stdout


def test_ctrl_c_keeps_what_was_measured(tmp_path: Path) -> None:
    """The peer interrupts the benchmark in its second run, as the terminal does."""
    peer, results = tmp_path / "llama-bench", tmp_path / "results.jsonl"
    peer.write_text(INTERRUPTING.format(python=sys.executable, seen=str(tmp_path / "seen")))
    peer.chmod(0o755)
    words = ["--threads", "1", "--decode", "0", "--prompts", "8", "--retries", "0", "--pairs", "2"]
    done = run_engine("--llama-bench", peer, "--json", results, *words, bundled_model())
    assert done.returncode == 1
    assert "Interrupted; the same command goes on from here." in done.stderr
    assert "Traceback" not in done.stderr
    assert "medians of 1 round " in done.stdout
    (cell,) = read_results(results).attempts
    assert [each.number for each in read_results(results).rounds(cell)] == [0]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "name at least one MODEL.gguf"),
        (["nowhere.gguf"], "there is no file nowhere.gguf"),
        ([str(bundled_model()), "--llama-bench", "nowhere"], "no program at nowhere"),
        ([str(bundled_model()), "--peer", "mmx=ls"], "expected ISA=CMD"),
        ([str(bundled_model()), "--isa", "mmx"], "expected of native"),
        ([str(bundled_model())] * 2, "the same name"),
        ([str(bundled_model()), "--pairs", "0"], "1 or more"),
    ],
)
def test_wrong_words_get_one_sentence(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        engine.parse(words)
    assert message in capsys.readouterr().err
