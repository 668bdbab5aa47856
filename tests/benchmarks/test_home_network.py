"""benchmarks/home_network.py: delays, rates, order, queues, faults, and that nothing stays behind.

A busy machine makes packets later, never earlier, so times are tested from below; from above only for wrong units.
"""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from home_network import HomeNetwork, missing

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
COMMON = """
import socket, sys, time
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
"""

# Sends back what comes.
ECHO = """
udp.bind(("", 7000))
print("ready", flush=True)
while True:
    data, sender = udp.recvfrom(2000)
    udp.sendto(data, sender)
"""
# ADDRESS TIMES: round trips, one after the other; prints the least in ms, or "lost".
PING = """
udp.settimeout(float(sys.argv[3]))
least = 1e9
try:
    for _ in range(int(sys.argv[2])):
        start = time.monotonic()
        udp.sendto(b"x" * 64, (sys.argv[1], 7000))
        udp.recv(2000)
        least = min(least, time.monotonic() - start)
    print(least * 1e3)
except TimeoutError:
    print("lost")
"""
# COUNT: prints the numbers of so many packets, and when the last one came.
SINK = """
udp.bind(("", 7000))
udp.settimeout(60)
print("ready", flush=True)
for _ in range(int(sys.argv[1])):
    print(int(udp.recv(2000)[:8]))
print(time.monotonic())
"""
# COUNT SIZE ADDRESS...: prints the time, then sends so many numbered packets of SIZE bytes (IP and UDP too) to each.
SOURCE = """
count, size, *addresses = sys.argv[1:]
print(time.monotonic(), flush=True)
for i in range(int(count)):
    for address in addresses:
        udp.sendto(b"%08d" % i + bytes(int(size) - 36), (address, 7000))
"""


@pytest.fixture(autouse=True)
def needed() -> None:
    if (reason := missing()) is not None:
        pytest.skip(f"missing: {reason}")


def start(home: HomeNetwork, node: int, program: str, *arguments: object, ready: bool = False) -> subprocess.Popen[Any]:
    words = [sys.executable, "-c", COMMON + program, *map(str, arguments)]
    process = home.popen(node, words, stdout=subprocess.PIPE, text=True)
    if ready:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    return process


def printed(process: subprocess.Popen[Any]) -> list[str]:
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    return out.split()


def ping(home: HomeNetwork, node: int, to: int, times: int = 3, timeout_s: float = 30) -> str:
    (said,) = printed(start(home, node, PING, home.address(to), times, timeout_s))
    return said


def test_packets_take_the_delay_and_changes_take_effect() -> None:
    with HomeNetwork(2, delay_ms=20, rate_mbit=0) as home:
        start(home, 1, ECHO, ready=True)
        assert 40 <= float(ping(home, 0, 1)) < 4000
        home.set(delay_ms=0)
        none = float(ping(home, 0, 1, 20))
        home.set(delay_ms=none + 5)
        assert float(ping(home, 0, 1)) >= 2 * (none + 5)


def test_a_node_speaks_to_itself_without_delay() -> None:
    with HomeNetwork(1, delay_ms=5000) as home:
        start(home, 0, ECHO, ready=True)
        assert float(ping(home, 0, 0)) < 10_000


@pytest.mark.parametrize(("senders", "receivers"), [([0], [1]), ([0], [1, 2]), ([0, 1], [2])])
def test_no_link_passes_more_than_its_rate(senders: list[int], receivers: list[int]) -> None:
    """Two streams share the link that they have in common: the sender's or the receiver's.

    All packets together fit a socket's buffer, here and below: one that overflows while its reader waits drops some.
    """
    count, size, rate_mbit = 30, 1500, 2
    with HomeNetwork(3, delay_ms=3, rate_mbit=rate_mbit) as home:
        sinks = [start(home, node, SINK, count * len(senders), ready=True) for node in receivers]
        sources = [start(home, node, SOURCE, count, size, *map(home.address, receivers)) for node in senders]
        began = min(float(printed(source)[0]) for source in sources)
        ended = max(float(printed(sink)[-1]) for sink in sinks)
    on_one_link = count * size * max(len(senders), len(receivers))
    # A link that is common has all of them one after the other; the last packet takes its time on the other one too.
    least_s = (on_one_link + size) * 8 / (rate_mbit * 1e6) + 3e-3
    assert least_s <= ended - began < 100 * least_s


