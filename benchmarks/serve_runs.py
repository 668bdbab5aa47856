"""The runs of `serve.py`: a server is started, asked by `serve_load.py`, and stopped; METHOD.md says why so.

`python serve_runs.py FILE SYSTEM OWN ANSWER N_REQUESTS N_WARM_UP` prints what is asked of a model file.
"""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from engine_results import OURS, Run
from measuring import RunFailed, run_process

READY_S = 180.0
WARM_UP_TOKENS = 16
WORDS = """time year people way day man thing woman life child world school state family student group country problem
hand part place case week company system program question work number night point home water room mother area money
story fact month lot right study book eye job word business issue side kind head house service friend father power hour
game line end member law car city name team minute idea body back parent face level office door health person art war
history party result change morning reason research girl guy moment air teacher force education"""


@dataclass(frozen=True, order=True)
class Cell:
    """What one round measures: so many clients at once, on a server of so many slots with `context` positions each.

    requests: in all. system, own, answer: tokens of the system prompt that all requests have, of what each asks, and of
    each answer.
    """

    file: str
    threads: int
    slots: int
    clients: int
    requests: int
    system: int
    own: int
    answer: int
    context: int

    @property
    def work(self) -> str:
        """In words."""
        plural = "s" * (self.clients > 1)
        return f"{self.clients} client{plural}, {self.requests} answers of {self.answer} tokens"


def make_plan(path: str, system: int, own: int, answer: int, n_requests: int, n_warm_up: int) -> dict[str, Any]:
    """Bodies of requests, the same every time. template: ours, where the file has none and each server has its own.

    Answers do not end before their length: there is a bias against what ends them.
    """
    import ingle

    with ingle.load(path, threads=1, context=8) as model:
        tokenizer = model.tokenizer
        bias = {str(token_id): -100 for token_id in sorted(tokenizer.eog_ids)}
        source = None if model.has_template else model.template.source

    def text(name: str, n_tokens: int) -> str:
        """Words of about so many tokens."""
        choose = random.Random(name)
        words = [choose.choice(WORDS.split()) for _ in range(n_tokens)]
        low, high = 1, n_tokens
        while low < high:
            middle = (low + high + 1) // 2
            within = len(tokenizer.encode(" ".join(words[:middle]))) <= n_tokens
            low, high = (middle, high) if within else (low, middle - 1)
        return " ".join(words[:low])

    def body(told: str, asked: str, n_tokens: int) -> dict[str, Any]:
        messages = [{"role": "system", "content": told}, {"role": "user", "content": asked}]
        how = {"stream": True, "stream_options": {"include_usage": True}, "temperature": 0, "logit_bias": bias}
        return {"messages": messages, "max_tokens": n_tokens, **how}

    told = text("system", system)
    bodies = [body(told, text(f"own {i}", own), answer) for i in range(n_requests)]
    warm_up = [body(text(f"warm {i}", system), text(f"warm {i}", own), WARM_UP_TOKENS) for i in range(n_warm_up)]
    return {"bodies": bodies, "warm_up": warm_up, "template": source}


def run_server(name: str, command: Sequence[str], path: str, cell: Cell) -> tuple[Run, float]:
    """One run: figures of `serve_load.py`, processor time and peak memory of the server, and the share of others."""
    counts = (cell.system, cell.own, cell.answer, cell.requests, cell.slots)
    (plan,), _, _ = run_process([sys.executable, __file__, path, *map(str, counts)])
    with tempfile.TemporaryDirectory() as folder:
        bodies, warm_up, template = (Path(folder) / each for each in ("bodies", "warm_up", "template"))
        for file, of in ((bodies, plan["bodies"]), (warm_up, plan["warm_up"])):
            file.write_text("".join(json.dumps(body) + "\n" for body in of), encoding="utf-8")
        if plan["template"] is not None:
            template.write_text(plan["template"], encoding="utf-8")
        words = ours(path, cell) if name == OURS else peer(command, path, cell, template)
        load = [sys.executable, str(Path(__file__).with_name("serve_load.py"))]
        with serving(words) as (port, pid):
            run_process([*load, str(port), str(cell.slots), str(warm_up)])
            began, cpu_s = time.monotonic(), cpu_seconds(pid)
            (run,), _, others = run_process([*load, str(port), str(cell.clients), str(bodies)])
            wall_s, cpu_s = time.monotonic() - began, cpu_seconds(pid) - cpu_s
            run |= {"server_cpu_s": round(cpu_s, 2), "peak_bytes": peak_bytes(pid)}
    if not run["completion_tokens"]:
        raise RunFailed(f"{name} gave no answer: {'; '.join(run['errors'])}")
    return run, max(0.0, (others or 0.0) - cpu_s / wall_s / (os.cpu_count() or 1))


def ours(path: str, cell: Cell) -> list[str]:
    """The command of our server, without a port."""
    words = [sys.executable, "-m", "ingle", "serve", path, "--no-ui", "--threads", str(cell.threads)]
    return [*words, "--slots", str(cell.slots), "--context", str(cell.context), "--max-queue", str(cell.clients + 1)]


def peer(command: Sequence[str], path: str, cell: Cell, template: Path) -> list[str]:
    """That of a llama-server. It divides its context among the slots."""
    words = [*command, "-m", path, "-t", str(cell.threads), "-np", str(cell.slots)]
    words += ["-c", str(cell.context * cell.slots), "--host", "127.0.0.1"]
    return [*words, "--jinja", "--chat-template-file", str(template)] if template.exists() else words


@contextmanager
def serving(command: Sequence[str]) -> Iterator[tuple[int, int]]:
    """The port and process id of a server, from when it is ready to the end of the `with`."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with tempfile.TemporaryFile("w+") as output:
        words = [*command, "--port", str(port)]
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
        try:
            await_ready(process, port, words, output)
            yield port, process.pid
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def await_ready(process: subprocess.Popen[bytes], port: int, words: Sequence[str], output: IO[str]) -> None:
    """Until GET /health says 200. Raises RunFailed where that does not come."""
    end = time.monotonic() + READY_S
    while process.poll() is None and time.monotonic() < end:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as reply:
                if reply.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            pass
        time.sleep(0.05)
    output.seek(0)
    tail = "".join(output.readlines()[-8:])
    raise RunFailed(f"This server was not ready:\n  {' '.join(words)}\n{tail}")


def cpu_seconds(pid: int) -> float:
    """Processor time of a process so far; 0 where there is no /proc to tell."""
    path = Path(f"/proc/{pid}/stat")
    if not path.exists():
        return 0.0
    fields = path.read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def peak_bytes(pid: int) -> int:
    """The most resident memory of a process; 0 where there is no /proc to tell."""
    path = Path(f"/proc/{pid}/status")
    lines = path.read_text().splitlines() if path.exists() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), 0)


if __name__ == "__main__":
    print(json.dumps(make_plan(sys.argv[1], *map(int, sys.argv[2:]))))
