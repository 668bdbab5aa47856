"""`ingle convert`: a Hugging Face checkpoint or a GGUF file becomes a GGUF file of another type."""

from __future__ import annotations

from pathlib import Path

import click

from ingle.errors import UsageError

__all__ = ["TYPES", "command", "expect_target"]

TYPES = (
    *("f32", "f16", "bf16", "q8_0", "q6_k", "q5_k_m", "q5_k_s", "q5_1", "q5_0", "q4_k_m", "q4_k_s", "q4_1", "q4_0"),
    *("iq4_nl", "q3_k_l", "q3_k_m", "q3_k_s", "q2_k"),
)


@click.command("convert", short_help="Write a model as a GGUF file of another type.")
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--type",
    "file_type",
    type=click.Choice(TYPES, case_sensitive=False),
    required=True,
    help="How the weights are written: floats (f), or so many bits (q).",
)
@click.option("--force", is_flag=True, help="Overwrite OUT if it exists.")
def command(source: Path, out: Path, file_type: str, force: bool) -> None:
    """Write SOURCE, a Hugging Face directory or a GGUF file, to the GGUF file OUT.

    One tensor is in memory at a time. OUT appears when it is whole: what is interrupted leaves nothing behind.
    """
    expect_target(out, source, force)

    from math import prod

    from ingle.cli.console import size, writing_bar
    from ingle.models.convert import convert
    from ingle.models.source import open_source
    from ingle.text import metadata_from_hf

    with writing_bar(out.name) as (on_start, on_bytes):
        convert(source, out, file_type.lower(), extra_metadata=metadata_from_hf, on_start=on_start, on_bytes=on_bytes)
    written = open_source(out)
    parameters = sum(prod(header.shape) for header in written.headers.values())
    weights_bytes = sum(header.n_bytes for header in written.headers.values())
    written.close()
    click.echo(
        f"{out}: {file_type.lower()}, {size(out.stat().st_size)}, {parameters:,} parameters, "
        f"{8 * weights_bytes / max(1, parameters):.2f} bits per weight"
    )


def expect_target(out: Path, source: Path, force: bool) -> None:
    """Raise UsageError unless `out` is a GGUF file that can be written from `source`."""
    if out.suffix.lower() != ".gguf":
        raise UsageError(f"{out} does not end in .gguf; give the file to write a name that does.")
    if out.is_dir():
        raise UsageError(f"{out} is a directory; give the name of a file to write.")
    if out.exists() and not force:
        raise UsageError(f"{out} exists; give another name, or --force to overwrite it.")
    if not out.absolute().parent.is_dir():
        raise UsageError(f"The directory {out.parent} does not exist; make it first.")
    if out.exists() and source.exists() and out.samefile(source):
        raise UsageError(f"{out} is the file to convert; give another name for the result.")
