"""The bundled model says in llama.cpp what it says here: the same tokens of a text, the same greedy continuation.

Optional: INGLE_LLAMA_CPP names a folder with llama.cpp's programs; without it all of this is skipped.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import ingle
from ingle.engine.model import bundled_model
from ingle.gguf import open_gguf
from ingle.models.convert import convert
from ingle.text import Tokenizer
from peer.llama_cpp import complete, follows, needs_llama_cpp, run_program

pytestmark = [needs_llama_cpp]

PROMPTS = ["Once upon a time, there was a little dog named", "Lily went to the park with her mom.", "The old man had a"]
N_TOKENS = 30
# Both round activations to 8 bits, but not at the same places: where two tokens are this close (in nats, for a file of
# float32 nearly nothing), either may come first, and the continuation goes on with the one that llama.cpp took.
NEAR = {"f32": 0.001, "q8_0": 0.1}

TEXTS = [
    "Once upon a time, there was a little girl named Lily.",
    "",
    " two  spaces,   three\n\n\ttabs\r\n and an end ",
    "Don't 12345 3.14 x=y+1; foo_bar(baz) <s> </s> <|endoftext|> [INST]",
    "naïve café Ünïcödé 日本語 Привет 🎉👩‍👩‍👧 e\u0301 \u2581",
]


@pytest.mark.parametrize("text", TEXTS)
def test_same_tokens(text: str, tmp_path: Path) -> None:
    """A person's text becomes the same token ids, beginning-of-text included."""
    path = tmp_path / "text"
    path.write_bytes(text.encode())
    options = ["--ids", "--no-parse-special", "--log-disable"]
    theirs = json.loads(run_program("llama-tokenize", "-m", str(bundled_model()), "-f", str(path), *options))
    with open_gguf(bundled_model()) as file:
        assert Tokenizer.from_metadata(file.metadata).encode(text) == theirs


@pytest.fixture(scope="module", params=list(NEAR))
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """The bundled model, written by us as a file of another type: a name of the type, and the file."""
    path = tmp_path_factory.mktemp("models") / f"{request.param}.gguf"
    convert(bundled_model(), path, request.param)
    return request.param, path


@pytest.mark.parametrize("prompt", PROMPTS)
def test_same_greedy_continuation(model: tuple[str, Path], prompt: str) -> None:
    """Each of the first tokens is the one that llama.cpp took, or as good as tied with it here."""
    file_type, path = model
    cache = ["-ctk", "f32", "-ctv", "f32", "-fa", "off"] if file_type == "f32" else []
    options = ["-n", str(N_TOKENS), "-c", "128", "-t", "1", "--temp", "0", "-no-cnv", "--no-display-prompt", *cache]
    theirs = complete("-m", str(path), "-p", prompt, *options)
    with ingle.load(path, threads=1, context=128, kv_type="f32" if file_type == "f32" else "f16") as ours:
        ids = ours.tokenizer.encode(prompt)
        answer = list(ours.generate(ids, temperature=0.0, max_tokens=N_TOKENS))
        text = b"".join(ours.tokenizer.token_bytes(token.token_id) for token in answer)
        same = len(answer) == N_TOKENS and theirs.startswith(text)
        assert same or follows(ours, ids, theirs, N_TOKENS, NEAR[file_type]), f"{theirs!r} there, {text!r} here"
