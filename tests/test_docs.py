"""What the documents say is run or looked up: commands, code blocks, links, names."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import toys
from task_items import data_folder

ROOT = Path(__file__).parent.parent
FOLDERS = ("", "docs/", "benchmarks/", "training/*/")
DOCUMENTS = sorted(path for folder in FOLDERS for path in ROOT.glob(f"{folder}*.md"))
README = (ROOT / "README.md").read_text()


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_resolve(path: Path) -> None:
    """Links inside the project lead somewhere, headings included."""
    text = path.read_text()
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, heading = target.partition("#")
        file = (path.parent / name).resolve() if name else path
        assert file.exists(), f"{path.name} links to {target}"
        if heading:
            headings = re.findall(r"^#+ (.+)$", file.read_text(), re.MULTILINE)
            slugs = {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}
            assert heading in slugs, f"{path.name} links to {target}; headings there: {sorted(slugs)}"


def test_tour_names_are_in_the_files_it_links() -> None:
    """A stop of the tour is written [`name`](file); the file must define that name."""
    stops = re.findall(r"\[`([^`]+)`\]\(([^)]+)\)", (ROOT / "docs" / "tour.md").read_text())
    assert len(stops) >= 8
    for name, target in stops:
        text = (ROOT / "docs" / target).resolve().read_text()
        last = name.rstrip("()").split(".")[-1]
        assert re.search(rf"\b{re.escape(last)}\b", text), f"the tour says {name} is in {target}"


def test_first_command_is_near_the_top() -> None:
    lines = README.splitlines()
    assert lines[2].strip().startswith("make run")
    assert lines[3].strip().startswith("make test")


def console_blocks(text: str) -> list[list[str]]:
    blocks = re.findall(r"```console\n(.*?)```", text, re.DOTALL)
    return [[line[2:] for line in block.splitlines() if line.startswith("$ ")] for block in blocks]


def readme_commands() -> list[str]:
    blocks = [block for block in console_blocks(README) if not (trains(block) or measures(block) or serves(block))]
    return [line for block in blocks for line in block]


def serves(block: list[str]) -> bool:
    """What goes on until it is stopped: tests/cli/test_cli_serve.py has it."""
    return any("ingle serve" in line for line in block)


def measures(block: list[str]) -> bool:
    return any(line.startswith("ingle eval") for line in block)


def trains(block: list[str]) -> bool:
    return any(line.startswith("ingle train") for line in block)


def script_of(command: str) -> str:
    return command.replace("ingle ", f"{shlex.quote(sys.executable)} -m ingle ", 1).split("  #")[0]


@pytest.mark.parametrize("document", ["README.md", "docs/training.md"])
def test_a_model_is_made_as_written(document: str, tmp_path: Path) -> None:
    """Commands that build on each other, in order, with the config of the guide, shortened to some steps."""
    pytest.importorskip("torch")
    (block,) = [block for block in console_blocks((ROOT / document).read_text()) if trains(block)]
    config = re.findall(r"```toml\n(.*?)```", (ROOT / "docs" / "training.md").read_text(), re.DOTALL)[0]
    assert "minutes = 30" in config
    (tmp_path / "small.toml").write_text(config.replace("minutes = 30", "steps = 3\nbatch_tokens = 2048"))
    stories = [f"Once upon a time there were {n} birds in tree {n % 7}. They sang {n * n} songs." for n in range(2000)]
    (tmp_path / "stories.txt").write_text("\n<|endoftext|>\n".join(stories))
    for command in block:
        done = subprocess.run(script_of(command), shell=True, cwd=tmp_path, capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, f"{command}: {done.stderr}"


@pytest.mark.parametrize("document", ["README.md", "docs/evaluation.md"])
def test_a_model_is_measured_as_written(document: str, tmp_path: Path) -> None:
    """The commands in order, with a few questions in a folder, a short text, and a request with its call."""
    for package in ("lm_eval", "matplotlib"):
        pytest.importorskip(package)
    from ingle.engine.model import bundled_model

    (block,) = [block for block in console_blocks((ROOT / document).read_text()) if measures(block)]
    (tmp_path / "model.gguf").symlink_to(bundled_model())
    (tmp_path / "text.txt").write_text("Once upon a time there was a bird. It sang all day in a tall tree.\n" * 20)
    tools = json.loads((ROOT / "examples" / "tools.json").read_text())
    item = {"id": "1", "messages": [{"role": "user", "content": "wake me at six"}], "tools": tools}
    item["expected"] = [{"name": "set_alarm", "arguments": {"time": ["six", "6:00"]}}]
    (tmp_path / "calls.jsonl").write_text(json.dumps(item) + "\n")
    data_folder(tmp_path / "eval", "arc_easy", "piqa")
    for command in block:
        done = subprocess.run(script_of(command), shell=True, cwd=tmp_path, capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, f"{command}: {done.stderr}"
        assert done.stdout.strip()
    pictures = {"scores.png"} if document == "README.md" else {"scores.png", "differences.png"}
    assert pictures <= {child.name for child in tmp_path.iterdir()}


def commands_of_memory() -> list[str]:
    """Those on models that are larger than memory."""
    return [line for block in console_blocks((ROOT / "docs" / "memory.md").read_text()) for line in block]


@pytest.mark.parametrize("command", [*readme_commands(), *commands_of_memory()])
def test_readme_commands_run(command: str, tmp_path: Path) -> None:
    """Each command as written, in a folder where model.gguf is the bundled model and HF_DIR a tiny checkpoint.

    Where the remark behind it is JSON, that is what it prints.
    """
    from ingle.engine.model import bundled_model

    (tmp_path / "model.gguf").symlink_to(bundled_model())
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    if "HF_DIR" in command:
        toys.huggingface_llama(tmp_path / "HF_DIR")
        (tmp_path / "model.gguf").unlink()
    words = shlex.split(command, comments=True)
    assert "ingle" in words
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", script_of(command)],
        cwd=tmp_path,
        input="hello\n",
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    remark = command.partition("  #")[2]
    if remark.startswith(" {"):
        assert json.loads(done.stdout) == json.loads(remark)


def test_tables_of_the_experiments_are_those_of_the_results() -> None:
    pytest.importorskip("scipy")
    folder = ROOT / "experiments"
    script = "import report; print(report.tables('tiny', report.read(report.HERE / 'results' / 'tiny.jsonl')))"
    made = subprocess.run([sys.executable, "-c", script], cwd=folder, capture_output=True, text=True, check=True).stdout
    page = (ROOT / "docs" / "experiments.md").read_text()
    assert made.strip() in page, "run experiments/report.py"


@pytest.mark.parametrize(("name", "page"), [("engine", "performance.md"), ("serve", "serving.md")])
def test_pages_on_speed_are_those_of_the_results(name: str, page: str) -> None:
    command = [sys.executable, f"benchmarks/{name}.py", "--report", f"benchmarks/results/{name}.jsonl"]
    made = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    made, text = (re.sub(r"^!\[.*\n\n", "", t, flags=re.MULTILINE) for t in (made, (ROOT / "docs" / page).read_text()))
    assert made == text, f"run benchmarks/{name}.py --report, as benchmarks/README.md says"


def benchmark_commands() -> dict[str, set[str]]:
    """Program -> the options that the documents use."""
    options: dict[str, set[str]] = {}
    for path in (
        ROOT / "benchmarks" / "README.md",
        *(ROOT / "docs" / name for name in ("performance.md", "serving.md")),
    ):
        for program, words in re.findall(r"^    python benchmarks/(\S+)(.*)$", path.read_text(), re.MULTILINE):
            options.setdefault(program, set()).update(re.findall(r"--[a-z][\w-]*", words.partition("#")[0]))
    return options


@pytest.mark.parametrize(("program", "options"), benchmark_commands().items())
def test_benchmarks_have_the_options_that_documents_use(program: str, options: set[str]) -> None:
    command = [sys.executable, f"benchmarks/{program}", "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert options <= set(re.findall(r"--[a-z][\w-]*", done.stdout))


def test_readme_lists_every_benchmark() -> None:
    index = (ROOT / "benchmarks" / "README.md").read_text()
    for path in (ROOT / "benchmarks").glob("*.py"):
        if '__name__ == "__main__"' in path.read_text() and not path.stem.endswith(("_runs", "_load")):
            assert f"| `{path.name}` |" in index, f"benchmarks/README.md does not list {path.name}"


def test_readme_python_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    exec(compile(block, "README.md", "exec"), {"__name__": "readme"})
    out = capsys.readouterr().out
    assert "tokens/s" in out
    assert len(out) > 100


def test_readme_lists_every_family() -> None:
    from ingle.models.families import FAMILIES

    for family in FAMILIES:
        for name in (family.arch, *family.model_types):
            assert f"`{name}`" in README, f"{name} is not in the README's table of families"


def test_the_card_that_the_readme_links_is_that_of_the_bundled_model() -> None:
    from ingle.engine.model import bundled_model

    (card,) = set(re.findall(r"\]\((training/[^)]*MODEL_CARD\.md)\)", README))
    text = (ROOT / card).read_text()
    data = bundled_model().read_bytes()
    for fact in (f"`src/ingle/data/{bundled_model().name}`", str(len(data)), hashlib.sha256(data).hexdigest()):
        assert fact in text.replace(",", ""), f"{card} does not say {fact}"


def test_changelog_knows_the_version() -> None:
    import ingle

    assert f"## {ingle.__version__}" in (ROOT / "CHANGELOG.md").read_text()
