"""`ingle train`: from a TOML file to a model."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click

from ingle.errors import UsageError

__all__ = ["command"]

TERMINATED = 143  # 128 + SIGTERM, as shells have it


@click.command("train", short_help="Train a small model from text.")
@click.argument("config", type=click.Path(path_type=Path))
@click.option(
    "--out", type=click.Path(path_type=Path), help="The run's folder. Without it, runs/NAME for a CONFIG NAME.toml."
)
@click.option("--resume", is_flag=True, help="Go on with a run. CONFIG may then be the run's folder alone.")
@click.option(
    "--set", "overrides", multiple=True, metavar="SECTION.NAME=VALUE", help="Instead of what CONFIG says; repeatable."
)
@click.option("--json", "as_json", is_flag=True, help="Print each record of the log as a line of JSON.")
def command(config: Path, out: Path | None, resume: bool, overrides: tuple[str, ...], as_json: bool) -> int:
    """Train the model that CONFIG, a TOML file, describes: from text to a folder that `ingle export` turns into GGUF.

    The run's folder has the log, pictures, checkpoints and in the end the model. Ctrl-C or SIGTERM ends a run after a
    checkpoint (exit status 130 or 143), and --resume goes on as if nothing had been; so it does after a crash, from
    the last checkpoint. Several devices: torchrun --nproc-per-node 2 -m ingle train CONFIG; several machines need the
    run's folder in common.
    """
    if missing := [name for name in ("torch", "psutil", "matplotlib") if find_spec(name) is None]:
        raise UsageError(
            f"Training needs packages that are not installed ({', '.join(missing)}): pip install 'ingle[train]'."
        )
    # Threads that spin while they wait starve each other, and all else, on a busy machine. Read when PyTorch loads.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

    from ingle.cli.console import json_line
    from ingle.cli.train_view import TrainView
    from ingle.train.config import load_config

    if resume and config.is_dir():
        out, config = out or config, config / "config.toml"
    found = load_config(config, overrides)
    out = out or Path("runs") / config.stem

    from ingle.train.trainer import train

    show: Callable[[dict[str, Any]], None]
    with TrainView(out) as view:
        show = (lambda record: click.echo(json_line(record))) if as_json else view
        result = train(found, out, resume=resume, on_event=show)
    if result.status == "finished":
        return 0
    return TERMINATED if result.signal is not None and result.signal.name == "SIGTERM" else 130
