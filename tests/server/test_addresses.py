"""Where a server listens, and what this device is called."""

from __future__ import annotations

import ipaddress
import socket

import pytest

from ingle.errors import UsageError
from ingle.server import addresses
from ingle.server.addresses import bind, local_addresses, local_names, primary_address
from ingle.server.settings import Settings


def close(sockets: list[socket.socket]) -> None:
    for bound in sockets:
        bound.close()


def test_only_this_device_by_default() -> None:
    sockets = bind(Settings().host, 0)
    names = [bound.getsockname() for bound in sockets]
    close(sockets)
    assert names[0][0] == "127.0.0.1"
    assert all(ipaddress.ip_address(name[0]).is_loopback for name in names)
    assert len({name[1] for name in names}) == 1


def test_the_next_port_that_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = bind("127.0.0.1", 0)
    monkeypatch.setattr(addresses, "DEFAULT_PORT", taken[0].getsockname()[1])
    found = bind("127.0.0.1", None)
    assert found[0].getsockname()[1] > taken[0].getsockname()[1]
    monkeypatch.setattr(addresses, "TRIES", 1)
    with pytest.raises(UsageError, match="all in use"):
        bind("127.0.0.1", None)
    close(taken + found)


def test_a_port_in_use_is_told() -> None:
    taken = bind("127.0.0.1", 0)
    port = taken[0].getsockname()[1]
    for host in ("127.0.0.1", "localhost", "0.0.0.0"):
        with pytest.raises(UsageError, match=f"Port {port} of .* is in use"):
            bind(host, port)
    close(taken)


def test_nobody_else_is_localhost_by_ipv6() -> None:
    """Where ::1 of the port is somebody else's, a client that looks for "localhost" would talk to them."""
    try:
        other = socket.create_server(("::1", 0), family=socket.AF_INET6)
    except OSError as error:
        pytest.skip(f"missing: the address ::1 of IPv6 ({error})")
    with pytest.raises(UsageError, match="in use"):
        bind("127.0.0.1", other.getsockname()[1])
    other.close()


def test_an_address_of_others_is_told() -> None:
    with pytest.raises(UsageError, match="no address of this device"):
        bind("192.0.2.200", 0)


def test_names_and_addresses_of_this_device() -> None:
    for address in local_addresses():
        assert not ipaddress.ip_address(address).is_loopback
    primary = primary_address()
    assert primary is None or primary in local_addresses()
    assert all(name == name.lower() and name != "localhost" for name in local_names())
    Settings(hosts=(*local_addresses(), *local_names()))  # all of them can be


@pytest.mark.parametrize("name", ["Büro-PC", "LAPTOP.", "localhost", "My.Laptop.Example"])
def test_names_are_made_fit(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: name)
    Settings(hosts=tuple(local_names()))
    assert "localhost" not in local_names()


def test_a_device_without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise OSError

    monkeypatch.setattr(addresses, "NOBODY", {})
    for name in ("if_nameindex", "getaddrinfo"):
        monkeypatch.setattr(socket, name, fails)
    monkeypatch.setattr(addresses, "_ipv6_of_linux", lambda: [])
    assert primary_address() is None
    assert local_addresses() == []
