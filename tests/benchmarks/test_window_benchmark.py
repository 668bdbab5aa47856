"""benchmarks/window.py: arithmetic on made-up results, control groups, the loader, and a whole run where root is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import cgroup
import pytest
import window
import window_report as report
import window_runs as runs
from engine_results import Results, Round, read_results
from layer_loader import load_layer_by_layer
from window_runs import DISK, LAYERS, PEER, Cell

import ingle
from ingle.engine.model import bundled_model

CELL = Cell("a.gguf", 1 << 30, 2, 0, 8)
FILE = {"record": "file", "file": "a.gguf", "n_bytes": 4 << 30, "shape": "llama-2-7b", "type": "Q4_0"}
FILE |= {"context": 4096, "bytes_per_token": 4 << 30, "weights_per_token": 1, "block_weights": 1, "attention_width": 0}
SESSION: dict[str, Any] = {
    "record": "session",
    "date": "2026-11-23T02:00+00:00",
    "machine": {"processor": "P", "n_cpus": 2, "memory_gib": 8, "system": "Linux x86_64", "python": "3.11"},
    "ingle": {"version": "1", "core": "c", "isa": "amx", "compiler": "GCC"},
    "peers": {"native": {PEER: {"version": "v9", "compiler": "GCC", "options": [], "flags": ["-lm", "mmap"]}}},
    "notes": ["a note"],
}


def a_round(ours_s: float, peer_s: float | None, gb_per_s: float, streamed: int, **more: Any) -> dict[str, Any]:
    """Seconds a token, the disk's rate, and what ours reads for a token."""
    ours = {"decode_tokens_per_s": 1 / ours_s, "streamed": streamed, "pinned": 1 << 20, "ring": 1 << 20}
    ours |= {"peak_bytes": 3 << 30, "group_peak_bytes": 3 << 30, "waited_s": ours_s, "took_s": 2 * ours_s} | more
    peer: dict[str, Any] = {"killed": True} if peer_s is None else {"decode_tokens_per_s": 1 / peer_s}
    made = {"ingle": ours, PEER: peer, DISK: {"gb_per_s": gb_per_s, "patterns": {}}}
    content = {"cell": vars(CELL), "round": 0, "others": 0.0, "wall_s": 1.0, "runs": made}
    return {"record": "round", **content}


def made(*rounds: dict[str, Any], file: dict[str, Any] = FILE) -> Results:
    results = Results(Cell)
    for record in (SESSION, file, *({**one, "round": at} for at, one in enumerate(rounds))):
        results.add(record)
    return results


def row_of(results: Results) -> list[str]:
    """Cells of the first row with figures."""
    line = next(line for line in report.tables(results).splitlines() if line.startswith("| Llama-2"))
    return [part.strip() for part in line.strip("|").split("|")]


def test_goals_are_met_or_missed() -> None:
    """4 GB that are not kept at 2 GB/s are 2 seconds a token."""
    row = row_of(made(a_round(2.2, 22.0, 2.0, 4 * 10**9)))
    assert row[:4] == ["Llama-2-7B Q4_0 (4.00 GiB) in 1.00 GiB", "2.20", "22.00", "10.00, met"]
    assert row[-2:] == ["2.00", "91%, met"]
    row = row_of(made(a_round(4.0, 16.0, 2.0, 4 * 10**9)))
    assert row[3] == "4.00, not met"
    assert row[-1] == "50%, not met"


def test_the_disk_may_forbid_the_goal() -> None:
    """At 2 seconds a token no engine is five times as fast as a peer of 6."""
    results = made(a_round(2.5, 6.0, 2.0, 4 * 10**9))
    assert row_of(results)[3] == "2.40, floor forbids"
    assert report.forbidden(results, CELL) == (
        "Llama-2-7B Q4_0 (4.00 GiB) in 1.00 GiB: 4000 MB that are not kept / 2.00 GB/s = 2.00 s/token; llama.cpp has "
        "6.00, so none can be more than 3.00 times as fast. The goal is 5."
    )
    assert "What the disk forbids:" in report.tables(results)


def test_of_a_mixture_counts_what_was_read() -> None:
    one = a_round(2.0, 8.0, 2.0, 10**8, mixture=True, read_bytes=8 * 10**9, n_decoded=8)
    assert row_of(made(one))[-2:] == ["0.50", "25%, not met"]


def test_ratios_and_shares_are_of_one_round() -> None:
    row = row_of(made(a_round(1.0, 10.0, 4.0, 4 * 10**9), a_round(4.0, 10.0, 1.0, 4 * 10**9)))
    assert row[3] == "6.25 (2.50-10.00), met"
    assert row[-1] == "100 (100-100)%, met"


def test_who_was_killed_is_told() -> None:
    results = made(a_round(2.5, None, 2.0, 4 * 10**9))
    assert row_of(results)[2:4] == ["killed", "-"]
    assert "llama.cpp KILLED" in report.told(results.rounds(CELL)[0])
    assert "waited for the disk" in report.tables(results)
    assert "| 50% |" in report.tables(results)


