"""Ingle runs large language models privately, on the devices people already own.

    import ingle

    with ingle.load("model.gguf") as model:
        for token in model.generate("Once upon a time"):
            print(token.text, end="", flush=True)

Names are loaded when they are first used, so that `import ingle` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ingle import errors as errors
    from ingle.engine.chat import Chat as Chat
    from ingle.engine.generate import Generation as Generation
    from ingle.engine.model import Model as Model
    from ingle.engine.model import load as load
    from ingle.engine.sampling import SamplingParams as SamplingParams
    from ingle.engine.token import Stats as Stats
    from ingle.engine.token import Token as Token
    from ingle.text.grammar import Grammar as Grammar
    from ingle.text.tools import Tool as Tool
    from ingle.text.tools import ToolCall as ToolCall
    from ingle.text.tools import find_calls as find_calls
    from ingle.text.tools import read_tools as read_tools

__version__ = "0.1.0"

__all__ = [
    "Chat",
    "Generation",
    "Grammar",
    "Model",
    "SamplingParams",
    "Stats",
    "Token",
    "Tool",
    "ToolCall",
    "__version__",
    "errors",
    "find_calls",
    "load",
    "read_tools",
]

_HOME = {
    "Chat": "ingle.engine.chat",
    "Generation": "ingle.engine.generate",
    "Grammar": "ingle.text.grammar",
    "Model": "ingle.engine.model",
    "SamplingParams": "ingle.engine.sampling",
    "Stats": "ingle.engine.token",
    "Token": "ingle.engine.token",
    "Tool": "ingle.text.tools",
    "ToolCall": "ingle.text.tools",
    "find_calls": "ingle.text.tools",
    "load": "ingle.engine.model",
    "read_tools": "ingle.text.tools",
}


def __getattr__(name: str) -> Any:
    """Load a public name when it is first used (PEP 562)."""
    if name == "errors":
        return import_module("ingle.errors")
    if name not in _HOME:
        raise AttributeError(f"module 'ingle' has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
