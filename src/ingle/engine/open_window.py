"""A window for a model: its blocks as units, the output matrix in slices, experts apart."""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby
from typing import Any

from ingle.backends.base import BlockSource, Linking, MixtureSource, Streaming
from ingle.engine.experts import LEAST_PLACES, Experts
from ingle.engine.loaders import Loaders
from ingle.engine.window import Window
from ingle.engine.window_plan import Unit, least_bytes, make_plan
from ingle.models.checkpoint import Checkpoint

__all__ = ["all_of", "fit", "least_of", "open_window"]

SLICE_ROWS = 32  # of the output: kernels take two panels of 16 together
LEAST_SLICE_BYTES = 4 << 20

Progress = Callable[[int, int], None]  # (blocks done, in all)


def open_window(checkpoint: Checkpoint, backend: Streaming) -> Window:
    """A window that holds nothing yet but norms and the like: see `fit`.

    The checkpoint's files must stay open. Raises UnsupportedError for one whose tensors do not lie in a file as they
    are computed with.
    """
    spec = checkpoint.spec
    runs = _runs(spec.schedule)
    units: list[Unit] = []
    shells: dict[int, MixtureSource] = {}
    for layer in sorted(set(spec.schedule)):
        at = [(2 * first, 2 * last) for first, last in runs[layer]]
        units.append(Unit(f"attention {layer}", backend.stream_attention(checkpoint.attention(layer)), tuple(at)))
        tensors = checkpoint.feed_forward(layer)
        if spec.experts is not None:
            shells[layer] = backend.stream_experts(tensors)
        else:
            at = [(first + 1, last + 1) for first, last in at]
            units.append(Unit(f"feed_forward {layer}", backend.stream_feed_forward(tensors), tuple(at)))
    n_blocks = 2 * spec.n_passes
    slices = _slices(checkpoint, backend, max(max(unit.source.sizes) for unit in units))
    units += [Unit(f"logits {i}", source, ((n_blocks + i, n_blocks + i),)) for i, source in enumerate(slices)]

    loaders = Loaders()
    experts = None
    fixed: dict[int, Any] = {}
    if shells:
        experts = Experts({layer: shell.experts for layer, shell in shells.items()}, backend.new_room, loaders)
        for pass_index, layer in enumerate(spec.schedule):
            fixed[2 * pass_index + 1] = shells[layer].block(_use(experts, layer))
    return Window(
        units,
        n_blocks,
        len(slices),
        embedding=backend.load_embedding_rows(checkpoint.embedding()),
        new_room=backend.new_room,
        fixed=fixed,
        loaders=loaders,
        experts=experts,
        link=backend.link if isinstance(backend, Linking) and experts is None else None,
    )


def least_of(window: Window) -> int:
    """Bytes with which a window works, if slowly."""
    experts = window.experts
    return least_bytes(window.units) + (0 if experts is None else LEAST_PLACES * experts.place_bytes)


def all_of(window: Window) -> int:
    """Bytes with which a window reads nothing twice."""
    experts = window.experts
    return sum(unit.n_bytes for unit in window.units) + (
        0 if experts is None else experts.n_experts * experts.place_bytes
    )


def fit(window: Window, n_bytes: int, on_progress: Progress | None = None) -> bool:
    """Let a window hold what is best held in so many bytes; False, and nothing changed, where they are too few.

    What every token reads comes first; experts, of which each token reads some, have what is left.
    """
    experts = window.experts
    places = 0 if experts is None else LEAST_PLACES * experts.place_bytes
    plan = make_plan(window.units, n_bytes - places, window.plan.pinned, window.ahead)
    if plan is None:
        return False
    window.n_bytes = n_bytes
    if experts is not None:
        experts.apply(0)  # what they had is given back before others take it
    window.apply(plan, on_progress)
    if experts is not None:
        experts.apply(min(experts.n_experts, (n_bytes - plan.n_bytes) // experts.place_bytes))
    return True


def _use(experts: Experts, layer: int) -> Any:
    return lambda numbers: experts.use(layer, numbers)


def _runs(schedule: tuple[int, ...]) -> dict[int, list[tuple[int, int]]]:
    """By layer, the passes in which it follows itself: (first, last)."""
    runs: dict[int, list[tuple[int, int]]] = {layer: [] for layer in schedule}
    first = 0
    for layer, group in groupby(schedule):
        n = sum(1 for _ in group)
        runs[layer].append((first, first + n - 1))
        first += n
    return runs


def _slices(checkpoint: Checkpoint, backend: Streaming, longest: int) -> list[BlockSource]:
    """The output matrix in slices no larger than the longest of the other matrices: the ring must have room for one."""
    tensors = checkpoint.output()
    n_vocab = checkpoint.spec.n_vocab
    n_bytes = sum(backend.stream_output(tensors, 0, n_vocab).sizes)
    n = -(-n_bytes // max(LEAST_SLICE_BYTES, longest))
    rows = -(-n_vocab // (n * SLICE_ROWS)) * SLICE_ROWS
    return [backend.stream_output(tensors, start, min(start + rows, n_vocab)) for start in range(0, n_vocab, rows)]
