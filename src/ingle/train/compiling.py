"""What makes training fast on a CPU beside the arithmetic: a C++ compiler for PyTorch, and memory that is kept."""

from __future__ import annotations

import ctypes
import os
import platform
import shutil
import sys

__all__ = ["compiler", "keep_freed_memory"]

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of mallopt(3)


def compiler() -> str | None:
    """The path of the C++ compiler that torch.compile will call, or None."""
    return shutil.which(os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++"))


def keep_freed_memory() -> None:
    """Let this process keep the memory that it frees, for what it allocates next; does nothing without glibc.

    Every step allocates the same activations. By default glibc gives large ones back to the system, which clears each
    page again before its next use: thousands of page faults a layer, and 5% of the time of a step.
    """
    if platform.libc_ver()[0] == "glibc":
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, -1)
