"""llama.cpp's programs, in the folder that INGLE_LLAMA_CPP names, and how their answers are compared with ours."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

import ingle

PROGRAMS = Path(os.environ.get("INGLE_LLAMA_CPP", ""))
needs_llama_cpp = pytest.mark.skipif(
    "INGLE_LLAMA_CPP" not in os.environ, reason="INGLE_LLAMA_CPP names no llama.cpp programs"
)


def run_program(name: str, *arguments: str) -> bytes:
    """What a program of llama.cpp writes to its standard output."""
    command = [str(PROGRAMS / name), *arguments]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=300, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: status {done.returncode}\n{done.stderr.decode()[-2000:]}"
    return done.stdout


def complete(*arguments: str) -> bytes:
    """What llama-completion says, and the two line breaks that it prints last."""
    for _attempt in range(5):  # its output is written by a thread that now and then is not waited for at the end
        said = run_program("llama-completion", *arguments)
        if said.endswith(b"\n\n"):  # what it prints last
            break
    return said


def follows(model: ingle.Model, ids: list[int], text: bytes, n_tokens: int, near: float) -> bool:
    """Whether some n_tokens tokens that begin `text` are each within `near` of the likeliest one after those before.

    llama.cpp prints text and not ids, and text can begin with several tokens (" r", " red"), so all are tried.
    """
    if not n_tokens:
        return True
    logits = model.logits(ids)[-1]
    pieces = {int(i): model.tokenizer.token_bytes(int(i)) for i in np.flatnonzero(logits > logits.max() - near)}
    return any(
        follows(model, [*ids, token_id], text[len(piece) :], n_tokens - 1, near)
        for token_id, piece in pieces.items()
        if piece and text.startswith(piece)
    )
