"""The runs of `engine.py`, each in a process of its own; METHOD.md says what they measure and why so.

`python engine_runs.py MODE ...` is that process for ours and for the floors: it prints one JSON object.
"""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from engine_results import NATIVE, Cell, Run
from measuring import RunFailed, run_process

LONG = 1024  # a prompt above this is warmed up by a short one: it takes long, and its first touches do not matter
SHORT = 128
PEERS = {"llama.cpp": ["--no-warmup"], "ik_llama.cpp": ["-w", "0"]}  # and how each is told not to warm up


def measure(path: str, threads: int, n_prompt: int, n_decode: int) -> Run:
    """Speeds as a reader of the stream sees them: from the call to the first token, and between tokens."""
    import numpy as np

    import ingle
    from ingle.engine.memory import peak_bytes

    ingle.load(threads=1, context=8).close()  # the bundled model: what Python imports is not the time of this file
    options: dict[str, Any] = {"temperature": 0.0, "ignore_eos": True}
    began = time.perf_counter()
    # What a slot keeps from an earlier prompt is not computed again: one slot, and prompts with different first tokens.
    with ingle.load(path, threads=threads, context=max(n_prompt, n_decode) + 2, n_slots=1) as model:
        run: Run = {"load_s": time.perf_counter() - began, "load_peak_bytes": peak_bytes()}
        limit = min(model.spec.n_vocab, model.tokenizer.n_vocab)
        warm_up, prompt = np.random.default_rng(0).integers(3, limit, size=(2, max(n_prompt, 8))).tolist()
        warm_up[0], prompt[0] = 4, 5
        list(model.generate(warm_up[: SHORT if n_prompt > LONG else n_prompt or 8], max_tokens=2, **options))
        if n_prompt:
            (first,) = model.generate(prompt, max_tokens=1, **options)
            if first.stats.cached_tokens:
                sys.exit(f"Expected no cached prompt; {first.stats.cached_tokens} tokens were.")
            run["prefill_tokens_per_s"] = n_prompt / first.time_s
        if n_decode:
            times = [token.time_s for token in model.generate([3], max_tokens=n_decode + 1, **options)]
            run["decode_tokens_per_s"] = n_decode / (times[-1] - times[0])
        return run | {"peak_bytes": peak_bytes(), "isa": instruction_set(), "version": ingle.__version__}


def measure_sequences(path: str, threads: int, n_sequences: int, n_decode: int) -> Run:
    """Total tokens/s of many answers at once (`ingle.evaluate.batch.generate`), beside one of `Model.generate`."""
    import ingle
    from ingle.evaluate.batch import generate

    calls: list[float] = []
    with ingle.load(path, threads=threads, context=n_decode + 4, n_slots=n_sequences) as model:
        options: dict[str, Any] = {"temperature": 0.0, "ignore_eos": True, "max_tokens": n_decode + 1}
        list(model.generate([4], **options | {"max_tokens": 8}))
        times = [token.time_s for token in model.generate([3], **options)]
        prompts = [[5 + number] for number in range(n_sequences)]
        generate(model, prompts, max_tokens=4)
        answers = generate(
            model, prompts, max_tokens=n_decode + 1, on_progress=lambda *_: calls.append(time.perf_counter())
        )
    n_tokens = sum(len(answer.token_ids) - 1 for answer in answers)  # without those of the first call, the prompts'
    if len(calls) < 2 or n_tokens < 1:
        sys.exit("Expected answers of several tokens; the model ended all of them at once: measure another file.")
    many, one = n_tokens / (calls[-1] - calls[0]), n_decode / (times[-1] - times[0])
    return {"one_tokens_per_s": one, "many_tokens_per_s": many, "n_tokens": n_tokens, "isa": instruction_set()}


def measure_floor(path: str, threads: int, n_bytes: int) -> Run:
    """What the machine can do at most: streaming n_bytes, multiplying, and reading the file from the page cache."""
    import numpy as np

    from ingle import _core

    size = os.stat(path).st_size
    reads = []
    for _ in range(2):  # the first also brings it into the cache
        began = time.perf_counter()
        with open(path, "rb", buffering=0) as file:
            view = memoryview(np.empty(size, np.uint8))  # fresh memory, as a program needs it that keeps the weights
            done = 0
            while done < size:
                done += file.readinto(view[done:]) or sys.exit(f"{path} became shorter while it was read.")
            del view
        reads.append(time.perf_counter() - began)
    bandwidth = _core.read_bandwidth(max(n_bytes, 1 << 20), threads)
    return {"gb_per_s": bandwidth, "gop_per_s": _core.multiply_rate(threads), "read_s": min(reads)}


