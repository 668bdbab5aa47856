"""What a config names, made or opened: tokenizer and token shards, a model to start from, a teacher."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ingle.errors import UsageError
from ingle.train.config import Config
from ingle.train.run_folder import RunFolder

if TYPE_CHECKING:
    import torch

    from ingle.train.compress.distill import Distiller
    from ingle.train.data.shards import ShardSet
    from ingle.train.data.sources import Source
    from ingle.train.data.vocabulary import Vocabulary
    from ingle.train.shape import Shape

__all__ = ["build_distiller", "load_start", "open_prepared", "prepare", "shards_folder"]

Event = Callable[[dict[str, Any]], None]

_TELL_CHARACTERS = 1 << 22


def prepare(config: Config, run: RunFolder, on_event: Event, *, resume: bool) -> None:
    """Put tokenizer.json and the token shards into the run's folder; those of a run that is resumed are left as they
    are, so that it needs its folder alone.

    Only the first of several processes calls it. Raises DataError and UsageError.
    """
    from ingle.train.data.shards import build_shards
    from ingle.train.data.vocabulary import load_vocabulary, train_tokenizer

    wanted = config.data.tokenizer
    if not run.tokenizer.exists():
        if isinstance(wanted, int):
            on_event({"event": "prepare", "what": "tokenizer", "done": 0, "total": None})
            vocabulary = train_tokenizer(_texts(_sources(config.data.train), on_event), wanted)
        else:
            vocabulary = load_vocabulary(Path(wanted or config.start or ""))
        if config.start and wanted is not None and load_vocabulary(Path(config.start)).digest != vocabulary.digest:
            raise UsageError(
                f"data.tokenizer is another one than that of the model to start from, {config.start}; leave it out."
            )
        vocabulary.save(run.tokenizer)
    folder = shards_folder(config, run)
    if resume and folder == run.data and (folder / "meta.json").exists():
        return
    validation = config.data.validation

    def progress(done: int, total: int | None) -> None:
        on_event({"event": "prepare", "what": "data", "done": done, "total": total})

    build_shards(
        _sources(config.data.train),
        load_vocabulary(run.tokenizer),
        folder,
        validation=_sources(validation) if isinstance(validation, tuple) else validation,
        # Not train.seed: runs that differ in it are to be compared on the same held-out documents.
        seed=0,
        on_progress=progress,
    )


def open_prepared(config: Config, run: RunFolder) -> tuple[Vocabulary, ShardSet]:
    """What `prepare` left. Raises DataError where it is damaged or another vocabulary's."""
    from ingle.train.data.shards import open_shards
    from ingle.train.data.vocabulary import load_vocabulary

    vocabulary = load_vocabulary(run.tokenizer)
    return vocabulary, open_shards(shards_folder(config, run), vocabulary_digest=vocabulary.digest)


def load_start(config: Config) -> tuple[Shape, dict[str, torch.Tensor]] | None:
    """Shape and weights of [model] from; None without one. Raises the errors of `load_model`."""
    if config.start is None:
        return None
    from ingle.train.load import load_model

    model = load_model(Path(config.start))
    return model.shape, model.tensors


def build_distiller(config: Config, vocabulary: Vocabulary, device: torch.device) -> Distiller | None:
    """The `Distiller` of [distill]; None without one. Raises UsageError where the teacher has other tokens."""
    if config.distill is None:
        return None
    from ingle.train.compress.distill import Distiller, load_teacher

    wanted = config.distill
    return Distiller(load_teacher(Path(wanted.teacher), vocabulary, device), wanted.weight, wanted.temperature)


def shards_folder(config: Config, run: RunFolder) -> Path:
    """Where the token shards of a run are: in its own folder, or in one that several runs share."""
    return Path(config.data.shards) if config.data.shards else run.data


def _sources(tables: Sequence[Mapping[str, Any]]) -> list[Source]:
    from ingle.train.data.sources import Source

    try:
        return [Source(**table) for table in tables]
    except TypeError as error:
        raise UsageError(f"The config describes a source in a way this version does not know: {error}.") from None


def _texts(sources: Sequence[Source], on_event: Event) -> Iterator[str]:
    from ingle.train.data.sources import read_documents

    done = told = 0
    for source in sources:
        for document in read_documents(source):
            for segment in document.segments:
                if not segment.special:
                    done += len(segment.text)
                    yield segment.text
            if done - told >= _TELL_CHARACTERS:
                told = done
                on_event({"event": "prepare", "what": "tokenizer", "done": done, "total": None})
