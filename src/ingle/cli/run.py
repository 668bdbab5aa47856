"""`ingle run`: answer one prompt, or hold a conversation."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ingle.cli.engine import cache_within, engine_options, open_model
from ingle.errors import UsageError

if TYPE_CHECKING:
    from ingle.engine.model import Options
    from ingle.text.tools import Tool

__all__ = ["command", "model_and_prompt"]


class _Run(click.Command):
    """Lets --profile be a flag, or have a file that ends in .json behind it."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        end = args.index("--") if "--" in args else len(args)
        for index in range(end):
            following = args[index + 1] if index + 1 < end else ""
            if args[index] == "--profile" and not following.endswith(".json"):
                args[index] = "--profile="
        return super().parse_args(ctx, args)


@click.command("run", cls=_Run, short_help="Answer a prompt, or hold a conversation.")
@click.argument("model", required=False)
@click.argument("prompt", required=False)
@click.option(
    "-n",
    "--max-tokens",
    type=click.IntRange(1),
    help="Stop after so many tokens. [default: 512; in a conversation as many as the context holds]",
)
@click.option(
    "-t",
    "--temperature",
    type=click.FloatRange(0),
    help="0 takes the most likely token each time; higher is more varied. [default: 0.8; with --tools 0]",
)
@click.option(
    "--top-k", type=click.IntRange(0), default=40, show_default=True, help="Only the K most likely tokens; 0 = all."
)
@click.option(
    "--top-p",
    type=click.FloatRange(0, 1, min_open=True),
    default=0.95,
    show_default=True,
    help="Only the most likely tokens that have this probability together; 1 = all.",
)
@click.option(
    "--min-p",
    type=click.FloatRange(0, 1),
    default=0.05,
    show_default=True,
    help="Only tokens at least this fraction as likely as the most likely; 0 = all.",
)
@click.option(
    "--repeat-penalty",
    type=click.FloatRange(0, min_open=True),
    default=1.0,
    show_default=True,
    help="Above 1, tokens among the last 64 become less likely.",
)
@click.option(
    "--seed", type=click.IntRange(0), help="The same seed gives the same text. [default: a new one each time]"
)
@click.option(
    "--stop", multiple=True, metavar="TEXT", help="End the answer before this text; may be given several times."
)
@click.option("--system", metavar="TEXT", help="What the model is told before the conversation.")
@click.option(
    "--tools",
    type=click.Path(path_type=Path, dir_okay=False),
    help="A JSON file of tools that the model may call; its calls are printed as JSON, one a line.",
)
@click.option("--no-grammar", is_flag=True, help="With --tools, do not hold calls to the tools' schemas.")
@click.option(
    "--copy",
    is_flag=True,
    help="With --tools, text arguments are words of PROMPT: nothing is made up, and nothing worked out.",
)
@click.option("--raw", is_flag=True, help="Continue the prompt as it is, without the model's chat template.")
@engine_options
@click.option(
    "--history",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Keep what you type in a conversation in this file. [default: nowhere]",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON record with text, tokens and timings.")
