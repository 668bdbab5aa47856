"""The same checkpoint in lm-evaluation-harness's own Hugging Face model gives the same likelihoods."""

from __future__ import annotations

import random
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import toys
from ingle import load
from ingle.evaluate.likelihood import rolling_windows, score

pytest.importorskip("lm_eval", reason="lm-eval is not installed")

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of the peer's dependencies, while they are imported
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toys.huggingface_llama(tmp_path_factory.mktemp("peer"))


@given(st.integers(0, 60), st.integers(1, 20))
def test_windows_are_those_of_the_harness(folder: Path, n: int, window: int) -> None:
    class Stub:  # a model as far as windows are concerned
        context = 64

    document = list(range(100, 100 + n))
    found: Any = rolling_windows(Stub(), document, window=window, prefix=7)  # type: ignore[arg-type]
    expected = map(make_disjoint_window, get_rolling_token_windows(document, 7, window, 1))
    assert [(list(a), list(b)) for a, b in found] == [(list(a), list(b)) for a, b in expected]


@pytest.mark.filterwarnings("ignore")  # the peer's own
@pytest.mark.parametrize("backend", ["reference", "native"])
def test_likelihoods_are_those_of_the_harness(folder: Path, backend: str) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    from lm_eval.models.huggingface import HFLM

    rng = random.Random(0)
    requests = []
    for _ in range(6):
        context = [rng.randrange(200) for _ in range(rng.randrange(1, 60))]
        requests += [(context, [rng.randrange(200) for _ in range(n)]) for n in (1, 1, 3, 8)]
    long = [rng.randrange(200) for _ in range(400)]
    requests.append((long[:390], long[390:]))  # loses its beginning
    decoder = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    harness = HFLM(pretrained=decoder, tokenizer=tokenizer, batch_size=7, device="cpu")
    # The harness is asked for greedy continuations too: what it calls greedy must be so for us.
    with load(folder, backend=backend, kv_type="f32", n_slots=4) as model:
        for context, _ in requests[:8:4]:
            said = model.generate(context, temperature=0, max_tokens=4, ignore_eos=True)
            requests.append((context, [token.token_id for token in said]))
        found = score(model, requests)
    expected = harness._loglikelihood_tokens([(("", ""), *request) for request in requests], disable_tqdm=True)
    np.testing.assert_allclose([one.logprob for one in found], [one for one, _ in expected], rtol=1e-5, atol=2e-5)
    assert [one.is_greedy for one in found] == [greedy for _, greedy in expected]
    assert found[-1].is_greedy
