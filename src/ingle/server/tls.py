"""A certificate for this device, made here and kept: without it, keys and chats would cross the network in the open.

It is signed by itself, so that browsers warn once; whoever compares the fingerprint knows that it is this one. It can
sign no other certificate: to trust it is to trust this server and nothing else. P-256, as phones and browsers want.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
import ssl
import stat
import sys
import tempfile
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from ingle.errors import UsageError
from ingle.files import read_bytes, write_whole
from ingle.server.settings import Tls

if TYPE_CHECKING:
    from cryptography.x509 import Certificate, GeneralName

__all__ = ["fingerprint", "own_certificate", "self_signed", "state_folder"]

VALID_DAYS = 397  # the most that browsers take
RENEW_DAYS = 30
LARGEST_FILE = 1 << 20
NAME = "server.pem"  # certificate and key in one file, which cannot be of different makes
PUBLIC_NAME = "certificate.pem"  # without the key: for clients that are to trust it
BEGIN, END = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"


def state_folder(environment: Mapping[str, str]) -> Path:
    """Where what is to be kept between runs belongs (XDG base directories; on macOS Application Support)."""
    if found := environment.get("XDG_STATE_HOME"):
        return Path(found) / "ingle"
    home = Path(environment.get("HOME") or os.path.expanduser("~"))
    return home / ("Library/Application Support/ingle" if sys.platform == "darwin" else ".local/state/ingle")


def self_signed(names: Sequence[str], folder: Path) -> tuple[Tls, str | None]:
    """The certificate kept in `folder` for these names and addresses, and why it is a new one; None = it is not.

    A new one is made where there is none, it is damaged or others can read it, it ends within 30 days, or lacks a name.
    Where it cannot be kept, it is in memory alone, and the reason says so.
    """
    path, public = folder / NAME, folder / PUBLIC_NAME
    reason = _reason_against(path, names)
    if reason is None:
        return _load(path, path, public), None
    data = _make(names)
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        _write_private(path, data)
        write_whole(public, data[: data.index(END.encode()) + len(END)] + b"\n")
        return _load(path, path, public), reason
    except OSError as error:
        reason = f"{folder} cannot be written ({error.strerror}), so that this one is for this run alone"
    with tempfile.TemporaryDirectory(prefix="ingle-") as place:  # OpenSSL reads keys from files only
        path = Path(place) / NAME
        _write_private(path, data)
        return _load(path, path, None), reason


def own_certificate(cert: Path, key: Path) -> Tls:
    """A certificate (with its chain) and key of one's own, in PEM. Raises UsageError where they cannot serve."""
    for path in (cert, key):
        read_bytes(path, LARGEST_FILE, UsageError)
    try:
        return _load(cert, key, cert)
    except (ssl.SSLError, ValueError, OSError) as error:
        why = getattr(error, "reason", None) or str(error)
        raise UsageError(
            f"{cert} and {key} are no certificate and its key ({why}); expected both in PEM, the key without password."
        ) from None


def fingerprint(der: bytes) -> str:
    """SHA-256 in pairs of capital hex digits, as browsers show it."""
    return sha256(der).digest().hex(":").upper()


def _load(cert: Path, key: Path, public: Path | None) -> Tls:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    context.load_cert_chain(cert, key, password=lambda: b"")  # a password would be asked for on the terminal
    text = cert.read_text("ascii", errors="replace")
    begin, end = text.find(BEGIN), text.find(END)
    return Tls(context, fingerprint(ssl.PEM_cert_to_DER_cert(text[begin : end + len(END)])), public)


def _reason_against(path: Path, names: Sequence[str]) -> str | None:
    """Why the kept certificate is not the one to use."""
    from cryptography import x509

    try:
        with path.open("rb") as file:
            info = os.fstat(file.fileno())
            data = file.read(LARGEST_FILE)
    except FileNotFoundError:
        return "there was none"
    except OSError as error:
        return f"{path} cannot be read ({error.strerror})"
    if os.name == "posix" and (stat.S_IMODE(info.st_mode) & 0o077 or info.st_uid != os.geteuid()):
        return "others could read the old one"
    try:
        certificate = x509.load_pem_x509_certificate(data)
        _load(path, path, None)
        known = _names_of(certificate)
    except (ValueError, ssl.SSLError, OSError, x509.ExtensionNotFound):
        return "the old one was damaged"
    now = datetime.datetime.now(datetime.UTC)
    if certificate.not_valid_after_utc - now < datetime.timedelta(days=RENEW_DAYS):
        return "the old one was about to end"
    if certificate.not_valid_before_utc > now:
        return "the old one is from the future"
    if not set(names) <= known:
        return "this device has other names or addresses now"
    return None


def _names_of(certificate: Certificate) -> set[str]:
    from cryptography import x509

    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return {*names.get_values_for_type(x509.DNSName), *map(str, names.get_values_for_type(x509.IPAddress))}


def _make(names: Sequence[str]) -> bytes:
    """A new key and certificate in PEM."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    public = key.public_key()
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Ingle on this device")])
    usage = dict.fromkeys(
        (
            *("content_commitment", "key_encipherment", "data_encipherment", "key_agreement"),
            *("key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
        ),
        False,
    )
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))  # clocks of phones differ
        .not_valid_after(now + datetime.timedelta(days=VALID_DAYS - 1))
        .add_extension(x509.SubjectAlternativeName([_general_name(name) for name in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(digital_signature=True, **usage), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(public), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return certificate.public_bytes(serialization.Encoding.PEM) + private


def _general_name(name: str) -> GeneralName:
    from cryptography import x509

    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _write_private(path: Path, data: bytes) -> None:
    """Write a file that nobody else can read at any time, whole or not at all."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    part.unlink(missing_ok=True)
    handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0), 0o600)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
