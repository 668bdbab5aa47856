"""The runs of `window.py`, each a process of its own in a memory group; METHOD.md says what they measure and why so.

`python window_runs.py MODE ...` is that process for ours, for the loader that keeps nothing, and for the disk.
"""

from __future__ import annotations

import json
import mmap
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cgroup import Group, Names, drop_page_cache
from engine_results import Run
from measuring import RunFailed, run_process

LAYERS, DISK, PEER = "layer by layer", "disk", "llama.cpp"
PATTERNS = ((512, 4), (1024, 4), (1024, 8), (4096, 2))  # KiB of a read, threads; the best of them is the disk's rate
DISK_BYTES = 1 << 30  # what is read in each pattern, at most
LARGE_PAGE = 2 << 20
RUN = 8 << 20  # bytes that lie together in the file, where not all of it is read
LIMIT_S = 900  # of one process
FEW = 2  # tokens that the loader decodes, at most: each takes as long as the one before
POSITIONS = 256  # of the cache where decoding is measured, as llama-bench has at least


@dataclass(frozen=True, order=True)
class Cell:
    """What one round measures: a file, inside so much memory. prompt, decode: tokens; one of the two is 0."""

    file: str
    limit_bytes: int
    threads: int
    prompt: int
    decode: int

    @property
    def work(self) -> str:
        """In words."""
        what = f"prompt of {self.prompt}" if self.prompt else f"decode {self.decode}"
        return f"{what} in {self.limit_bytes / 2**20:.0f} MiB"


def measure(path: str, memory_bytes: int, threads: int, n_prompt: int, n_decode: int) -> Run:
    """Ours: speed as a reader of the stream sees it, and what the window says of itself."""
    import ingle

    began = time.perf_counter()
    context = context_of(n_prompt, n_decode)
    with ingle.load(path, memory=memory_bytes, threads=threads, context=context, n_slots=1) as model:
        run: Run = {"load_s": time.perf_counter() - began, "mixture": model.spec.experts is not None}
        window = model.window
        run |= speeds(model, n_prompt, n_decode, (lambda: counters(window)) if window is not None else None)
        if window is not None:
            stats = window.stats()
            run |= {key: getattr(stats, f"{key}_bytes") for key in ("pinned", "ring", "experts", "streamed")}
        return run


def counters(window: Any) -> dict[str, float]:
    """What the window has done so far."""
    stats = window.stats()
    experts = {"expert_hits": stats.expert_hits, "expert_misses": stats.expert_misses}
    return {"read_bytes": stats.read_bytes, "reading_s": stats.reading_s, "waited_s": stats.waited_s, **experts}


def measure_layers(path: str, memory_bytes: int, threads: int, n_prompt: int, n_decode: int) -> Run:
    """The loader that keeps nothing. It decodes few tokens: each takes as long as the one before."""
    from layer_loader import load_layer_by_layer

    n_decode = min(n_decode, FEW)
    with load_layer_by_layer(path, threads, context_of(n_prompt, n_decode)) as model:
        return speeds(model, n_prompt, n_decode)


def context_of(n_prompt: int, n_decode: int) -> int:
    """Positions of the cache."""
    return max(POSITIONS, n_prompt + 2, n_decode + 2)


def speeds(model: Any, n_prompt: int, n_decode: int, counted: Callable[[], dict[str, float]] | None = None) -> Run:
    """tokens/s of a prompt, or between tokens, and by how much the counters grew meanwhile; the process's peak."""
    import numpy as np

    from ingle.engine.memory import peak_bytes

    limit = min(model.spec.n_vocab, model.tokenizer.n_vocab)
    options: dict[str, Any] = {"temperature": 0.0, "ignore_eos": True}
    run: Run = {}
    before = counted() if counted else {}
    if n_prompt:
        prompt = np.random.default_rng(0).integers(3, limit, size=n_prompt).tolist()
        (first,) = model.generate(prompt, max_tokens=1, **options)
        run = {"prefill_tokens_per_s": n_prompt / first.time_s, "took_s": first.time_s}
    else:
        times = []
        for token in model.generate([3], max_tokens=n_decode + 1, **options):
            times.append(token.time_s)
            if len(times) == 1 and counted:
                before = counted()
        run = {"decode_tokens_per_s": n_decode / (times[-1] - times[0]), "took_s": times[-1] - times[0]}
        run["n_decoded"] = n_decode
    after = counted() if counted else {}
    return run | {key: after[key] - before[key] for key in after} | {"peak_bytes": peak_bytes()}


def measure_disk(path: str, n_bytes: int) -> Run:
    """GB/s of direct reads spread over the file, in several patterns."""
    rates = {f"{kib} KiB x {threads}": read_rate(path, n_bytes, kib << 10, threads) for kib, threads in PATTERNS}
    return {"gb_per_s": max(rates.values()), "patterns": rates}


