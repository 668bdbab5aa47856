"""The shape of the code is a decision; these tests keep it one (DESIGN: data flows one way)."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "src" / "ingle"

# Which of our own modules a module may import. `cli` may import anything.
MAY_IMPORT = {
    "errors": set(),
    "files": {"errors"},
    "gguf": {"errors"},
    "models": {"errors", "files", "gguf"},
    "text": {"errors", "files", "gguf"},
    "backends": {"errors", "gguf", "models"},
    "engine": {"errors", "files", "gguf", "models", "backends", "text"},
    "server": {"errors", "files", "models", "text", "engine"},
    "train": {"errors", "files", "gguf", "models", "text"},
    "evaluate": {"errors", "files", "models", "text", "backends", "engine"},
}
NATIVE = {"gguf", "backends", "engine"}  # may load ingle._core
LIBRARIES = {"numpy", "gguf", "tokenizers", "jinja2", "safetensors", "click", "rich", "prompt_toolkit", "llguidance"}
ONLY_IN_CLI = {"click", "rich", "prompt_toolkit"}
# What the extras `serve`, `train` and `eval` bring, by the parts that may import it. Nothing else may need it.
OF_EXTRAS = {
    **{name: {"train"} for name in ("torch", "torchao", "transformers", "pyarrow", "psutil")},
    "lm_eval": {"evaluate"},
    **{
        name: {"server"}
        for name in (
            *("fastapi", "starlette", "pydantic", "pydantic_core", "uvicorn", "h11"),
            *("prometheus_client", "cryptography", "segno"),
        )
    },
    **{name: {"train", "evaluate"} for name in ("datasets", "matplotlib", "scipy")},
}


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def imports(path: Path) -> set[str]:
    """Absolute names of everything a file imports, wherever in the file."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import; write the full name"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def part(path: Path) -> str:
    """The part of the package that a file belongs to: its folder, or its own name."""
    relative = path.relative_to(PACKAGE)
    return relative.parts[0] if len(relative.parts) > 1 else relative.stem


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_follow_the_table(path: Path) -> None:
    here = part(path)
    for name in imports(path):
        top, _, rest = name.partition(".")
        if top != "ingle":
            if top in sys.stdlib_module_names:
                continue
            if top in OF_EXTRAS:
                assert here in OF_EXTRAS[top], f"{path.name} imports {name}: only for {OF_EXTRAS[top]}"
                continue
            assert top in LIBRARIES, f"{path.name} imports {name}: not a run-time dependency"
            assert top not in ONLY_IN_CLI or here == "cli", f"{path.name} imports {name}: only for the command line"
            continue
        target = rest.partition(".")[0]
        if target in (here, "__version__") or here in {"cli", "__init__", "__main__"}:
            continue
        if target == "_core":
            assert here in NATIVE, f"{path.name} imports the native core"
            continue
        assert here in MAY_IMPORT, f"{here} is not in the import table"
        assert target in MAY_IMPORT[here], f"{path.relative_to(PACKAGE)} imports {name}; {here} may not"


def test_the_table_has_no_cycle() -> None:
    order = list(MAY_IMPORT)
    for name, allowed in MAY_IMPORT.items():
        assert all(order.index(other) < order.index(name) for other in allowed)


def test_import_is_light() -> None:
    """`import ingle` loads no model code, no native code and nothing heavy (it stays under 0.2 s)."""
    script = "import sys; import ingle; print(*sorted(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    heavy = "numpy torch tokenizers jinja2 rich click gguf safetensors llguidance ingle._core"
    assert not set(heavy.split()) & set(loaded)


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_files_stay_small(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 500, "which concept in here wants a file of its own?"


def test_public_names_exist() -> None:
    import ingle

    for name in ingle.__all__:
        assert getattr(ingle, name) is not None
