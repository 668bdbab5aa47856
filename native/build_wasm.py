"""Build the core for WebAssembly: one module that imports nothing.

    python native/build_wasm.py build/ingle.wasm [--relaxed-simd]

The compiler is the clang of the package ziglang. Its C library for WASI lends its headers and nothing else: what is
left of a C library stands in src/runtime_wasm.cpp, and a function that is missing is an error of the linker, not an
import. LLVM's C++ library comes with the package as source; the parts we need are compiled beside ours.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

SOURCES = Path(__file__).parent / "src"

# Files of other processors and of Python, and those that *_wasm.cpp replaces.
OTHERS = ("_avx2", "_avxvnni", "_avx512", "_amx", "_neon", "_portable", "_python")
LEFT_OUT = ("cpu", "threads", "quantize", "probe", "room", "direct_file", "reading", "bind_kernels", "bind_stream")

CXX = ("algorithm", "exception", "functional", "memory", "new", "new_handler", "new_helpers", "stdexcept", "string")
CXXABI = (
    "cxa_default_handlers",
    "cxa_exception",
    "cxa_exception_storage",
    "cxa_handlers",
    "cxa_personality",
    "cxa_virtual",
    "fallback_malloc",
    "private_typeinfo",
    "stdlib_exception",
    "stdlib_stdexcept",
    "stdlib_typeinfo",
)

FEATURES = "generic+simd128+bulk_memory+exception_handling+mutable_globals+nontrapping_fptoint+sign_ext"
# zig takes -O3 for -O2. Rounding is part of the contract with ggml and among processors: nothing is fused.
FLAGS = (
    *("-target", "wasm32-wasi", "-O3", "-g0", "-fwasm-exceptions", "-fvisibility=hidden", "-ffunction-sections"),
    *("-fdata-sections", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off"),
)
# Of the library's own files alone.
INSIDE = (
    *(
        "_LIBCPP_BUILDING_LIBRARY",
        "_LIBCXXABI_BUILDING_LIBRARY",
        "LIBCXX_BUILDING_LIBCXXABI",
        "_LIBCXXABI_HAS_NO_THREADS",
    ),
    *("LIBCXXABI_SILENT_TERMINATE", "LIBCXXABI_BAREMETAL", "_LIBUNWIND_HIDE_SYMBOLS", "_LIBUNWIND_HAS_NO_THREADS"),
)


def library() -> Path:
    """Where ziglang keeps headers and sources. Raises ModuleNotFoundError where the package is not installed."""
    spec = importlib.util.find_spec("ziglang")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("The package ziglang is not installed; install it: pip install ziglang.")
    return Path(spec.origin).parent / "lib"


def build(output: Path, *, relaxed_simd: bool = False) -> None:
    """Compile and link to `output`. Raises RuntimeError with what the compiler says."""
    lib = library()
    common = [*FLAGS, f"-mcpu={FEATURES}"]
    inside = [*(f"-D{name}" for name in INSIDE), "-w", f"-I{lib / 'libcxx/src'}", f"-I{lib / 'libunwind/include'}"]
    ours = ["-std=c++20", "-include", str(SOURCES / "mutex_wasm.h"), "-fno-threadsafe-statics"]
    ours += ["-Wall", "-Wextra", "-Werror", "-mllvm", "-unroll-threshold=600"]  # the vectors of a panel, as gcc does
    cpp = ["c++", *common]
    jobs = [[*cpp, *ours, str(path)] for path in _core()]
    if relaxed_simd:
        jobs = [[*job, "-mrelaxed-simd"] if "kernels_" in job[-1] else job for job in jobs]
    jobs += [[*cpp, "-std=c++23", *inside, str(lib / f"libcxx/src/{name}.cpp")] for name in CXX]
    jobs += [[*cpp, "-std=c++23", *inside, str(lib / f"libcxxabi/src/{name}.cpp")] for name in CXXABI]
    jobs += [["cc", *common, *inside, str(lib / "libunwind/src/Unwind-wasm.c")]]
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = [str(Path(folder) / f"{i}.o") for i in range(len(jobs))]
        errors = list(pool.map(lambda job, made: _zig([*job, "-c", "-o", made]), jobs, objects))
        _raise(errors)
        output.parent.mkdir(parents=True, exist_ok=True)
        link = ["-Wl,--no-entry", "-Wl,--gc-sections", "-Wl,-z,stack-size=1048576", "-s"]
        _raise([_zig(["cc", "-target", "wasm32-freestanding", "-O3", *link, *objects, "-o", str(output)])])


def _core() -> Iterable[Path]:
    for path in sorted(SOURCES.glob("*.cpp")):
        if path.stem not in LEFT_OUT and not path.stem.endswith(OTHERS):
            yield path


def _zig(arguments: list[str]) -> str:
    """What the compiler says where it fails."""
    done = subprocess.run([sys.executable, "-m", "ziglang", *arguments], capture_output=True, text=True, check=False)
    return done.stdout + done.stderr if done.returncode else ""


def _raise(errors: list[str]) -> None:
    if any(errors):
        raise RuntimeError("The core does not compile for WebAssembly.\n" + "\n".join(filter(None, errors)))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--relaxed-simd", action="store_true", help="use instructions of relaxed SIMD")
    arguments = parser.parse_args()
    build(arguments.output, relaxed_simd=arguments.relaxed_simd)
    print(f"{arguments.output}: {arguments.output.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
