"""`ingle compress`: a trained model with fewer bits, and what that does to its loss."""

from __future__ import annotations

import os
import time
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ingle.errors import UsageError

if TYPE_CHECKING:
    from ingle.train.checkpoint import TrainedModel
    from ingle.train.data.batches import Batch

__all__ = ["command"]

SCHEMES = ("w8a8", "q8_0", "q4_0", "q4_1")
METHODS = ("rtn", "hqq", "gptq")
_POSITIONS = 512
_FEW_TOKENS = 8192
_FILE_TYPES = {"w8a8": "q8_0"}  # of a scheme whose name is not one


@click.command("compress", short_help="Give a trained model fewer bits, and measure what that costs.")
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--scheme", type=click.Choice(SCHEMES, case_sensitive=False), required=True, help="What the weights become."
)
@click.option(
    "--method",
    type=click.Choice(METHODS, case_sensitive=False),
    default="rtn",
    show_default=True,
    help="How 4-bit weights are chosen: nearest, by HQQ (no text), or by GPTQ (with text; best).",
)
@click.option("--calibrate", metavar="SOURCE", help="Text for gptq. A run's folder has its own.")
@click.option("--held-out", metavar="SOURCE", help="Text to measure the loss on. A run's folder has its own.")
@click.option("--rows", type=click.IntRange(1), default=128, show_default=True, help="Rows to calibrate with.")
@click.option("--held-out-rows", type=click.IntRange(1), default=64, show_default=True, help="Rows to measure on.")
@click.option("--force", is_flag=True, help="Overwrite OUT if it exists.")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
def command(
    model: Path,
    out: Path,
    scheme: str,
    method: str,
    calibrate: str | None,
    held_out: str | None,
    rows: int,
    held_out_rows: int,
    force: bool,
    as_json: bool,
) -> None:
    """Write MODEL (a run, a model's folder, a Hugging Face folder or a GGUF file) with fewer bits to OUT.

    OUT is a GGUF file when it ends in .gguf, else a folder that `ingle export` reads. Its weights are exactly those
    that the loss is measured with: cross-entropy in nats per token, and perplexity, in float arithmetic on held-out
    rows.

    w8a8 is MobileLLM's: int8 weights by output channel, int8 inputs by token (minimum and maximum), which the loss
    includes. GGUF has no such type; the file is Q8_0 that holds the same integers, and what runs it rounds inputs its
    own way (Ingle: int8 in blocks of 32). q8_0 has a scale for every 32 weights and is closer to the original.
    q4_0 and q4_1 give the layers 4 bits; the embedding and the output stay Q8_0. Matrices whose rows are not a multiple
    of 32 are written as F16.
    """
    if find_spec("torch") is None:
        raise UsageError("Compressing needs PyTorch, which is not installed: pip install 'ingle[train]'.")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    scheme, method = scheme.lower(), method.lower()
    _check_out(model, out, force)

    from ingle.cli.console import json_line
    from ingle.train.compress.compress import check_method, compress, measure, size_bytes
    from ingle.train.load import load_model

    check_method(scheme, method)
    loaded = load_model(model)
    calibration, held = _texts(model, loaded, method, calibrate, held_out, rows, held_out_rows)
    with _Watch() as watch:
        before = None if held is None else measure(loaded, held, on_progress=watch)
        began = time.monotonic()
        smaller = compress(loaded, scheme, method, calibration, on_progress=watch)
        compress_s = time.monotonic() - began
        after = None if held is None else measure(smaller, held, scheme, on_progress=watch)
    _write(smaller, out, scheme)

    n_parameters = loaded.shape.n_parameters
    kinds: dict[str, int] = {}
    for name, tensor in smaller.tensors.items():
        kind = smaller.quantized[name][0].name if name in smaller.quantized else "F32"
        kinds[kind] = kinds.get(kind, 0) + tensor.numel()
    figures: dict[str, Any] = {
        "out": str(out),
        "scheme": scheme,
        "method": method,
        "parameters": n_parameters,
        "types": kinds,
        "weights_bytes": size_bytes(smaller),
        "bits_per_weight": 8 * size_bytes(smaller) / n_parameters,
        "calibration_tokens": smaller.info["quantization"]["calibration_tokens"],
        "compress_s": compress_s,
    }
    if before is not None and after is not None:
        figures |= {"held_out_tokens": before.n_tokens, "loss_before": before.loss, "loss_after": after.loss}
        figures |= {"perplexity_before": before.perplexity, "perplexity_after": after.perplexity}
    if as_json:
        click.echo(json_line(figures))
    else:
        _print(figures)


