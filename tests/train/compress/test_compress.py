"""From a trained model to one with fewer bits, and to the file that holds it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from compress_decoders import decoder_of

from ingle.errors import UsageError
from ingle.gguf import TensorType, dequantize, open_gguf
from ingle.train.checkpoint import TrainedModel, load_run_model, save_model
from ingle.train.compress.compress import check_method, compress, measure, size_bytes
from ingle.train.compress.compress import decoder_of as decoder_from
from ingle.train.compress.schemes import SCHEMES, apply_scheme
from ingle.train.data.batches import IGNORED, Batch
from ingle.train.export import export_gguf
from ingle.train.load import load_model


def model_of(**changes: object) -> TrainedModel:
    decoder = decoder_of(**changes)
    return TrainedModel(decoder.shape, {name: p.detach().clone() for name, p in decoder.named_parameters()})


def rows(seed: int = 0, n: int = 6) -> Batch:
    random = np.random.default_rng(seed)
    tokens = random.integers(0, 64, (n, 33))
    documents = np.sort(random.integers(0, 3, (n, 32)), axis=1).astype(np.int32)
    targets = tokens[:, 1:].copy()
    targets[:, 28:] = IGNORED
    documents[:, 28:] = 3
    return Batch(tokens[:, :-1].copy(), targets, documents)


@pytest.mark.parametrize("method", ["rtn", "hqq", "gptq"])
@pytest.mark.parametrize("changes", [{}, {"sharing": "reverse", "tied": False, "hidden": 100}], ids=["plain", "shared"])
def test_the_file_is_what_was_measured(changes: dict[str, object], method: str, tmp_path: Path) -> None:
    model = model_of(**changes)
    smaller = compress(model, "q4_0", method, rows())
    export_gguf(smaller, tmp_path / "model.gguf", "q4_0")
    read = load_model(tmp_path / "model.gguf")
    assert read.shape == model.shape
    for name, tensor in smaller.tensors.items():
        assert torch.equal(read.tensors[name], tensor), name
    assert measure(read, rows(1)) == measure(smaller, rows(1), "q4_0")
    with open_gguf(tmp_path / "model.gguf") as file:
        types = {name: info.type for name, info in file.tensors.items()}
    assert types["token_embd.weight"] is TensorType.Q8_0
    assert types["blk.0.attn_v.weight"] is TensorType.Q4_0
    assert types["blk.1.ffn_down.weight"] is (TensorType.F16 if changes else TensorType.Q4_0)
    assert types["blk.0.attn_norm.weight"] is TensorType.F32
    with open_gguf(tmp_path / "model.gguf") as file:
        assert size_bytes(smaller) == sum(info.data.nbytes for info in file.tensors.values())


@pytest.mark.parametrize("scheme", SCHEMES)
def test_pretending_measures_the_same(scheme: str) -> None:
    """A decoder that pretends, as it does in training, has the loss of what `compress` writes."""
    model = model_of()
    decoder = decoder_from(model)
    apply_scheme(decoder, scheme)
    part = rows(1)
    with torch.no_grad():
        total = decoder(*(torch.from_numpy(x) for x in (part.tokens, part.targets, part.documents))).item()
    found = measure(compress(model, scheme), part, scheme)
    assert found.loss == pytest.approx(total / found.n_tokens, rel=1e-6)
    assert found.n_tokens == 6 * 28
    assert found.loss != measure(model, part).loss


def test_gptq_changes_the_outputs_least() -> None:
    """On the text it was calibrated with, the logits stay nearest: gptq < rtn; the other way round in the weights."""
    model, part = model_of(width=128, head_dim=64), rows(n=32)
    inputs = torch.from_numpy(part.tokens), torch.from_numpy(part.documents)
    with torch.no_grad():
        exact = decoder_from(model).logits(*inputs)
        moved = {}
        for method in ("rtn", "gptq"):
            found = decoder_from(compress(model, "q4_0", method, part)).logits(*inputs)
            moved[method] = float((found - exact)[:, :28].norm())
    assert moved["gptq"] < 0.9 * moved["rtn"]


def test_blocks_come_back_from_a_models_folder(tmp_path: Path) -> None:
    smaller = compress(model_of(), "q4_1", "hqq")
    save_model(tmp_path / "m", smaller.shape, smaller.tensors, None, smaller.info, smaller.quantized)
    read = load_run_model(tmp_path / "m")
    assert dict(read.quantized) == dict(smaller.quantized)
    assert read.info["quantization"] == {"scheme": "q4_1", "method": "hqq", "calibration_tokens": 0}


def test_w8a8_is_exact_in_a_file() -> None:
    smaller = compress(model_of(), "w8a8")
    kind, data = smaller.quantized["blk.0.ffn_up.weight"]
    weights = smaller.tensors["blk.0.ffn_up.weight"]
    assert kind is TensorType.Q8_0
    assert np.array_equal(dequantize(np.frombuffer(data, np.uint8), kind, weights.shape), weights.numpy())
    scales = np.frombuffer(data, np.uint8).reshape(-1, 34)[:, :2].copy().view("<f2").reshape(len(weights), -1)
    assert (scales == scales[:, :1]).all()


def test_choices_that_cannot_be() -> None:
    for scheme, method, message in (
        ("q3", "rtn", "no quantisation scheme"),
        ("q4_0", "awq", "no method"),
        ("q8_0", "gptq", "8 bits"),
        ("w8a8", "hqq", "8 bits"),
    ):
        with pytest.raises(UsageError, match=message):
            check_method(scheme, method)
    with pytest.raises(UsageError, match="calibrates with text"):
        compress(model_of(), "q4_0", "gptq")


def test_the_command_and_the_config_know_every_scheme() -> None:
    """They list them themselves: to ask for help must not load PyTorch."""
    from ingle.cli import compress as verb
    from ingle.train import config
    from ingle.train.compress.int4 import METHODS

    assert set(verb.SCHEMES) == set(config.SCHEMES) == set(SCHEMES)
    assert verb.METHODS == METHODS
