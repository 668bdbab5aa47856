"""Speed and memory beside llama.cpp's, in interleaved runs of whole processes; METHOD.md says how and why.

python benchmarks/engine.py --llama-bench PATH --json results.jsonl MODEL.gguf ...
python benchmarks/engine.py --report results.jsonl --picture docs/roofline.png > docs/performance.md

Rounds that are in results.jsonl are not made again: an interrupted series goes on where it was, and a later command
may add files, work or pairs. A peer may have options of its own: --llama-bench "PATH -fa 1".
"""

from __future__ import annotations

import argparse
import shlex
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path

from engine_plan import Peers, contenders, expected_s, label, plan
from engine_report import page, tables
from engine_results import FLOOR, NATIVE, OURS, Cell, File, Journal, Results, Round, Session, read_results
from engine_runs import describe_peer, run_floor, run_ours, run_peer, run_self
from measuring import QUIET, RunFailed, describe_machine

ISAS = (NATIVE, "portable", "avx2", "avxvnni", "avx512", "amx", "neon")


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; ends the program with a message where it cannot be."""
    summary, _, more = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(
        description=summary, epilog=more, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="*", type=Path, metavar="MODEL.gguf", help="files of dense models")
    parser.add_argument("--llama-bench", type=shlex.split, metavar="CMD", help="the peer's llama-bench")
    parser.add_argument("--ik-llama-bench", type=shlex.split, metavar="CMD", help="that of ik_llama.cpp, a second peer")
    parser.add_argument(
        "--peer", action="append", default=[], metavar="ISA=CMD", help="a llama-bench built for ISA alone, for --isa"
    )
    parser.add_argument(
        "--isa", type=isas, metavar="ISA,...", help=f"of {', '.join(ISAS)} (default: native, and those of --peer)"
    )
    parser.add_argument("--threads", type=numbers, default=[1, 2], metavar="N,...", help="default 1,2")
    parser.add_argument("--pairs", type=int, default=5, help="rounds of each cell (default 5)")
    parser.add_argument("--decode", type=int, default=128, help="tokens to decode (default 128; 0 = no decode)")
    parser.add_argument(
        "--prompts", type=numbers, default=[512], metavar="N,...", help="lengths; the first with decode (default 512)"
    )
    parser.add_argument("--sequences", type=int, default=0, help="also decode so many at once, ours alone (default 0)")
    parser.add_argument("--retries", type=int, default=3, help="times to repeat a disturbed round (default 3)")
    parser.add_argument("--minutes", type=float, help="begin no run that would not end within this time")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep every run in this file, and continue it")
    parser.add_argument("--picture", type=Path, metavar="FILE.png", help="draw the roofline (needs matplotlib)")
    parser.add_argument("--note", action="append", default=[], help="a sentence for the page, such as a peer's version")
    parser.add_argument("--dry-run", action="store_true", help="print what would be run, and for how long")
    parser.add_argument(
        "--report", type=Path, metavar="FILE", help="run nothing; print the page of this file of results"
    )
    options = parser.parse_args(arguments)
    if options.report is None:
        if not options.models:
            parser.error("name at least one MODEL.gguf, or --report FILE")
        if len({path.name for path in options.models}) < len(options.models):
            parser.error("two of the files have the same name; results are kept by name: link one to another name")
        for path in options.models:
            if not path.is_file():
                parser.error(f"there is no file {path}")
        if options.pairs < 1 or min(options.threads) < 1 or min(options.prompts, default=1) < 1:
            parser.error("--pairs, --threads and --prompts are numbers of 1 or more")
    options.peers = peers_of(options, parser)
    options.isa = list(dict.fromkeys(options.isa or [NATIVE, *options.peers]))
    return options


def numbers(text: str) -> list[int]:
    """1,2 -> [1, 2]; "0" or "" -> []."""
    return [int(part) for part in text.split(",") if part and part != "0"]


def isas(text: str) -> list[str]:
    """Instruction sets, with commas between."""
    names = text.split(",")
    if not set(names) <= set(ISAS):
        raise argparse.ArgumentTypeError(f"{text!r}; expected of {', '.join(ISAS)}, with commas between")
    return names


def peers_of(options: argparse.Namespace, parser: argparse.ArgumentParser) -> Peers:
    """The commands of the peers, by instruction set and name."""
    peers: Peers = {}
    given = [(NATIVE, "llama.cpp", options.llama_bench), (NATIVE, "ik_llama.cpp", options.ik_llama_bench)]
    for text in options.peer:
        isa, _, command = text.partition("=")
        if isa not in ISAS or not command:
            parser.error(f"--peer is {text!r}; expected ISA=CMD with an ISA of {', '.join(ISAS)}")
        given.append((isa, "llama.cpp", shlex.split(command)))
    for isa, name, command in given:
        if command:
            if not shutil.which(command[0]):
                parser.error(f"no program at {command[0]}; give the path of a llama-bench")
            peers.setdefault(isa, {})[name] = command
    return peers


def measure_round(cell: Cell, number: int, paths: dict[str, Path], peers: Peers, file: File) -> Round:
    """One run of each contender, with the file in the page cache."""
    began, path = time.monotonic(), str(paths[cell.file])
    with open(path, "rb", buffering=0) as stream:
        while stream.read(1 << 22):
            pass
    runs, others = {}, 0.0
    for name in contenders(cell, number, peers):
        if name == OURS:
            runs[name], busy = run_ours(path, cell)
        elif name == FLOOR:
            runs[name], busy = run_floor(path, cell, file.bytes_per_token)
        else:
            runs[name], busy = run_peer(name, peers[cell.isa][name], path, cell)
        others = max(others, busy)
    return Round(number, runs, others, time.monotonic() - began)


def told(one: Round) -> str:
    """A round in a few words."""
    parts = []
    for key, name in (("decode_tokens_per_s", "decode"), ("prefill_tokens_per_s", "prefill")):
        rates = [f"{run[key]:.1f}" for who, run in sorted(one.runs.items()) if key in run]
        parts += [f"{name} {' / '.join(rates)}"] * bool(rates)
    if "many_tokens_per_s" in one.runs[OURS]:
        parts.append("total {many_tokens_per_s:.1f}, one {one_tokens_per_s:.1f}".format(**one.runs[OURS]))
    return ", ".join(parts) + ("" if one.quiet else f"  NOT QUIET: others took {one.others:.0%}")


def session_of(options: argparse.Namespace) -> Session:
    """Where and with what the rounds are measured."""
    peers = {isa: {name: describe_peer(command) for name, command in of.items()} for isa, of in options.peers.items()}
    now = datetime.now().astimezone().isoformat(timespec="minutes")
    ours = run_self("ours")[0]
    return {"date": now, "machine": describe_machine(), "ingle": ours, "peers": peers, "notes": options.note}


def check_same(session: Session, results: Results, path: Path) -> None:
    """Figures of two machines or two builds are not one series."""
    for old in results.sessions[-1:]:
        for key, what in (("machine", "on another machine"), ("ingle", "with another build of Ingle")):
            if old[key] != session[key]:
                sys.exit(f"{path} was measured {what} ({old[key]}, now {session[key]}); name another file.")


def missing(options: argparse.Namespace, cells: Sequence[Cell], results: Results) -> list[tuple[int, Cell]]:
    """The rounds that are still to be measured, round by round over all cells: what drifts, drifts for all."""
    return [
        (number, cell)
        for number in range(options.pairs)
        for cell in cells
        if not results.is_done(cell, number, contenders(cell, number, options.peers), options.retries)
    ]


def run_all(options: argparse.Namespace, cells: Sequence[Cell], journal: Journal) -> list[str]:
    """Every round that is not there yet, round by round over all cells; the sentences of what failed."""
    results, paths = journal.results, {path.name: path for path in options.models}
    todo = missing(options, cells, results)
    began = time.monotonic()
    failed: dict[Cell, str] = {}
    for index, (number, cell) in enumerate(todo):
        file = results.files[cell.file]
        expected = expected_s(cell, number, options.peers, results)
        if options.minutes is not None and time.monotonic() - began + expected > 60 * options.minutes:
            return [*failed.values(), f"{options.minutes:g} minutes are over; the same command goes on from here."]
        while cell not in failed:
            try:
                one = measure_round(cell, number, paths, options.peers, file)
            except RunFailed as error:
                failed[cell] = f"{label(cell)} was given up, as said above."
                print(f"{label(cell)} is given up: {error}", file=sys.stderr)
                break
            journal.write_round(cell, one)
            rest = [each for each in todo[index + 1 :] if each[1] not in failed]
            left = sum(expected_s(other, at, options.peers, results) for at, other in rest)
            done = f"[{index + 1}/{len(todo)}] {label(cell)}, round {number + 1}: {told(one)}"
            print(f"{done}; {left / 60:.1f} min left", file=sys.stderr, flush=True)
            if results.is_done(cell, number, one.runs, options.retries):
                break
    return list(failed.values())


def main() -> int:
    """Measure, or report; the status is 1 where something could not be measured."""
    options = parse()
    if options.report is not None:
        results = read_results(options.report)
        print(page(results, options.picture.name if options.picture else None))
        return draw(results, options.picture)
    old = read_results(options.json) if options.json and options.json.exists() else Results()
    new = [path.name for path in options.models if path.name not in old.files]
    for path in options.models:
        file = File(**run_self("describe", path)[0])
        if old.files.get(path.name, file) != file:
            sys.exit(f"{options.json} has figures of another {path.name}; name another file of results.")
        old.files[path.name] = file
    cells = plan(options, [old.files[path.name] for path in options.models])
    if options.dry_run:
        return show(options, cells, old)
    session = session_of(options)
    check_same(session, old, options.json)
    journal = Journal(options.json, old)
    journal.write("session", session)
    for name in new:
        journal.write("file", asdict(old.files[name]))
    try:
        problems = run_all(options, cells, journal)
    except KeyboardInterrupt:
        problems = ["Interrupted; " + ("the same command goes on from here." if options.json else "--json keeps runs.")]
    print(tables(journal.results))
    for problem in problems:
        print(problem, file=sys.stderr)
    return draw(journal.results, options.picture) or bool(problems)


def show(options: argparse.Namespace, cells: Sequence[Cell], results: Results) -> int:
    """The plan, and how long it will take."""
    todo, total = missing(options, cells, results), 0.0
    for cell in cells:
        numbers = [number for number, other in todo if other == cell]
        seconds = sum(expected_s(cell, number, options.peers, results) for number in numbers)
        total += seconds
        names = ", ".join(contenders(cell, 0, options.peers))
        print(f"{label(cell)}: {len(numbers)} of {options.pairs} rounds of {names}, about {seconds:.0f} s")
    print(f"{len(cells)} cells, about {total / 60:.0f} minutes where others take less than {QUIET:.0%} meanwhile")
    return 0


def draw(results: Results, path: Path | None) -> int:
    """The picture, where one is asked for."""
    if path is not None:
        try:
            from engine_picture import draw_roofline
        except ImportError as error:
            print(f"No picture: {error}; `pip install matplotlib`, then --report with --picture.", file=sys.stderr)
            return 1
        draw_roofline(results, path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
