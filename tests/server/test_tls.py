"""The certificate that is made here, and one of one's own."""

from __future__ import annotations

import datetime
import os
import re
import socket
import ssl
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from ingle.errors import UsageError
from ingle.server import tls
from ingle.server.settings import Settings
from ingle.server.tls import fingerprint, own_certificate, self_signed, state_folder
from server.live import is_closed, live, read_all, until
from server.toy_app import guarded

NAMES = ["127.0.0.1", "::1", "localhost", "my-laptop.local", "192.0.2.7"]


def certificate(folder: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate((folder / "server.pem").read_bytes())


def client(folder: Path) -> ssl.SSLContext:
    """One that trusts this certificate, as strictly as Python 3.13 does."""
    context = ssl.create_default_context(cafile=folder / "certificate.pem")
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    return context


def test_what_is_made(tmp_path: Path) -> None:
    made, reason = self_signed(NAMES, tmp_path / "state")
    assert reason == "there was none"
    found = certificate(tmp_path / "state")
    names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert sorted(names.get_values_for_type(x509.DNSName)) == ["localhost", "my-laptop.local"]
    assert sorted(map(str, names.get_values_for_type(x509.IPAddress))) == ["127.0.0.1", "192.0.2.7", "::1"]
    key = found.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert key.curve.name == "secp256r1"
    assert found.not_valid_after_utc - found.not_valid_before_utc <= datetime.timedelta(days=398)
    assert found.extensions.get_extension_for_class(x509.BasicConstraints).value.ca is False
    assert re.fullmatch(r"([0-9A-F]{2}:){31}[0-9A-F]{2}", made.fingerprint)
    assert made.fingerprint.replace(":", "") == ssl_fingerprint(tmp_path / "state" / "certificate.pem")


def ssl_fingerprint(path: Path) -> str:
    found = x509.load_pem_x509_certificate(path.read_bytes())
    from cryptography.hazmat.primitives import hashes

    return found.fingerprint(hashes.SHA256()).hex().upper()


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_nobody_else_can_read_the_key(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        self_signed(NAMES, tmp_path / "a" / "state")
    finally:
        os.umask(old)
    assert (tmp_path / "a" / "state").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "a" / "state" / "server.pem").stat().st_mode & 0o777 == 0o600
    assert b"PRIVATE" not in (tmp_path / "a" / "state" / "certificate.pem").read_bytes()
    assert {path.name for path in (tmp_path / "a" / "state").iterdir()} == {"server.pem", "certificate.pem"}


def test_it_is_kept(tmp_path: Path) -> None:
    first, _ = self_signed(NAMES, tmp_path)
    again, reason = self_signed(NAMES[:3], tmp_path)
    assert reason is None
    assert again.fingerprint == first.fingerprint


def test_another_address_makes_a_new_one(tmp_path: Path) -> None:
    first, _ = self_signed(NAMES, tmp_path)
    again, reason = self_signed([*NAMES, "192.0.2.8"], tmp_path)
    assert reason == "this device has other names or addresses now"
    assert again.fingerprint != first.fingerprint


@pytest.mark.parametrize(("days", "expected"), [(-1, "about to end"), (5, "about to end"), (90, None)])
def test_one_that_ends_soon_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, days: int, expected: str | None
) -> None:
    monkeypatch.setattr(tls, "VALID_DAYS", days + 1)
    self_signed(NAMES, tmp_path)
    monkeypatch.undo()
    _, reason = self_signed(NAMES, tmp_path)
    assert (reason is None) if expected is None else (expected in str(reason))


@pytest.mark.parametrize("damage", ["empty", "cut", "text", "key of another", "no key"])
def test_a_damaged_one_is_made_anew(tmp_path: Path, damage: str) -> None:
    self_signed(NAMES, tmp_path / "a")
    self_signed(NAMES, tmp_path / "b")
    path = tmp_path / "a" / "server.pem"
    data, other = path.read_bytes(), (tmp_path / "b" / "server.pem").read_bytes()
    split = data.index(b"-----BEGIN PRIVATE")
    path.write_bytes(
        {
            "empty": b"",
            "cut": data[:100],
            "text": b"hello",
            "key of another": data[:split] + other[other.index(b"-----BEGIN PRIVATE") :],
            "no key": data[:split],
        }[damage]
    )
    _, reason = self_signed(NAMES, tmp_path / "a")
    assert reason == "the old one was damaged"
    assert self_signed(NAMES, tmp_path / "a")[1] is None


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
@pytest.mark.parametrize("mode", [0o644, 0o640, 0o660])
def test_one_that_others_could_read_is_made_anew(tmp_path: Path, mode: int) -> None:
    first, _ = self_signed(NAMES, tmp_path)
    (tmp_path / "server.pem").chmod(mode)
    again, reason = self_signed(NAMES, tmp_path)
    assert reason == "others could read the old one"
    assert again.fingerprint != first.fingerprint
    assert (tmp_path / "server.pem").stat().st_mode & 0o777 == 0o600


def test_a_state_folder_that_is_none(tmp_path: Path) -> None:
    """A file where the folder should be; a link to nowhere; the key's place taken by a folder."""
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere" / "at" / "all")
    (tmp_path / "taken" / "server.pem").mkdir(parents=True)
    for name in ("file", "file/in/it", "link", "taken"):
        made, reason = self_signed(NAMES, tmp_path / name)
        assert reason is not None
        assert "cannot be written" in reason
        assert "this run alone" in reason
        assert made.cert is None
        assert made.fingerprint


