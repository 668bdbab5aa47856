"""Decode and prefill speed beside llama.cpp's, in interleaved pairs of runs: see benchmarks/README.md for the method.

python benchmarks/peer_llama_cpp.py model.gguf --llama-bench path/to/llama-bench --threads 1,2 --json results.jsonl
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

QUIET = 0.05  # a run is disturbed when other programs took more than this share of all processors


@dataclass(frozen=True)
class Run:
    """One process that measured both speeds. `others`: share of all processors that other programs took meanwhile."""

    engine: str
    threads: int
    pair: int
    decode_tokens_per_s: float
    prefill_tokens_per_s: float
    peak_memory_bytes: int
    others: float | None
    details: dict[str, Any]


def measure_ours(path: str, threads: int, n_decode: int, n_prompt: int) -> dict[str, Any]:
    """Both speeds as a reader of the stream sees them: from the call to the first token, and between tokens."""
    import ingle

    options: dict[str, Any] = {"temperature": 0.0, "ignore_eos": True}
    # What a slot keeps from an earlier prompt is not computed again: one slot, and prompts with different first tokens.
    with ingle.load(path, threads=threads, context=max(n_prompt, n_decode) + 2, n_slots=1) as model:
        limit = min(model.spec.n_vocab, model.tokenizer.n_vocab)
        warm_up, prompt = np.random.default_rng(0).integers(3, limit, size=(2, n_prompt)).tolist()
        warm_up[0], prompt[0] = 4, 5
        list(model.generate(warm_up, max_tokens=2, **options))
        (first,) = model.generate(prompt, max_tokens=1, **options)
        times = [token.time_s for token in model.generate([3], max_tokens=n_decode + 1, **options)]
        if first.stats.cached_tokens or len(times) != n_decode + 1:
            sys.exit(f"Expected {n_decode + 1} tokens and no cached prompt; {len(times)}, {first.stats.cached_tokens}.")
        details = {"version": ingle.__version__, "backend": model.backend, "isa": instruction_set()}
        decode, prefill = n_decode / (times[-1] - times[0]), n_prompt / first.time_s
        return {"decode_tokens_per_s": decode, "prefill_tokens_per_s": prefill, "details": details}


def instruction_set() -> str:
    """What the native core decided to use, or why that is unknown."""
    try:
        from ingle import _core

        return str(_core.isa())
    except (ImportError, AttributeError) as error:
        return f"unknown ({error})"


def probe_bandwidth(n_bytes: int, threads: int, repeats: int = 7) -> dict[str, Any]:
    """The best rate at which NumPy sums int64 (GB/s): each thread its own part of n_bytes, again and again."""
    parts = [np.ones(max(1, n_bytes // threads // 8), dtype=np.int64) for _ in range(threads)]
    passes = max(1, (1 << 30) // n_bytes)
    spans = np.zeros((threads, 2))
    start = threading.Barrier(threads)

    def read(thread: int) -> None:
        start.wait()
        spans[thread, 0] = time.perf_counter()
        for _ in range(passes):
            parts[thread].sum()
        spans[thread, 1] = time.perf_counter()

    rates = []
    for _ in range(repeats):
        workers = [threading.Thread(target=read, args=(thread,)) for thread in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        rates.append(sum(part.nbytes for part in parts) * passes / (spans[:, 1].max() - spans[:, 0].min()) / 1e9)
    return {"gb_per_s": max(rates), "n_bytes": n_bytes, "threads": threads, "by": "NumPy sum of int64, best of 7"}


def busy_seconds() -> float | None:
    """Processor time that the whole machine has spent working; None where there is no /proc to tell."""
    if not Path("/proc/stat").exists():
        return None
    ticks = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    return (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK")  # without idle and waiting for a disk


def run_process(command: Sequence[str]) -> tuple[list[dict[str, Any]], int, float | None]:
    """The JSON lines that a program prints, its peak memory in bytes, and the processor share of others meanwhile."""
    began, busy_before = time.monotonic(), busy_seconds()
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=errors)
        _, status, usage = os.wait4(process.pid, 0)  # unlike Popen.wait, it tells what this one child used
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        errors.seek(0)
        lines = [json.loads(line) for line in output if line.startswith("{")]
        if process.returncode or not lines:
            tail = "".join(errors.readlines()[-8:])
            sys.exit(f"This command ended with status {process.returncode}:\n  {' '.join(command)}\n{tail}")
    busy_after, available = busy_seconds(), (time.monotonic() - began) * (os.cpu_count() or 1)
    others = None
    if busy_before is not None and busy_after is not None:
        others = max(0.0, busy_after - busy_before - usage.ru_utime - usage.ru_stime) / available
    return lines, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024), others


def run_self(mode: str, *arguments: object) -> tuple[dict[str, Any], int, float | None]:
    """Call one of the measuring functions of this file in a process of its own."""
    lines, peak, others = run_process([sys.executable, str(Path(__file__).resolve()), mode, *map(str, arguments)])
    return lines[-1], peak, others


def run_ours(options: argparse.Namespace, threads: int, pair: int) -> Run:
    """One run of Ingle."""
    result, peak, others = run_self("--measure", options.model, threads, options.decode, options.prefill)
    return Run("ingle", threads, pair, peak_memory_bytes=peak, others=others, **result)


def run_peer(options: argparse.Namespace, threads: int, pair: int) -> Run:
    """One run of llama-bench: one repetition of each test, after its own warm-up."""
    sizes = ["-p", str(options.prefill), "-n", str(options.decode), "-t", str(threads)]
    tests, peak, others = run_process([options.llama_bench, "-m", options.model, *sizes, "-r", "1", "-o", "jsonl"])
    rates = {"decode" if test["n_gen"] else "prefill": test["avg_ts"] for test in tests}
    details = {key: tests[0].get(key) for key in ("build_commit", "build_number", "type_k", "type_v", "flash_attn")}
    return Run("llama.cpp", threads, pair, rates["decode"], rates["prefill"], peak, others, details)


def weights_per_token(path: str) -> tuple[int, int]:
    """Of a dense model: bytes of weights a decoded token reads, and weights a prompt's token is multiplied with."""
    from ingle.gguf import open_gguf

    with open_gguf(path) as file:
        unread = {"token_embd.weight"} if "output.weight" in file.tensors else set()  # but for one row of it
        read = [t for name, t in file.tensors.items() if name not in unread]
        blocks = [t.shape for name, t in file.tensors.items() if name.startswith("blk.") and len(t.shape) == 2]
        return sum(t.n_bytes for t in read), sum(rows * columns for rows, columns in blocks)


