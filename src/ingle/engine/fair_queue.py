"""Who is next: users take turns, and what one user asks for is answered in its order."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from itertools import zip_longest
from typing import Generic, Protocol, TypeVar

__all__ = ["FairQueue"]


class Waiting(Protocol):
    """What stands in the queue."""

    @property
    def user(self) -> str: ...


T = TypeVar("T", bound=Waiting)


class FairQueue(Generic[T]):
    """A queue for each user, and turns among those users who have something in it.

    Who comes anew stands behind the others, and so does who has just had a turn: nobody waits for more than one turn
    of each other user, however much those have asked for. Not for several threads at once.
    """

    def __init__(self) -> None:
        self._of_users: dict[str, deque[T]] = {}  # in the order of turns
        self._n = 0

    def __len__(self) -> int:
        return self._n

    def __iter__(self) -> Iterator[T]:
        """All that waits, in the order in which it would be taken if nothing else came."""
        for turn in zip_longest(*self._of_users.values()):
            yield from (item for item in turn if item is not None)

    def push(self, item: T) -> None:
        """Stand at the end of the user's queue."""
        self._of_users.setdefault(item.user, deque()).append(item)
        self._n += 1

    def take(self, item: T) -> None:
        """Take an item out; its user has had a turn."""
        self.remove(item)
        if item.user in self._of_users:
            self._of_users[item.user] = self._of_users.pop(item.user)

    def remove(self, item: T) -> None:
        """Take an item out that wants no turn any more. Raises ValueError when it is not there."""
        queue = self._of_users.get(item.user, deque())
        queue.remove(item)
        self._n -= 1
        if not queue:
            del self._of_users[item.user]
