"""Every error Ingle raises on purpose.

    IngleError
    ├── UsageError            an argument or option cannot be what it is
    │   └── GrammarError      a grammar or schema cannot be followed
    ├── ModelFileError        a model file cannot be used
    │   ├── GGUFError         the bytes are not a sound GGUF file
    │   ├── CheckpointError   a Hugging Face directory is incomplete or unsound
    │   ├── UnsupportedError  a sound file that Ingle does not support (family, tensor type, tokenizer)
    │   └── TokenizerError    the tokenizer in the file is missing or inconsistent
    ├── TemplateError         the chat template is unsound or refused the conversation
    ├── ContextError          more tokens than the context holds
    ├── MemoryLimitError      the memory needed is not there
    ├── BackendError          a backend is missing or was misused
    ├── BusyError             more was asked at once than can be answered; later it can be
    ├── ClosedError           what should answer is closing, or closed
    ├── DataError             data to train on or to measure with cannot be used
    └── TrainingError         a training run cannot begin, or cannot go on

Each message is one sentence (or two short ones) that says what was expected, what came, and what to do.
The command line prints it and exits with status 2; it never prints a traceback for one of these.
"""

from __future__ import annotations

__all__ = [
    "BackendError",
    "BusyError",
    "CheckpointError",
    "ClosedError",
    "ContextError",
    "DataError",
    "GGUFError",
    "GrammarError",
    "IngleError",
    "MemoryLimitError",
    "ModelFileError",
    "TemplateError",
    "TokenizerError",
    "TrainingError",
    "UnsupportedError",
    "UsageError",
]


class IngleError(Exception):
    """Base of all errors with a message meant for people."""


class UsageError(IngleError, ValueError):
    """An argument or option has a value that cannot work."""


class GrammarError(UsageError):
    """A grammar or a schema that answers are to follow cannot be followed."""


class ModelFileError(IngleError):
    """A model file cannot be used."""


class GGUFError(ModelFileError):
    """The bytes are not a sound GGUF file."""


class CheckpointError(ModelFileError):
    """A Hugging Face checkpoint directory is incomplete or unsound."""


class UnsupportedError(ModelFileError):
    """A sound file that needs something Ingle does not have (family, tensor type, tokenizer)."""


class TokenizerError(ModelFileError):
    """The tokenizer in a model file is missing or inconsistent."""


class TemplateError(IngleError):
    """A chat template is unsound or refused the conversation."""


class ContextError(IngleError):
    """A prompt or an answer needs more positions than the context holds."""


class MemoryLimitError(IngleError):
    """The memory that is needed is not available."""


class BackendError(IngleError):
    """A backend is missing, or was given what it cannot compute."""


class BusyError(IngleError):
    """More was asked at once than can be answered or kept waiting.

    retry_after_s: in about so many seconds there will be room.
    """

    def __init__(self, message: str, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class ClosedError(IngleError):
    """What should answer takes no more, or was closed before the answer had ended."""


class DataError(IngleError):
    """Data to train on or to measure with is missing, unreadable, empty, or does not fit."""


class TrainingError(IngleError):
    """A training run cannot begin, or cannot go on (a loss that is not a number, a checkpoint that does not fit)."""