def describe_machine() -> dict[str, Any]:
    """What a reader needs to place the figures."""
    cpuinfo = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    names = [line for line in cpuinfo.splitlines() if line.startswith("model name")]
    model = names[0].split(":", 1)[1].strip() if names else platform.processor() or platform.machine()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    machine = {"processor": model, "n_cpus": os.cpu_count(), "memory_gib": round(memory / 2**30, 1)}
    return machine | {"system": platform.platform(), "python": platform.python_version(), "numpy": np.__version__}


def spread(values: Sequence[float], digits: int) -> str:
    """Median (least - most)."""
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f}-{max(values):.{digits}f})"


def summarise(options: argparse.Namespace, threads: int, runs: list[Run]) -> dict[str, Any]:
    """Print the table for one number of threads; return its figures."""
    n_bytes, n_weights = weights_per_token(options.model)
    probes = {name: run_self("--probe", size, threads)[0] for name, size in (("same", n_bytes), ("dram", 1 << 30))}
    same, dram = (probe["gb_per_s"] for probe in probes.values())
    sides = {engine: [run for run in runs if run.engine == engine] for engine in ("ingle", "llama.cpp")}
    summary: dict[str, Any] = {"threads": threads, "bytes_per_token": n_bytes, "bandwidth": probes}
    print(f"\n{Path(options.model).name}, {threads} thread(s), {len(runs) // 2} pairs: median (least-most)")
    print(f"{'':26}{'ingle':>26}{'llama.cpp':>26}   ratio")

    def row(title: str, values: dict[str, list[float]], digits: int) -> list[float]:
        ratios = [ours / peer for ours, peer in zip(values["ingle"], values["llama.cpp"], strict=True)]
        cells = "".join(f"{spread(side, digits):>26}" for side in values.values())
        print(f"{title:26}{cells}   {spread(ratios, 2)}")
        return ratios

    for key, size in (("decode", options.decode), ("prefill", options.prefill)):
        values = {engine: [getattr(run, f"{key}_tokens_per_s") for run in side] for engine, side in sides.items()}
        summary[key] = values | {"ratios": row(f"{key} {size}, tokens/s", values, 1)}
    memory = {engine: [run.peak_memory_bytes / 2**20 for run in side] for engine, side in sides.items()}
    row("peak memory, MiB", memory, 0)
    decode, prefill = ([statistics.median(summary[key][e]) for e in sides] for key in ("decode", "prefill"))
    print(f"{'weights read, GB/s':26}" + "".join(f"{rate * n_bytes / 1e9:26.1f}" for rate in decode))
    print(f"{'  share of bandwidth':26}" + "".join(f"{rate * n_bytes / 1e9 / same:26.0%}" for rate in decode))
    print(f"{'prefill, Gop/s':26}" + "".join(f"{rate * 2 * n_weights / 1e9:26.0f}" for rate in prefill))
    print(f"{n_bytes / 1e6:.1f} MB of weights a token; streaming bandwidth {same:.1f} GB/s over as many bytes,")
    print(f"{dram:.1f} GB/s over 1 GiB ({probes['same']['by']})")
    disturbed = [run.others for run in runs if run.others is not None and run.others > QUIET]
    if disturbed:
        print(
            f"NOT QUIET: others took up to {max(disturbed):.0%} of the processors in {len(disturbed)}/{len(runs)} runs"
        )
    return summary | {"peak_memory_mib": memory, "disturbed_runs": len(disturbed)}


