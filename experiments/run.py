"""Train the arms of the experiments: `python experiments/run.py --data FILE [names] [--scale tiny] [--seeds 3]`.

Each run is a process of its own with one thread, as many at once as there are cores (one on a GPU), so processor time
is not shared. Results are appended to experiments/results/SCALE.jsonl; what is there already is not run again, so
the command can be stopped and repeated. `python experiments/report.py` makes the tables and the picture.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from plan import EXPERIMENTS, SCALES, Arm, arms_of

HERE = Path(__file__).parent


def config_of(arm: Arm, seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """The sections of the run's config."""
    scale = SCALES[args.scale]
    tokenizer = args.out / "tokenizer.json"
    return {
        "model": arm.shape.to_dict(),
        "data": {
            "train": [str(path.absolute()) for path in args.data],
            "validation": 0.03,
            "tokenizer": str(tokenizer.absolute()) if tokenizer.exists() else arm.shape.vocabulary,
            "positions": scale.positions,
            "shards": str((args.out / "shards").absolute()),
        },
        "train": {
            "recipe": "ingle",
            **arm.train,
            "tokens": int(scale.tokens * arm.tokens),
            "batch_tokens": scale.batch_tokens,
            "seed": seed,
            "threads": 0 if args.device == "cuda" else 1,
            "device": args.device,
            "compile": True,
            "checkpoint_minutes": 1e4,
            "validation_tokens": 65536,
        },
    }


def prepare(args: argparse.Namespace) -> None:
    """Train the tokenizer and write the shards once, so that parallel runs share them."""
    from ingle.train.config import Config
    from ingle.train.trainer import train

    kept = args.out / "tokenizer.json"
    if kept.exists():
        return
    base = arms_of((), args.scale)["base"]
    sections = config_of(base, 0, args)
    budget = {name: value for name, value in sections["train"].items() if name != "tokens"}
    sections["train"] = budget | {"steps": 1, "compile": False}
    run = args.out / "prepare"
    shutil.rmtree(run, ignore_errors=True)
    train(Config.from_dict(sections, Path.cwd()), run)
    shutil.copy(run / "tokenizer.json", kept)


def one(arm: Arm, seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """Train an arm, quantise it afterwards, and say what came of it."""
    from ingle.train.config import Config
    from ingle.train.trainer import train

    run = args.out / f"{arm.name}-{seed}"
    shutil.rmtree(run, ignore_errors=True)
    curve: list[dict[str, float]] = []
    train_s, clock = 0.0, 0.0

    def watch(record: dict[str, Any]) -> None:
        """Processor seconds of the steps, without what is compiled before and validated between them."""
        nonlocal train_s, clock
        if record["event"] == "step":
            train_s += _seconds(args) - clock
        elif record["event"] == "validation":
            curve.append({"tokens": record["tokens"], "train_s": round(train_s, 2), "loss": round(record["loss"], 5)})
        clock = _seconds(args)

    result = train(Config.from_dict(config_of(arm, seed, args), Path.cwd()), run, on_event=watch)
    assert result.validation is not None
    found = {
        "arm": arm.name,
        "seed": seed,
        "parameters": arm.parameters,
        "loss": round(result.validation.loss, 5),
        "bits_per_byte": round(result.validation.bits_per_byte or 0.0, 5),
        "tokens": result.tokens,
        "train_s": round(train_s, 2),
        "quantized": quantized(run, args),
        "curve": curve,
    }
    shutil.rmtree(run)
    return found


def _seconds(args: argparse.Namespace) -> float:
    """Of this process's one thread, which a busy neighbour does not lengthen; on a GPU of the wall."""
    return time.monotonic() if args.device == "cuda" else time.process_time()


def quantized(run: Path, args: argparse.Namespace) -> dict[str, float]:
    """Held-out loss of the finished model in float32, and after post-training quantisation by each scheme."""
    import torch

    from ingle.train.checkpoint import load_run_model
    from ingle.train.compress.schemes import apply_scheme, remove_scheme
    from ingle.train.data.loader import validation_rows
    from ingle.train.data.shards import open_shards
    from ingle.train.decoder import Decoder

    positions = SCALES[args.scale].positions
    rows = validation_rows(open_shards(args.out / "shards").validation, positions, 128)
    tokens, targets, documents = (torch.from_numpy(x) for x in (rows.tokens, rows.targets, rows.documents))
    n_targets = int((targets >= 0).sum())
    model = load_run_model(run / "model")
    decoder = Decoder(model.shape)
    decoder.load_state_dict(model.tensors)

    @torch.no_grad()
    def loss() -> float:
        parts = zip(tokens.split(16), targets.split(16), documents.split(16), strict=True)
        return round(sum(float(decoder(*part)) for part in parts) / n_targets, 5)

    found = {"float": loss()}
    for scheme in ("w8a8", "q8_0", "q4_0"):
        apply_scheme(decoder, scheme)
        found[scheme] = loss()
        remove_scheme(decoder)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("names", nargs="*", help=f"experiments: {', '.join(EXPERIMENTS['tiny'])} (default: all)")
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="text that `ingle train` reads")
    parser.add_argument("--scale", choices=SCALES, default="tiny")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--out", type=Path, default=Path("runs/experiments"))
    parser.add_argument("--arms", help="only these arms of the experiments, with commas between")
    parser.add_argument("--one", nargs=2, metavar=("ARM", "SEED"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    if args.one:
        name, seed = args.one
        print(json.dumps(one(arms_of((), args.scale)[name], int(seed), args)))
        return
    prepare(args)
    results = HERE / "results" / f"{args.scale}.jsonl"
    results.parent.mkdir(exist_ok=True)
    lines = results.read_text().splitlines() if results.exists() else []
    there = {(run["arm"], run["seed"]) for run in map(json.loads, lines)}
    arms = [name for name in arms_of(tuple(args.names), args.scale) if not args.arms or name in args.arms.split(",")]
    wanted = [(name, seed) for seed in range(1, args.seeds + 1) for name in arms]
    waiting = [pair for pair in wanted if pair not in there]
    at_once = 1 if args.device == "cuda" else max(1, os.cpu_count() or 1)
    running: list[tuple[str, int, subprocess.Popen[str]]] = []
    done = 0
    try:
        while waiting or running:
            while waiting and len(running) < at_once:
                name, seed = waiting.pop(0)
                running.append((name, seed, _start(name, seed, args)))
            time.sleep(0.2)
            for entry in [e for e in running if e[2].poll() is not None]:
                running.remove(entry)
                name, seed, process = entry
                done += 1
                if process.returncode:
                    print(f"{name} seed {seed}: failed, see {args.out}/{name}-{seed}.log", file=sys.stderr)
                    continue
                line = process.stdout.read().splitlines()[-1] if process.stdout else "{}"
                with results.open("a") as file:
                    file.write(line + "\n")
                found = json.loads(line)
                print(
                    f"{done}/{done + len(waiting) + len(running)} {name} seed {seed}: loss {found['loss']:.4f}, "
                    f"{found['train_s']:.0f} s",
                    flush=True,
                )
    finally:
        for _, _, process in running:
            process.terminate()


def _start(name: str, seed: int, args: argparse.Namespace) -> subprocess.Popen[str]:
    data = [str(path) for path in args.data]
    command = [sys.executable, __file__, "--data", *data, "--scale", args.scale, "--device", args.device]
    command += ["--out", str(args.out), "--one", name, str(seed)]
    threads = {} if args.device == "cuda" else {"OMP_NUM_THREADS": "1"}
    with (args.out / f"{name}-{seed}.log").open("w") as log:
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=os.environ | threads)


if __name__ == "__main__":
    main()
