"""Experts that come and go: always the right one, the hot ones kept, nothing left behind when a step is left."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from ingle.engine.experts import Experts
from ingle.engine.loaders import Loaders
from ingle.errors import GGUFError
from ingle.models.tensor import Tensor
from streaming_fake import FakeSource

N_LAYERS, N_EXPERTS = 3, 8


class Mixture:
    """Experts of two matrices, each filled with 100 * layer + number; `reads` counts the experts that were read."""

    def __init__(self, n_places: int, n_layers: int = N_LAYERS) -> None:
        self.reads: Counter[str] = Counter()
        self.failing: str | None = None
        self.loaders = Loaders()
        sources = {layer: [self._source(layer, i) for i in range(N_EXPERTS)] for layer in range(n_layers)}
        self.experts = Experts(sources, lambda n_bytes: np.zeros(n_bytes, np.uint8), self.loaders)
        self.experts.apply(n_places)

    def _source(self, layer: int, number: int) -> FakeSource:
        values = np.full((6, 5), 100 * layer + number, np.float32)
        names = {"up": f"{layer}.{number}", "down": f"{layer}.{number}.down"}
        return FakeSource({role: Tensor.from_float32(name, values) for role, name in names.items()}, self._read)

    def _read(self, name: str) -> None:
        if not name.endswith("down"):
            self.reads[name] += 1
        if name == self.failing:
            raise GGUFError("the disk failed")

    def use(self, layer: int, numbers: Sequence[int]) -> None:
        used = []
        for number, block in self.experts.use(layer, numbers):
            used.append(number)
            for role in ("up", "down"):
                np.testing.assert_array_equal(block[role], np.full((6, 5), 100 * layer + number))
        assert used == list(numbers)


@pytest.fixture
def opened() -> Iterator[Any]:
    made: list[Mixture] = []

    def make(n_places: int, **settings: Any) -> Mixture:
        made.append(Mixture(n_places, **settings))
        return made[-1]

    yield make
    for mixture in made:
        mixture.loaders.close()


@pytest.mark.parametrize("n_places", [2, 3, 5, 11, 24])
def test_the_right_experts_come(opened: Any, n_places: int) -> None:
    mixture = opened(n_places)
    rng = np.random.default_rng(n_places)
    n_used = 0
    for _ in range(30):
        for layer in range(N_LAYERS):
            numbers = sorted(rng.choice(N_EXPERTS, rng.integers(1, N_EXPERTS + 1), replace=False).tolist())
            n_used += len(numbers)
            mixture.use(layer, numbers)
    experts = mixture.experts
    assert experts.hits + experts.misses == n_used
    assert sum(mixture.reads.values()) >= experts.misses > 0
    assert experts.n_bytes == n_places * experts.place_bytes
    if n_places == 24:
        assert set(mixture.reads.values()) == {1}


def test_hot_experts_stay(opened: Any) -> None:
    mixture = opened(6)
    rng = np.random.default_rng(0)
    for _ in range(200):
        for layer in range(N_LAYERS):
            mixture.use(layer, sorted({1, int(rng.integers(2, N_EXPERTS))}))
    assert all(mixture.reads[f"{layer}.1"] <= 3 for layer in range(N_LAYERS))


def test_a_cycle_through_more_than_there_is_room_for_keeps_most_of_what_fits(opened: Any) -> None:
    mixture = opened(12)
    for _ in range(40):
        for layer in range(N_LAYERS):
            mixture.use(layer, range(N_EXPERTS))
    kept = 12 - 5  # all but what is on its way, and the one that is computed
    assert sum(mixture.reads.values()) <= 24 + 39 * (24 - kept) * 1.1


def test_what_was_hot_cools(opened: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ingle.engine.experts.HALVED_AFTER", 20)
    mixture = opened(3, n_layers=1)
    for _ in range(200):
        mixture.use(0, [0, 1])
    before = mixture.reads.total()
    for _ in range(400):
        mixture.use(0, [5, 6])
    assert mixture.reads.total() - before < 250


def test_an_error_comes_with_its_expert_and_the_next_use_tries_again(opened: Any) -> None:
    mixture = opened(4)
    mixture.failing = "0.5"
    with pytest.raises(GGUFError, match="the disk failed"):
        mixture.use(0, [2, 5, 6])
    mixture.failing = None
    mixture.use(0, [2, 5, 6])
    mixture.use(1, [2, 5, 6])


def test_a_use_that_is_left_leaves_nothing_half_read(opened: Any) -> None:
    mixture = opened(5)
    for _ in range(20):
        for number, _block in mixture.experts.use(0, range(N_EXPERTS)):
            if number == 2:
                break
        mixture.use(0, range(N_EXPERTS))


def test_another_number_of_places(opened: Any) -> None:
    mixture = opened(5)
    mixture.use(0, [1, 2])
    mixture.experts.apply(2)
    mixture.use(0, [1, 2, 7])
    mixture.experts.apply(0)
    assert mixture.experts.n_bytes == 0
