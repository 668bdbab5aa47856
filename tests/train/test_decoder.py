"""The decoder beside plain PyTorch: losses, gradients, sharing, documents, bf16, compiled."""

from __future__ import annotations

import shutil
import subprocess
import sys
import textwrap
from dataclasses import replace
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import torch.nn.functional as F  # noqa: E402

from ingle.train.attention import attention, visibility  # noqa: E402
from ingle.train.decoder import Decoder  # noqa: E402
from ingle.train.loss import IGNORED, cross_entropy_sum  # noqa: E402
from ingle.train.peak import Peak, peak_flops  # noqa: E402
from ingle.train.shape import Shape  # noqa: E402

TOY = Shape(vocabulary=61, width=24, layers=2, heads=4, kv_heads=2, head_dim=8, hidden=40, context=150)
VARIANTS = {
    "swiglu": {},
    "gelu": {"feed_forward": "gelu"},
    "relu": {"feed_forward": "relu"},
    "relu2": {"feed_forward": "relu2", "qk_norm": True},
    "untied": {"tied": False},
    "one group": {"kv_heads": 4},
    "one key": {"kv_heads": 1, "qk_norm": True},
    "heads wider than the width": {"head_dim": 10},
}


def decoder_of(shape: Shape, seed: int = 0) -> Decoder:
    """Weights large enough for attention and feed-forward to matter, norms that are not one."""
    torch.manual_seed(seed)
    decoder = Decoder(shape)
    for parameter in decoder.parameters():
        torch.nn.init.normal_(parameter, mean=float(parameter.ndim == 1), std=0.25)
    return decoder


def batch(shape: Shape, positions: int = 140) -> tuple[Any, Any, Any]:
    """Two rows; the documents' edges are at 70, and at 10 and 130; some targets do not count."""
    torch.manual_seed(1)
    tokens, targets = torch.randint(0, shape.vocabulary, (2, 2, positions))
    targets[0, :9] = targets[1, -3:] = IGNORED
    documents = torch.zeros(2, positions, dtype=torch.int32)
    documents[0, 70:] = 1
    documents[1, 10:130] = 1
    documents[1, 130:] = 2
    return tokens, targets, documents


def plain_logits(decoder: Decoder, tokens: Any, documents: Any) -> Any:
    """The same model in the simplest words: each document on its own mask, no chunks, no sharing of work."""
    shape, p = decoder.shape, dict(decoder.named_parameters())
    positions = tokens.shape[1]
    mask = torch.ones(positions, positions, dtype=torch.bool).tril() & (documents[:, :, None] == documents[:, None])
    half = shape.head_dim // 2
    turn = torch.polar(
        torch.ones(positions, half), torch.arange(positions)[:, None] / shape.rope_theta ** (torch.arange(half) / half)
    )

    def norm(x: Any, name: str) -> Any:
        return x / (x.square().mean(-1, keepdim=True) + shape.norm_eps).sqrt() * p[name]

    def rotate(x: Any) -> Any:
        turned = torch.complex(x[..., :half], x[..., half:]) * turn
        return torch.cat((turned.real, turned.imag), -1)

    def heads(x: Any, n: int) -> Any:
        return x.view(*tokens.shape, n, shape.head_dim).transpose(1, 2)

    x = p["token_embd.weight"][tokens]
    for layer in shape.schedule:
        w = f"blk.{layer}."
        h = norm(x, w + "attn_norm.weight")
        q = heads(h @ p[w + "attn_q.weight"].T, shape.heads)
        k = heads(h @ p[w + "attn_k.weight"].T, shape.kv_heads)
        v = heads(h @ p[w + "attn_v.weight"].T, shape.kv_heads)
        if shape.qk_norm:
            q, k = norm(q, w + "attn_q_norm.weight"), norm(k, w + "attn_k_norm.weight")
        read = F.scaled_dot_product_attention(rotate(q), rotate(k), v, attn_mask=mask[:, None], enable_gqa=True)
        x = x + read.transpose(1, 2).flatten(2) @ p[w + "attn_output.weight"].T
        h = norm(x, w + "ffn_norm.weight")
        up = h @ p[w + "ffn_up.weight"].T
        act = {
            "swiglu": lambda: F.silu(h @ p[w + "ffn_gate.weight"].T) * up,  # noqa: B023
            "gelu": lambda: F.gelu(up),  # noqa: B023
            "relu": lambda: F.relu(up),  # noqa: B023
            "relu2": lambda: F.relu(up) ** 2,  # noqa: B023
        }[shape.feed_forward]()
        x = x + act @ p[w + "ffn_down.weight"].T
    return norm(x, "output_norm.weight") @ p["token_embd.weight" if shape.tied else "output.weight"].T


def gradients(decoder: Decoder, loss: Any) -> dict[str, Any]:
    decoder.zero_grad()
    loss.backward()
    return {name: parameter.grad.clone() for name, parameter in decoder.named_parameters()}


