"""`ingle serve`: a model for every client that speaks OpenAI's API, and for browsers."""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ingle.cli.engine import cache_within, engine_options, open_model
from ingle.errors import UsageError

if TYPE_CHECKING:
    import socket

    from ingle.server.settings import Settings, Tls

__all__ = ["command"]

PACKAGES = ("fastapi", "uvicorn", "cryptography", "segno", "prometheus_client")
LAN_REQUESTS_PER_MINUTE = 600
SLOTS = 8


def _refuse_key(context: click.Context, parameter: click.Parameter, value: str | None) -> None:
    if value is not None:
        raise UsageError(
            "Everybody on this device can read a command's arguments; put the key into the environment variable "
            "INGLE_API_KEY, or into a file for --api-key-file."
        )


@click.command("serve", short_help="Answer clients of OpenAI's API, and browsers.")
@click.argument("model", required=False)
@click.option("--port", type=click.IntRange(0, 65535), help="[default: 8080, or the next that is free]")
@click.option("--host", metavar="ADDRESS", help="Listen at this address of the device. [default: 127.0.0.1]")
@click.option(
    "--lan", is_flag=True, help="Listen at all addresses, for phones and others of the network, with a key and TLS."
)
@click.option(
    "--allow-host",
    multiple=True,
    metavar="NAME",
    help="Answer to this name too, as of a proxy; may be given several times.",
)
@click.option(
    "--origin",
    multiple=True,
    metavar="URL",
    help="Let web pages of this origin call, such as https://example.org; may be given several times.",
)
@click.option("--api-key", hidden=True, expose_value=False, callback=_refuse_key, help="Refused: see --api-key-file.")
@click.option(
    "--api-key-file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Keys, one a line; clients must send one. INGLE_API_KEY is another way. [default: with --lan a new one]",
)
@click.option(
    "--cert",
    type=click.Path(path_type=Path, dir_okay=False),
    help="A certificate of your own, in PEM; needs --key-file. [default: with --lan one made here]",
)
@click.option("--key-file", type=click.Path(path_type=Path, dir_okay=False), help="The key of --cert, in PEM.")
@click.option(
    "--requests-per-minute",
    type=click.IntRange(0),
    help="Of one key from one address; 0 = no limit. [default: 0, with --lan 600]",
)
@click.option(
    "--slots",
    type=click.IntRange(1),
    help="Answers that are computed at once. [default: 8; with --memory as many as a quarter of it holds, up to 8]",
)
@click.option(
    "--max-queue", type=click.IntRange(1), default=64, show_default=True, help="Requests that may wait for a slot."
)
@engine_options
@click.option("--name", metavar="TEXT", help="What clients call the model. [default: the file's name]")
@click.option("--no-ui", is_flag=True, help="Without the chat page.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON record when requests can come.")
def command(model: str | None, **options: Any) -> None:
    """Answer clients with MODEL until Ctrl-C: OpenAI's API at /v1, and a chat page at /.

    MODEL is a GGUF file or a Hugging Face directory; without it the bundled model is used. Only this device can
    connect, unless --lan or --host says otherwise; then a key and TLS are needed, and made where none are given.
    Ctrl-C lets running answers end, for up to 30 s; a second one ends them.

    \b
      ingle serve
      ingle serve model.gguf --port 9000 --context 8192
      ingle serve model.gguf --lan
    """
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise UsageError(
            f"Serving needs packages that are not installed ({', '.join(missing)}); run: pip install 'ingle[serve]'."
        )
    plan = _plan(model, options)
    with ExitStack() as stack:
        for bound in plan.sockets:
            stack.callback(bound.close)
        whole = _serve(model, plan, options, stack)
    if not whole:
        raise click.Abort


@dataclass(frozen=True)
class _Plan:
    """All that is decided before the model is loaded."""

    settings: Settings
    sockets: list[socket.socket]
    address: str  # for URLs
    new_key: str | None
    new_certificate: str | None  # why

    @property
    def url(self) -> str:
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"{self.settings.scheme}://{host}:{self.settings.port}"


def _plan(model: str | None, options: dict[str, Any]) -> _Plan:
    from ingle.server.addresses import bind, local_addresses, local_names, primary_address
    from ingle.server.keys import keys_of, new_key
    from ingle.server.settings import ANY_ADDRESS, Settings, is_address, is_loopback

    if options["lan"] and options["host"]:
        raise UsageError("--lan listens at every address, and --host at one; give one of them.")
    host = "0.0.0.0" if options["lan"] else (options["host"] or "127.0.0.1").strip("[]")
    if not is_address(host) and host != "localhost":
        raise UsageError(f"--host is {host!r}; expected an address of this device, such as 127.0.0.1.")
    everywhere = host in ANY_ADDRESS
    exposed = not is_loopback(host)
    keys = keys_of(options["api_key_file"], os.environ, exposed=exposed)
    key = None
    if exposed and not keys:
        if options["as_json"] or not sys.stderr.isatty():
            raise UsageError(
                "A network needs a key, and there is no terminal to show a new one on; put one into INGLE_API_KEY, or "
                "into a file for --api-key-file."
            )
        key = new_key()
    addresses, names = (local_addresses(), local_names()) if exposed else ([], [])
    if exposed and not everywhere:
        addresses = [host]
    rate = options["requests_per_minute"]
    settings = Settings(
        host=host,
        port=options["port"] or 0,
        hosts=(*options["allow_host"], *addresses, *names),
        origins=options["origin"],
        keys=keys if key is None else (key,),
        name=options["name"] or _name(model),
        ui=not options["no_ui"],
        max_queue=options["max_queue"],
        requests_per_minute=(LAN_REQUESTS_PER_MINUTE if exposed else 0) if rate is None else rate,
    )
    tls, reason = _tls(options, settings, exposed)
    sockets = bind(host, options["port"])
    settings = replace(settings, port=sockets[0].getsockname()[1], tls=tls)
    address = (primary_address() or "127.0.0.1") if everywhere else host
    return _Plan(settings, sockets, address, key, reason)