def _check_out(model: Path, out: Path, force: bool) -> None:
    if out.exists() and not force:
        raise UsageError(f"{out} exists; give another name, or --force to overwrite it.")
    if not out.absolute().parent.is_dir():
        raise UsageError(f"The directory {out.parent} does not exist; make it first.")
    if out.exists() and model.exists() and (out.samefile(model) or out.absolute() in model.absolute().parents):
        raise UsageError(f"{out} is, or holds, the model to compress; give another name for the result.")
    if out.suffix.lower() == ".gguf":
        if out.is_dir():
            raise UsageError(f"{out} is a directory; give the name of a file to write.")
    elif out.exists() and not (out / "shape.json").is_file():
        raise UsageError(f"{out} is not a model's folder, so it is not overwritten; give another name.")


def _texts(
    path: Path, model: TrainedModel, method: str, calibrate: str | None, held_out: str | None, rows: int, held_rows: int
) -> tuple[Batch | None, Batch | None]:
    """What to calibrate with (for gptq) and what to measure on, as far as there is any."""
    from ingle.train.compress.rows import is_run, rows_of_run, rows_of_source
    from ingle.train.data.sources import Source
    from ingle.train.data.vocabulary import load_vocabulary

    if calibrate is not None and calibrate == held_out:
        raise UsageError("The text to measure on must not be the text to calibrate with; give two sources.")
    if method == "gptq" and calibrate is None and not is_run(path):
        raise UsageError("gptq calibrates with text like that the model is for; give some with --calibrate SOURCE.")
    positions = min(_POSITIONS, model.shape.context)
    calibration = held = None
    if is_run(path) and not (calibrate and held_out):
        calibration, held = rows_of_run(path, positions, rows, held_rows)
    if calibrate or held_out:
        vocabulary = load_vocabulary(path)
        size = model.shape.vocabulary
        if calibrate and method == "gptq":
            calibration = rows_of_source(Source(calibrate), vocabulary, size, positions, rows)
        if held_out:
            held = rows_of_source(Source(held_out), vocabulary, size, positions, held_rows)
    return (calibration if method == "gptq" else None), held


def _write(model: TrainedModel, out: Path, scheme: str) -> None:
    if out.suffix.lower() == ".gguf":
        from ingle.train.export import export_gguf

        export_gguf(model, out, _FILE_TYPES.get(scheme, scheme))
    else:
        from ingle.train.checkpoint import save_model

        save_model(out, model.shape, model.tensors, model.tokenizer_json, model.info, model.quantized)


def _print(figures: dict[str, Any]) -> None:
    from ingle.cli.console import size

    kinds = ", ".join(f"{kind} {100 * n / figures['parameters']:.1f}%" for kind, n in figures["types"].items())
    click.echo(
        f"{figures['out']}: {figures['scheme']} by {figures['method']}, {size(figures['weights_bytes'])} of weights, "
        f"{figures['bits_per_weight']:.2f} bits per weight ({kinds}), {figures['compress_s']:.1f} s"
    )
    if 0 < figures["calibration_tokens"] < _FEW_TOKENS:
        click.echo(
            f"Calibrated on {figures['calibration_tokens']:,} tokens only, which can be worse than rounding; "
            f"give {_FEW_TOKENS:,} or more."
        )
    if "loss_before" not in figures:
        click.echo("The loss was not measured; --held-out SOURCE measures it.")
        return
    click.echo(f"{'':<8}{'loss':>10}{'perplexity':>14}   on {figures['held_out_tokens']:,} held-out tokens")
    for name in ("before", "after"):
        click.echo(f"{name:<8}{figures[f'loss_{name}']:>10.4f}{figures[f'perplexity_{name}']:>14.3f}")


class _Watch:
    """A bar on stderr, where that is a terminal: one line for each part of the work."""

    def __enter__(self) -> _Watch:
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        from ingle.cli.console import notes

        console = notes()
        columns = TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()
        self._bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._task = self._bar.add_task("", total=None)
        self._bar.start()
        return self

    def __call__(self, what: str, done: int, total: int) -> None:
        self._bar.update(self._task, description=what, completed=done, total=total)

    def __exit__(self, *error: object) -> None:
        self._bar.stop()