def expect_close(found: dict[str, Any], expected: dict[str, Any], share: float = 1e-5) -> None:
    """Each gradient within `share` of its largest number."""
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert (found[name] - gradient).abs().max() <= share * gradient.abs().max(), name


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS.keys())
def test_loss_and_gradients_are_those_of_the_plain_model(changes: dict[str, Any]) -> None:
    decoder = decoder_of(replace(TOY, **changes))
    tokens, targets, documents = batch(decoder.shape)
    logits = plain_logits(decoder, tokens, documents)
    torch.testing.assert_close(
        decoder.logits(tokens, documents), logits, rtol=1e-5, atol=2e-5 * float(logits.detach().abs().max())
    )
    expected = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="sum")
    loss = decoder(tokens, targets, documents)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=0)
    with torch.no_grad():
        torch.testing.assert_close(decoder(tokens, targets, documents), expected, rtol=1e-5, atol=0)
    expect_close(gradients(decoder, loss), gradients(decoder, expected), 5e-5)


@pytest.mark.parametrize("repeat", [2, 3])
@pytest.mark.parametrize("sharing", ["immediate", "repeat", "reverse"])
def test_shared_layers_are_tied_copies(sharing: str, repeat: int) -> None:
    shared = decoder_of(replace(TOY, sharing=sharing, repeat=repeat))
    schedule = shared.shape.schedule
    unrolled = Decoder(replace(TOY, layers=len(schedule)))
    for copy, layer in enumerate(schedule):
        unrolled.blk[copy].load_state_dict(shared.blk[layer].state_dict())
    for part in ("token_embd", "output_norm"):
        getattr(unrolled, part).load_state_dict(getattr(shared, part).state_dict())
    tokens, targets, documents = batch(TOY, 20)
    loss, expected = shared(tokens, targets, documents), unrolled(tokens, targets, documents)
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)
    of_copies = gradients(unrolled, expected)
    summed = {name: torch.zeros_like(parameter) for name, parameter in shared.named_parameters()}
    for name, gradient in of_copies.items():
        if name.startswith("blk."):
            _, copy, rest = name.split(".", 2)
            name = f"blk.{schedule[int(copy)]}.{rest}"
        summed[name] += gradient
    expect_close(gradients(shared, loss), summed)


def test_documents_never_see_each_other() -> None:
    decoder = decoder_of(TOY)
    tokens, _, documents = batch(TOY)
    changed = tokens.clone()
    changed[0, 70:] = (tokens[0, 70:] + 1) % TOY.vocabulary
    changed[1, 10:130] = (tokens[1, 10:130] + 1) % TOY.vocabulary
    with torch.no_grad():
        before, after = decoder.logits(tokens, documents), decoder.logits(changed, documents)
    same = tokens == changed
    assert torch.equal(before[same], after[same])
    assert (before[~same] != after[~same]).any(-1).all()


def test_without_documents_a_row_is_one_document_and_the_future_is_hidden() -> None:
    decoder = decoder_of(TOY)
    tokens, _, documents = batch(TOY)
    with torch.no_grad():
        one = decoder.logits(tokens)
        assert torch.equal(one, decoder.logits(tokens, torch.zeros_like(documents)))
        tokens[:, 100] = (tokens[:, 100] + 1) % TOY.vocabulary
        other = decoder.logits(tokens)
    assert torch.equal(one[:, :100], other[:, :100])
    assert (one[:, 100:] != other[:, 100:]).any(-1).all()


def test_attention_does_not_overflow() -> None:
    q = torch.full((1, 3, 2, 4), 100.0)
    k = torch.tensor([1.0, -1.0, 100.0]).view(1, 3, 1, 1).expand(1, 3, 1, 4)
    v = torch.tensor([1.0, 2.0, 3.0]).view(1, 3, 1, 1).expand(1, 3, 1, 4)
    read = attention(q, k, v, visibility(None, 3, q.device, q.dtype))
    assert read[0, :, 0].tolist() == [1.0, 1.0, 3.0]


@pytest.mark.parametrize("rows", [1, 1024, 1100])
def test_cross_entropy_in_chunks_is_plain_cross_entropy(rows: int) -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(rows, 8, requires_grad=True), (8 * torch.randn(16384, 8)).requires_grad_()
    targets = torch.randint(0, 16384, (rows,))
    targets[::3] = IGNORED
    expected = F.cross_entropy(x @ weight.T, targets, ignore_index=IGNORED, reduction="sum")
    loss = cross_entropy_sum(x, weight, targets)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
    found = torch.autograd.grad(loss / 7, (x, weight))
    wanted = torch.autograd.grad(expected / 7, (x, weight))
    for gradient, plain in zip(found, wanted, strict=True):
        torch.testing.assert_close(gradient, plain, rtol=1e-4, atol=1e-5)


