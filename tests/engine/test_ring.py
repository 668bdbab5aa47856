"""Places in a ring: pieces that are there never share a byte, and what is promised to fit does."""

from __future__ import annotations

from collections import deque

from hypothesis import given
from hypothesis import strategies as st

from ingle.engine.ring import Ring


@given(st.lists(st.lists(st.integers(1, 40), min_size=1, max_size=5), min_size=1, max_size=40), st.integers(0, 60))
def test_blocks_of_pieces_go_round(blocks: list[list[int]], more: int) -> None:
    size = max(sum(block) + max(block) for block in blocks) + more
    ring = Ring(size)
    there: deque[tuple[int, list[range]]] = deque()
    for block in blocks:
        places: list[range] = []
        for n in block:
            while (at := ring.take(n)) is None:
                assert there, "a block alone finds place"
                ring.release(there.popleft()[0])
            assert 0 <= at <= size - n
            places.append(range(at, at + n))
            taken = [place for _, kept in there for place in kept] + places
            assert sum(map(len, taken)) == len(set().union(*taken))
        there.append((ring.mark, places))


def test_more_than_the_ring_has_no_place() -> None:
    ring = Ring(10)
    assert ring.take(11) is None
    assert ring.take(6) == 0
    assert ring.take(5) is None
    assert ring.take(4) == 6
    ring.release(6)
    assert ring.take(6) == 0


def test_an_empty_ring_begins_at_its_start() -> None:
    ring = Ring(10)
    assert ring.take(6) == 0
    ring.release(ring.mark)
    assert ring.take(7) == 0
    assert Ring(0).take(1) is None
