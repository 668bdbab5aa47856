"""What a profile adds up, on a clock that stands still between the verbs; and that computing is not changed by it."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import toys
from backends.decoders import SPECS, Loaded, random_decoder, random_tokens, spec_of
from ingle.backends import open_backend
from ingle.backends.base import Rows
from ingle.engine.model import load
from ingle.engine.profile import KINDS, Profile, Profiled, Roof, Work
from ingle.engine.trace import Trace
from ingle.errors import BackendError, ContextError, UsageError
from ingle.models.spec import Experts, Spec

BLOCK = SimpleNamespace(n_bytes=1000)
CACHE = SimpleNamespace(n_slots=4, context=50, n_bytes=4 * 50 * 2 * 24)  # 24 bytes for a position of one of two passes
ROOF = Roof(isa="paper", threads=2, read_bytes=1 << 20, read_gb_per_s=10.0, multiply_gop_per_s=100.0)


class Slow:
    """A backend that computes nothing, and takes a second for embed, two for attention, three and four for the rest."""

    name = "slow"
    now = 0.0

    def __init__(self, spec: Spec) -> None:
        self.spec = spec

    def __getattr__(self, verb: str) -> Any:
        def run(*given: Any) -> Any:
            self.now += 1.0 + KINDS.index(verb)
            return verb if verb != "logits" else np.zeros((len(given[2]), self.spec.n_vocab), np.float32)

        return run


def profiled(spec: Spec) -> tuple[Slow, Profile, Profiled]:
    slow = Slow(spec)
    profile = Profile(2, clock=lambda: slow.now)
    return slow, profile, Profiled(slow, profile)


def step(backend: Profiled, rows: Rows, wanted: int = 1, cache: Any = CACHE) -> None:
    state = backend.embed(BLOCK, rows, cache)
    for index in range(backend.spec.n_passes):
        backend.attention(BLOCK, state, index)
        backend.feed_forward(BLOCK, state, index)
    if wanted:
        backend.logits(BLOCK, state, np.arange(wanted, dtype=np.int32))


def rows_of(*slots: tuple[int, int, int]) -> Rows:
    """(slot, first position, how many) each."""
    return Rows.join([Rows.of_slot(slot, start, [1] * n) for slot, start, n in slots])


def test_time_goes_where_it_was_spent() -> None:
    slow, profile, backend = profiled(spec_of())
    slow.now += 0.5  # before the first step: its phase's
    step(backend, rows_of((0, 0, 5)))
    slow.now += 0.25  # after a step: its phase's
    for position in (5, 6):
        step(backend, rows_of((0, position, 1)))
        slow.now += 0.125
    step(backend, rows_of((0, 7, 1), (1, 3, 1)), wanted=2)
    profile.end()
    profile.end()
    assert list(profile.phases) == ["prefill", "decode", "decode together"]
    times = {name: (phase.steps, phase.rows, phase.time_s, phase.rest_s) for name, phase in profile.phases.items()}
    assert times == {"prefill": (1, 5, 15.75, 0.75), "decode": (2, 2, 30.25, 0.25), "decode together": (1, 2, 15.0, 0)}
    for name, times_s in (("prefill", [1, 4, 6, 4]), ("decode", [2, 8, 12, 8])):
        works = profile.phases[name].kinds  # type: ignore[index]
        assert [work.time_s for work in works.values()] == times_s
    assert [work.calls for work in profile.phases["decode"].kinds.values()] == [2, 4, 4, 2]


def test_waiting_is_a_phase_s_and_no_block_s() -> None:
    """Between the blocks; and for experts inside of the verb."""
    slow, waited_s = Slow(spec_of(experts=Experts(5, 2, 24))), 100.0
    profile = Profile(2, clock=lambda: slow.now, waited=lambda: waited_s)
    backend = Profiled(slow, profile)

    def wait(seconds: float) -> None:
        nonlocal waited_s
        slow.now += seconds
        waited_s += seconds

    compute = slow.__getattr__("feed_forward")
    slow.feed_forward = lambda *given: (wait(0.5), compute(*given))  # type: ignore[attr-defined]
    wait(0.25)
    step(backend, rows_of((0, 0, 3)))
    step(backend, rows_of((0, 3, 1)))
    wait(2.0)
    profile.end()
    prefill, decode = profile.phases.values()
    assert (prefill.time_s, prefill.waited_s, prefill.rest_s) == (0.25 + 1 + 2 * (2 + 3.5) + 4, 1.25, 0)
    assert (decode.waited_s, decode.rest_s) == (3.0, 0)
    assert decode.kinds["feed_forward"].time_s == 6


def test_what_is_read_and_computed() -> None:
    spec = spec_of()  # E 40, F 48, 6 heads of 10 for 2, two passes
    _, profile, backend = profiled(spec)
    step(backend, rows_of((0, 0, 3)), wanted=2)
    embed, attention, feed_forward, logits = profile.phases["prefill"].kinds.values()
    e, f, v = spec.n_embd, spec.n_ff, spec.n_vocab
    assert embed == Work(1, 1.0, weight_bytes=3 * 1000 // v)
    positions = 1 + 2 + 3
    matrices = 60 * e + 2 * 20 * e + e * 60
    assert attention == Work(2, 4.0, 2000, 2 * 3 * 24, 2 * (2 * 3 * matrices + 4 * positions * 60))
    assert feed_forward == Work(2, 6.0, 2000, 0, 2 * 2 * 3 * 3 * e * f)
    assert logits == Work(1, 4.0, 1000, 0, 2 * 2 * v * e)


def test_a_block_without_a_gate_and_hidden_rows() -> None:
    spec = spec_of(gated=False)
    _, profile, backend = profiled(spec)
    hidden = np.zeros((1, spec.n_embd), np.float32)
    rows = Rows(np.zeros(1, np.int32), np.zeros(1, np.int32), hidden=hidden)
    state = backend.embed(None, rows, CACHE)
    backend.feed_forward(BLOCK, state, 0)
    kinds = profile.phases["decode"].kinds
    assert kinds["embed"].n_bytes == 0
    assert kinds["feed_forward"].operations == 2 * 2 * spec.n_embd * spec.n_ff


@pytest.mark.parametrize(("n", "used"), [(1, 2), (2, 4), (9, 5)])
def test_experts_that_are_used(n: int, used: int) -> None:
    spec = spec_of(experts=Experts(5, 2, 24))
    _, profile, backend = profiled(spec)
    step(backend, rows_of((0, 0, n)))
    (phase,) = profile.phases.values()
    work = phase.kinds["feed_forward"]
    assert work.weight_bytes == 2 * 1000 * used // 5
    assert work.operations == 2 * 2 * n * (2 * 3 * 24 + 5) * spec.n_embd


@pytest.mark.parametrize("window", [0, 1, 4, 30])
@pytest.mark.parametrize(
    "rows",
    [[(2, 0, 1)], [(2, 17, 1)], [(0, 0, 7)], [(1, 20, 7)], [(0, 3, 1), (1, 0, 9), (3, 30, 2)], [(3, 5, 1), (0, 9, 1)]],
)
def test_positions_that_rows_see(window: int, rows: list[tuple[int, int, int]]) -> None:
    """Against counting them one by one. The second pass has no window."""
    spec = spec_of(window=window, local=(True, False)) if window else spec_of()
    given = rows_of(*rows)
    _, profile, backend = profiled(spec)
    step(backend, given)
    work = next(iter(profile.phases.values())).kinds["attention"]
    seen, read = 0, 0
    for pass_window in (window, 0):
        pairs = [
            (slot, seen_position)
            for slot, position in zip(given.slots.tolist(), given.positions.tolist(), strict=True)
            for seen_position in range(max(0, position - pass_window + 1) if pass_window else 0, position + 1)
        ]
        seen += len(pairs)
        read += len(set(pairs))
    matrices = (2 * 60 + 2 * 20) * spec.n_embd
    assert work.kv_bytes == 24 * read
    assert work.operations == 2 * 2 * len(given) * matrices + 4 * 60 * seen


def test_the_floor_is_the_slower_of_reading_and_multiplying() -> None:
    read = Work(1, 1.0, weight_bytes=3 * 10**9, kv_bytes=2 * 10**9, operations=10**9)
    assert (ROOF.read_s(read), ROOF.multiply_s(read), ROOF.floor_s(read)) == (0.5, 0.01, 0.5)
    assert ROOF.floor_s(Work(1, 1.0, weight_bytes=10**9, operations=50 * 10**9)) == 0.5
    assert ROOF.floor_s(Work()) == 0


def test_the_record() -> None:
    _, profile, backend = profiled(spec_of())
    step(backend, rows_of((0, 0, 3)))
    profile.end()
    record = json.loads(json.dumps(profile.as_dict(ROOF)))
    assert {name: value for name, value in record.items() if name != "phases"} == {
        "isa": "paper",
        "threads": 2,
        "read_bytes": 1 << 20,
        "read_gb_per_s": 10.0,
        "multiply_gop_per_s": 100.0,
    }
    (phase,) = record["phases"].values()
    assert set(phase) == {"steps", "rows", "time_s", "floor_s", "waited_s", "rest_s", "kinds"}
    assert list(phase["kinds"]) == list(KINDS)
    for work in phase["kinds"].values():
        assert set(work) == {"calls", "time_s", "weight_bytes", "kv_bytes", "operations", "floor_s"}
        assert work["floor_s"] == max((work["weight_bytes"] + work["kv_bytes"]) / 1e10, work["operations"] / 1e11)
    assert phase["floor_s"] == sum(work["floor_s"] for work in phase["kinds"].values())


def test_nothing_computed_is_a_profile_too() -> None:
    _, profile, _ = profiled(spec_of())
    profile.end()
    assert profile.bytes_per_step == 0
    assert profile.as_dict(ROOF)["phases"] == {}


@pytest.mark.parametrize(
    ("n_bytes", "free", "read"),
    [
        (5, None, 1 << 20),
        (64 << 20, None, 64 << 20),
        (9 << 30, None, 1 << 30),
        (9 << 30, 1 << 30, 256 << 20),
        (9 << 30, 1, 1 << 20),
    ],
)
def test_how_much_is_read_to_measure(
    monkeypatch: pytest.MonkeyPatch, n_bytes: int, free: int | None, read: int
) -> None:
    core = SimpleNamespace(read_bandwidth=lambda n, threads: n / threads, multiply_rate=float, isa=lambda: "paper")
    monkeypatch.setattr("ingle.engine.profile._core", core)
    monkeypatch.setattr("ingle.engine.profile.available_bytes", lambda: free)
    assert Roof.measure(n_bytes, 2) == Roof("paper", 2, read, read / 2, 2.0)


def test_measuring_can_be_held_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(Roof, "measure", staticmethod(lambda n_bytes, threads: asked.append(n_bytes)))
    _, profile, backend = profiled(spec_of())
    step(backend, rows_of((0, 0, 3)), wanted=0)
    for most in (None, 10**9, 100, 0):
        profile.roof(most)
    assert asked == [profile.bytes_per_step, profile.bytes_per_step, 100, 0]


def test_a_working_set_is_what_the_heaviest_step_reads() -> None:
    _, profile, backend = profiled(spec_of())
    step(backend, rows_of((0, 0, 9)), wanted=0)
    heaviest = 4000 + 9 * 1000 // spec_of().n_vocab + 2 * 9 * 24
    assert profile.bytes_per_step == heaviest
    step(backend, rows_of((0, 9, 1)))
    step(backend, rows_of((0, 10, 1)))
    assert profile.bytes_per_step == 5000 + 1000 // spec_of().n_vocab + (10 + 11) * 24


@pytest.mark.parametrize("backend", ["reference", "native"])
@pytest.mark.parametrize("name", ["plain", "parallel", "local pattern", "experts", "shared layers", "tied"])
def test_results_are_the_same_bit_for_bit(backend: str, name: str) -> None:
    spec = SPECS[name]
    decoder = random_decoder(spec)
    profile = Profile(1)
    plain = Loaded(open_backend(backend, spec, 1), decoder)
    under = Loaded(Profiled(open_backend(backend, spec, 1), profile), decoder)
    caches = plain.cache(2, 16), under.cache(2, 16)
    tokens = random_tokens(spec, 12)
    for rows in (
        Rows.of_slot(0, 0, tokens[:7]),
        Rows.of_slot(0, 7, tokens[7:8]),
        Rows.join([Rows.of_slot(0, 8, tokens[8:9]), Rows.of_slot(1, 0, tokens[9:])]),
    ):
        expected, got = plain.forward(rows, caches[0]), under.forward(rows, caches[1])
        np.testing.assert_array_equal(got, expected)
        for ours, theirs in zip(under.deltas, plain.deltas, strict=True):
            np.testing.assert_array_equal(ours, theirs)
    profile.end()
    assert (under.backend.name, under.backend.spec) == (backend, spec)
    assert profile.phases["prefill"].kinds["attention"].calls == 2 * spec.n_passes
    assert profile.phases["decode"].kinds["logits"].weight_bytes >= 4 * spec.n_vocab * spec.n_embd


def test_errors_of_the_backend_come_through() -> None:
    spec = SPECS["plain"]
    loaded = Loaded(Profiled(open_backend("native", spec, 1), Profile(1)), random_decoder(spec))
    cache = loaded.cache()
    with pytest.raises(BackendError, match="Slot 3"):
        loaded.forward(Rows.of_slot(3, 0, [1]), cache)


def test_a_model_is_profiled_inside_the_with_only(tmp_path: Path) -> None:
    with load(toys.toy_gguf(tmp_path / "toy.gguf"), threads=1) as model:

        def say(prompt: str) -> None:
            assert len(list(model.generate(prompt, max_tokens=5, ignore_eos=True))) == 5

        say("before")
        with model.profiled() as profile, model.profiled() as inner:
            say("the dog")
        say("after")
        assert profile.threads == 1
        assert profile.phases["prefill"].rows == len(model.tokenizer.encode("the dog"))
        assert profile.phases["decode"].rows == inner.phases["decode"].rows == 4
        assert profile.phases["decode"].kinds["attention"].calls == 4 * model.spec.n_passes


def test_each_block_is_an_event_of_a_trace(tmp_path: Path) -> None:
    with load(toys.toy_gguf(tmp_path / "toy.gguf"), threads=1) as model:
        n_prompt = len(model.tokenizer.encode("the dog"))
        plain = [token.token_id for token in model.generate("the dog", max_tokens=3, temperature=0, ignore_eos=True)]
        trace = Trace()
        with model.exclusive():
            pass  # nothing of the prompt is known any more
        with model.profiled(trace):
            told = [token.token_id for token in model.generate("the dog", max_tokens=3, temperature=0, ignore_eos=True)]
        assert told == plain
        assert len(list(model.generate("x", max_tokens=2, ignore_eos=True))) == 2
    blocks = [f"{kind} {index}" for index in range(model.spec.n_passes) for kind in ("attention", "feed_forward")]
    events = trace.events
    assert [event.name for event in events] == ["embed", *blocks, "logits"] * 3
    assert {event.kind for event in events} == {"compute"}
    times = [time for event in events for time in (event.began_s, event.ended_s)]
    assert times == sorted(times)
    found = [event.details for event in events if event.name == "embed"]
    assert found == [{"phase": "prefill", "rows": n_prompt}, *[{"phase": "decode", "rows": 1}] * 2]


def test_an_error_inside_ends_the_profile_too(tmp_path: Path) -> None:
    with load(toys.toy_gguf(tmp_path / "toy.gguf"), threads=1) as model:
        with pytest.raises(ContextError), model.profiled():
            model.generate("x" * 1000)
        with model.exclusive() as runner:
            assert not isinstance(runner.backend, Profiled)
    with pytest.raises(UsageError, match="closed"), model.profiled():
        pass
