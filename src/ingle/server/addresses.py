"""Where a server can listen, and by which names and addresses others reach this device. Asks nobody."""

from __future__ import annotations

import errno
import ipaddress
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from ingle.errors import UsageError
from ingle.server.settings import is_loopback

__all__ = ["DEFAULT_PORT", "bind", "local_addresses", "local_names", "primary_address"]

DEFAULT_PORT = 8080
TRIES = 20  # ports from the default one on
# Addresses that are nobody's (RFC 5737, RFC 3849): a socket made for them is told its own address, and sends nothing.
NOBODY = {socket.AF_INET: "192.0.2.1", socket.AF_INET6: "2001:db8::1"}


def bind(host: str, port: int | None) -> list[socket.socket]:
    """Sockets bound to one port of `host`; None = 8080, or the next that is free. 127.0.0.1 has ::1 beside it.

    With ::1, a client that looks for "localhost" there finds this server, and nobody else's. Raises UsageError, with
    what is in the way.
    """
    besides = {"127.0.0.1": "::1", "localhost": "::1", "0.0.0.0": "::"}.get(host)
    host = "127.0.0.1" if host == "localhost" else host
    if port is not None:
        return _bind_all(host, besides, port)
    for candidate in range(DEFAULT_PORT, DEFAULT_PORT + TRIES):
        with suppress(_InUse):
            return _bind_all(host, besides, candidate)
    last = DEFAULT_PORT + TRIES - 1
    raise UsageError(f"The ports {DEFAULT_PORT} to {last} are all in use; give another with --port.")


class _InUse(UsageError):
    pass


def _bind_all(host: str, besides: str | None, port: int) -> list[socket.socket]:
    sockets = [_bind(host, port)]
    if besides is not None:
        try:
            sockets.append(_bind(besides, sockets[0].getsockname()[1]))
        except _InUse:
            sockets[0].close()
            raise
        except (UsageError, OSError):  # a device without IPv6
            pass
    return sockets


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        if sys.platform != "win32":  # there, it would let two servers have one port
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        bound.bind((host, port))
        bound.listen(1)  # now, that a port which another server has is found before the model is loaded
    except OSError as error:
        bound.close()
        if error.errno == errno.EADDRINUSE:
            raise _InUse(f"Port {port} of {host} is in use; give another with --port, or stop what has it.") from None
        if error.errno == errno.EACCES:
            raise UsageError(f"Port {port} may not be taken by this user; give one of 1024 or more.") from None
        if error.errno == errno.EADDRNOTAVAIL:
            raise UsageError(f"{host} is no address of this device; --lan listens at all of them.") from None
        raise UsageError(f"Port {port} of {host} cannot be listened at: {error.strerror}.") from None
    return bound


def primary_address() -> str | None:
    """The address by which others of the network reach this device, IPv4 before IPv6; None = there is no network."""
    for family, nobody in NOBODY.items():
        with suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((nobody, 9))
            address = str(probe.getsockname()[0]).partition("%")[0]
            if not is_loopback(address):
                return address
    return None


def local_addresses() -> list[str]:
    """All addresses of this device but those of loopback and of links without a network; sorted."""
    found = {primary_address(), *_of_interfaces(), *_ipv6_of_linux()}
    with suppress(OSError):
        found |= {str(info[4][0]) for info in socket.getaddrinfo(socket.gethostname(), None)}
    return sorted(address for address in found if address is not None and _is_reachable(address))


def local_names() -> list[str]:
    """The names of this device, also as local networks know it (mDNS)."""
    name = socket.gethostname().lower().removesuffix(".")
    try:
        name = name.encode("ascii").decode()
    except UnicodeEncodeError:
        return []
    short = name.partition(".")[0]
    return sorted({name, short, f"{short}.local"} - {"", ".local", "localhost"})


def _is_reachable(address: str) -> bool:
    try:
        found = ipaddress.ip_address(address)
    except ValueError:  # with a zone
        return False
    return not (found.is_loopback or found.is_link_local or found.is_unspecified or found.is_multicast)


def _of_interfaces() -> Sequence[str]:
    """The IPv4 address of each interface."""
    if sys.platform == "win32":
        return []
    import fcntl
    import struct

    request = 0x8915 if sys.platform == "linux" else 0xC0206921  # SIOCGIFADDR
    addresses = []
    with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            with suppress(OSError):
                answer = fcntl.ioctl(probe, request, struct.pack("256s", name.encode()[:15]))
                addresses.append(socket.inet_ntoa(answer[20:24]))
    return addresses


def _ipv6_of_linux() -> Sequence[str]:
    try:
        lines = Path("/proc/net/if_inet6").read_text().splitlines()
        return [socket.inet_ntop(socket.AF_INET6, bytes.fromhex(line.split()[0])) for line in lines]
    except (OSError, ValueError, IndexError):
        return []
