"""Keys: from a file or the environment, new ones, and how one is looked up."""

from __future__ import annotations

import hmac
import os
import re
from pathlib import Path

import pytest

from ingle.errors import UsageError
from ingle.server.keys import ENVIRONMENT, KeyRing, keys_of, new_key

KEY = "k" * 30


def key_file(folder: Path, data: str | bytes, mode: int = 0o600) -> Path:
    path = folder / "keys"
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    path.chmod(mode)
    return path


def test_new_keys_have_256_bits() -> None:
    keys = {new_key() for _ in range(100)}
    assert len(keys) == 100
    for key in keys:
        assert re.fullmatch(r"[A-Za-z0-9_-]{43}", key)  # 43 x 6 bits


def test_keys_are_found_by_number() -> None:
    ring = KeyRing((KEY, KEY + "2", "short"))
    assert ring.find(f"Bearer {KEY}".encode()) == 0
    assert ring.find(f"bearer  {KEY}2 ".encode()) == 1
    assert ring.find(b"BEARER short") == 2
    for wrong in (b"", b"Bearer", b"Bearer ", KEY.encode(), f"Token {KEY}".encode(), f"Bearer {KEY[:-1]}".encode()):
        assert ring.find(wrong) is None
    assert ring
    assert not KeyRing(())


def test_every_key_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """As digests of one length, with the comparison made for it, and all of them, found or not."""
    compared = []

    def compare(a: bytes, b: bytes) -> bool:
        compared.append((len(a), len(b)))
        return real(a, b)

    real = hmac.compare_digest
    monkeypatch.setattr("ingle.server.keys.hmac.compare_digest", compare)
    ring = KeyRing((KEY, KEY + "2", KEY + "3"))
    for given in (b"Bearer x", f"Bearer {KEY}".encode(), f"Bearer {KEY}3".encode(), b"Basic x", b""):
        compared.clear()
        ring.find(given)
        assert compared == [(32, 32)] * 3


def test_the_ring_keeps_no_key() -> None:
    assert KEY not in repr(vars(KeyRing((KEY,))))


def test_keys_of_a_file(tmp_path: Path) -> None:
    path = key_file(tmp_path, f"# of the phone\n{KEY}\r\n\n  {KEY}2  \n")
    assert keys_of(path, {ENVIRONMENT: "other" * 9}, exposed=True) == (KEY, KEY + "2")


def test_the_key_of_the_environment() -> None:
    assert keys_of(None, {ENVIRONMENT: f" {KEY}\n"}, exposed=True) == (KEY,)
    assert keys_of(None, {ENVIRONMENT: ""}, exposed=True) == ()
    assert keys_of(None, {}, exposed=True) == ()


@pytest.mark.parametrize(
    ("data", "about"),
    [
        ("", "has no key"),
        ("# nothing\n\n", "has no key"),
        (b"\xff\xfe\x00", "not text"),
        ("a key with spaces in it, which is long\n", "characters that a header"),
        ("schlüssel-schlüssel-schlüssel\n", "characters that a header"),
        ("short\n", "5 characters"),
        ("x" * 70_000, "larger than"),
    ],
)
def test_files_that_have_no_good_key(tmp_path: Path, data: str | bytes, about: str) -> None:
    with pytest.raises(UsageError, match=about) as caught:
        keys_of(key_file(tmp_path, data), {}, exposed=True)
    assert "short" not in str(caught.value).replace("shorter", "")


def test_short_keys_do_on_this_device(tmp_path: Path) -> None:
    assert keys_of(key_file(tmp_path, "sk-local\n"), {}, exposed=False) == ("sk-local",)


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604])
def test_a_key_file_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    with pytest.raises(UsageError, match="chmod 600"):
        keys_of(key_file(tmp_path, KEY, mode), {}, exposed=False)


def test_a_key_file_that_is_not_there(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(UsageError, match="cannot be read"):
            keys_of(path, {}, exposed=False)
