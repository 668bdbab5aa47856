"""Speed of multiple-choice scoring beside lm-evaluation-harness's own Hugging Face model: see benchmarks/METHOD.md.

python benchmarks/eval_peer_hf.py model.gguf --data requests.jsonl.gz --shots 0,5 --limit 100 --json results.jsonl
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from measuring import QUIET, run_process

WARM_UP = 8  # requests that do not count: first touches of memory, and what PyTorch prepares


def read_requests(path: Path, shots: int, limit: int) -> list[tuple[str, str]]:
    """Contexts and continuations of the first `limit` questions: all shots of the file, or none of them.

    A line has {"request": {"context": ..., "continuation": ...}, "doc_id": ...}; blank lines part the shots.
    """
    requests: list[tuple[str, str]] = []
    documents: set[Any] = set()
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as lines:
        for line in lines:
            record = json.loads(line)
            documents.add(record["doc_id"])
            if len(documents) > limit:
                break
            context = record["request"]["context"]
            if shots == 0:
                context = context.split("\n\n")[-1]
            elif context.count("\n\n") != shots:
                sys.exit(f"{path.name} has {context.count(chr(10) * 2)} shots; {shots} were asked for.")
            requests.append((context, record["request"]["continuation"]))
    return requests


def measure_ingle(folder: Path, kind: str, threads: int) -> Any:
    """Our model as lm-evaluation-harness sees it."""
    from ingle import load
    from ingle.evaluate.adapter import IngleLM
    from ingle.evaluate.batch import evaluate_slots

    path = folder / f"{kind}.gguf"
    return IngleLM(model=load(path, threads=threads, n_slots=evaluate_slots(path)))


def measure_hf(folder: Path, kind: str, threads: int) -> Any:
    """The harness's own model; kind: the type and the batch size."""
    import torch
    from lm_eval.models.huggingface import HFLM

    dtype, _, batch = kind.partition("-")
    torch.set_num_threads(threads)
    name = {"f32": "float32", "bf16": "bfloat16"}[dtype]
    size: int | str = int(batch) if batch.isdigit() else batch
    return HFLM(pretrained=str(folder / f"hf-{dtype}"), dtype=name, device="cpu", batch_size=size, max_batch_size=64)


def measure(contender: str, folder: str, requests: str, threads: str) -> None:
    """Entry of a measuring process: prints one JSON line, and keeps the likelihoods beside the requests."""
    from lm_eval.api.instance import Instance

    pairs = json.loads(Path(requests).read_text(encoding="utf-8"))
    instances = [Instance("loglikelihood", {}, tuple(pair), i) for i, pair in enumerate(pairs)]
    engine, _, kind = contender.partition("-")
    began = time.perf_counter()
    model = (measure_ingle if engine == "ingle" else measure_hf)(Path(folder), kind, int(threads))
    load_s = time.perf_counter() - began
    model.loglikelihood(instances[-WARM_UP:], disable_tqdm=True)
    began, cpu_began = time.perf_counter(), time.process_time()
    found = model.loglikelihood(instances, disable_tqdm=True)
    seconds, cpu_s = time.perf_counter() - began, time.process_time() - cpu_began
    Path(f"{requests}.{contender}").write_text(json.dumps([[float(one), bool(greedy)] for one, greedy in found]))
    print("\n" + json.dumps({"seconds": seconds, "cpu_s": cpu_s, "load_s": load_s}), flush=True)


def prepare(model: Path, folder: Path, kinds: set[str]) -> None:
    """The same weights in every form that a contender reads: `ingle export` writes them all."""
    for kind in sorted(kinds):
        engine, dtype = kind.split("-")[:2]
        out = [str(folder / f"hf-{dtype}"), "--hf"] if engine == "hf" else [str(folder / f"{dtype}.gguf")]
        if not Path(out[0]).exists():
            command = [sys.executable, "-m", "ingle", "export", str(model), *out, "--type", dtype]
            subprocess.run(command, check=True, stdout=sys.stderr)


def agreement(requests: Path, a: str, b: str) -> str:
    """How far the likelihoods of two contenders are apart."""
    x, y = (np.array(json.loads(Path(f"{requests}.{name}").read_text()), float) for name in (a, b))
    apart = np.abs(x[:, 0] - y[:, 0])
    return f"{a} and {b}: log-likelihoods {apart.mean():.4f} apart on average, {apart.max():.4f} at most"


