"""Which rows a step has, and how many of a prompt beside answers."""

from __future__ import annotations

import pytest

from ingle.engine import step as module
from ingle.engine.fair_queue import FairQueue
from ingle.engine.sequence import RunningSequence
from ingle.engine.slots import Slot
from ingle.engine.step import Pace, plan


class Plain(RunningSequence):
    """Tokens 10 * slot + position; `n_said` of them are known to follow the prompt."""

    cancelled = ended = False

    def __init__(self, index: int, n_prompt: int, n_computed: int = 0, n_said: int = 0) -> None:
        super().__init__(range(n_prompt), 5, "", "all")
        self.n_known = n_prompt + n_said
        self.begin(Slot(index, list(range(n_computed))))

    @property
    def first_asked(self) -> int:
        return len(self.prompt) - 1

    def take(self, logits: object) -> None: ...

    def end(self, error: object) -> None: ...


def test_answers_first_and_as_much_of_prompts_as_there_is_room_for() -> None:
    one, forced, prompt, other = Plain(0, 3, 3, 1), Plain(3, 2, 2, 4), Plain(1, 50, 40), Plain(2, 9)
    step = plan([prompt, one, forced, other], 512, 12)
    assert step is not None
    assert [(part.sequence, part.start, part.stop, part.n_asked) for part in step.parts] == [
        (one, 3, 4, 1),
        (forced, 2, 6, 4),
        (prompt, 40, 50, 1),
        (other, 0, 2, 0),
    ]
    assert step.n_prompt_rows == 12
    assert step.rows.slots.tolist() == [0, *[3] * 4, *[1] * 10, *[2] * 2]
    assert step.rows.positions.tolist() == [3, 2, 3, 4, 5, *range(40, 50), 0, 1]
    assert step.wanted == [0, 1, 2, 3, 4, 14]
    assert [(part.begin, part.end) for part in step.parts] == [(0, 1), (1, 5), (5, 15), (15, 17)]


def test_without_answers_a_step_is_a_chunk() -> None:
    step = plan([Plain(0, 600), Plain(1, 300)], 512, 100)
    assert step is not None
    assert [(part.start, part.stop) for part in step.parts] == [(0, 512)]
    assert plan([], 512, 100) is None


def test_a_long_prompt_leaves_half_a_step_to_short_ones() -> None:
    long, short, shorter, middle = Plain(0, 100), Plain(1, 6), Plain(2, 2), Plain(3, 9)
    step = plan([long, short, shorter, middle], 20, 20)
    assert step is not None
    assert [(part.sequence, part.stop) for part in step.parts] == [(shorter, 2), (short, 6), (long, 12)]
    # One that is not the longest but fills a step keeps its place: ten and ten would end both later.
    step = plan([long, Plain(1, 90)], 20, 20)
    assert step is not None
    assert [part.stop for part in step.parts] == [20]


@pytest.mark.parametrize(
    ("fixed_s", "row_s", "rows"), [(0.0, 1e-3, 192), (0.02, 1e-3, 176), (0.0, 1e-5, 256), (0.5, 1e-3, 32)]
)
def test_the_pace_finds_how_many_rows_take_as_long_as_answers_may_wait(fixed_s: float, row_s: float, rows: int) -> None:
    pace = Pace(512)
    assert pace.rows == module.MOST_ROWS // 2
    for _ in range(40):
        pace.observe(pace.rows, fixed_s + pace.rows * row_s)
    assert pace.rows == rows
    pace.observe(1, 1.0)  # a row alone says nothing
    assert pace.rows == rows


def test_the_pace_is_never_more_than_a_chunk() -> None:
    assert Pace(20).rows == 20


class Asked:
    def __init__(self, user: str, name: str) -> None:
        self.user, self.name = user, name


def names(queue: FairQueue[Asked]) -> list[str]:
    return [asked.name for asked in queue]


def test_the_queue_gives_turns_to_users_and_keeps_the_order_of_each() -> None:
    queue: FairQueue[Asked] = FairQueue()
    asked = {name: Asked(name[0], name) for name in ("a1", "a2", "b1", "a3", "c1", "b2")}
    for item in asked.values():
        queue.push(item)
    assert names(queue) == ["a1", "b1", "c1", "a2", "b2", "a3"]
    queue.take(asked["a1"])  # its turn is over
    assert names(queue) == ["b1", "c1", "a2", "b2", "a3"]
    queue.remove(asked["b1"])  # b has had no turn
    assert names(queue) == ["b2", "c1", "a2", "a3"]
    d1 = Asked("d", "d1")
    queue.push(d1)  # who is new stands behind
    assert names(queue) == ["b2", "c1", "a2", "d1", "a3"]
    queue.take(asked["a2"])  # out of turn is possible
    assert names(queue) == ["b2", "c1", "d1", "a3"]
    assert len(queue) == 4
    with pytest.raises(ValueError, match="not in deque"):
        queue.remove(asked["a2"])
    for item in list(queue):
        queue.take(item)
    assert not queue