def test_order_is_kept_where_delays_vary() -> None:
    with HomeNetwork(2, delay_ms=1, jitter_ms=10, rate_mbit=0) as home:
        sink = start(home, 1, SINK, 100, ready=True)
        printed(start(home, 0, SOURCE, 100, 200, home.address(1)))
        assert [int(word) for word in printed(sink)[:-1]] == list(range(100))


def test_what_a_full_queue_drops_is_counted() -> None:
    """30 packets of 1 KiB a second, and a queue of 8: of 50 at once some pass, most don't."""
    with HomeNetwork(2, delay_ms=0, rate_mbit=0.25, queue_kib=8) as home:
        sink = start(home, 1, SINK, 8, ready=True)
        printed(start(home, 0, SOURCE, 50, 1024, home.address(1)))
        assert len(printed(sink)) == 9
        until = time.monotonic() + 30
        while (of := home.counts()[0]).delivered + of.overflowed < 50 and time.monotonic() < until:
            time.sleep(0.05)
    assert of.delivered + of.overflowed == 50
    assert of.delivered >= 8
    assert of.overflowed > 0
    assert of.cut_off == 0


def test_a_node_is_cut_off_and_mended() -> None:
    with HomeNetwork(3) as home:
        for node in (1, 2):
            start(home, node, ECHO, ready=True)
        home.cut(1)
        assert ping(home, 0, 1, timeout_s=0.5) == "lost"
        assert ping(home, 1, 2, timeout_s=0.5) == "lost"
        assert ping(home, 0, 2) != "lost"
        assert [of.cut_off for of in home.counts()] == [1, 1, 0]
        home.mend(1)
        assert ping(home, 0, 1) != "lost"
        assert ping(home, 1, 2) != "lost"


def test_multicast_reaches_all_others() -> None:
    member = """
udp.bind(("", 7000))
udp.setsockopt(0, socket.IP_ADD_MEMBERSHIP, socket.inet_aton("224.0.0.251") + socket.inet_aton(sys.argv[1]))
print("ready", flush=True)
udp.settimeout(30)
print(udp.recv(100).decode())
"""
    sender = """
udp.setsockopt(0, socket.IP_MULTICAST_IF, socket.inet_aton(sys.argv[1]))
udp.sendto(b"hello", ("224.0.0.251", 7000))
"""
    with HomeNetwork(3) as home:
        members = [start(home, node, member, home.address(node), ready=True) for node in (1, 2)]
        printed(start(home, 0, sender, home.address(0)))
        assert [printed(one) for one in members] == [["hello"], ["hello"]]


def test_tcp_goes_through_a_small_queue_whole() -> None:
    """The kernel sends again what the queue drops."""
    server = """
import hashlib
with socket.create_server(("", 7000)) as listening:
    print("ready", flush=True)
    connection, _ = listening.accept()
    digest = hashlib.sha256()
    while data := connection.recv(1 << 16):
        digest.update(data)
print(digest.hexdigest())
"""
    client = """
with socket.create_connection((sys.argv[1], 7000), 30) as connection:
    connection.sendall(bytes(range(250)) * 8000)
"""
    with HomeNetwork(2, delay_ms=2, rate_mbit=100, queue_kib=16) as home:
        receiver = start(home, 1, server, ready=True)
        printed(start(home, 0, client, home.address(1)))
        assert printed(receiver) == [hashlib.sha256(bytes(range(250)) * 8000).hexdigest()]
        assert home.counts()[0].overflowed > 0


