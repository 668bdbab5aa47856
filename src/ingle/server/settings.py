"""What a server may do, and for whom: decided once, when it starts."""

from __future__ import annotations

import ipaddress
import re
import ssl
from dataclasses import dataclass, field, fields
from pathlib import Path

from ingle.errors import UsageError

__all__ = ["ANY_ADDRESS", "LOOPBACK_HOSTS", "Settings", "Tls", "host_name", "is_address", "is_loopback", "origin_name"]

LOOPBACK_HOSTS = ("localhost", "127.0.0.1", "::1")
ANY_ADDRESS = ("0.0.0.0", "::")
DEFAULT_PORTS = {"http": 80, "https": 443}

_NAME = re.compile(r"[a-z0-9_](?:[a-z0-9_.-]{0,252})")
_PORT = re.compile(r"[0-9]{1,5}")
_ORIGIN = re.compile(r"([a-z][a-z0-9+.-]{0,31})://(.{1,260})")


@dataclass(frozen=True)
class Tls:
    """Certificate and key, loaded; the certificate's SHA-256 in pairs of hex digits; the file that it is in, if any."""

    context: ssl.SSLContext = field(repr=False)
    fingerprint: str
    cert: Path | None = None


@dataclass(frozen=True)
class Settings:
    """How a server is reached and what it takes. Raises UsageError for what cannot be.

    host: the address it listens at. hosts: further names that it answers to in a request's Host, besides `host` and
    those of loopback. origins: web pages of others that may call it ("https://example.org"). keys: who sends none of
    them is refused; none = nobody needs one. name: the model's id for clients; "" = from the file. ui: the chat page.
    max_queue: requests that wait for a slot. requests_per_minute: of one key from one address; 0 = no limit.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    hosts: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    keys: tuple[str, ...] = field(default=(), repr=False)  # never in a log
    tls: Tls | None = None
    name: str = ""
    ui: bool = True
    max_queue: int = 64
    requests_per_minute: int = 0
    max_body_bytes: int = 8 << 20
    max_bodies_bytes: int = 64 << 20  # of all requests that are being read
    max_url_bytes: int = 4 << 10
    max_header_bytes: int = 16 << 10
    max_json_depth: int = 64
    max_json_containers: int = 50_000  # arrays and objects: each takes far more memory than its two bytes
    max_connections: int = 256
    header_timeout_s: float = 10.0
    body_timeout_s: float = 30.0
    write_timeout_s: float = 60.0  # for a client that takes nothing of its answer
    idle_timeout_s: int = 15  # between two requests of a connection
    drain_s: float = 30.0  # for answers that run when the server is stopped

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, (int, float)) and value < 0:
                raise UsageError(f"{item.name} is {value}; expected 0 or more.")
        if self.port > 65535:
            raise UsageError(f"port is {self.port}; expected 0 to 65535.")
        for host in (self.host, *self.hosts):
            if host_name(host) is None and not is_address(host):
                raise UsageError(f"{host!r} is no host name or address; give one without port and path.")
        for origin in self.origins:
            if origin_name(origin) != origin.lower():
                raise UsageError(
                    f"{origin!r} is no origin; expected scheme and host of a page, such as https://example.org."
                )
        for key in self.keys:
            if not key.isascii() or not key.isprintable() or not key or " " in key:
                raise UsageError("A key has characters that a header cannot carry; use letters, digits, - and _.")

    @property
    def names(self) -> frozenset[str]:
        """Every name and address that a request's Host may have, in lower case, without port and brackets."""
        names = {*LOOPBACK_HOSTS, self.host, *self.hosts} - set(ANY_ADDRESS)  # these are nobody's name
        return frozenset(name.lower().removesuffix(".") for name in names)

    @property
    def scheme(self) -> str:
        return "http" if self.tls is None else "https"


def is_address(text: str) -> bool:
    """Whether it is an IPv4 or IPv6 address."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def is_loopback(address: str) -> bool:
    """Whether only this device reaches the address; an address that is none is not loopback."""
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"


def host_name(value: str) -> tuple[str, int | None] | None:
    """(name, port) of a Host header, in lower case and without brackets (RFC 9110, 7.2); None where it is none."""
    value = value.lower()
    if value.startswith("["):
        name, bracket, rest = value[1:].partition("]")
        if not bracket or not is_address(name) or ":" not in name:
            return None
    else:
        name, colon, port = value.partition(":")
        rest = colon + port
        name = name.removesuffix(".")
        if not _NAME.fullmatch(name):
            return None
    if not rest:
        return name, None
    if rest[0] != ":" or not _PORT.fullmatch(rest[1:]) or int(rest[1:]) > 65535:
        return None
    return name, int(rest[1:])


def origin_name(value: str) -> str | None:
    """An origin as browsers write it: in lower case, without the scheme's own port; None where it is none ("null")."""
    found = _ORIGIN.fullmatch(value.lower())
    if found is None or (host := host_name(found[2])) is None:
        return None
    scheme, (name, port) = found[1], host
    name = f"[{name}]" if ":" in name else name
    return f"{scheme}://{name}" if port in (None, DEFAULT_PORTS.get(scheme)) else f"{scheme}://{name}:{port}"