def main() -> None:
    """Measure in pairs and report."""
    parser = argparse.ArgumentParser(description="Decode and prefill speed beside llama.cpp's.")
    parser.add_argument("model", help="a GGUF file of a dense model")
    parser.add_argument("--llama-bench", required=True, help="path of the peer's llama-bench")
    parser.add_argument("--threads", default="1", help="numbers of threads, with commas between (default 1)")
    parser.add_argument("--pairs", type=int, default=5, help="pairs of runs for each number of threads (default 5)")
    parser.add_argument("--decode", type=int, default=128, help="tokens to decode after an empty prompt (default 128)")
    parser.add_argument("--prefill", type=int, default=512, help="tokens of the prompt (default 512)")
    parser.add_argument("--retries", type=int, default=3, help="times to repeat a disturbed pair (default 3)")
    parser.add_argument("--json", type=Path, help="append every run and summary to this file, one JSON object a line")
    options = parser.parse_args()
    if not shutil.which(options.llama_bench):
        parser.error(f"no program at {options.llama_bench}; give the path of llama.cpp's llama-bench")
    print(*(f"{key}: {value}" for key, value in describe_machine().items()), sep="; ")
    with open(options.json or os.devnull, "a", buffering=1) as file:

        def record(kind: str, fields: dict[str, Any]) -> None:
            file.write(json.dumps({"record": kind, **fields}) + "\n")

        record("machine", describe_machine())
        for threads in (int(number) for number in options.threads.split(",")):
            kept: list[Run] = []
            for pair in range(options.pairs):
                for _attempt in range(options.retries + 1):
                    order = (run_ours, run_peer) if pair % 2 == 0 else (run_peer, run_ours)
                    runs = [measure(options, threads, pair) for measure in order]
                    for run in runs:
                        record("run", asdict(run))
                    if all(run.others is None or run.others <= QUIET for run in runs):
                        break
                kept += runs
            record("summary", {"model": Path(options.model).name, **summarise(options, threads, kept)})
            print(*sorted({f"{run.engine}: {run.details}" for run in kept}), sep="\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        print(json.dumps(measure_ours(sys.argv[2], *map(int, sys.argv[3:6]))))
    elif sys.argv[1:2] == ["--probe"]:
        print(json.dumps(probe_bandwidth(int(sys.argv[2]), int(sys.argv[3]))))
    else:
        main()
