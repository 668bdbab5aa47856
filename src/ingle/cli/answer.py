"""One prompt of `ingle run` answered: text as it comes, or one record; and what it took."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import click

from ingle.cli.console import json_line, loading_bar, new_writer, say
from ingle.cli.window import WindowWatch
from ingle.engine.trace import Trace
from ingle.errors import IngleError, UsageError

if TYPE_CHECKING:
    from ingle.engine.generate import Generation
    from ingle.engine.model import Model, Options
    from ingle.engine.profile import Profile, Roof
    from ingle.engine.token import Token
    from ingle.text.tools import Tool

__all__ = ["answer"]

ROOF_BYTES = 32 << 20  # what measuring takes beside what it reads


def answer(model: Model, prompt: str, sampling: Options, options: dict[str, Any], tools: list[Tool]) -> None:
    """One prompt, one answer on stdout. What was said before Ctrl-C or an error stays; then Abort or it is raised."""
    raw = options["raw"] or not model.has_template
    if raw and options["system"] is not None:
        raise UsageError(f"--system needs a chat template, and {model.name} has none; put the text into the prompt.")
    tokens: list[Token] = []
    writer = None if options["as_json"] else new_writer(model, tools)
    problem: IngleError | click.Abort | None = None
    profile = trace = None
    watch = WindowWatch(model)
    with ExitStack() as profiling, ExitStack() as reading:
        if options["profile"] is not None:
            trace = Trace() if options["profile"] else None
            profile = profiling.enter_context(model.profiled(trace))
        sampling = {**sampling, "on_prefill": reading.enter_context(loading_bar("Reading"))}
        if raw:
            generation = model.generate(prompt, **sampling)
        else:
            generation = model.chat(options["system"], tools=tools).send(prompt, **sampling)
        # Without a template, or with one that only continues, question and answer are one text.
        if writer is not None and model.tokenizer.decode(generation.prompt_tokens).endswith(prompt):
            writer.echo(prompt)
        try:
            with watch, generation:
                for token in generation:
                    reading.close()
                    watch.token()
                    tokens.append(token)
                    if writer is not None:
                        writer.write(token.text, token.token_id)
        except KeyboardInterrupt:
            problem = click.Abort()
        except IngleError as error:
            problem = error
    if writer is not None:
        writer.end()
    else:
        record = _record(model, prompt, generation, tokens, problem, tools)
        if watch.use is not None:
            record["window"] = watch.use.as_dict(generation.stats)
        if profile is not None:
            record["profile"] = profile.as_dict(_roof(model, profile, options))
        click.echo(json_line(record))
    if options["verbose"]:
        from ingle.cli.report import report

        report(model, generation.stats, tokens, watch.use)
    if profile is not None and writer is not None:
        from ingle.cli.profile import print_profile

        print_profile(profile, _roof(model, profile, options))
    if trace is not None:
        trace.write(options["profile"])
        left_out = f" The last {trace.n_left_out:,} events are left out." if trace.n_left_out else ""
        say(f"{options['profile']} can be opened in ui.perfetto.dev or chrome://tracing.{left_out}", "dim")
    if problem is not None:
        raise problem
    _tell_if_cut(tokens, options)


def _roof(model: Model, profile: Profile, options: dict[str, Any]) -> Roof:
    """What the processor can do. Under --memory the model is closed first: measuring takes memory too."""
    from ingle.engine.memory import resident_bytes

    if options["memory"] is None:
        return profile.roof()
    model.close()
    return profile.roof(max(0, options["memory"] - (resident_bytes() or 0) - ROOF_BYTES))


def _tell_if_cut(tokens: list[Token], options: dict[str, Any]) -> None:
    """On a terminal, say that an answer was cut by a limit nobody asked for."""
    if not options["max_tokens"] and tokens and tokens[-1].finish_reason == "length" and sys.stderr.isatty():
        from ingle.cli.console import notes

        notes().print(f"[dim]\\[cut after {len(tokens)} tokens; --max-tokens asks for more][/dim]")


def _record(
    model: Model,
    prompt: str,
    generation: Generation,
    tokens: list[Token],
    problem: IngleError | click.Abort | None,
    tools: list[Tool],
) -> dict[str, Any]:
    """The one record on stdout, but for what it took."""
    from dataclasses import asdict

    import ingle

    text = "".join(token.text for token in tokens)
    calls = {}
    if tools:
        from ingle.cli.calls import calls_record
        from ingle.text.calls import family_of

        calls = calls_record(family_of(model.template), [token.token_id for token in tokens], tools)
    return {
        "model": model.name,
        "family": model.spec.family,
        "backend": model.backend,
        "ingle": ingle.__version__,
        "context": model.context,
        "prompt": prompt,
        "text": text,
        **calls,
        **_ended(tokens, problem),
        "tokens": [
            {"id": token.token_id, "text": token.text, "logprob": token.logprob, "time_s": token.time_s}
            for token in tokens
        ],
        "sampling": asdict(generation.params),
        "timings": generation.stats.as_dict(),
    }


def _ended(tokens: list[Token], problem: IngleError | click.Abort | None) -> dict[str, str | None]:
    """Why the answer ended, for the record."""
    if isinstance(problem, IngleError):
        return {"finish_reason": "error", "error": str(problem)}
    return {"finish_reason": tokens[-1].finish_reason if problem is None else "interrupted"}
