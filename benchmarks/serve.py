"""Many clients at once on `ingle serve` and on llama.cpp's server, in interleaved runs; METHOD.md says how and why.

python benchmarks/serve.py --llama-server PATH --json results.jsonl MODEL.gguf ...
python benchmarks/serve.py --report results.jsonl --picture docs/serving.png > docs/serving.md

Rounds that are in results.jsonl are not made again. A peer may have options of its own, and there may be several:
--llama-server PATH --llama-server "PATH -fa off".
"""

from __future__ import annotations

import argparse
import hashlib
import shlex
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path

from engine_results import NATIVE, OURS, File, Journal, Results, Round, Session, read_results
from engine_runs import describe_peer, run_self
from measuring import describe_machine
from rounds import run_rounds
from serve_report import PEER, page, tables, told
from serve_runs import Cell, run_server

from engine import check_same, numbers


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; ends the program with a message where it cannot be."""
    summary, _, more = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(
        description=summary, epilog=more, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="*", type=Path, metavar="MODEL.gguf")
    parser.add_argument(
        "--llama-server", action="append", default=[], type=shlex.split, metavar="CMD", help="a peer's llama-server"
    )
    parser.add_argument("--clients", type=numbers, default=[1, 2, 4, 8, 16], metavar="N,...", help="default 1,2,4,8,16")
    parser.add_argument("--threads", type=numbers, default=[2], metavar="N,...", help="of each server (default 2)")
    parser.add_argument("--slots", type=int, default=8, help="answers that a server computes at once (default 8)")
    parser.add_argument("--context", type=int, default=512, help="positions of each slot (default 512)")
    parser.add_argument("--requests", type=int, default=4, help="of each client (default 4)")
    parser.add_argument("--system", type=int, default=200, help="tokens of the prompt that all have (default 200)")
    parser.add_argument("--own", type=int, default=100, help="tokens that each asks (default 100)")
    parser.add_argument("--answer", type=int, default=64, help="tokens of each answer (default 64)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each (default 3)")
    parser.add_argument("--retries", type=int, default=1, help="times to repeat a disturbed round (default 1)")
    parser.add_argument("--minutes", type=float, help="begin no round that would not end within this time")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep every run in this file, and continue it")
    parser.add_argument("--picture", type=Path, metavar="FILE.png", help="draw tokens/s by clients (needs matplotlib)")
    parser.add_argument("--note", action="append", default=[], help="a sentence for the page")
    parser.add_argument("--report", type=Path, metavar="FILE", help="run nothing; print the page of these results")
    options = parser.parse_args(arguments)
    if options.report is None:
        if not options.models:
            parser.error("name at least one MODEL.gguf, or --report FILE")
        for path in options.models:
            if not path.is_file():
                parser.error(f"there is no file {path}")
        counts = (options.rounds, options.slots, options.requests, options.answer, options.own, options.system)
        if min(*counts, *options.clients, *options.threads) < 1:
            parser.error("all numbers are 1 or more")
        if options.system + options.own + options.answer + 32 > options.context:
            parser.error("--context must hold --system, --own, --answer and 32 tokens that a chat template may write")
    for command in options.llama_server:
        if not shutil.which(command[0]):
            parser.error(f"no program at {command[0]}; give the path of a llama-server")
    options.peers = {" ".join([PEER, *command[1:]]): command for command in options.llama_server}
    return options


def plan(options: argparse.Namespace) -> list[Cell]:
    """The cells of one round, in order."""
    sizes = (options.system, options.own, options.answer, options.context)
    return [
        Cell(path.name, threads, options.slots, clients, clients * options.requests, *sizes)
        for path in options.models
        for threads in options.threads
        for clients in options.clients
    ]


def measure_round(cell: Cell, number: int, path: Path, peers: dict[str, list[str]]) -> Round:
    """One run of each contender; who goes first rotates."""
    began, runs, others = time.monotonic(), {}, 0.0
    names = [OURS, *peers]
    for name in names[number % len(names) :] + names[: number % len(names)]:
        runs[name], busy = run_server(name, peers.get(name, []), str(path), cell)
        others = max(others, busy)
    return Round(number, runs, others, time.monotonic() - began)


def session_of(options: argparse.Namespace) -> Session:
    """Where and with what the rounds are measured."""
    import importlib.util

    found = importlib.util.find_spec("ingle")
    folder = Path(found.origin or "").parent if found else Path()
    sources = sorted(path for part in ("engine", "server", "text") for path in (folder / part).rglob("*.py"))
    fingerprint = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:12]
    peers = {NATIVE: {name: describe_peer(command) for name, command in options.peers.items()}}
    now = datetime.now().astimezone().isoformat(timespec="minutes")
    ours = run_self("ours")[0] | {"sources": fingerprint}
    return {"date": now, "machine": describe_machine(), "ingle": ours, "peers": peers, "notes": options.note}


def run_all(options: argparse.Namespace, journal: Journal) -> list[str]:
    """Every round that is not there yet, round by round over all cells; the sentences of what failed."""
    paths, contenders = {path.name: path for path in options.models}, [OURS, *options.peers]
    return run_rounds(
        options,
        plan(options),
        journal,
        wanted=lambda cell: contenders,
        measure=lambda cell, number: measure_round(cell, number, paths[cell.file], options.peers),
        told=told,
    )


def main() -> int:
    """Measure, or report; the status is 1 where something could not be measured."""
    options = parse()
    if options.report is not None:
        results = read_results(options.report, Cell)
        print(page(results, options.picture.name if options.picture else None))
        return draw(results, options.picture)
    results = read_results(options.json, Cell) if options.json and options.json.exists() else Results(Cell)
    session = session_of(options)
    check_same(session, results, options.json)
    journal = Journal(options.json, results)
    journal.write("session", session)
    for path in options.models:
        if path.name not in results.files:
            journal.write("file", asdict(File(**run_self("describe", path)[0])))
    try:
        problems = run_all(options, journal)
    except KeyboardInterrupt:
        problems = ["Interrupted; " + ("the same command goes on from here." if options.json else "--json keeps runs.")]
    print(tables(results))
    for problem in problems:
        print(problem, file=sys.stderr)
    return draw(results, options.picture) or bool(problems)


def draw(results: Results, path: Path | None) -> int:
    """The picture, where one is asked for."""
    if path is not None:
        try:
            from serve_picture import draw_rates
        except ImportError as error:
            print(f"No picture: {error}; `pip install matplotlib`, then --report with --picture.", file=sys.stderr)
            return 1
        draw_rates(results, path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
