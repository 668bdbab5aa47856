"""`ingle data`: what is in a set of training data, before an hour is spent on it."""

from __future__ import annotations

from contextlib import ExitStack
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rich.console import Console

    from ingle.train.data.document import Document, Segment
    from ingle.train.data.sources import Source
    from ingle.train.data.summary import Lengths, Part, Summary
    from ingle.train.data.vocabulary import Vocabulary

__all__ = ["command"]

_BAR = 40  # characters of the longest bar
_SHOWN_BROKEN = 5
_SHOWN_CHARACTERS = 1200  # of an example
_SHOWN_STRETCH = 240  # of what is learnt, or not, in one go


@click.command("data", short_help="Tell what is in a set of training data.")
@click.argument("sources", metavar="SOURCE...", nargs=-1, required=True)
@click.option(
    "-t",
    "--tokenizer",
    type=click.Path(path_type=Path),
    help="Count tokens with this one: a tokenizer.json, a folder that has one, or a GGUF file.",
)
@click.option("--licence", help="The licence of what does not state its own.")
@click.option("--field", help="The field of the records that is the text.")
@click.option("--split", default="train", show_default=True, help="The split of a Hugging Face data set.")
@click.option(
    "--examples", type=click.IntRange(0, 1000), default=1, show_default=True, help="Documents to show of each source."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON record.")
def command(
    sources: tuple[str, ...],
    tokenizer: Path | None,
    licence: str | None,
    field: str | None,
    split: str,
    examples: int,
    as_json: bool,
) -> None:
    """Tell what is in each SOURCE and in all: documents, sizes, lengths, what of it is learnt, copies, licences, and
    records that cannot be read.

    A SOURCE is a file (txt, md, jsonl, json, parquet; also .gz, .xz and .tar), a folder of them, or hf:OWNER/NAME, a
    data set of Hugging Face, which is the only kind that is downloaded.
    """
    from ingle.cli.console import json_line
    from ingle.train.data.sources import Source
    from ingle.train.data.vocabulary import load_vocabulary

    wanted = [Source(name, licence, text_field=field, split=split) for name in sources]
    vocabulary = None if tokenizer is None else load_vocabulary(tokenizer)
    found = _summarise(wanted, vocabulary, examples)
    if as_json:
        click.echo(json_line(found.as_record() | {"tokenizer": None if tokenizer is None else str(tokenizer)}))
    else:
        _print(found)


def _summarise(sources: list[Source], vocabulary: Vocabulary | None, examples: int) -> Summary:
    """`summarise` with a bar on stderr where the sizes are known and it takes longer."""
    from ingle.cli.console import loading_bar
    from ingle.train.data.sources import source_bytes
    from ingle.train.data.summary import summarise

    sizes = [source_bytes(source) for source in sources]
    total = sum(size or 0 for size in sizes)
    done = 0
    with ExitStack() as stack:
        report = stack.enter_context(loading_bar("reading")) if None not in sizes else None

        def count(n: int) -> None:
            nonlocal done
            done += n
            if report is not None:
                report(done, total)

        return summarise(sources, vocabulary, examples=examples, count=count)


def _print(found: Summary) -> None:
    from ingle.cli.console import console

    screen = console()
    if not screen.is_terminal:
        screen.width = 160  # a pipe has no edge: names must not be cut
    with screen.capture() as capture:
        _print_parts(screen, found)
        _print_facts(screen, found.total)
        _print_lengths(screen, found.lengths)
        for document in found.examples:
            _print_example(screen, document)
        _print_broken(screen, found)
    # Tables fill their lines with spaces, which nobody wants in a file.
    click.echo("\n".join(line.rstrip() for line in capture.get().splitlines()))


def _print_parts(console: Console, found: Summary) -> None:
    from rich.table import Table
    from rich.text import Text

    from ingle.cli.console import clean, size

    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("source", overflow="fold")
    for title in ("documents", "size", "characters", "tokens", "learnt", "copies", "broken"):
        if title != "tokens" or found.total.tokens is not None:
            table.add_column(title, justify="right", no_wrap=True)
    for part in (*found.parts, found.total) if len(found.parts) > 1 else found.parts:
        tokens = () if part.tokens is None else (f"{part.tokens:,}",)
        counts = (f"{part.documents:,}", size(part.bytes), f"{part.characters:,}", *tokens)
        rest = (f"{100 * part.learnt_share:.1f}%", f"{part.duplicates:,}", f"{part.broken:,}")
        table.add_row(Text(clean(part.name)), *counts, *rest, style="bold" if part is found.total else None)
    console.print(table)


def _print_facts(console: Console, total: Part) -> None:
    from ingle.cli.console import clean

    ordered = sorted(total.licences.items(), key=lambda item: (-item[1], item[0]))
    named = ", ".join(f"{clean(name)} ({n:,})" for name, n in ordered[:8])
    rest = f", and {len(ordered) - 8} more" if len(ordered) > 8 else ""
    console.print("\n[bold]licences[/bold]  ", end="")
    console.print(named + rest, markup=False)
    if total.tokens:
        console.print(f"[bold]tokens[/bold]    {total.bytes / total.tokens:.2f} bytes each")
    if total.changed:
        console.print(
            f"[bold]changed[/bold]   {total.changed:,} documents do not come back from their tokens as they were "
            "(the tokenizer normalises them)"
        )


def _print_lengths(console: Console, lengths: Lengths) -> None:
    console.print(f"\n[bold]{lengths.unit} in a document[/bold]")
    shown = [("least", lengths.least), *((f"{p}%", n) for p, n in lengths.quantiles.items()), ("most", lengths.most)]
    console.print("  " + "   ".join(f"{name} {n:,}" for name, n in shown) + f"   mean {lengths.mean:,.1f}")
    highest = max(n for _, _, n in lengths.histogram)
    width = max(len(f"{high:,}") for _, high, _ in lengths.histogram)
    for low, high, n in lengths.histogram:
        bar = "#" * max(round(_BAR * n / highest), min(n, 1))
        console.print(f"  {low:>{width},} to {high - 1:>{width},}  {bar} {n:,}", markup=False)


def _print_example(console: Console, document: Document) -> None:
    from rich.text import Text

    from ingle.cli.console import clean

    mixed = not all(segment.learn for segment in document.segments)
    styled = console.is_terminal and console.color_system is not None
    marked = ("in green" if styled else "between >> and <<") if mixed else "all of it"
    console.print("\n[bold]example[/bold]   ", end="")
    console.print(f"{clean(document.origin)} (learnt: {marked})", markup=False)
    text = Text()
    left = _SHOWN_CHARACTERS
    stretches = [(learn, "".join(s.text for s in group)) for learn, group in groupby(document.segments, _learn)]
    for number, (learn, stretch) in enumerate(stretches):
        if left <= 0:
            text.append(f" ... ({len(stretches) - number} stretches more)")
            break
        # Of a conversation every turn is to be seen, so each is cut for itself.
        fits = left if not mixed else min(left, _SHOWN_STRETCH)
        left -= min(fits, len(stretch))
        cut = f" ... ({len(stretch) - fits:,} characters more) " if len(stretch) > fits else ""
        part = clean(stretch[:fits] + cut)
        if mixed and learn:
            text.append(part if styled else f">>{part}<<", style="green")
        else:
            text.append(part)
    console.print(text, soft_wrap=True)


def _learn(segment: Segment) -> bool:
    return segment.learn


def _print_broken(console: Console, found: Summary) -> None:
    from ingle.cli.console import clean

    if not found.total.broken:
        return
    console.print(f"\n[bold]broken[/bold]    {found.total.broken:,} records or files cannot be read:")
    for sentence in found.broken[:_SHOWN_BROKEN]:
        console.print(f"  {clean(' '.join(sentence.split()))}", markup=False, soft_wrap=True)
    if found.total.broken > _SHOWN_BROKEN:
        console.print(f"  and {found.total.broken - _SHOWN_BROKEN:,} more (--json lists the first {len(found.broken)})")
