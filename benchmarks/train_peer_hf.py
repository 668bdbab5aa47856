"""Training speed and memory beside Hugging Face `Trainer`, interleaved: see benchmarks/METHOD.md for the method.

python benchmarks/train_peer_hf.py --sizes 15m,125m --rounds 5 --json results.jsonl
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import sys
import tempfile
import time
from contextlib import redirect_stdout
from itertools import pairwise
from pathlib import Path
from typing import Any

from measuring import QUIET, run_process

SIZES: dict[str, dict[str, Any]] = {
    "2m": {"vocabulary": 4096, "width": 128, "layers": 4, "heads": 4, "kv_heads": 2, "hidden": 384, "context": 256},
    "15m": {"vocabulary": 8192, "width": 384, "layers": 8, "heads": 6, "kv_heads": 2, "hidden": 1024, "context": 512},
    "125m": {"shape": "mobilellm-125m", "vocabulary": 32000, "context": 512},
}
CONTENDERS = ("ingle", "hf", "hf-compiled")
WARM_UP = 3  # steps that do not count: compiling, first touches of memory
RATES = {"lr": 1e-3, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1, "clip": 1.0}


def measure_ingle(folder: Path, size: str, tokens: int, steps: int) -> dict[str, Any]:
    """Speeds as the trainer's own log says them: a step with its data, clipping, optimiser and records."""
    from ingle.train.config import Config
    from ingle.train.trainer import train

    config = Config.from_dict(
        {
            "model": dict(SIZES[size]),
            "data": {"train": "text.txt", "validation": 0.05, "tokenizer": "tokenizer.json", "shards": "shards"},
            "train": {
                **{name: list(value) if isinstance(value, tuple) else value for name, value in RATES.items()},
                "recipe": "paper",
                "steps": WARM_UP + steps,
                "batch_tokens": tokens,
                "micro_tokens": tokens,
                "compile": True,
                "validate_every": 10**9,
                "validation_tokens": SIZES[size]["context"],
            },
        },
        folder,
    )
    events: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(dir=folder) as out:
        train(config, Path(out) / "run", on_event=events.append)
    start = next(event for event in events if event["event"] == "start")
    speeds = [event["tokens_per_s"] for event in events if event["event"] == "step"]
    return {
        "tokens_per_s": statistics.median(speeds[WARM_UP:]),
        "peak_flops": start["peak_flops"],
        "parameters": start["parameters"],
        "precision": start["precision"],
    }


