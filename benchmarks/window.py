"""Models larger than memory: `--memory` beside llama.cpp's mmap under the same limit; METHOD.md says how and why.

sudo python benchmarks/window.py --llama-bench "PATH -lm mmap --repack 0" --json results.jsonl MODEL.gguf@50%
python benchmarks/window.py --report results.jsonl --picture docs/window.png > docs/window.md
python benchmarks/window.py --trace trace.json --picture docs/window-trace.png

Needs Linux and root: each program runs in a memory control group, and before each the page cache is dropped. Rounds
that are in results.jsonl are not made again.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import shlex
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path

from cgroup import Names, controller
from engine_results import NATIVE, OURS, File, Journal, Results, Round, Session, read_results
from engine_runs import describe_peer
from engine_runs import run_self as run_engine
from measuring import describe_machine
from rounds import run_rounds
from window_report import page, tables, told
from window_runs import DISK, LAYERS, PEER, Cell, best_of, read_ahead_bytes, run_disk, run_peer, run_self

from engine import check_same

CONTENDERS = (OURS, PEER, LAYERS, DISK)
UNITS = {"": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; ends the program with a message where it cannot be."""
    summary, _, more = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(
        description=summary, epilog=more, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cases", nargs="*", metavar="MODEL.gguf@LIMIT", help="LIMIT as 50%% of the file, or 1.5GiB")
    parser.add_argument("--llama-bench", type=shlex.split, metavar="CMD", help="the peer's llama-bench and its options")
    parser.add_argument(
        "--contenders", type=contenders_of, default=list(CONTENDERS), metavar="A,...", help="default all"
    )
    parser.add_argument("--threads", type=int, default=2, help="that compute (default 2)")
    parser.add_argument("--decode", type=int, default=16, help="tokens to decode (default 16; 0 = no decode)")
    parser.add_argument("--prompt", type=int, default=512, help="tokens of a prompt (default 512; 0 = no prompt)")
    parser.add_argument(
        "--headroom", type=int, default=0, metavar="MiB", help="by which --memory is less than the limit"
    )
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each (default 3)")
    parser.add_argument("--retries", type=int, default=1, help="times to repeat a disturbed round (default 1)")
    parser.add_argument("--minutes", type=float, help="begin no round that would not end within this time")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep every run in this file, and continue it")
    parser.add_argument("--picture", type=Path, metavar="FILE.png", help="draw seconds a token (needs matplotlib)")
    parser.add_argument("--note", action="append", default=[], help="a sentence for the page")
    parser.add_argument("--report", type=Path, metavar="FILE", help="run nothing; print the page of these results")
    parser.add_argument(
        "--trace", type=Path, metavar="FILE", help="run nothing; draw a pass of `ingle run --profile FILE`"
    )
    options = parser.parse_args(arguments)
    if options.trace is not None:
        if options.picture is None or not options.trace.is_file():
            parser.error("--trace needs a file that is there, and --picture")
    elif options.report is None:
        if not options.cases:
            parser.error("name at least one MODEL.gguf@LIMIT, or --report FILE")
        try:
            options.cases = [case_of(text) for text in options.cases]
        except ValueError as error:
            parser.error(str(error))
        if min(options.decode, options.prompt) < 0 or not (options.decode or options.prompt):
            parser.error("--decode and --prompt are numbers of 0 or more, and not both 0")
        if min(options.threads, options.rounds) < 1:
            parser.error("--threads and --rounds are numbers of 1 or more")
    if options.llama_bench and not shutil.which(options.llama_bench[0]):
        parser.error(f"no program at {options.llama_bench[0]}; give the path of a llama-bench")
    if not options.llama_bench:
        options.contenders = [name for name in options.contenders if name != PEER]
    return options


def contenders_of(text: str) -> list[str]:
    """Names, with commas between."""
    names = text.split(",")
    if not set(names) <= set(CONTENDERS):
        raise argparse.ArgumentTypeError(f"{text!r}; expected of {', '.join(CONTENDERS)}, with commas between")
    return names


def case_of(text: str) -> tuple[Path, int]:
    """A file, and bytes of memory: a share of its size, or a number with a unit. Raises ValueError."""
    name, at, limit = text.rpartition("@")
    path = Path(name)
    if not at or not path.is_file():
        raise ValueError(f"{text!r}; expected MODEL.gguf@LIMIT with a file that is there")
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(%|[KMG]iB|)", limit)
    if not found:
        raise ValueError(f"the limit is {limit!r}; expected a share such as 50%, or a size such as 1.5GiB")
    number, unit = float(found[1]), found[2]
    n_bytes = number / 100 * path.stat().st_size if unit == "%" else number * UNITS[unit]
    return path, int(n_bytes) // 4096 * 4096  # the kernel counts pages


def plan(options: argparse.Namespace) -> dict[Cell, Path]:
    """The cells of one round, in order, with their files."""
    cells = {}
    for path, limit in options.cases:
        for prompt, decode in ((0, options.decode), (options.prompt, 0)):
            if prompt or decode:
                cells[Cell(path.name, limit, options.threads, prompt, decode)] = path
    return cells


def takes_part(cell: Cell, options: argparse.Namespace) -> list[str]:
    """Who runs in the rounds of a cell. The disk is measured where tokens are decoded: a prompt mostly multiplies."""
    return [name for name in options.contenders if name != DISK or cell.decode]


def measure_round(cell: Cell, number: int, path: Path, options: argparse.Namespace, place: tuple[Path, Names]) -> Round:
    """One run of each contender; who goes first rotates. The disk is measured before and after ours."""
    began, runs, others = time.monotonic(), {}, 0.0
    taking, file = takes_part(cell, options), str(path)
    names = [name for name in taking if name != DISK or OURS not in taking]
    for name in names[number % len(names) :] + names[: number % len(names)]:
        disk = DISK in taking and name in (OURS, DISK)
        if disk:
            runs[DISK], busy = run_disk(file, cell.limit_bytes)
        if name == OURS:
            memory = cell.limit_bytes - (options.headroom << 20)
            runs[name], busy = run_self("measure", file, cell, memory, place)
        elif name == LAYERS:
            runs[name], busy = run_self("layers", file, cell, cell.limit_bytes, place)
        elif name == PEER:
            runs[name], busy = run_peer(options.llama_bench, file, cell, place)
        if disk:
            runs[DISK] = best_of(runs[DISK], run_disk(file, cell.limit_bytes)[0])
        others = max(others, busy)
    return Round(number, runs, others, time.monotonic() - began)


def session_of(options: argparse.Namespace) -> Session:
    """Where and with what the rounds are measured."""
    import importlib.util

    found = importlib.util.find_spec("ingle")
    folder = Path(found.origin or "").parent if found else Path()
    sources = sorted(path for part in ("engine", "backends") for path in (folder / part).rglob("*.py"))
    fingerprint = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:12]
    peers = {NATIVE: {PEER: describe_peer(options.llama_bench)}} if options.llama_bench else {NATIVE: {}}
    notes = list(options.note)
    if ahead := read_ahead_bytes(str(options.cases[0][0])):
        notes.append(f"The system reads {ahead >> 10} KiB ahead in mapped files of this disk (Linux's default: 128).")
    now = datetime.now().astimezone().isoformat(timespec="minutes")
    ours = run_engine("ours")[0] | {"sources": fingerprint}
    return {"date": now, "machine": describe_machine(), "ingle": ours, "peers": peers, "notes": notes}