def test_the_published_figures_of_70b() -> None:
    results = made(a_round(20.0, 30.0, 2.0, 4 * 10**9), file=FILE | {"shape": "llama-2-70b"})
    assert "20.0 s/token, met, with a peak of 3.00 GiB, met." in report.tables(results)
    assert "TPI-LLM" not in report.tables(made(a_round(20.0, 30.0, 2.0, 4 * 10**9)))


def test_prompts_have_a_table() -> None:
    results = made()
    cell = Cell("a.gguf", 1 << 30, 2, 512, 0)
    results.attempts[cell].append(Round(0, {"ingle": {"prefill_tokens_per_s": 30.0}, PEER: {"killed": True}}, 0.0, 1.0))
    assert "| Llama-2-7B Q4_0 (4.00 GiB) in 1.00 GiB | 512 | 30.0 | killed | - | - | - |" in report.page(results, None)


def test_cases(tmp_path: Path) -> None:
    path = tmp_path / "a@b.gguf"
    path.write_bytes(bytes(100 << 10))
    assert window.case_of(f"{path}@50%") == (path, 48 << 10)  # whole pages
    assert window.case_of(f"{path}@1.5GiB") == (path, 3 << 29)
    assert window.case_of(f"{path}@8192") == (path, 8192)
    for wrong in (str(path), f"{path}@", f"{path}@much", f"{tmp_path}/none@50%", f"{path}@1.5GB"):
        with pytest.raises(ValueError, match="expected"):
            window.case_of(wrong)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "name at least one MODEL.gguf@LIMIT"),
        (["nowhere.gguf@50%"], "with a file that is there"),
        ([f"{bundled_model()}@50%", "--llama-bench", "nowhere"], "no program at nowhere"),
        ([f"{bundled_model()}@50%", "--contenders", "vllm"], "expected of ingle, llama.cpp"),
        ([f"{bundled_model()}@50%", "--decode", "0", "--prompt", "0"], "not both 0"),
        (["--trace", "nowhere.json"], "--trace needs"),
    ],
)
def test_wrong_words_get_one_sentence(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        window.parse(words)
    assert message in capsys.readouterr().err


def test_plan_has_decode_and_prompt_apart_and_the_disk_only_with_decode() -> None:
    options = window.parse([f"{bundled_model()}@50%", f"{bundled_model()}@30%", "--decode", "4", "--prompt", "32"])
    cells = list(window.plan(options))
    assert [(cell.prompt, cell.decode) for cell in cells] == [(0, 4), (32, 0)] * 2
    assert [window.takes_part(cell, options) for cell in cells[:2]] == [["ingle", LAYERS, DISK], ["ingle", LAYERS]]


@pytest.mark.parametrize("piece", [256 << 10, 4 << 20])
def test_places_are_spread_over_the_file(piece: int) -> None:
    size = 100 * runs.RUN
    some = runs.places(size, 10 * runs.RUN, piece)
    assert len(some) * piece == 10 * runs.RUN
    assert len(set(some)) == len(some)
    assert some[0] == 0
    assert max(some) >= 80 * runs.RUN
    assert runs.places(size, size, piece) == list(range(0, size, piece))
    assert runs.places(1000, 1000, piece) == [0]


def test_the_disk_is_read_once(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(24 << 20))
    assert runs.read_rate(str(path), 24 << 20, 1 << 20, 2) > 0
    run = runs.measure_disk(str(path), 16 << 20)
    assert run["gb_per_s"] == max(run["patterns"].values())
    best = runs.best_of({"patterns": {"a": 1.0, "b": 3.0}}, {"patterns": {"a": 2.0, "b": 2.0}})
    assert best == {"gb_per_s": 3.0, "patterns": {"a": 2.0, "b": 3.0}}


def test_the_loader_says_what_the_resident_model_says() -> None:
    said = []
    resident = ingle.load(threads=1, context=256, n_slots=1)
    for model in (resident, load_layer_by_layer(bundled_model(), 1, 256)):
        with model:
            said.append([token.token_id for token in model.generate("Once upon", max_tokens=12, temperature=0.0)])
    assert said[0] == said[1]
    assert len(said[0]) == 12


@pytest.mark.parametrize("names", [cgroup.V1, cgroup.V2], ids=["v1", "v2"])
def test_a_group_is_limited_read_and_removed(tmp_path: Path, names: cgroup.Names) -> None:
    group = cgroup.Group(tmp_path, names, 1 << 20)
    with group:
        assert (group.path / names.limit).read_text() == str(1 << 20)
        assert not group.killed
        assert group.peak_bytes is None
        (group.path / names.peak).write_text("4096\n")
        (group.path / names.kills).write_text("low 0\noom_kill 2\n")
        assert group.peak_bytes == 4096
        assert group.killed
        done = subprocess.run(group.command(["echo", "a b"]), capture_output=True, text=True, check=True)
        assert done.stdout == "a b\n"
        assert int((group.path / "cgroup.procs").read_text()) > 1
        for path in group.path.iterdir():  # the kernel's own files go with the folder
            path.unlink()
    assert not group.path.exists()


def test_without_a_controller_or_root_there_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit, match="no memory controller"):
        cgroup.controller(tmp_path)
    (tmp_path / "cgroup.controllers").write_text("cpu memory\n")
    (tmp_path / "cgroup.subtree_control").write_text("cpu\n")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(SystemExit, match="needs root"):
        cgroup.controller(tmp_path)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert cgroup.controller(tmp_path) == (tmp_path, cgroup.V2)
    assert (tmp_path / "cgroup.subtree_control").read_text() == "+memory"