def describe_file(path: str) -> dict[str, Any]:
    """What `engine_results.File` says of a GGUF file. Of a mixture a token reads as many experts as it uses."""
    from make_shape import SHAPES

    from ingle.gguf import FileType, open_gguf

    with open_gguf(path) as file:
        data, tensors = file.metadata, file.tensors
        arch = data.get_str("general.architecture")
        n_layers, width = (data.get_int(f"{arch}.{key}") for key in ("block_count", "embedding_length"))
        n_heads = data.get_int(f"{arch}.attention.head_count")
        head_width = data.get_int(f"{arch}.attention.key_length", width // n_heads)
        size = (n_layers, width, tensors["token_embd.weight"].shape[0])
        shapes = {(s.layers, s.width, s.vocabulary): name for name, s in SHAPES.items()}
        tied = "output.weight" not in tensors
        read = {name: t for name, t in tensors.items() if tied or name != "token_embd.weight"}  # but for one row of it
        used = data.get_int(f"{arch}.expert_used_count", 1) / data.get_int(f"{arch}.expert_count", 1)
        share = {name: used if len(t.shape) == 3 else 1 for name, t in read.items()}
        weights = {name: int(share[name] * math.prod(t.shape)) for name, t in read.items() if len(t.shape) > 1}
        try:
            kind = FileType(data.get_int("general.file_type", -1)).name
        except ValueError:
            kind = "of unknown type"
        return {
            "file": Path(path).name,
            "n_bytes": os.stat(path).st_size,
            "shape": shapes.get(size) or data.get_str("general.name", Path(path).stem),
            "type": kind,
            "context": data.get_int(f"{arch}.context_length"),
            "bytes_per_token": sum(int(share[name] * t.n_bytes) for name, t in read.items()),
            "weights_per_token": sum(weights.values()),
            "block_weights": sum(n for name, n in weights.items() if name.startswith("blk.")),
            "attention_width": n_layers * n_heads * head_width,
        }


def describe_ours() -> dict[str, Any]:
    """Version, a fingerprint of the native module, its compiler, and its best instruction set here."""
    import hashlib

    import ingle
    from ingle import _core

    data = Path(_core.__file__).read_bytes()
    fingerprint = hashlib.sha256(data).hexdigest()[:12]
    found = {"version": ingle.__version__, "core": fingerprint, "isa": instruction_set()}
    return found | {"compiler": compiler_of(data)}


def instruction_set() -> str:
    """What the native core decided to use."""
    from ingle import _core

    return str(_core.isa())


def compiler_of(data: bytes) -> str:
    """What a compiled file says of its compiler."""
    found = re.search(rb"GCC: \([^)]*\) [\d.]+|clang version [\d.]+", data)
    return found[0].decode() if found else "unknown compiler"


def describe_peer(command: Sequence[str]) -> dict[str, Any]:
    """What can be known of a llama-bench without running a model: its version, compiler and build options."""
    program = Path(command[0]).resolve()
    said = subprocess.run([str(program), "--version"], capture_output=True, text=True, check=False, timeout=60)
    version = re.findall(r"^version: (.*)$", said.stdout + said.stderr, re.MULTILINE)
    libraries = sorted(program.parent.glob("libggml-cpu*.so*"))
    compiler = compiler_of((libraries or [program])[0].read_bytes())
    options: list[str] = []
    for folder in program.parents[:3]:
        if (folder / "CMakeCache.txt").exists():
            cache = (folder / "CMakeCache.txt").read_text(errors="replace")
            found = re.findall(
                r"^(GGML_NATIVE|GGML_A[VM]X\w*|GGML_FMA|CMAKE_BUILD_TYPE):\w+=(.+)$", cache, re.MULTILINE
            )
            options = [f"{name}={value}" for name, value in found if value != "OFF"]
            break
    return {"version": (version or ["unknown"])[0], "compiler": compiler, "options": options, "flags": command[1:]}


def run_self(mode: str, *arguments: object, isa: str = NATIVE) -> tuple[Run, float]:
    """One of the functions above in a process of its own, with the share of the processors that others took."""
    environment = {name: value for name, value in os.environ.items() if name != "INGLE_ISA"}
    if isa != NATIVE:
        environment["INGLE_ISA"] = isa
    command = [sys.executable, str(Path(__file__).resolve()), mode, *map(str, arguments)]
    objects, _, others = run_process(command, environment)
    run = objects[-1]
    if isa != NATIVE and run.get("isa", isa) != isa:
        raise RunFailed(f"Expected the instruction set {isa}; this machine took {run['isa']}: leave {isa} out.")
    return run, others or 0.0


def run_ours(path: str, cell: Cell) -> tuple[Run, float]:
    """One run of Ingle."""
    if cell.sequences:
        return run_self("sequences", path, cell.threads, cell.sequences, cell.decode, isa=cell.isa)
    return run_self("measure", path, cell.threads, cell.prompt, cell.decode, isa=cell.isa)


def run_floor(path: str, cell: Cell, n_bytes: int) -> tuple[Run, float]:
    """One measurement of the machine."""
    return run_self("floor", path, cell.threads, n_bytes, isa=cell.isa)


def run_peer(name: str, command: Sequence[str], path: str, cell: Cell) -> tuple[Run, float]:
    """One run of llama-bench: one repetition of each test, after its own warm-up."""
    prompts = f"{SHORT},{cell.prompt}" if cell.prompt > LONG else str(cell.prompt)
    words = [*command, "-m", path, "-p", prompts, "-n", str(cell.decode), "-t", str(cell.threads), "-r", "1"]
    tests, peak, others = run_process([*words, "-o", "json", *(PEERS[name] if cell.prompt > LONG else [])])
    run: Run = {"peak_bytes": peak, "flash_attn": tests[0].get("flash_attn"), "type_k": tests[0].get("type_k")}
    for test in tests:
        if test["n_gen"] == cell.decode and not test["n_prompt"]:
            run["decode_tokens_per_s"] = test["avg_ts"]
        elif test["n_prompt"] == cell.prompt:
            run["prefill_tokens_per_s"] = test["avg_ts"]
    if ("decode_tokens_per_s" in run, "prefill_tokens_per_s" in run) != (cell.decode > 0, cell.prompt > 0):
        raise RunFailed(f"Expected of {name} {cell.work}; its llama-bench printed other tests: {tests}")
    return run, others or 0.0


MODES: dict[str, Callable[..., Run]] = {"measure": measure, "sequences": measure_sequences, "floor": measure_floor}

if __name__ == "__main__":
    if sys.argv[1] == "describe":
        print(json.dumps(describe_file(sys.argv[2])))
    elif sys.argv[1] == "ours":
        print(json.dumps(describe_ours()))
    else:
        print(json.dumps(MODES[sys.argv[1]](sys.argv[2], *map(int, sys.argv[3:]))))
