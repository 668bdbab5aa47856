"""The conversation of `ingle run`: typed on a terminal, or line by line from a pipe."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from ingle.cli.console import loading_bar, new_writer, notes, write_new
from ingle.cli.window import WindowWatch
from ingle.errors import IngleError, UsageError

if TYPE_CHECKING:
    from prompt_toolkit import PromptSession

    from ingle.engine.generate import Generation
    from ingle.engine.model import Model, Options
    from ingle.engine.token import Token
    from ingle.text.tools import Tool

__all__ = ["Conversation", "converse", "unfinished"]

QUOTES = '"""'
WELCOME = "{model}. Ctrl-C stops an answer, Ctrl-D leaves, /help tells more."
KEYS = (
    ("Enter", "send the message"),
    ("Alt-Enter", "begin a new line in it"),
    (QUOTES, f"a message that begins with {QUOTES} goes on until the next {QUOTES}"),
    ("Ctrl-C", "stop the answer; what was said is kept"),
    ("Ctrl-D", "leave"),
)


def converse(
    model: Model,
    system: str | None,
    options: Options,
    *,
    tools: Sequence[Tool] = (),
    history: Path | None = None,
    verbose: bool = False,
) -> None:
    """Hold a conversation until its end: /exit, Ctrl-D, or the end of stdin."""
    interactive = sys.stdin.isatty()
    conversation = Conversation(model, system, options, tools=tools, verbose=verbose, interactive=interactive)
    if not interactive:
        conversation.run(_read_pipe)
        return
    notes().print(f"[dim]{WELCOME.format(model=model.name)}[/dim]")
    conversation.run(_terminal_reader(history))


class Conversation:
    """Reads messages and commands, and writes answers."""

    def __init__(
        self,
        model: Model,
        system: str | None,
        options: Options,
        *,
        tools: Sequence[Tool] = (),
        verbose: bool = False,
        interactive: bool = True,
    ) -> None:
        self._model = model
        self._chat = model.chat(system, tools=tools, **options)
        self._verbose = verbose
        self._interactive = interactive
        self._limited = options.get("max_tokens") is not None
        self._console = notes()
        self._last: tuple[Generation, list[Token], WindowWatch] | None = None
        self._commands: dict[str, tuple[str, str, Callable[[str], None]]] = {
            "/help": ("", "what there is", self._help),
            "/reset": ("", "forget the conversation; the system message stays", self._reset),
            "/system": ("TEXT", "tell the model this before the conversation; without TEXT, nothing", self._system),
            "/retry": ("", "answer the last message once more", self._retry),
            "/stats": ("", "times, speeds and memory of the last answer", self._stats),
            "/save": ("FILE", "write the conversation to a new file, as JSON where it ends in .json", self._save),
            "/exit": ("", "leave", self._exit),
        }

    def run(self, read: Callable[[], str | None]) -> None:
        """Take messages from `read` until it gives None or the person leaves.

        At a terminal an error is told and the conversation goes on; from a pipe it ends it.
        """
        while (message := read()) is not None:
            try:
                self.take(message)
            except EOFError:
                return
            except KeyboardInterrupt:  # in the moment before an answer begins
                if not self._interactive:
                    raise
            except BrokenPipeError:
                raise
            except (IngleError, OSError) as error:
                if not self._interactive:
                    raise
                self._console.print(f"[red]{type(error).__name__}:[/red]", end=" ")
                self._console.print(str(error), markup=False)

    def take(self, message: str) -> None:
        """One message, or one command. Raises EOFError for the command to leave."""
        text = _unquoted(message)
        if not text.strip():
            return
        if not message.startswith("/"):
            self._say(lambda options: self._chat.send(text, **options))
            return
        name, _, rest = message.strip().partition(" ")
        if name not in self._commands:
            raise UsageError(
                f"There is no command {name}; /help lists them, and a space before the / makes it a message."
            )
        self._commands[name][2](rest.strip())

    def _say(self, ask: Callable[[Options], Generation]) -> None:
        """Write an answer as it comes. At a terminal, Ctrl-C ends the answer only."""
        tokens: list[Token] = []
        writer = new_writer(self._chat.model, self._chat.tools)
        watch = WindowWatch(self._model)
        try:
            with (
                ExitStack() as reading,
                watch,
                ask({"on_prefill": reading.enter_context(loading_bar("Reading"))}) as answer,
            ):
                self._last = answer, tokens, watch
                for token in answer:
                    reading.close()
                    watch.token()
                    tokens.append(token)
                    writer.write(token.text, token.token_id)
        except KeyboardInterrupt:
            writer.end()
            if not self._interactive:
                raise
            self._console.print("[dim]\\[stopped][/dim]")
            return
        except IngleError:  # what was said stays, in the conversation too
            writer.end()
            if self._interactive and tokens:
                self._console.print("[dim]\\[cut short; /retry answers once more][/dim]")
            raise
        writer.end()
        if self._interactive and tokens and tokens[-1].finish_reason == "length" and not self._limited:
            self._console.print("[dim]\\[the context is full; /reset makes room][/dim]")
        if self._verbose:
            self._stats("")

    def _help(self, _: str) -> None:
        for name, (argument, what, _function) in self._commands.items():
            self._console.print(f"{name + ' ' + argument:<14} {what}", markup=False)
        if self._interactive:
            for key, what in KEYS:
                self._console.print(f"{key:<14} {what}", markup=False)

    def _reset(self, _: str) -> None:
        self._chat.reset()

    def _system(self, text: str) -> None:
        self._chat.system = text or None

    def _retry(self, _: str) -> None:
        self._say(lambda options: self._chat.retry(**options))

    def _stats(self, _: str) -> None:
        from ingle.cli.report import report

        if self._last is None:
            raise UsageError("There is no answer yet; send a message first.")
        answer, tokens, watch = self._last
        report(self._model, answer.stats, tokens, watch.use)

    def _save(self, name: str) -> None:
        import json

        if not name:
            raise UsageError("Give a file to write: /save FILE")
        messages = self._chat.history
        if name.endswith(".json"):
            text = json.dumps(messages, ensure_ascii=False, indent=2) + "\n"
        else:
            text = "\n\n".join(f"{message['role']}:\n{message['content']}" for message in messages) + "\n"
        write_new(Path(name).expanduser(), text)

    def _exit(self, _: str) -> None:
        raise EOFError