def test_gradient_of_a_sure_prediction_survives_bfloat16() -> None:
    """A probability rounds to 1 in bfloat16 when it is above 0.998; what is left of the gradient is what learns."""
    x = torch.tensor([[1.0]], dtype=torch.bfloat16, requires_grad=True)
    weight = torch.tensor([[7.0], [0.0]], requires_grad=True)
    cross_entropy_sum(x, weight, torch.tensor([0])).backward()
    left = float(torch.sigmoid(torch.tensor(-7.0)))
    assert weight.grad.flatten().tolist() == pytest.approx([-left, left], rel=0.01)


def test_all_ignored_targets_give_nothing() -> None:
    decoder = decoder_of(TOY)
    tokens, targets, documents = batch(TOY, 20)
    loss = decoder(tokens, torch.full_like(targets, IGNORED), documents)
    assert loss.item() == 0
    assert not any(gradient.any() for gradient in gradients(decoder, loss).values())


def test_bfloat16_is_close_to_float32() -> None:
    torch.manual_seed(0)
    decoder = Decoder(replace(TOY, qk_norm=True), "zero_residual")
    tokens, targets, documents = batch(TOY)
    expected = decoder(tokens, targets, documents)
    exact = gradients(decoder, expected)
    with torch.autocast("cpu", torch.bfloat16):
        loss = decoder(tokens, targets, documents)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected, rtol=2e-3, atol=0)
    expect_close(gradients(decoder, loss), exact, 0.05)


def test_zero_residual_begins_with_blocks_that_add_nothing() -> None:
    torch.manual_seed(0)
    decoder = Decoder(TOY, "zero_residual")
    tokens, _, documents = batch(TOY, 20)
    with torch.no_grad():
        torch.testing.assert_close(
            decoder.hidden(tokens, documents), decoder.output_norm(decoder.token_embd(tokens)), rtol=0, atol=0
        )


COMPILED = """
    import copy, sys, torch
    from ingle.train.decoder import Decoder
    from ingle.train.shape import Shape

    torch.manual_seed(0)
    shape = Shape(vocabulary=67, width=32, layers=2, heads=4, kv_heads=2, hidden=64, context=32, qk_norm=True,
                  sharing="immediate")
    eager = Decoder(shape)
    fast = copy.deepcopy(eager)
    assert fast.compile() is True
    tokens = torch.randint(0, 67, (2, 32))
    documents = (torch.arange(32) > 20).expand(2, 32).int()
    with torch._dynamo.config.patch(error_on_recompile=True):  # one compilation for all layers and passes
        for _ in range(2):
            for decoder in (eager, fast):
                decoder.zero_grad()
                decoder(tokens, tokens, documents).backward()
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 2  # a layer, a softmax
    for (name, a), b in zip(eager.named_parameters(), fast.parameters()):
        assert (a.grad - b.grad).abs().max() <= 1e-5 * a.grad.abs().max(), name
    with torch.no_grad():
        assert torch.equal(eager.logits(tokens, documents), fast.logits(tokens, documents))
    print("as eager")
"""


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled_is_eager_and_quiet() -> None:
    """In a process of its own: what compiles lives on in a process, and malloc is told to keep memory."""
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(COMPILED)], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "as eager\n", "")


def test_without_a_compiler_it_says_so_and_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    decoder = decoder_of(TOY)
    with pytest.warns(UserWarning, match=r"There is no C\+\+ compiler, .*; install g\+\+"):
        assert decoder.compile() is False
    tokens, targets, documents = batch(TOY, 20)
    assert decoder(tokens, targets, documents).isfinite()


def test_peak_is_measured_once_and_says_what_it_is() -> None:
    peak = peak_flops(torch.device("cpu"))
    assert peak.flops > 1e8
    assert "measured on cpu" in peak.source
    assert peak_flops(torch.device("cpu")) is peak


@pytest.mark.parametrize(
    ("name", "tflops"),
    [
        ("NVIDIA H100 80GB HBM3", 989.4),
        ("NVIDIA H100 PCIe", 756.5),
        ("NVIDIA H200 NVL", 835.5),
        ("NVIDIA GH200 480GB", 989.4),
        ("NVIDIA A100-SXM4-80GB", 312.0),
        ("NVIDIA GeForce RTX 4090", 165.2),
    ],
)
def test_peak_of_a_known_gpu_is_the_published_one(name: str, tflops: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    assert peak_flops(torch.device("cuda")).flops == tflops * 1e12


@pytest.mark.parametrize(
    "name",
    ["NVIDIA RTX A1000", "NVIDIA RTX A4000", "NVIDIA GeForce RTX 4090 Laptop GPU", "NVIDIA A100-SXM4-40GB MIG 1g.5gb"],
)
def test_peak_of_another_gpu_with_such_a_name_is_measured(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    monkeypatch.setattr("ingle.train.peak._measured", lambda device, threads: Peak(1.0, "measured"))
    assert peak_flops(torch.device("cuda")).source == "measured"
