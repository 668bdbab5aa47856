"""A model's tokenizer as the files that Hugging Face folders have, and as GGUF metadata made from them.

A vocabulary with ChatML tokens gets our chat template, unless the model is known to have learnt no conversations: then
programs should go on with a text, not answer it. A text ends with <|endoftext|>, a turn with <|im_end|>: both are
among the tokens at which a generation stops. A model that came from elsewhere keeps the tokens and template it had. A
template that is given comes before all of these.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ingle.errors import CheckpointError
from ingle.text import metadata_from_hf
from ingle.train.checkpoint import TrainedModel
from ingle.train.probe_template import expect_chat_template

if TYPE_CHECKING:
    from ingle.train.data.vocabulary import Vocabulary

__all__ = ["end_ids", "gguf_tokenizer", "tokenizer_files"]


def tokenizer_files(model: TrainedModel, chat_template: str | None = None) -> dict[str, str]:
    """File name -> text: tokenizer.json, tokenizer_config.json and generation_config.json.

    `chat_template`: a Jinja text to write in the place of the model's own or ours.
    Raises CheckpointError where the model has no tokenizer, TokenizerError where it is not sound, TemplateError for a
    template that is not, or leaves out what people say.
    """
    from ingle.train.data.conversation import CHAT_TEMPLATE

    if model.tokenizer_json is None:
        raise CheckpointError(model.info.get("no_tokenizer") or "The model has no tokenizer.json; put it beside it.")
    text, config, vocabulary = _opened(model.tokenizer_json, model.info)
    if vocabulary.size > model.shape.vocabulary:
        raise CheckpointError(
            f"The tokenizer has {vocabulary.size} tokens and the model {model.shape.vocabulary}; they do not belong "
            "together: take the tokenizer.json that the model was trained with."
        )
    end = vocabulary.tokenizer.id_to_token(vocabulary.end_id)
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": model.shape.context,
        "clean_up_tokenization_spaces": False,
        "eos_token": end,
        "pad_token": end,
    }
    if vocabulary.chat_end_id is not None and model.info.get("chat") is not False:
        settings["chat_template"] = CHAT_TEMPLATE
    settings |= config
    if chat_template is not None:
        expect_chat_template(chat_template)
        settings["chat_template"] = chat_template
    ends = end_ids(model)
    generation = {"eos_token_id": ends[0] if len(ends) == 1 else ends, "pad_token_id": ends[0]}
    return {
        "tokenizer.json": _beginning(text, settings, vocabulary.tokenizer.get_vocab()),
        "tokenizer_config.json": json.dumps(settings, indent=1, ensure_ascii=False) + "\n",
        "generation_config.json": json.dumps(generation, indent=1) + "\n",
    }


def end_ids(model: TrainedModel) -> list[int]:
    """The tokens at which a generation stops, that of a text first; empty without a tokenizer."""
    if model.tokenizer_json is None:
        return []
    known = [end for end in model.info.get("end_ids", ()) if isinstance(end, int)]
    if known:
        return known
    _, _, vocabulary = _opened(model.tokenizer_json, model.info)
    ends = (vocabulary.end_id, vocabulary.chat_end_id)
    return list(dict.fromkeys(end for end in ends if end is not None))


def gguf_tokenizer(model: TrainedModel, chat_template: str | None = None) -> dict[str, object]:
    """`tokenizer_files` as the `tokenizer.*` keys of a GGUF file; also UnsupportedError for what GGUF cannot say."""
    with tempfile.TemporaryDirectory() as folder:
        for name, text in tokenizer_files(model, chat_template).items():
            (Path(folder) / name).write_text(text, "utf-8")
        return metadata_from_hf(Path(folder), model.shape.vocabulary)


def _opened(tokenizer_json: bytes, info: Mapping[str, Any]) -> tuple[str, dict[str, Any], Vocabulary]:
    """The text of tokenizer.json, what is known of a tokenizer_config.json, and the vocabulary of the two."""
    from ingle.train.data.vocabulary import Vocabulary

    text, given = tokenizer_json.decode("utf-8", "replace"), info.get("tokenizer_config")
    config = dict(given) if isinstance(given, dict) else {}
    return text, config, Vocabulary.from_json(text, end=config.get("eos_token"))


def _beginning(text: str, settings: dict[str, Any], ids: dict[str, int]) -> str:
    """The tokenizer.json, made to put the beginning token in front where the settings ask for it and it does not."""
    begin = settings.get("bos_token")
    parsed = json.loads(text)
    if not settings.get("add_bos_token") or begin not in ids or parsed.get("post_processor") is not None:
        return text
    pieces = [{"SpecialToken": {"id": begin, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    parsed["post_processor"] = {
        "type": "TemplateProcessing",
        "single": pieces,
        "pair": [*pieces, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {begin: {"id": begin, "ids": [ids[begin]], "tokens": [begin]}},
    }
    return json.dumps(parsed, ensure_ascii=False)