def test_two_networks_at_once_know_nothing_of_each_other() -> None:
    with HomeNetwork(2, delay_ms=0) as one, HomeNetwork(2, delay_ms=30) as other:
        start(one, 1, ECHO, ready=True)
        assert ping(other, 0, 1, timeout_s=0.3) == "lost"
        start(other, 1, ECHO, ready=True)
        assert float(ping(other, 0, 1)) >= 60
        assert ping(one, 0, 1) != "lost"


def test_wrong_words_are_errors() -> None:
    with HomeNetwork(2) as home:
        for wrong in ({"delay_ms": -1}, {"rate_mbit": float("nan")}, {"queue_kib": 1e9}):
            with pytest.raises(ValueError, match="expected a setting from 0 to 100000"):
                home.set(**wrong)
        with pytest.raises(TypeError, match="no loss"):
            home.set(loss=1)
        for wrong_node in (home.cut, home.mend, home.address):
            with pytest.raises(ValueError, match="no 2"):
                wrong_node(2)
    with pytest.raises(ValueError, match="1 to 250"):
        HomeNetwork(0)


# Two programs that outlive their makers where nobody ends them: one in the foreground, one that it left behind.
LEAVER = """
import os, sys, time
if os.fork() == 0:
    os.setsid()
else:
    print(os.stat("/proc/self/ns/net").st_ino, flush=True)
time.sleep(600)
"""


def in_namespace(number: int) -> Iterator[int]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if (entry / "ns/net").stat().st_ino == number and (entry / "stat").read_text().split()[2] != "Z":
                    yield int(entry.name)
            except OSError:  # it has ended
                pass


def empty_soon(number: int) -> bool:
    until = time.monotonic() + 30
    while list(in_namespace(number)) and time.monotonic() < until:
        time.sleep(0.02)
    return not list(in_namespace(number))


def devices() -> str:
    return Path("/proc/net/dev").read_text().count("\n")


def test_nothing_stays_behind_after_an_exception() -> None:
    before = devices()
    with pytest.raises(ZeroDivisionError), HomeNetwork(2) as home:  # noqa: PT012
        process = home.popen(0, [sys.executable, "-c", LEAVER], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        number = int(process.stdout.readline())
        assert len(list(in_namespace(number))) >= 2
        1 / 0  # noqa: B018
    assert process.poll() is not None
    assert not list(in_namespace(number))
    assert not list(home_networks_of(os.getpid()))
    assert devices() == before


def home_networks_of(parent: int) -> Iterator[int]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if words[1:3] == [b"run", str(parent).encode()] and words[0].endswith(b"home_network"):
                yield int(entry.name)


@pytest.mark.parametrize("killed", ["parent", "network"])
def test_nothing_stays_behind_after_a_kill(killed: str) -> None:
    """Of who made it, or of the program that is the network: without it the others are ended by who made them.

    A process that was forked, as those of multiprocessing, has the pipe to the network, which so stays open.
    """
    script = f"""
import os, subprocess, sys, time
sys.path.insert(0, {str(BENCHMARKS)!r})
from home_network import HomeNetwork
with HomeNetwork(2) as home:
    process = home.popen(1, [sys.executable, "-c", {LEAVER!r}], stdout=subprocess.PIPE, text=True)
    forked = os.fork()
    if forked == 0:
        time.sleep(600)
    print(process.stdout.readline().strip(), forked, flush=True)
    sys.stdin.read()
"""
    if killed == "network":
        script = script.replace("os.fork() == 0", "False")
    words = [sys.executable, "-c", script]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        number, forked = map(int, parent.stdout.readline().split())
        assert list(in_namespace(number))
        (network,) = home_networks_of(parent.pid)
        try:
            if killed == "parent":
                parent.kill()
                parent.wait()
            else:
                os.kill(network, signal.SIGKILL)
                assert parent.stdin is not None
                parent.stdin.close()
                parent.wait(60)
            assert empty_soon(number)
        finally:
            os.kill(forked, signal.SIGKILL)
    until = time.monotonic() + 30
    while list(home_networks_of(parent.pid)) and time.monotonic() < until:
        time.sleep(0.02)
    assert not list(home_networks_of(parent.pid))
