"""Who gets which slot, and what of it is used again."""

from __future__ import annotations

from contextlib import ExitStack
from threading import RLock

import pytest

import toys
from ingle.engine.slots import Slots, common_prefix
from ingle.errors import BackendError


def slots_of(n_slots: int) -> tuple[Slots, toys.ScriptedCache]:
    cache = toys.ScriptedCache(n_slots, 64)
    return Slots(cache, RLock(), 2), cache


def fill(slots: Slots, prompt: list[int]) -> tuple[int, int]:
    """Compute a prompt; gives (slot, tokens that were there)."""
    with slots.lend(prompt) as slot:
        n_known = len(slot.tokens)
        assert slot.tokens == prompt[:n_known]
        slot.tokens.extend(prompt[n_known:])
        return slot.index, n_known


def test_common_prefix() -> None:
    assert common_prefix([], [1]) == 0
    assert common_prefix([1, 2, 3], [1, 2, 4]) == 2
    assert common_prefix([1, 2], [1, 2, 3]) == 2
    assert common_prefix([2], [1]) == 0


def test_the_same_beginning_is_used_again() -> None:
    slots, _ = slots_of(1)
    assert fill(slots, [1, 2, 3, 4]) == (0, 0)
    assert fill(slots, [1, 2, 3, 4, 5, 6]) == (0, 4)
    assert fill(slots, [1, 2, 9]) == (0, 2)
    assert fill(slots, [7, 8]) == (0, 0)


def test_the_last_token_is_always_computed() -> None:
    slots, _ = slots_of(1)
    fill(slots, [1, 2, 3])
    assert fill(slots, [1, 2, 3]) == (0, 2)
    fill(slots, [1, 2, 3, 4, 5])
    assert fill(slots, [1]) == (0, 0)


def test_without_reuse_a_slot_begins_empty() -> None:
    slots, _ = slots_of(1)
    fill(slots, [1, 2, 3])
    with slots.lend([1, 2, 3, 4], "none") as slot:
        assert slot.tokens == []


def test_exact_reuse_is_of_whole_chunks_that_were_computed_as_such() -> None:
    slots, cache = slots_of(2)
    with slots.lend([1, 2, 3, 4, 5]) as slot:
        slot.tokens.extend([1, 2, 3, 4, 5])
        slot.n_exact = 4
    for prompt, n in (([1, 2, 3, 4, 5, 6], 4), ([1, 2, 3, 4], 2), ([1, 2, 3, 9], 2)):
        with slots.lend(prompt, "exact") as slot:
            assert (slot.index, slot.tokens, slot.n_exact) == (0, prompt[:n], n)
    with slots.lend(list(range(20))) as slot:
        slot.tokens.extend(range(20))
        slot.n_exact = 8
        with slots.lend([0, 1, 2, 3, 4, 99]) as other:
            assert (len(other.tokens), other.n_exact) == (5, 4)
        assert cache.copies == [(slot.index, other.index, 5)]


def test_conversations_keep_their_slots() -> None:
    slots, _ = slots_of(2)
    assert fill(slots, [1, 2, 3]) == (0, 0)
    assert fill(slots, [7, 8, 9]) == (1, 0)
    assert fill(slots, [1, 2, 3, 4]) == (0, 3)
    assert fill(slots, [7, 8, 9, 10]) == (1, 3)


def test_the_slot_unused_for_longest_makes_way() -> None:
    slots, _ = slots_of(2)
    fill(slots, [1, 2, 3])
    fill(slots, [7, 8, 9])
    fill(slots, [1, 2, 3, 4])
    assert fill(slots, [5, 5]) == (1, 0)
    assert fill(slots, [1, 2, 3, 4, 5]) == (0, 4)


def test_a_shared_beginning_is_copied_when_the_rest_is_worth_keeping() -> None:
    slots, cache = slots_of(2)
    long = list(range(20))
    fill(slots, long)
    assert fill(slots, [0, 1, 2, 50]) == (1, 3)
    assert cache.copies == [(0, 1, 3)]
    assert fill(slots, [*long, 20]) == (0, 20)


def test_a_busy_slot_lends_its_beginning_by_copy() -> None:
    slots, cache = slots_of(2)
    with slots.lend([1, 2, 3, 4]) as first:
        first.tokens.extend([1, 2, 3, 4])
        assert fill(slots, [1, 2, 3, 9]) == (1, 3)
        assert cache.copies == [(0, 1, 3)]
        assert first.tokens == [1, 2, 3, 4]


def test_no_free_slot_is_an_error_that_names_the_way_out() -> None:
    slots, _ = slots_of(2)
    with ExitStack() as stack:
        stack.enter_context(slots.lend([1]))
        stack.enter_context(slots.lend([2]))
        with pytest.raises(BackendError, match=r"All 2 KV cache slots .* n_slots=4"), slots.lend([3]):
            pass
    fill(slots, [3])


def test_a_slot_comes_back_after_an_error() -> None:
    slots, _ = slots_of(1)
    with pytest.raises(RuntimeError), slots.lend([1, 2]):
        raise RuntimeError
    fill(slots, [1])


def test_all_slots_at_once_are_empty_afterwards() -> None:
    slots, _ = slots_of(2)
    fill(slots, [1, 2, 3])
    with slots.lend_all(), pytest.raises(BackendError, match="in use"), slots.lend([1]):
        pass
    assert fill(slots, [1, 2, 3, 4])[1] == 0


def test_all_slots_at_once_are_refused_while_one_is_lent() -> None:
    slots, _ = slots_of(3)
    with slots.lend([1]) as slot:
        slot.tokens.append(1)
        with pytest.raises(BackendError, match=r"1 of the model's 3 KV cache slots"), slots.lend_all():
            pass
        assert slot.tokens == [1]
    with slots.lend_all():
        pass