def run_all(options: argparse.Namespace, journal: Journal, place: tuple[Path, Names]) -> list[str]:
    """Every round that is not there yet, round by round over all cells; the sentences of what failed."""
    cells = plan(options)
    return run_rounds(
        options,
        cells,
        journal,
        wanted=lambda cell: takes_part(cell, options),
        measure=lambda cell, number: measure_round(cell, number, cells[cell], options, place),
        told=told,
    )


def main() -> int:
    """Measure, or report; the status is 1 where something could not be measured."""
    options = parse()
    if options.trace is not None:
        return draw("draw_pass", options.trace, options.picture)
    if options.report is not None:
        results = read_results(options.report, Cell)
        names: list[str | None] = [None, None]
        if options.picture is not None:
            trace = options.picture.with_name(f"{options.picture.stem}-trace.png")  # drawn by --trace, or not there
            names = [options.picture.name, trace.name if trace.exists() else None]
        print(page(results, *names))
        return draw("draw_seconds", results, options.picture)
    place = controller()
    results = read_results(options.json, Cell) if options.json and options.json.exists() else Results(Cell)
    session = session_of(options)
    check_same(session, results, options.json)
    journal = Journal(options.json, results)
    journal.write("session", session)
    for path in dict.fromkeys(path for path, _ in options.cases):
        if path.name not in results.files:
            journal.write("file", asdict(File(**run_engine("describe", path)[0])))
    try:
        problems = run_all(options, journal, place)
    except KeyboardInterrupt:
        problems = ["Interrupted; " + ("the same command goes on from here." if options.json else "--json keeps runs.")]
    print(tables(results))
    for problem in problems:
        print(problem, file=sys.stderr)
    return draw("draw_seconds", results, options.picture) or bool(problems)


def draw(what: str, of: Results | Path, path: Path | None) -> int:
    """A picture, where one is asked for."""
    if path is not None:
        try:
            import window_picture
        except ImportError as error:
            print(f"No picture: {error}; `pip install matplotlib`, then --report with --picture.", file=sys.stderr)
            return 1
        getattr(window_picture, what)(of, path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
