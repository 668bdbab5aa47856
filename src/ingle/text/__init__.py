"""Between text and token ids: tokenizers, chat templates, streams of text."""

from __future__ import annotations

from ingle.text.chat import ChatTemplate, Message
from ingle.text.hf import metadata_from_hf
from ingle.text.stream import StopScanner, TextStream
from ingle.text.tokenizer import Tokenizer

__all__ = ["ChatTemplate", "Message", "StopScanner", "TextStream", "Tokenizer", "metadata_from_hf"]