def unfinished(text: str) -> bool:
    """Whether a message has begun with quotes that have not been closed yet."""
    return text.lstrip().startswith(QUOTES) and text.count(QUOTES) < 2


def _unquoted(text: str) -> str:
    """What stands between the quotes, for a message in quotes; any other as it is."""
    stripped = text.strip()
    if not stripped.startswith(QUOTES):
        return text
    return stripped.removeprefix(QUOTES).partition(QUOTES)[0].strip("\n")


def _read_pipe() -> str | None:
    """The next message of stdin: a line, or a quoted block of lines. None at the end."""
    lines: list[str] = []
    for raw in iter(sys.stdin.buffer.readline, b""):
        try:
            lines.append(raw.decode("utf-8").rstrip("\r\n"))
        except UnicodeDecodeError:
            raise UsageError("The text on stdin is not UTF-8; convert it first.") from None
        if not unfinished("\n".join(lines)):
            break
    return "\n".join(lines) if lines else None


def _terminal_reader(history: Path | None) -> Callable[[], str | None]:
    """Messages typed on a terminal, with editing and history; None when the person leaves."""
    session = _session(history)

    def read() -> str | None:
        while True:
            try:
                return session.prompt()
            except KeyboardInterrupt:  # at the prompt it discards the line
                continue
            except EOFError:
                return None

    return read


def _session(history: Path | None) -> PromptSession[str]:
    from prompt_toolkit import PromptSession
    from prompt_toolkit.history import FileHistory, InMemoryHistory
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
    from prompt_toolkit.output import create_output

    keys = KeyBindings()

    @keys.add("escape", "enter")
    def new_line(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    @keys.add("enter")
    def send(event: KeyPressEvent) -> None:
        if unfinished(event.current_buffer.text):
            event.current_buffer.insert_text("\n")
        else:
            event.current_buffer.validate_and_handle()

    return PromptSession(
        "> ",
        multiline=True,
        prompt_continuation="  ",
        key_bindings=keys,
        history=InMemoryHistory() if history is None else FileHistory(str(history)),
        # What is piped away is the answers; the prompt stays with the person.
        output=create_output(sys.stdout if sys.stdout.isatty() else sys.stderr),
    )
