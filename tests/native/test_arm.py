"""64-bit Arm: the kernels compile for it, and are right, where a cross compiler (and an emulator) are installed."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

NATIVE = Path(__file__).parents[2] / "native"
COMPILER = shutil.which("aarch64-linux-gnu-g++")
EMULATOR = shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64")
SOURCES = ["arena", "planes", "ggml_blocks", "linear", "cpu", "kernels_portable", "kernels_neon"]
FLAGS = ["-std=c++20", "-ffp-contract=off", "-march=armv8.2-a+dotprod", "-static", "-Wall", "-Wextra", "-Werror"]


@pytest.mark.skipif(COMPILER is None, reason="needs the cross compiler aarch64-linux-gnu-g++")
def test_neon_compiles_and_is_right(tmp_path: Path) -> None:
    check = tmp_path / "check"
    sources = [NATIVE / "src" / f"{name}.cpp" for name in SOURCES]
    command = [str(COMPILER), "-O2", *FLAGS, f"-I{NATIVE / 'src'}", *sources, NATIVE / "tests" / "check_linear.cpp"]
    done = subprocess.run([*map(str, command), "-o", str(check)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    if EMULATOR is None:
        pytest.skip("compiled; running it needs qemu-aarch64")
    environment = os.environ | {"INGLE_ISA": "neon"}
    done = subprocess.run([EMULATOR, str(check)], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(COMPILER is None, reason="needs the cross compiler aarch64-linux-gnu-g++")
def test_the_whole_core_compiles() -> None:
    other = ("bind_", "_avx2", "_avxvnni", "_avx512", "_amx", "_wasm")
    sources = [path for path in sorted((NATIVE / "src").glob("*.cpp")) if not any(part in path.name for part in other)]
    assert len(sources) > 10
    done = subprocess.run([str(COMPILER), "-fsyntax-only", *FLAGS, *map(str, sources)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
