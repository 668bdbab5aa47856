"""What a run of `ingle train` is to do: a TOML file, checked word by word. Needs no PyTorch.

    [model]     the fields of `shape.Shape`, or shape = "mobilellm-125m" and what differs, or from = "a trained model"
    [data]      train, validation, tokenizer, positions
    [train]     recipe = "ingle" | "paper" and the fields of `recipes.Recipe`; one budget; the fields of `Training`
    [distill]   teacher, weight, temperature
    [quantize]  scheme, start

Paths in the file are relative to the file.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from ingle.errors import UsageError
from ingle.files import read_bytes
from ingle.train.recipes import Recipe
from ingle.train.shape import Shape
from ingle.train.tables import expect, expect_one_of, hint, read_table

__all__ = ["BUDGETS", "Budget", "Config", "Data", "Distill", "Quantize", "Training", "load_config"]

#: How the length of a run can be given.
BUDGETS = ("tokens", "epochs", "steps", "minutes")
SCHEMES = ("w8a8", "q4_0", "q4_1", "q8_0")
_LIMIT = 2**20  # bytes of a config file
_MAX_BATCH = 2**28  # positions: a step's rows are in memory at once, 20 bytes each


@dataclass(frozen=True, slots=True)
class Budget:
    """How long a run is: so many tokens, epochs, steps or minutes."""

    kind: Literal["tokens", "epochs", "steps", "minutes"]
    amount: float

    def __str__(self) -> str:
        return f"{self.amount:,.10g} {self.kind}"


@dataclass(frozen=True, slots=True)
class Training:
    """[train] without the recipe and the budget. Zeros stand for a choice that fits the run.

    batch_tokens: positions per step, on all devices together; micro_tokens: positions per device at once.
    validate_every: steps. validation_tokens: positions of a validation, the same ones each time.
    """

    batch_tokens: int = 16384
    micro_tokens: int = 0
    seed: int = 1
    device: str = "auto"
    precision: str = "auto"
    compile: str | bool = "auto"
    distributed: str = "auto"
    threads: int = 0
    checkpoint_minutes: float = 10.0
    validate_every: int = 0
    validation_tokens: int = 65536

    def __post_init__(self) -> None:
        for name in ("batch_tokens", "validation_tokens"):
            known = 0 < getattr(self, name) <= _MAX_BATCH
            expect(known, f"train.{name}", getattr(self, name), f"a whole number from 1 to {_MAX_BATCH}")
        for name in ("micro_tokens", "validate_every", "threads", "seed"):
            known = 0 <= getattr(self, name) < 2**63
            expect(known, f"train.{name}", getattr(self, name), "0 or a positive whole number")
        minutes = self.checkpoint_minutes
        expect(0 < minutes < 1e6, "train.checkpoint_minutes", minutes, "a positive number")
        for name, words in (
            ("device", ("auto", "cpu", "cuda", "mps")),
            ("precision", ("auto", "bf16", "f32")),
            ("compile", ("auto", True, False)),
            ("distributed", ("auto", "ddp", "fsdp")),
        ):
            expect_one_of(getattr(self, name), f"train.{name}", words)


@dataclass(frozen=True, slots=True)
class Data:
    """[data]: `train` and `validation` as tables of `data.sources.Source`'s fields, paths absolute; `validation` may be
    a share of the training documents. tokenizer: the size of one to train, the path of one to use, or None for that of
    the model to start from. positions: tokens per row; 0 is the model's context. shards: a folder for the token shards
    that several runs can share; without one they are in the run's folder.
    """

    train: tuple[dict[str, Any], ...]
    validation: float | tuple[dict[str, Any], ...] = 0.01
    tokenizer: int | str | None = None
    positions: int = 0
    shards: str | None = None


@dataclass(frozen=True, slots=True)
class Distill:
    """[distill]: learn from what `teacher` (a run, GGUF or Hugging Face folder) would say.

    The loss is (1 - weight) * cross-entropy + weight * temperature^2 * divergence from the teacher.
    """

    teacher: str
    weight: float = 0.5
    temperature: float = 1.0

    def __post_init__(self) -> None:
        expect(0 <= self.weight <= 1, "distill.weight", self.weight, "a share from 0 to 1")
        expect(0 < self.temperature <= 1000, "distill.temperature", self.temperature, "a positive number")


@dataclass(frozen=True, slots=True)
class Quantize:
    """[quantize]: from `start` of the run on (a share), compute as if quantised by `scheme`."""

    scheme: str
    start: float = 0.0

    def __post_init__(self) -> None:
        expect_one_of(self.scheme, "quantize.scheme", SCHEMES)
        expect(0 <= self.start < 1, "quantize.start", self.start, "a share from 0 to below 1")

    @property
    def file_type(self) -> str:
        """The GGUF type that holds exactly the weights the model learnt with."""
        return "q8_0" if self.scheme == "w8a8" else self.scheme


@dataclass(frozen=True)
class Config:
    """A whole configuration. `model` holds the fields of a Shape as they were given; `start` is [model] from."""

    model: dict[str, Any]
    data: Data
    recipe: Recipe
    budget: Budget
    training: Training = field(default_factory=Training)
    start: str | None = None
    distill: Distill | None = None
    quantize: Quantize | None = None

    def shape(self, vocabulary: int) -> Shape:
        """The shape to train with a tokenizer of so many tokens. Raises UsageError."""
        wanted = self.model.get("vocabulary", vocabulary)
        if wanted < vocabulary:
            raise UsageError(
                f"model.vocabulary is {wanted}, but the tokenizer has {vocabulary} tokens; leave it out, or give at "
                f"least {vocabulary}."
            )
        return Shape.from_dict(self.model | {"vocabulary": wanted})

    def expect_files(self) -> None:
        """Raise UsageError for the first path that does not exist."""
        sources = (*self.data.train, *(self.data.validation if isinstance(self.data.validation, tuple) else ()))
        tokenizer = self.data.tokenizer if isinstance(self.data.tokenizer, str) else None
        for name, path in (
            *(("data", source["path_or_name"]) for source in sources),
            ("data.tokenizer", tokenizer),
            ("model.from", self.start),
            ("distill.teacher", self.distill and self.distill.teacher),
        ):
            if path is not None and not path.startswith("hf:") and not Path(path).exists():
                raise UsageError(f"{name} names {path}, which does not exist.")

    def to_dict(self) -> dict[str, Any]:
        """The sections as the TOML file has them, complete, without what is None. `from_dict` reads it."""
        data = asdict(self.data)
        sections: dict[str, Any] = {
            "model": self.model if self.start is None else {"from": self.start},
            "data": {name: _plain(value) for name, value in data.items() if value is not None},
            "train": {
                self.budget.kind: self.budget.amount,
                **{name: _plain(value) for name, value in self.recipe.to_dict().items()},
                **asdict(self.training),
            },
        }
        sections |= {name: asdict(part) for name in ("distill", "quantize") if (part := getattr(self, name))}
        return sections

    @classmethod
    def from_dict(cls, sections: Mapping[str, Any], base: Path) -> Config:
        """Check the sections of a TOML file; paths in it are relative to the folder `base`. Raises UsageError.

        Whether the paths exist is not asked: see `expect_files`.
        """
        known = ("model", "data", "train", "distill", "quantize")
        for name, value in sections.items():
            if name not in known:
                raise UsageError(f"A config has no section [{name}]; {hint(name, known)}")
            if not isinstance(value, dict):
                raise UsageError(f"{name} is {value!r}; expected a section [{name}].")
        for name in ("model", "data", "train"):
            if name not in sections:
                raise UsageError(f"The config has no section [{name}]; it needs [model], [data] and [train].")
        model, start = _model(dict(sections["model"]), base)
        recipe, budget, training = _train(dict(sections["train"]))
        data = _data(dict(sections["data"]), base, start is not None)
        distill = quantize = None
        if "distill" in sections:
            values = dict(sections["distill"])
            if isinstance(values.get("teacher"), str):
                values["teacher"] = _path(values["teacher"], base)
            distill = read_table(Distill, values, "distill")
        if "quantize" in sections:
            quantize = read_table(Quantize, sections["quantize"], "quantize")
        return cls(model, data, recipe, budget, training, start, distill, quantize)


def load_config(path: Path, overrides: Sequence[str] = ()) -> Config:
    """Read a TOML file; each of `overrides` is "section.name=value" and goes before it. Raises UsageError."""
    try:
        if path.is_dir():
            raise UsageError(f"{path} is a folder; give the TOML file that describes the run.")
        sections = tomllib.loads(read_bytes(path, _LIMIT, UsageError, "expected a config, a short TOML file").decode())
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8 (byte {error.start}); a config is a TOML file.") from None
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path} is not TOML: {error}.") from None
    for override in overrides:
        _override(sections, override)
    return Config.from_dict(sections, path.absolute().parent)


def _override(sections: dict[str, Any], text: str) -> None:
    name, equals, value = text.partition("=")
    section, dot, key = name.strip().partition(".")
    if not (equals and dot and section and key):
        raise UsageError(f"--set {text!r} is not of the form section.name=value, such as train.minutes=5.")
    try:
        found = tomllib.loads(f"x = {value}")["x"]
    except tomllib.TOMLDecodeError:
        found = value.strip()  # a word without its quotes
    table = sections.setdefault(section, {})
    if not isinstance(table, dict):
        raise UsageError(f"{section} is {table!r}; expected a section [{section}].")
    if section == "train" and key in BUDGETS:  # the new budget takes the place of the old one
        for kind in BUDGETS:
            table.pop(kind, None)
    table[key] = found


def _model(values: dict[str, Any], base: Path) -> tuple[dict[str, Any], str | None]:
    if "from" not in values:
        Shape.from_dict(values)
        return values, None
    start = values.pop("from")
    if not isinstance(start, str):
        raise UsageError(f"model.from is {start!r}; expected the path of a trained model.")
    if values:
        raise UsageError(f"model.{next(iter(values))} cannot be set beside model.from: the model has its own shape.")
    return {}, _path(start, base)


def _train(values: dict[str, Any]) -> tuple[Recipe, Budget, Training]:
    own = [f.name for f in fields(Training)]
    of_recipe = ["recipe", *(f.name for f in fields(Recipe))]
    known = [*BUDGETS, *own, *of_recipe]
    for name in values:
        if name not in known:
            raise UsageError(f"[train] has no setting {name!r}; {hint(name, known)}")
    given = [name for name in BUDGETS if name in values]
    if len(given) != 1:
        came = " and ".join(given) or "none"
        raise UsageError(f"[train] needs exactly one budget of tokens, epochs, steps or minutes; it has {came}.")
    kind = given[0]
    amount = values[kind]
    whole = kind in ("tokens", "steps")
    number = type(amount) is int or (type(amount) is float and (not whole or amount.is_integer()))
    expect(number and 0 < amount < 1e18, f"train.{kind}", amount, "a positive number")
    training = read_table(Training, {name: values[name] for name in own if name in values}, "train")
    recipe = Recipe.from_dict({name: values[name] for name in of_recipe if name in values})
    return recipe, Budget(kind, int(amount) if whole else float(amount)), training  # type: ignore[arg-type]


def _data(values: dict[str, Any], base: Path, has_tokenizer: bool) -> Data:
    for name in ("train", "validation"):
        if isinstance(values.get(name), str | list):
            values[name] = _sources(values[name], base, f"data.{name}")
    data = read_table(Data, values, "data")
    expect(isinstance(data.train, tuple), "data.train", data.train, "a list of files, folders or tables")
    if not isinstance(data.validation, tuple):
        share = data.validation
        known = type(share) in (int, float) and 0 <= share < 1
        words = "a share of the training documents, from 0 (none) to below 1, or a list of files"
        expect(known, "data.validation", share, words)
    expect(type(data.positions) is int and 0 <= data.positions <= 2**24, "data.positions", data.positions, "a length")
    if data.tokenizer is None:
        if not has_tokenizer:
            raise UsageError("data.tokenizer is missing; give a size such as 8192 to train one, or the path of one.")
    elif isinstance(data.tokenizer, str):
        values["tokenizer"] = _path(data.tokenizer, base)
    else:
        known = type(data.tokenizer) is int and 0 < data.tokenizer <= 2**24
        expect(known, "data.tokenizer", data.tokenizer, "the size of one to train, or the path of one")
    if data.shards is not None:
        values["shards"] = _path(data.shards, base)
    return Data(**values)


def _sources(values: str | list[Any], base: Path, where: str) -> tuple[dict[str, Any], ...]:
    from ingle.train.data.sources import Source

    values = [values] if isinstance(values, str) else values
    if not values:
        raise UsageError(f"{where} is an empty list; name at least one file, folder or data set.")
    found = []
    for value in values:
        table = {"path_or_name": value} if isinstance(value, str) else value
        if not isinstance(table, dict):
            raise UsageError(f"{where} has {value!r}; expected a path in quotes, or a table with path_or_name.")
        table = {"path_or_name" if name == "path" else name: item for name, item in table.items()}
        source = asdict(read_table(Source, table, where))
        if not source["path_or_name"].startswith("hf:"):
            source["path_or_name"] = _path(source["path_or_name"], base)
        found.append({name: item for name, item in source.items() if item is not None})
    return tuple(found)


def _path(text: str, base: Path) -> str:
    try:
        return str((base / Path(text).expanduser()).resolve())
    except (OSError, RuntimeError, ValueError) as error:  # links in a circle, no such user, a zero byte
        raise UsageError(f"{text!r} is not a path that can be followed ({error}); correct it.") from None


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