def read_rate(path: str, n_bytes: int, piece: int, threads: int) -> float:
    """GB/s of `threads` that read pieces one after the other, past the page cache where the file system lets them."""
    from concurrent.futures import ThreadPoolExecutor

    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_DIRECT", 0))
    except OSError:  # such as tmpfs
        descriptor = os.open(path, os.O_RDONLY)
    size = os.fstat(descriptor).st_size
    offsets = iter(places(size, min(n_bytes, size), piece))

    def read() -> int:
        done = 0
        with mmap.mmap(-1, max(piece, LARGE_PAGE)) as buffer:
            if hasattr(mmap, "MADV_HUGEPAGE"):  # virtual disks read onto large pages at up to twice the speed
                buffer.madvise(mmap.MADV_HUGEPAGE)
            with memoryview(buffer) as whole, whole[:piece] as part:
                for offset in offsets:  # a list's iterator: each place goes to one thread
                    done += os.preadv(descriptor, [part], offset)
        return done

    try:
        with ThreadPoolExecutor(threads) as pool:
            began = time.perf_counter()
            done = sum(each.result() for each in [pool.submit(read) for _ in range(threads)])
            return done / (time.perf_counter() - began) / 1e9
    finally:
        os.close(descriptor)


def places(size: int, n_bytes: int, piece: int) -> list[int]:
    """Offsets of the pieces to read: runs of RUN bytes, spread evenly over a file of `size`, `n_bytes` in all."""
    n_runs, n_all = max(1, n_bytes // RUN), max(1, size // RUN)
    runs = [at * n_all // n_runs * RUN for at in range(n_runs)]
    return [start + offset for start in runs for offset in range(0, RUN, piece) if start + offset < size]


def run_in_group(words: Sequence[str], place: tuple[Path, Names], limit_bytes: int) -> tuple[list[Run], Run, float]:
    """What a program printed, the peaks of group and process, and the share of others. "killed" where memory did it."""
    drop_page_cache()
    with Group(*place, limit_bytes) as group:
        try:
            objects, peak, others = run_process(group.command(["timeout", "-k", "5", str(LIMIT_S), *words]))
            facts: Run = {"group_peak_bytes": group.peak_bytes, "peak_bytes": peak}
        except RunFailed:
            if not group.killed:
                raise
            objects, others, facts = [], 0.0, {"killed": True, "group_peak_bytes": group.peak_bytes}
    return objects, facts, others or 0.0


def run_self(mode: str, path: str, cell: Cell, memory_bytes: int, place: tuple[Path, Names]) -> tuple[Run, float]:
    """Ours, or the loader."""
    words = [sys.executable, str(Path(__file__).resolve()), mode, path]
    words += [str(each) for each in (memory_bytes, cell.threads, cell.prompt, cell.decode)]
    objects, facts, others = run_in_group(words, place, cell.limit_bytes)
    return facts | (objects[-1] if objects else {}), others


def run_peer(command: Sequence[str], path: str, cell: Cell, place: tuple[Path, Names]) -> tuple[Run, float]:
    """llama-bench, one repetition. Decoding it warms up with one token; a prompt it does not compute twice."""
    words = [*command, "-m", path, "-p", str(cell.prompt), "-n", str(cell.decode), "-t", str(cell.threads), "-r", "1"]
    words += ["-o", "jsonl", *(["--no-warmup"] if cell.prompt else [])]
    tests, run, others = run_in_group(words, place, cell.limit_bytes)
    if tests:
        run["load_mode"] = tests[0].get("load_mode")
        run["prefill_tokens_per_s" if cell.prompt else "decode_tokens_per_s"] = tests[-1]["avg_ts"]
    return run, others


def run_disk(path: str, limit_bytes: int) -> tuple[Run, float]:
    """The disk, outside of any group: direct reads take no memory worth limiting."""
    n_bytes = min(DISK_BYTES, max(os.stat(path).st_size - limit_bytes, 64 << 20))
    drop_page_cache()
    objects, _, others = run_process([sys.executable, str(Path(__file__).resolve()), "disk", path, str(n_bytes)])
    return objects[-1], others or 0.0


def best_of(first: Run, second: Run) -> Run:
    """Two measurements of the disk: the better one of each pattern."""
    patterns = {name: max(rate, second["patterns"][name]) for name, rate in first["patterns"].items()}
    return {"gb_per_s": max(patterns.values()), "patterns": patterns}


def read_ahead_bytes(path: str, system: Path = Path("/sys/dev/block")) -> int | None:
    """How far the system reads ahead in mapped files of this disk: it decides how fast mmap is."""
    device = os.stat(path).st_dev
    block = (system / f"{os.major(device)}:{os.minor(device)}").resolve()
    for folder in (block, block.parent):  # a disk, or a part of one
        if (found := folder / "queue" / "read_ahead_kb").exists():
            return int(found.read_text()) << 10
    return None


MODES: dict[str, Callable[..., Run]] = {"measure": measure, "layers": measure_layers, "disk": measure_disk}

if __name__ == "__main__":
    print(json.dumps(MODES[sys.argv[1]](sys.argv[2], *map(int, sys.argv[3:]))))