def summarise(name: str, runs: list[dict[str, Any]], n_requests: int) -> list[dict[str, Any]]:
    """Medians, and how many times as fast as each peer the first of ours is, round by round."""
    contenders = list(dict.fromkeys(run["contender"] for run in runs))
    by = {contender: {run["round"]: run for run in runs if run["contender"] == contender} for contender in contenders}
    ours = [contender for contender in contenders if contender.startswith("ingle")]
    table = []
    print(f"\n{name}: {n_requests} requests")
    print("| | requests/s, median (least to most) | peak memory, GiB |", end="")
    print("".join(f" {mine} is times as fast |" for mine in ours))
    print("|---|---|---|" + "---|" * len(ours))
    for contender, own in by.items():
        rates = [n_requests / run["seconds"] for run in own.values()]
        ratios = {
            mine: statistics.median(
                run["seconds"] / by[mine][at]["seconds"] for at, run in own.items() if at in by[mine]
            )
            for mine in ours
        }
        quiet = all(run["others"] is not None and run["others"] <= QUIET for run in own.values())
        row = {
            "task": name,
            "contender": contender,
            "requests_per_s": statistics.median(rates),
            "spread": [min(rates), max(rates)],
            "peak_memory_bytes": statistics.median(run["peak_memory_bytes"] for run in own.values()),
            "ratios": ratios,
            "quiet": quiet,
        }
        table.append(row)
        print(
            f"| {contender} | {row['requests_per_s']:,.1f} ({min(rates):,.1f} to {max(rates):,.1f}) | "
            f"{row['peak_memory_bytes'] / 2**30:.2f} |"
            + "".join(f" {ratio:.2f} |" for ratio in ratios.values())
            + ("" if quiet else " NOT QUIET")
        )
    return table


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, help="GGUF file, whose weights are exported for every contender")
    parser.add_argument("--data", type=Path, required=True, help="requests, JSON Lines, possibly .gz")
    parser.add_argument("--shots", default="0,5")
    parser.add_argument("--limit", type=int, default=100, help="questions")
    parser.add_argument("--ours", default="f32,bf16", help="types of our GGUF files")
    parser.add_argument("--peers", default="f32-1,f32-16,f32-64,bf16-1,bf16-16,bf16-64", help="type-batch, or f32-auto")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    contenders = [f"ingle-{kind}" for kind in options.ours.split(",")] + [
        f"hf-{kind}" for kind in options.peers.split(",") if kind
    ]
    machine = {
        "machine": platform.platform(),
        "processors": os.cpu_count(),
        "threads": options.threads,
        "model": options.model.name,
        **{name: version(name) for name in ("torch", "transformers", "lm_eval")},
    }
    print(json.dumps(machine))
    records: list[dict[str, Any]] = [machine]
    os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        prepare(options.model, folder, set(contenders))
        for shots in options.shots.split(","):
            pairs = read_requests(options.data, int(shots), options.limit)
            requests = folder / f"{shots}.json"
            requests.write_text(json.dumps(pairs), encoding="utf-8")
            name = f"{options.data.name.partition('.')[0]}, {shots}-shot"
            runs = []
            for number in range(options.rounds):
                for contender in contenders[number % len(contenders) :] + contenders[: number % len(contenders)]:
                    arguments = ["--measure", contender, str(folder), str(requests), str(options.threads)]
                    command = [sys.executable, str(Path(__file__).resolve()), *arguments]
                    lines, peak, others = run_process(command)
                    run = {"task": name, "contender": contender, "round": number, **lines[-1]}
                    runs.append(run | {"peak_memory_bytes": peak, "others": others})
                    print(
                        f"  {name}, round {number + 1}: {contender:10} {run['seconds']:8.2f} s, "
                        f"{run['cpu_s']:8.2f} s of processor time",
                        flush=True,
                    )
            records += runs + summarise(name, runs, len(pairs))
            for peer in contenders[len(options.ours.split(",")) :]:
                same = f"ingle-{peer.split('-')[1]}"
                if same in contenders:
                    print(agreement(requests, same, peer))
    if options.json:
        options.json.write_text("".join(json.dumps(record) + "\n" for record in records))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        measure(*sys.argv[2:])
    else:
        main()