def _tls(options: dict[str, Any], settings: Settings, exposed: bool) -> tuple[Tls | None, str | None]:
    """The certificate, if one is to be used, and why it is a new one."""
    from ingle.server.tls import own_certificate, self_signed, state_folder

    cert, key = options["cert"], options["key_file"]
    if (cert is None) != (key is None):
        raise UsageError("--cert and --key-file belong together; give both.")
    if cert is not None:
        return own_certificate(cert, key), None
    if not exposed:
        return None, None
    return self_signed(sorted(settings.names), state_folder(os.environ))


def _name(model: str | None) -> str:
    from ingle.cli.console import clean
    from ingle.engine.model import bundled_model

    path = bundled_model() if model is None else Path(model)
    return clean(path.resolve().name.removesuffix(".gguf")) or "model"


def _serve(model: str | None, plan: _Plan, options: dict[str, Any], stack: ExitStack) -> bool:
    """Load, answer until told to stop; gives whether every answer was whole."""
    # Before the model, which is given what they leave of --memory.
    from ingle.cli.console import json_line, say
    from ingle.engine.scheduler import Scheduler
    from ingle.server.app import create_app
    from ingle.server.guard import Guard
    from ingle.server.run import Server
    from ingle.server.served import Served

    settings = plan.settings
    options, n_slots = cache_within(model, options, SLOTS)
    n_slots = options["slots"] or n_slots
    loaded = stack.enter_context(open_model(model, options, n_slots=n_slots))

    scheduler = Scheduler(loaded, max_queue=settings.max_queue)
    stack.callback(scheduler.close, 0.0)  # the server has waited for what runs
    app = create_app(Served(loaded, scheduler, settings.name), ui=settings.ui)
    guarded = Guard(app, settings, on_refused=app.state.metrics.refused)

    def on_ready() -> None:
        if options["as_json"]:
            click.echo(json_line(_record(plan, loaded.context, n_slots)))
            sys.stdout.flush()
        else:
            _show(plan, options["port"])

    def on_drain(n_requests: int) -> None:
        if n_requests:
            answers = "1 answer" if n_requests == 1 else f"{n_requests} answers"
            say(f"Finishing {answers}, for up to {settings.drain_s:g} s; Ctrl-C again stops now.")

    return Server(guarded, settings, on_ready=on_ready, on_drain=on_drain).run(plan.sockets)


def _record(plan: _Plan, context: int, n_slots: int) -> dict[str, Any]:
    """The start as one record; without the key, which would end up in logs."""
    settings = plan.settings
    return {
        "url": f"{plan.url}/",
        "base_url": f"{plan.url}/v1",
        "host": settings.host,
        "port": settings.port,
        "model": settings.name,
        "context": context,
        "slots": n_slots,
        "key_needed": bool(settings.keys),
        "fingerprint": None if settings.tls is None else settings.tls.fingerprint,
        "pid": os.getpid(),
    }


def _show(plan: _Plan, asked_port: int | None) -> None:
    """The start screen, on stderr."""
    from ingle.cli.console import clean, notes, wants_colour
    from ingle.server.addresses import DEFAULT_PORT
    from ingle.server.settings import is_loopback

    settings, screen = plan.settings, notes()
    local = is_loopback(settings.host)

    def line(label: str, text: str) -> None:
        screen.print(f"  {label:<12} {clean(text)}", markup=False)

    where = "on this device" if local else "in this network"
    screen.print(f"{clean(settings.name)} is served {where}.", style="bold", markup=False)
    if asked_port is None and settings.port != DEFAULT_PORT:
        screen.print(f"Port {DEFAULT_PORT} is in use, so it is port {settings.port}.", markup=False)
    screen.print()
    fragment = "" if plan.new_key is None else f"#key={plan.new_key}"
    if settings.ui:
        line("Chat page", f"{plan.url}/{fragment}")
        if plan.new_key is not None and "utf" in (sys.stderr.encoding or "").lower():
            from ingle.server.qr import qr_lines

            print(*qr_lines(f"{plan.url}/{fragment}", colour=wants_colour()), sep="\n", file=sys.stderr)
    line("Clients", f"base URL {plan.url}/v1, model {settings.name}")
    if plan.new_key is not None:
        line("Key", f"{plan.new_key} (shown now, and kept nowhere)")
    else:
        line("Key", "one of those you gave" if settings.keys else "none needed; any will do")
    if settings.tls is not None:
        line("Certificate", f"SHA-256 {settings.tls.fingerprint}")
        if plan.new_certificate is not None:
            line("", f"It is new: {plan.new_certificate}. Browsers warn once; compare the fingerprint there.")
        if settings.tls.cert is not None:
            line("", f"Clients can be told to trust {settings.tls.cert}.")
    screen.print()
    screen.print("Ctrl-C stops it.", style="dim")