def measure_hf(folder: Path, size: str, tokens: int, steps: int, compiled: bool) -> dict[str, Any]:
    """`Trainer` in its defaults on the same rows, with the same optimiser: from the end of a step to the next."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainerCallback, TrainingArguments

    from ingle.train.data.loader import Loader
    from ingle.train.data.shards import open_shards

    shape = shape_of(size)
    n = shape.context
    loader = Loader(open_shards(folder / "shards").train, n, tokens // n, 1)
    rows = []
    for _ in range(WARM_UP + steps):
        for batch in loader.next(0, 1, tokens // n):
            rows += [{"input_ids": row, "labels": row} for row in batch.tokens]
    loader.close()
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=shape.vocabulary,
            hidden_size=shape.width,
            intermediate_size=shape.hidden,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads,
            num_key_value_heads=shape.kv_heads,
            head_dim=shape.head_dim,
            max_position_embeddings=n,
            rms_norm_eps=shape.norm_eps,
            tie_word_embeddings=shape.tied,
        )
    )
    assert model.num_parameters() == shape.n_parameters
    ends: list[float] = []

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *_: Any, **__: Any) -> None:
            ends.append(time.perf_counter())

    with tempfile.TemporaryDirectory(dir=folder) as out:
        arguments = TrainingArguments(
            out,
            per_device_train_batch_size=tokens // n,
            max_steps=WARM_UP + steps,
            learning_rate=RATES["lr"],
            adam_beta1=RATES["betas"][0],
            adam_beta2=RATES["betas"][1],
            adam_epsilon=RATES["eps"],
            weight_decay=RATES["weight_decay"],
            max_grad_norm=RATES["clip"],
            lr_scheduler_type="cosine",
            bf16=True,
            use_cpu=not torch.cuda.is_available(),
            torch_compile=compiled,
            report_to=[],
            save_strategy="no",
            disable_tqdm=True,
            dataloader_pin_memory=torch.cuda.is_available(),
        )
        with redirect_stdout(sys.stderr):  # it prints its records; ours are the lines of JSON
            Trainer(model, arguments, train_dataset=rows, callbacks=[Clock()]).train()
    times = [end - begin for begin, end in pairwise(ends)]
    return {"tokens_per_s": tokens / statistics.median(times[WARM_UP - 1 :])}


def shape_of(size: str) -> Any:
    """The shape that `size` names."""
    from ingle.train.shape import Shape

    return Shape.from_dict(SIZES[size])


def prepare(folder: Path, n_tokens: int) -> None:
    """Text of random words, a tokenizer of 512 of its tokens, and shards: speed does not depend on what is said.

    The models have larger vocabularies than the tokenizer: all of their logits are computed all the same.
    """
    from ingle.train.data.shards import build_shards
    from ingle.train.data.sources import Source
    from ingle.train.data.vocabulary import train_tokenizer

    random.seed(0)
    words = ["".join(random.choices("etaoinshrdlu", k=random.randint(2, 7))) for _ in range(2000)]
    text = folder / "text.txt"
    with text.open("w") as file:
        for _ in range(n_tokens // 250):
            print(" ".join(random.choices(words, k=random.randint(50, 600))), "<|endoftext|>", sep="\n", file=file)
    vocabulary = train_tokenizer([text.read_text()[:1_000_000].replace("<|endoftext|>", "")], 512)
    vocabulary.save(folder / "tokenizer.json")
    build_shards([Source(str(text), None)], vocabulary, folder / "shards", validation=0.05, seed=1)


def run(contender: str, size: str, folder: Path, options: argparse.Namespace, number: int) -> dict[str, Any]:
    """One contender in a process of its own."""
    arguments = ["--measure", contender, size, str(folder), str(options.tokens), str(options.steps)]
    lines, peak, others = run_process([sys.executable, str(Path(__file__).resolve()), *arguments])
    result = {
        "contender": contender,
        "size": size,
        "round": number,
        **lines[-1]["result"],
        "peak_memory_bytes": peak,
        "others": others,
    }
    print(
        f"  {contender:12} {result['tokens_per_s']:9,.0f} tokens/s {peak / 2**30:5.2f} GiB"
        + ("" if others is None or others <= QUIET else f"   NOT QUIET: others took {others:.0%}"),
        flush=True,
    )
    return result


def summarise(size: str, runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Medians, and ratios of Ingle to the others round by round."""
    by = {name: [run for run in runs if run["contender"] == name] for name in CONTENDERS}
    flops = shape_of(size).flops_per_token(SIZES[size]["context"])
    peak = max((run["peak_flops"] for run in by["ingle"]), default=0.0)
    table = []
    print(f"\n{size}: {runs[0].get('parameters') or shape_of(size).n_parameters:,} parameters")
    print("| | tokens/s, median (least to most) | MFU | peak memory, GiB | Ingle is times as fast (least to most) |")
    print("|---|---|---|---|---|")
    for name, own in by.items():
        if not own:
            continue
        speeds = [run["tokens_per_s"] for run in own]
        ratios = [
            a["tokens_per_s"] / b["tokens_per_s"] for a in by["ingle"] for b in own if a["round"] == b["round"]
        ] or [float("nan")]
        row = {
            "size": size,
            "contender": name,
            "tokens_per_s": statistics.median(speeds),
            "spread": [min(speeds), max(speeds)],
            "mfu": flops * statistics.median(speeds) / peak if peak else None,
            "peak_memory_bytes": statistics.median(run["peak_memory_bytes"] for run in own),
            "ratio": statistics.median(ratios),
            "ratio_spread": [min(ratios), max(ratios)],
            "quiet": all(run["others"] is not None and run["others"] <= QUIET for run in own),
        }
        table.append(row)
        print(
            f"| {name} | {row['tokens_per_s']:,.0f} ({min(speeds):,.0f} to {max(speeds):,.0f}) | "
            f"{row['mfu'] or float('nan'):.1%} | {row['peak_memory_bytes'] / 2**30:.2f} | "
            f"{row['ratio']:.2f} ({min(ratios):.2f} to {max(ratios):.2f}) |" + ("" if row["quiet"] else " NOT QUIET")
        )
    return table


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", default="15m,125m", help=f"of {', '.join(SIZES)}")
    parser.add_argument("--contenders", default=",".join(CONTENDERS))
    parser.add_argument("--tokens", type=int, default=4096, help="positions of a step")
    parser.add_argument("--steps", type=int, default=20, help="that count, after the warm-up")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    import torch
    import transformers

    machine = {
        "machine": platform.platform(),
        "processors": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "positions_per_step": options.tokens,
        "steps": options.steps,
    }
    print(json.dumps(machine))
    records: list[dict[str, Any]] = [machine]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        prepare(folder, 2 * options.tokens * (options.steps + WARM_UP))
        for size in options.sizes.split(","):
            runs = []
            for number in range(options.rounds):
                order = options.contenders.split(",")
                order = order[number % len(order) :] + order[: number % len(order)]
                print(f"{size}, round {number + 1}", flush=True)
                runs += [run(contender, size, folder, options, number) for contender in order]
            records += runs + summarise(size, runs)
    if options.json:
        options.json.write_text("".join(json.dumps(record) + "\n" for record in records))


def measure(contender: str, size: str, folder: str, tokens: str, steps: str) -> None:
    """Entry of a measuring process: prints one JSON line."""
    if contender == "ingle":
        result = measure_ingle(Path(folder), size, int(tokens), int(steps))
    else:
        result = measure_hf(Path(folder), size, int(tokens), int(steps), contender == "hf-compiled")
    print("\n" + json.dumps({"result": result}), flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        measure(*sys.argv[2:])
    else:
        main()
