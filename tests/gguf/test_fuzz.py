"""A few seconds of coverage-guided fuzzing with each run of the tests (tests/fuzz/fuzz_gguf.py by hand for longer)."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from gguf_bytes import sound

HARNESS = Path(__file__).parents[1] / "fuzz" / "fuzz_gguf.py"


@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="atheris is not installed")
def test_the_reader_survives_fuzzing(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    (corpus / "sound").write_bytes(sound())
    limits = ["-max_total_time=10", "-timeout=5", "-rss_limit_mb=1024", "-malloc_limit_mb=256", "-max_len=4096"]
    # From a shell: Linux counts what a process was before it became another program, and these tests may be large.
    own = ["sh", "-c", '"$@"; exit $?', "sh"]
    done = subprocess.run(
        [*own, sys.executable, HARNESS, *limits, "-print_final_stats=1", f"-artifact_prefix={tmp_path}/", corpus],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    runs = re.search(r"number_of_executed_units:\s*(\d+)", done.stderr)
    assert runs is not None
    assert int(runs[1]) > 100
    assert len(list(corpus.iterdir())) > 1, "new paths through the reader were found"