def test_read_ahead_is_that_of_the_disk(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"")
    device = os.stat(path).st_dev
    part = tmp_path / f"{os.major(device)}:{os.minor(device)}"
    part.mkdir()
    assert runs.read_ahead_bytes(str(path), tmp_path) is None
    (tmp_path / "queue").mkdir()
    (tmp_path / "queue" / "read_ahead_kb").write_text("128\n")
    assert runs.read_ahead_bytes(str(path), tmp_path) == 128 << 10


def trace_of(n_passes: int) -> dict[str, Any]:
    """A trace as `ingle.engine.trace` writes it: two blocks a pass, the second one waited for."""
    about = [
        ("thread_name", 1, "computing"),
        ("thread_name", 2, "waiting for the disk"),
        ("thread_name", 10, "loader-0"),
    ]
    records: list[dict[str, Any]] = [
        {"ph": "M", "name": name, "pid": 1, "tid": tid, "args": {"name": text}} for name, tid, text in about
    ]
    for at in range(n_passes):
        for kind, name, tid, ts in (("compute", "attention 0", 1, 0), ("wait", "feed_forward 0", 2, 100)):
            event = {"ph": "X", "cat": kind, "name": name, "pid": 1, "tid": tid}
            records.append(event | {"ts": 1000.0 * at + ts, "dur": 100.0})
        records.append(records[-1] | {"cat": "read", "name": "blk.0.ffn_up.weight", "tid": 10})
    return {"traceEvents": records}


def test_pictures(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    import window_picture as picture

    picture.draw_seconds(made(a_round(2.5, None, 2.0, 4 * 10**9)), tmp_path / "a.png")
    trace = tmp_path / "trace.json"
    trace.write_text(json.dumps(trace_of(3)))
    names, events = picture.read_trace(trace)
    assert names[10] == "loader-0"
    assert picture.one_pass(events) == (1.0, 2.0)  # ms
    picture.draw_pass(trace, tmp_path / "b.png")
    for name in ("a.png", "b.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    trace.write_text("{}")
    with pytest.raises(SystemExit, match="expected a trace"):
        picture.read_trace(trace)


PEER_PROGRAM = """#!{python}
import json, sys
words = sys.argv[1:]
if "--version" in words:
    sys.exit(print("version: 7 (made up)"))
value = lambda name: int(words[words.index(name) + 1])
if value("-p"):
    assert "--no-warmup" in words
    held = bytearray(300 << 20)
print(json.dumps({{"n_prompt": value("-p"), "n_gen": value("-n"), "avg_ts": 4.0, "load_mode": "mmap"}}))
"""


def has_groups() -> bool:
    try:
        cgroup.controller()
    except (SystemExit, OSError):
        return False
    return True


@pytest.mark.skipif(not has_groups(), reason="needs root and memory control groups")
def test_a_whole_run_in_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The peer takes more than the limit on prompts, and is killed; that is a result and no failure."""
    peer, results = tmp_path / "llama-bench", tmp_path / "results.jsonl"
    peer.write_text(PEER_PROGRAM.format(python=sys.executable))
    peer.chmod(0o755)
    words = ["--llama-bench", f"{peer} -lm mmap", "--json", results, "--threads", "1", "--decode", "3", "--prompt", "8"]
    words += ["--rounds", "1", "--retries", "0", f"{bundled_model()}@250MiB"]
    monkeypatch.setattr(sys, "argv", ["window.py", *map(str, words)])
    monkeypatch.setattr(runs, "drop_page_cache", lambda: None)  # the machine's: others are at work here
    assert window.main() == 0, capsys.readouterr().err
    assert "llama.cpp KILLED" in capsys.readouterr().err
    found = read_results(results, Cell)
    by_work = {cell.prompt: found.rounds(cell)[0].runs for cell in found.attempts}
    assert by_work[8][PEER]["killed"]
    assert by_work[0][PEER]["decode_tokens_per_s"] == 4.0
    assert by_work[0]["ingle"]["decode_tokens_per_s"] > 0
    assert 0 < by_work[0]["ingle"]["peak_bytes"] <= 250 << 20
    assert by_work[0][LAYERS]["decode_tokens_per_s"] > 0
    assert by_work[0][DISK]["gb_per_s"] > 0
    page = report.page(found, "window.png", "window-trace.png")
    assert "7 (made up)" in page
    assert "](window.png)" in page
    assert "](window-trace.png)" in page
    assert str(tmp_path) not in results.read_text()
