"""Files cut short anywhere, or with any bytes changed: an error or a sound result, in bounded memory, never a crash."""

from __future__ import annotations

import tracemalloc
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gguf_bytes import sound
from ingle.errors import GGUFError, IngleError
from ingle.gguf import dequantize, has_nonfinite_scales, open_gguf

SOUND = sound()
MEMORY_BOUND_BYTES = 1 << 20


def use_everything(path: Path) -> None:
    """Open a file and touch all that is in it."""
    with open_gguf(path) as opened:
        for key, value in opened.metadata.items():
            repr((key, value, opened.metadata.typed(key)))
            if opened.metadata.type_of(key).name == "ARRAY":
                len(list(value))
        for info in opened.tensors.values():
            assert len(info.data) == info.n_bytes
            dequantize(info.data, info.type, info.shape)
            has_nonfinite_scales(info.data, info.type)


def test_cut_short_at_every_byte(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(SOUND)
    use_everything(path)
    tracemalloc.start()
    try:
        for length in range(len(SOUND)):
            path.write_bytes(SOUND[:length])
            with pytest.raises(GGUFError, match="download"):
                open_gguf(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < MEMORY_BOUND_BYTES


def test_every_count_and_length_made_huge(tmp_path: Path) -> None:
    """Eight bytes of 0xff, or 2^31, at every place: nothing is allocated for a number that a file only claims."""
    path = tmp_path / "model.gguf"
    tracemalloc.start()
    try:
        for huge in (b"\xff" * 8, (2**31).to_bytes(8, "little")):
            for start in range(4, len(SOUND) - 8):
                path.write_bytes(SOUND[:start] + huge + SOUND[start + 8 :])
                with suppress(IngleError):
                    use_everything(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < MEMORY_BOUND_BYTES


mutations = st.lists(
    st.tuples(
        st.sampled_from(["set", "insert", "delete", "copy"]),
        st.integers(0, len(SOUND) - 1),
        st.one_of(st.binary(min_size=1, max_size=9), st.integers(0, 64).map(lambda n: n.to_bytes(8, "little"))),
        st.integers(0, len(SOUND) - 1),
    ),
    min_size=1,
    max_size=6,
)


@settings(max_examples=600, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(mutations)
def test_changed_bytes(tmp_path: Path, changes: list[tuple[str, int, bytes, int]]) -> None:
    content = bytearray(SOUND)
    for kind, place, value, source in changes:
        if kind == "set":
            content[place : place + len(value)] = value
        elif kind == "insert":
            content[place:place] = value
        elif kind == "delete":
            del content[place : place + len(value)]
        else:
            content[place : place + 16] = content[source : source + 16]
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    with suppress(IngleError):
        use_everything(path)
