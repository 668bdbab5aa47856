"""Adding up what devices computed. One device alone has nothing to add."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["Alone", "Comm"]


class Comm(Protocol):
    """The devices that compute one model together, each with its share of every block's heads and columns."""

    @property
    def rank(self) -> int:
        """Which of the devices this is, 0 .. n_ranks-1."""
        ...

    @property
    def n_ranks(self) -> int: ...

    def sum(self, x: NDArray[np.float32]) -> None:
        """Replace x [N, E] by its sum over the devices, in place; every device must call it equally often."""
        ...


class Alone:
    """One device: the sum is what it has."""

    rank = 0
    n_ranks = 1

    def sum(self, x: NDArray[np.float32]) -> None:
        """Leave x as it is."""
