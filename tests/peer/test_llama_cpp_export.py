"""llama.cpp runs what the trainer exports, shared layers written out, and says the same.

Optional, as test_llama_cpp is.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import ingle
from ingle.train.export import export_gguf
from peer.llama_cpp import complete, follows, needs_llama_cpp, run_program
from train.small_decoders import SENTENCES, small_decoder, small_shape, trained, vocabulary

pytestmark = [needs_llama_cpp]

N_TOKENS = 24
PROMPTS = ["The cat sat on", "Once upon a time"]
NEAR = 0.001  # nats: where two tokens are so close, either may come first

CASES: dict[str, dict[str, Any]] = {
    "llama": {},
    "llama untied": {"tied": False},
    "qwen3": {"qk_norm": True},
    "arcee": {"feed_forward": "relu2"},
    "arcee untied": {"feed_forward": "relu2", "tied": False},
    "llama immediate": {"sharing": "immediate", "repeat": 3},
    "llama reverse": {"sharing": "reverse", "repeat": 2, "tied": False},
    "qwen3 repeat": {"sharing": "repeat", "qk_norm": True},
    "arcee reverse": {"sharing": "reverse", "repeat": 3, "feed_forward": "relu2"},
}


@pytest.mark.parametrize("case", CASES)
def test_same_greedy_continuation_of_an_export(case: str, tmp_path: Path) -> None:
    decoder = small_decoder(small_shape(head_dim=16, **CASES[case]))
    path = tmp_path / "model.gguf"
    done = export_gguf(trained(decoder), path, "f32", expand=True)
    assert done.architecture == case.split()[0]
    options = ["-n", str(N_TOKENS), "-c", "64", "-t", "1", "--temp", "0", "-no-cnv", "--no-display-prompt"]
    for prompt in PROMPTS:
        theirs = complete("-m", str(path), "-p", prompt, *options, "-ctk", "f32", "-ctv", "f32", "-fa", "off")
        with ingle.load(path, threads=1, context=64, kv_type="f32") as ours:
            ids = ours.tokenizer.encode(prompt)
            assert follows(ours, ids, theirs, N_TOKENS, NEAR), f"{theirs!r} there, {ours_says(ours, ids)!r} here"
        with torch.no_grad():
            for _ in range(N_TOKENS):
                ids.append(int(decoder.logits(torch.tensor([ids]))[0, -1].argmax()))
        said = vocabulary().tokenizer.decode(ids[-N_TOKENS:])
        print(case, repr(prompt), "exact" if theirs.startswith(said.encode()) else "within a near tie", repr(said))


def ours_says(model: ingle.Model, ids: list[int]) -> str:
    return "".join(token.text for token in model.generate(ids, temperature=0.0, max_tokens=N_TOKENS))


@pytest.mark.parametrize(
    "text", [*SENTENCES, " two  spaces,   three\n\n\ttabs\r\n", "e\u0301 \u212b 日本 🎉 <|im_end|>"]
)
def test_same_tokens_of_a_trained_vocabulary(text: str, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    export_gguf(trained(small_decoder(small_shape(head_dim=16))), path, "f32")
    (tmp_path / "text").write_bytes(text.encode())
    options = ["-f", str(tmp_path / "text"), "--ids", "--no-parse-special", "--log-disable"]
    theirs = json.loads(run_program("llama-tokenize", "-m", str(path), *options))
    with ingle.load(path, threads=1, context=64) as ours:
        assert ours.tokenizer.encode(text) == theirs
