"""Hugging Face data sets by name, read as a stream: only what is used is downloaded. Needs the package `datasets`."""

from __future__ import annotations

import logging
import os
import socket
import sys
from collections.abc import Iterator
from typing import Any

from ingle.errors import DataError

__all__ = ["hub_records"]

_HOST = "huggingface.co"
_OUT_OF_REACH = "{} cannot be fetched, " + _HOST + " is out of reach; go online or give local files."


def hub_records(name: str, split: str) -> tuple[str, Iterator[tuple[int, Any]], str | None]:
    """(name to show, (row number, record) one after the other, licence if the data set's card has it).

    name: "NAME" or "NAME/CONFIG", where NAME is "owner/name", or "name" alone for the few without an owner: of three
    parts the last is the configuration. Says on stderr what is fetched.
    Raises DataError without a network, for an unknown name, and for a data set that wants an account or runs code.
    """
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # read when the package is imported
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # errors reach people as our sentences
    try:
        import datasets
    except ImportError:
        raise DataError("Data sets by name need the package datasets: pip install 'ingle[train]'.") from None

    parts = name.split("/")
    if not all(parts) or len(parts) > 3:
        raise DataError(f"hf:{name} is no name of a data set; expected hf:OWNER/NAME or hf:OWNER/NAME/CONFIG.")
    path, config = "/".join(parts[:2]), parts[2] if len(parts) == 3 else None
    shown = f"hf:{name}"
    _expect_network(shown)
    print(f"{shown}: reading the split {split} from {_HOST} as it is needed", file=sys.stderr)
    try:
        found = datasets.load_dataset(path, config, split=split, streaming=True)
    except Exception as error:  # the package and its network libraries have no common class of errors
        raise _unavailable(shown, error) from None
    return shown, _rows(found, shown), _licence(found, datasets, path)


def _expect_network(shown: str) -> None:
    """Offline is told at once: the package would try for half a minute. With a proxy or a mirror only it can know."""
    if any(os.environ.get(name) for name in ("HF_ENDPOINT", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")):
        return
    try:
        socket.getaddrinfo(_HOST, 443)
    except OSError:
        raise DataError(_OUT_OF_REACH.format(shown)) from None


def _rows(found: Any, shown: str) -> Iterator[tuple[int, Any]]:
    rows = enumerate(found, start=1)
    while True:
        try:
            row = next(rows)
        except StopIteration:
            return
        except Exception as error:  # as above
            raise _unavailable(shown, error) from None
        yield row


def _licence(found: Any, datasets: Any, path: str) -> str | None:
    stated = getattr(getattr(found, "info", None), "license", None)
    if isinstance(stated, str) and stated:
        return stated
    try:
        stated = datasets.load.DatasetCard.load(path).data.license
    except Exception:  # a card is a help, not a condition
        return None
    return ", ".join(stated) if isinstance(stated, list) else stated if isinstance(stated, str) else None


def _unavailable(shown: str, error: Exception) -> DataError:
    names = {kind.__name__ for kind in type(error).__mro__}
    what = " ".join(str(error).split())[:200].rstrip(".")
    if "DatasetNotFoundError" in names:
        return DataError(f"{shown} is not to be had: no such data set, or it wants an account; check the name.")
    if names & {"OfflineModeIsEnabled", "ConnectionError", "ConnectError", "TimeoutError", "TimeoutException"}:
        return DataError(_OUT_OF_REACH.format(shown))
    return DataError(f"{shown} cannot be read ({what or type(error).__name__}); check name, configuration and split.")
