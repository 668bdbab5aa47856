"""Keys: where they come from, and whether a request has one.

A key lives in memory for as long as the server runs. One that was made is not stored, not even as a hash: it could not
be shown again, so that it would be of no use. Who wants the same key each time has it in a file or in INGLE_API_KEY.
"""

from __future__ import annotations

import hmac
import os
import secrets
import stat
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

from ingle.errors import UsageError
from ingle.files import read_bytes

__all__ = ["ENVIRONMENT", "KeyRing", "keys_of", "new_key"]

ENVIRONMENT = "INGLE_API_KEY"
KEY_BYTES = 32
SHORTEST = 20  # characters of a key that a network may guess at
LARGEST_FILE = 1 << 16


class KeyRing:
    """Keys as their SHA-256. Which of them a request has is found in a time that tells nothing about any of them."""

    def __init__(self, keys: tuple[str, ...]) -> None:
        self._digests = [sha256(key.encode()).digest() for key in keys]

    def __bool__(self) -> bool:
        return bool(self._digests)

    def find(self, authorization: bytes) -> int | None:
        """The number of the key in an Authorization header, "Bearer KEY"; None = none of ours."""
        scheme, _, given = authorization.partition(b" ")
        digest = sha256(given.strip(b" ")).digest()
        found = None
        for number, known in enumerate(self._digests):
            if hmac.compare_digest(digest, known):
                found = number
        return found if scheme.lower() == b"bearer" else None


def new_key() -> str:
    """A new key of 256 random bits, in characters that URLs and headers take as they are."""
    return secrets.token_urlsafe(KEY_BYTES)


def keys_of(file: Path | None, environment: Mapping[str, str], *, exposed: bool) -> tuple[str, ...]:
    """The keys in a file, one a line, or that in INGLE_API_KEY; () = neither is given.

    exposed: others than this device can try keys, so that short ones are refused. Raises UsageError for a file that
    cannot be read, that others may read, or that has no key.
    """
    if file is not None:
        keys, where = _read(file), str(file)
    else:
        keys, where = tuple(filter(None, [environment.get(ENVIRONMENT, "").strip()])), ENVIRONMENT
    for key in keys:
        if not key.isascii() or not key.isprintable() or " " in key:
            raise UsageError(f"A key in {where} has characters that a header cannot carry; use letters and digits.")
        if exposed and len(key) < SHORTEST:
            raise UsageError(
                f"A key in {where} has {len(key)} characters; a network needs {SHORTEST} or more. Leave it out, and "
                "one is made."
            )
    return keys


def _read(file: Path) -> tuple[str, ...]:
    data = read_bytes(file, LARGEST_FILE, UsageError)
    mode = file.stat().st_mode
    if os.name == "posix" and stat.S_ISREG(mode) and mode & (stat.S_IRGRP | stat.S_IROTH):
        raise UsageError(f"{file} can be read by others on this device; run chmod 600 on it first.")
    try:
        lines = [line.strip() for line in data.decode().splitlines()]
    except UnicodeDecodeError:
        raise UsageError(f"{file} is not text; expected one key a line.") from None
    keys = tuple(line for line in lines if line and not line.startswith("#"))
    if not keys:
        raise UsageError(f"{file} has no key; expected one a line.")
    return keys
