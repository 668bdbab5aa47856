"""A config says what is wrong with it in one sentence that names the place."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from ingle.errors import UsageError
from ingle.train.config import Config, load_config
from ingle.train.recipes import RECIPES
from ingle.train.run_folder import toml
from ingle.train.shape import SHAPES

GOOD = """
[model]
shape = "mobilellm-125m"
context = 256

[data]
train = ["books", { path = "chat.jsonl", licence = "CC0", weight = 2 }, "hf:roneneldan/TinyStories"]
validation = "held-out.txt"
tokenizer = 8192

[train]
recipe = "paper"
minutes = 30
lr = 1e-3
betas = [0.9, 0.99]
"""


def write(folder: Path, text: str = GOOD) -> Path:
    path = folder / "config.toml"
    path.write_text(text)
    return path


def test_a_config_is_read(tmp_path: Path) -> None:
    found = load_config(write(tmp_path))
    assert found.shape(8192).n_parameters == SHAPES["mobilellm-125m"].n_parameters - (32000 - 8192) * 576
    assert found.shape(8192).context == 256
    assert [source["path_or_name"] for source in found.data.train] == [
        str(tmp_path / "books"),
        str(tmp_path / "chat.jsonl"),
        "hf:roneneldan/TinyStories",
    ]
    assert found.data.train[1]["licence"] == "CC0"
    assert found.data.validation[0]["path_or_name"] == str(tmp_path / "held-out.txt")  # type: ignore[index]
    assert (found.recipe.lr, found.recipe.betas, found.recipe.final) == (1e-3, (0.9, 0.99), RECIPES["paper"].final)
    assert str(found.budget) == "30 minutes"


def test_what_is_written_to_the_run_reads_the_same(tmp_path: Path) -> None:
    text = GOOD + '[distill]\nteacher = "big \\"q\\"\\u007f"\n[quantize]\nscheme = "q4_0"\n'
    found = load_config(write(tmp_path, text))
    again = Config.from_dict(tomllib.loads(toml(found.to_dict())), tmp_path / "elsewhere")
    assert again == found


def test_overrides_go_before_the_file(tmp_path: Path) -> None:
    path = write(tmp_path)
    found = load_config(path, ["train.tokens=1_000_000", "model.width=288", "train.recipe=ingle", "data.tokenizer=a"])
    assert str(found.budget) == "1,000,000 tokens"
    assert found.model["width"] == 288
    assert found.recipe.optimizer == "muon"
    assert found.data.tokenizer == str(tmp_path / "a")
    with pytest.raises(UsageError, match=r"--set 'minutes=5' is not of the form section\.name=value"):
        load_config(path, ["minutes=5"])


def test_the_vocabulary_is_the_tokenizers(tmp_path: Path) -> None:
    found = load_config(write(tmp_path, GOOD.replace("context", "vocabulary = 100\ncontext")))
    assert found.shape(96).vocabulary == 100
    with pytest.raises(UsageError, match=r"model\.vocabulary is 100, but the tokenizer has 8192 tokens"):
        found.shape(8192)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[train]", "[train]\nwarmpu = 0.1", r"\[train\] has no setting 'warmpu'; did you mean warmup\?"),
        ("[train]", "[trian]", r"no section \[trian\]; did you mean train\?"),
        ("[train]", "[train]\nzebra = 1", r"\[train\] has no setting 'zebra'; expected one of tokens, epochs"),
        ("context", "contxt", r"no setting 'contxt'; did you mean context\?"),
        ('"mobilellm-125m"', '"gpt-5"', r"no shape 'gpt-5'; Ingle knows mobilellm-125m"),
        ("context = 256", "width = 100", r"width of 100 cannot be cut into 9 heads"),
        ("tokenizer = 8192", "tokeniser = 8192", r"\[data\] has no setting 'tokeniser'; did you mean tokenizer\?"),
        ("tokenizer = 8192", "", r"data\.tokenizer is missing; give a size such as 8192"),
        ("tokenizer = 8192", "tokenizer = 0.5", r"data\.tokenizer is 0\.5; expected the size"),
        ("tokenizer = 8192", "tokenizer = -1", r"data\.tokenizer is -1; expected the size"),
        ('validation = "held-out.txt"', "validation = 1.5", r"data\.validation is 1\.5; expected a share"),
        ('validation = "held-out.txt"', "validation = 1", r"data\.validation is 1; expected a share .* from 0"),
        ('validation = "held-out.txt"', 'validation = "a\\u0000b"', r"is not a path that can be followed"),
        ('validation = "held-out.txt"', 'validation = "~nobody-by-that-name/x"', r"is not a path that can be followed"),
        ("minutes = 30", "minutes = 30\nbatch_tokens = 100000000000000", r"batch_tokens is 1.*; expected a whole"),
        ("licence =", "license =", r"no setting 'license'; did you mean licence\?"),
        ("weight = 2", 'weight = "2"', r"data\.train\.weight is '2'; expected a number"),
        ("path =", "paths =", r"no setting 'paths'"),
        ('"books",', "7,", r"data\.train has 7; expected a path in quotes"),
        ("minutes = 30", "", r"exactly one budget of tokens, epochs, steps or minutes; it has none"),
        ("minutes = 30", "minutes = 30\nsteps = 5", r"exactly one budget of .*; it has steps and minutes"),
        ("minutes = 30", "minutes = -1", r"train\.minutes is -1; expected a positive number"),
        ("minutes = 30", "steps = 1.5", r"train\.steps is 1\.5"),
        ("minutes = 30", 'minutes = "long"', r"train\.minutes is 'long'"),
        ("minutes = 30", "minutes = nan", r"train\.minutes is nan"),
        ("minutes = 30", "minutes = 30\nseed = true", r"train\.seed is True; expected a whole number"),
        ("minutes = 30", "minutes = 30\nseed = -1", r"train\.seed is -1"),
        ("minutes = 30", 'minutes = 30\ndevice = "gpu"', r"device is 'gpu'; expected one of auto, cpu, cuda, mps"),
        ("minutes = 30", "minutes = 30\ncompile = 1", r"train\.compile is 1; expected a word in quotes, true or false"),
        ("minutes = 30", 'minutes = 30\ncompile = "yes"', r"compile is 'yes'; expected one of auto, true, false"),
        (
            "minutes = 30",
            "minutes = 30\ncheckpoint_minutes = 0",
            r"checkpoint_minutes is 0; expected a positive number",
        ),
        ("lr = 1e-3", "lr = 0", r"lr is 0\.0; expected a number above 0"),
        ("lr = 1e-3", "lr = nan", r"lr is nan; expected a number above 0"),
        ("[0.9, 0.99]", "[0.9]", r"betas is \[0\.9\]; expected two numbers"),
        ('"paper"', '"papre"', r"no recipe 'papre'; Ingle knows paper, ingle"),
        ("[data]", "[data", r"config\.toml is not TOML: .*line 6"),
        ("[model]", "[distill]\nweight = 1\n[model]", r"distill\.teacher is missing"),
        ("[model]", '[quantize]\nscheme = "q2"\n[model]', r"quantize\.scheme is 'q2'; expected one of w8a8, q4_0"),
        ("[model]", '[quantize]\nscheme = "q4_0"\nstart = 1.0\n[model]', r"quantize\.start is 1\.0"),
        ("shape =", "from =", r"model\.context cannot be set beside model\.from"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in GOOD
    with pytest.raises(UsageError, match=message) as caught:
        load_config(write(tmp_path, GOOD.replace(old, new, 1)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["model", "data", "train"])
def test_sections_that_are_missing_are_named(tmp_path: Path, name: str) -> None:
    sections: dict[str, Any] = tomllib.loads(GOOD)
    del sections[name]
    with pytest.raises(UsageError, match=rf"no section \[{name}\]"):
        Config.from_dict(sections, tmp_path)
    with pytest.raises(UsageError, match=rf"{name} is 3; expected a section"):
        Config.from_dict(sections | {name: 3}, tmp_path)


def test_validation_may_be_none(tmp_path: Path) -> None:
    found = load_config(write(tmp_path, GOOD.replace('validation = "held-out.txt"', "validation = 0")))
    assert found.data.validation == 0


def test_links_in_a_circle(tmp_path: Path) -> None:
    (tmp_path / "held-out.txt").symlink_to("held-out.txt")
    with pytest.raises(UsageError):
        load_config(write(tmp_path)).expect_files()


def test_files_that_are_missing_are_named(tmp_path: Path) -> None:
    found = load_config(write(tmp_path))
    for name in ("books", "chat.jsonl", "held-out.txt"):
        with pytest.raises(UsageError, match=rf"data names .*{name}, which does not exist"):
            found.expect_files()
        (tmp_path / name).touch()
    found.expect_files()


def test_files_that_are_no_config(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nothing\.toml cannot be read: No such file"):
        load_config(tmp_path / "nothing.toml")
    with pytest.raises(UsageError, match="is a folder"):
        load_config(tmp_path)
    (tmp_path / "config.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match=r"is not UTF-8 \(byte 0\)"):
        load_config(tmp_path / "config.toml")
    (tmp_path / "config.toml").write_bytes(b"#" * (2**20 + 1))
    with pytest.raises(UsageError, match="larger than"):
        load_config(tmp_path / "config.toml")


def test_a_config_needs_no_pytorch() -> None:
    script = "import sys, ingle.train.config, ingle.train.run_folder; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout == "False\n"


@pytest.mark.parametrize("path", sorted((Path(__file__).parents[2] / "training" / "configs").glob("*.toml")), ids=str)
def test_the_examples_are_sound(path: Path) -> None:
    load_config(path)
