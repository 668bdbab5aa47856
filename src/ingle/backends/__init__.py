"""Backends: what computes a decoder. `base.py` is the seam, `reference.py` the definition of right."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ingle.errors import BackendError

if TYPE_CHECKING:
    from ingle.backends.base import Backend
    from ingle.models.spec import Spec

__all__ = ["BACKENDS", "open_backend"]

BACKENDS = ("native", "reference")


def open_backend(name: str, spec: Spec, threads: int | None = None) -> Backend:
    """A backend by its name, for one spec.

    threads: None = as many as this machine computes best with. Raises BackendError for an unknown name, and when the
    native core is not built.
    """
    if name == "native":
        from ingle.backends.native import NativeBackend

        return NativeBackend(spec, threads)
    if name == "reference":
        from ingle.backends.reference import ReferenceBackend

        return ReferenceBackend(spec, threads)
    raise BackendError(f"Unknown backend {name!r}; expected one of {', '.join(BACKENDS)}.")