@click.option("-v", "--verbose", is_flag=True, help="Tell times, speeds and peak memory, on stderr.")
@click.option(
    "--profile",
    metavar="[TRACE.json]",
    help="Tell what each kind of block took and what this processor could do, on stderr; with --json in the record. "
    "With the name of a new file, one that ends in .json, also draw when what was computed and read, for "
    "ui.perfetto.dev and chrome://tracing.",
)
def command(model: str | None, prompt: str | None, **options: Any) -> None:
    """Answer PROMPT with MODEL, or hold a conversation when there is no PROMPT.

    MODEL is a GGUF file or a Hugging Face directory; without it the bundled model is used. PROMPT "-" reads the prompt
    from stdin. A single argument is the MODEL if it exists, ends in .gguf, or has a slash and no space; otherwise it is
    the PROMPT.

    \b
      ingle run "Once upon a time"
      ingle run model.gguf "Why is the sky blue?" --max-tokens 100
      ingle run model.gguf
      ingle run model.gguf --tools examples/tools.json "wake me at six tomorrow"
    """
    path, prompt = model_and_prompt(model, prompt)
    if prompt is None and (options["as_json"] or options["raw"]):
        raise UsageError(
            f"{'--json' if options['as_json'] else '--raw'} needs a prompt; give one, or - to read it from stdin."
        )
    if options["profile"] is not None:
        _check_profile(options["profile"], prompt)
    if options["raw"] and options["system"] is not None:
        raise UsageError("--system needs the chat template that --raw leaves out; give one of them.")
    if options["raw"] and options["tools"] is not None:
        raise UsageError("--tools needs the chat template that --raw leaves out; give one of them.")
    if options["no_grammar"] and options["tools"] is None:
        raise UsageError("--no-grammar is about calls; give --tools with it.")
    if options["copy"] and (options["tools"] is None or options["no_grammar"] or prompt is None):
        raise UsageError(
            "--copy limits the calls that answer a prompt; give --tools and a prompt, and no --no-grammar."
        )
    if prompt == "-":
        from ingle.cli.console import read_stdin

        prompt = read_stdin()

    from dataclasses import asdict

    from ingle.engine.sampling import SamplingParams

    temperature = options["temperature"]
    if temperature is None:
        temperature = 0.8 if options["tools"] is None else 0.0
    params = SamplingParams(
        temperature=temperature,
        top_k=options["top_k"],
        top_p=options["top_p"],
        min_p=options["min_p"],
        repeat_penalty=options["repeat_penalty"],
        seed=options["seed"],
    )  # its errors come before the model is loaded
    sampling: Options = {**asdict(params), "stop": options["stop"]}  # type: ignore[typeddict-item]
    if options["max_tokens"] is not None or prompt is not None:
        sampling["max_tokens"] = options["max_tokens"] or 512
    tools: list[Tool] = []
    if options["tools"] is not None:
        from ingle.cli.calls import grammar_of, tools_of

        tools = tools_of(options["tools"])
        if not options["no_grammar"]:
            sampling["grammar"] = grammar_of(tools, prompt if options["copy"] else None)
    options, _ = cache_within(path, options, 1)
    with open_model(path, options) as loaded:
        if tools and not loaded.has_template:
            raise UsageError(f"--tools needs a chat template, and {loaded.name} has none; use a model that was taught.")
        if "grammar" in sampling:
            from ingle.text.calls import family_of

            family = family_of(loaded.template)
            if family.name not in ("hermes", "generic"):  # theirs it is already
                sampling["grammar"] = grammar_of(tools, prompt if options["copy"] else None, family)
        if prompt is None:
            from ingle.cli.chat import converse

            settings = {"history": options["history"], "verbose": options["verbose"]}
            converse(loaded, options["system"], sampling, tools=tools, **settings)
        else:
            from ingle.cli.answer import answer

            answer(loaded, prompt, sampling, options, tools)


def _check_profile(trace: str, prompt: str | None) -> None:
    """trace: the file to write, "" = none. Raises UsageError."""
    if prompt is None:
        raise UsageError("--profile is about one answer; give a prompt, or - to read it from stdin.")
    if not trace:
        return
    path = Path(trace)
    if not trace.endswith(".json"):
        raise UsageError(f"--profile={trace} would write a trace; give a name that ends in .json.")
    if _exists(trace):
        raise UsageError(f"{trace} exists; give --profile another name to write to.")
    if not path.absolute().parent.is_dir():
        raise UsageError(f"The directory {path.parent} does not exist; make it first.")


def model_and_prompt(first: str | None, second: str | None) -> tuple[str | None, str | None]:
    """Which of the arguments is the model and which the prompt; None = not given."""
    if first is None or second is not None:
        return first, second
    is_model = (
        first.endswith(".gguf") or ("/" in first and not any(map(str.isspace, first))) or _exists(first)
    ) and first != "-"
    return (first, None) if is_model else (None, first)


def _exists(path: str) -> bool:
    try:
        return Path(path).exists()
    except (OSError, ValueError):  # a long prompt is no possible file name
        return False
