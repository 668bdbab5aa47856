"""What the processor could do at most: numbers that can be divided by, and words for wrong arguments."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from ingle import _core
from ingle.errors import BackendError

MIB = 1 << 20


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_rates_are_those_of_a_processor(threads: int) -> None:
    # Wide bounds: what they catch is a factor of a thousand, or work that the compiler has taken away.
    assert 0.1 < _core.read_bandwidth(3 * MIB + 17, threads) < 1e4
    assert 0.1 < _core.multiply_rate(threads) < 1e5


@pytest.mark.parametrize("isa", ["portable", "avx2", "avxvnni", "avx512"])
def test_every_instruction_set_has_a_rate(isa: str) -> None:
    code = "from ingle import _core; print(_core.multiply_rate(1), _core.read_bandwidth(1 << 20, 1))"
    environment = {**os.environ, "INGLE_ISA": isa}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert all(0.1 < float(rate) < 1e5 for rate in done.stdout.split())


@pytest.mark.parametrize("threads", [0, -1, 1025])
def test_threads_that_cannot_be(threads: int) -> None:
    with pytest.raises(BackendError, match="1 to 1024 threads"):
        _core.multiply_rate(threads)
    with pytest.raises(BackendError, match="1 to 1024 threads"):
        _core.read_bandwidth(MIB, threads)


def test_too_little_to_read() -> None:
    with pytest.raises(BackendError, match="1 MiB"):
        _core.read_bandwidth(MIB - 1, 1)
