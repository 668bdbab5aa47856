"""How much is taken from whom: requests a minute, and the shape of a JSON body."""

from __future__ import annotations

import ipaddress
import re
from collections import OrderedDict
from collections.abc import Callable, Hashable
from time import monotonic

__all__ = ["Buckets", "excess_of_json", "network"]

MOST_KNOWN = 4096
IPV6_PREFIX = 64  # one household has that many addresses for itself

# A string may lack its end, so that each byte is looked at once, whatever comes; possessive, so that none is again.
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
_BRACKET = re.compile(rb"[\[\]{}]")


class Buckets:
    """A token bucket for each of a bounded number of users: `per_minute` on average, as many at once after a rest.

    Not for several threads. Beyond `size` users, the one longest unseen is forgotten.
    """

    def __init__(self, per_minute: int, *, size: int = MOST_KNOWN, clock: Callable[[], float] = monotonic) -> None:
        self.per_minute = per_minute
        self._size = size
        self._clock = clock
        self._level: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()  # tokens left, and when

    def __len__(self) -> int:
        return len(self._level)

    def wait_s(self, user: Hashable) -> float:
        """Seconds until `user` may have a token; 0 = now, and always where there is no limit. Takes none."""
        if not self.per_minute:
            return 0.0
        return max(0.0, (1.0 - self._now(user)) * 60.0 / self.per_minute)

    def take(self, user: Hashable) -> float:
        """As `wait_s`, and takes the token where that is 0."""
        wait_s = self.wait_s(user)
        if self.per_minute and not wait_s:
            self._level[user] = self._now(user) - 1.0, self._clock()
            self._level.move_to_end(user)
            if len(self._level) > self._size:
                self._level.popitem(last=False)
        return wait_s

    def _now(self, user: Hashable) -> float:
        now = self._clock()
        tokens, at = self._level.get(user, (float(self.per_minute), now))
        return min(float(self.per_minute), tokens + (now - at) * self.per_minute / 60.0)


def network(address: str) -> str:
    """Whom an address stands for: an IPv4 address for itself, an IPv6 address for its /64."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if found.version == 4:
        return str(found)
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(ipaddress.ip_network((found, IPV6_PREFIX), strict=False).network_address)


def excess_of_json(body: bytes, depth: int, containers: int) -> str | None:
    """What is too much in a JSON text, before it is parsed: "deep" or "many"; None = nothing. Not a check of JSON."""
    if body.count(b"[") + body.count(b"{") <= min(depth, containers):
        return None
    bare = _STRING.sub(b"", body)
    if bare.count(b"[") + bare.count(b"{") > containers:
        return "many"
    level = 0
    for found in _BRACKET.finditer(bare):
        level += 1 if found[0] in b"[{" else -1
        if level > depth:
            return "deep"
        if level < 0:  # no JSON; who parses it says so
            return None
    return None