@pytest.mark.skipif(
    os.name != "posix" or os.geteuid() == 0, reason="missing: a user other than root, who may write everywhere"
)
def test_a_home_that_is_read_only(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    made, reason = self_signed(NAMES, tmp_path / "state")
    assert "this run alone" in str(reason)
    assert made.cert is None


def test_a_certificate_that_is_not_kept_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "file").write_text("")
    self_signed(NAMES, tmp_path / "file")
    assert list((tmp_path / "temporary").iterdir()) == []


def test_a_link_in_the_place_of_the_key_is_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("precious")
    folder = tmp_path / "state"
    folder.mkdir()
    (folder / "server.pem").symlink_to(target)
    self_signed(NAMES, folder)
    assert target.read_text() == "precious"
    assert not (folder / "server.pem").is_symlink()


def test_where_the_state_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    assert state_folder({"XDG_STATE_HOME": "/x", "HOME": "/h"}) == Path("/x/ingle")
    assert state_folder({"HOME": "/h"}) == Path("/h/.local/state/ingle")
    monkeypatch.setattr(sys, "platform", "darwin")
    assert state_folder({"HOME": "/h"}) == Path("/h/Library/Application Support/ingle")


def test_clients_that_trust_it_connect(tmp_path: Path) -> None:
    made, _ = self_signed(["localhost", "127.0.0.1", "::1"], tmp_path)
    settings = Settings(tls=made)
    _, guard = guarded(settings)
    with live(guard, settings) as server:
        request = b"GET /health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
        (reply,) = server.send(request, client(tmp_path))
        assert reply.status == 200
        origin = b"origin: https://localhost\r\n\r\n"
        (reply,) = server.send(request[:-2] + origin, client(tmp_path))
        assert reply.status == 200  # its own page
        (reply,) = server.send(request[:-2] + origin.replace(b"https", b"http"), client(tmp_path))
        assert reply.status == 403


def test_clients_that_do_not_know_it_refuse(tmp_path: Path) -> None:
    made, _ = self_signed(["localhost"], tmp_path)
    self_signed(["localhost"], tmp_path / "other")
    settings = Settings(tls=made)
    with live(guarded(settings)[1], settings) as server:
        for context in (ssl.create_default_context(), client(tmp_path / "other")):
            with pytest.raises(ssl.SSLCertVerificationError):
                server.send(b"", context)
        with server.connect() as connection, pytest.raises(ssl.SSLCertVerificationError, match="mismatch"):
            client(tmp_path).wrap_socket(connection, server_hostname="127.0.0.1")


def test_old_versions_and_plain_text_get_nothing(tmp_path: Path) -> None:
    made, _ = self_signed(["localhost"], tmp_path)
    settings = Settings(tls=made)
    app, guard = guarded(settings)
    with live(guard, settings) as server:
        with server.connect() as connection:
            connection.sendall(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n")
            assert b"HTTP" not in read_all(connection)
        old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
        old.set_ciphers("ALL:@SECLEVEL=0")
        old.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
        with pytest.warns(DeprecationWarning, match="deprecated"):
            old.maximum_version = ssl.TLSVersion.TLSv1_1
        with server.connect() as connection, pytest.raises((ssl.SSLError, ConnectionError)):
            old.wrap_socket(connection)
        (reply,) = server.send(
            b"GET /health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n", client(tmp_path)
        )
        assert reply.status == 200
    assert app.requests == ["/health"]


def test_a_handshake_that_never_comes_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ingle.server.run.HANDSHAKE_S", 0.3)
    made, _ = self_signed(["localhost"], tmp_path)
    settings = Settings(tls=made)
    with live(guarded(settings)[1], settings) as server, server.connect() as connection:
        connection.sendall(b"\x16\x03\x01")
        assert is_closed(connection)


def test_who_reads_nothing_is_dropped_over_tls(tmp_path: Path) -> None:
    made, _ = self_signed(["localhost"], tmp_path)
    settings = Settings(tls=made, write_timeout_s=0.3)
    app, guard = guarded(settings)
    with live(guard, settings) as server, server.connect() as plain:
        connection: socket.socket = client(tmp_path).wrap_socket(plain, server_hostname="localhost")
        connection.sendall(b"GET /v1/flood HTTP/1.1\r\nhost: localhost\r\n\r\n")
        until(lambda: app.left == 1)
        connection.close()


def test_a_certificate_of_ones_own(tmp_path: Path) -> None:
    self_signed(["localhost"], tmp_path)
    data = (tmp_path / "server.pem").read_bytes()
    split = data.index(b"-----BEGIN PRIVATE")
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    cert.write_bytes(data[:split])
    key.write_bytes(data[split:])
    own = own_certificate(cert, key)
    assert own.cert == cert
    assert own.fingerprint == fingerprint(ssl.PEM_cert_to_DER_cert(data[:split].decode()))


def test_files_that_are_no_certificate(tmp_path: Path) -> None:
    self_signed(["localhost"], tmp_path / "a")
    self_signed(["localhost"], tmp_path / "b")
    good, other, text = tmp_path / "a" / "server.pem", tmp_path / "b" / "server.pem", tmp_path / "text"
    text.write_text("hello")
    locked = tmp_path / "locked.pem"
    command = ["openssl", "pkcs8", "-topk8", "-in", str(good), "-out", str(locked), "-passout", "pass:secret"]
    pairs = [(text, good), (good, text), (good, other), (tmp_path / "none", good), (good, tmp_path)]
    try:
        subprocess.run(command, check=True, capture_output=True)
        pairs.append((good, locked))  # it would ask for the password on the terminal
    except FileNotFoundError:
        pass
    for cert, key in pairs:
        with pytest.raises(UsageError):
            own_certificate(cert, key)
