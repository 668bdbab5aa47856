"""What a file is that is not GGUF, guessed from its first bytes, so that the error can say what to do."""

from __future__ import annotations

__all__ = ["describe_foreign"]

_CONVERT = "convert the original model to GGUF"
_DOWNLOAD = "download the .gguf file itself again"

#: (first bytes, what that is, what to do). The old GGML magics were numbers, so their letters are reversed on disk.
_SIGNATURES: tuple[tuple[bytes, str, str], ...] = (
    (b"lmgg", "an old GGML file", _CONVERT),
    (b"fmgg", "an old GGMF file", _CONVERT),
    (b"tjgg", "an old GGJT file", _CONVERT),
    (b"algg", "an old GGLA adapter", _CONVERT),
    (b"version https://git-lfs", "a git-lfs pointer, not the file it stands for", "fetch it with git lfs pull"),
    (b"PK\x03\x04", "a zip archive or PyTorch checkpoint", _CONVERT),
    (b"\x80\x02", "a Python pickle, such as an old PyTorch checkpoint", _CONVERT + " (Ingle never opens pickles)"),
    (b"\x1f\x8b", "a gzip archive", "unpack it first"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive", "unpack it first"),
    (b"\xfd7zXZ", "an xz archive", "unpack it first"),
    (b"\x89HDF", "an HDF5 file", _CONVERT),
    (b"\x00\x00\x00\x00", "a run of zeros, as an interrupted download leaves", _DOWNLOAD),
)


def describe_foreign(head: bytes) -> tuple[str, str]:
    """What a file that begins with `head` (64 bytes are enough) seems to be, and what to do about it."""
    for magic, what, remedy in _SIGNATURES:
        if head.startswith(magic):
            return what, remedy
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype", b"<html", b"<head", b"<?xml")):
        return "a web page, as a failed download leaves", _DOWNLOAD
    # safetensors: the length of a JSON header (8 bytes, little-endian), then the JSON
    if len(head) > 8 and head[8:9] == b"{" and head[5:8] == b"\0\0\0":
        return "a safetensors file", "convert it to GGUF with ingle convert"
    if text.startswith((b"{", b"[")):
        return "a JSON file", "give the .gguf file beside it, or convert the directory to GGUF"
    return f"unknown (first bytes {head[:8].hex(' ')})", "give a GGUF file"
