r"""How byte-level BPE vocabularies cut text into words before merging (`tokenizer.ggml.pre`).

A row is data: the regular expressions as the models' own tokenizer.json files publish them, applied one after the
other; each cuts every piece so far into its matches and what lies between them. BYTE_LEVEL marks the place where bytes
become letters, if that is not at the end. Names and meaning of `pre` follow llama.cpp, which defined the key.

GGUF does not say whether the text is first brought to Unicode normal form C, but some models were trained so: `nfc`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ingle.errors import UnsupportedError

__all__ = ["BYTE_LEVEL", "PRE_TOKENIZERS", "PreTokenizer", "pre_tokenizer", "recognise"]

BYTE_LEVEL = "<byte level>"

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_DIGIT = r"\p{N}"
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", _DIGIT)
_QWEN35 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}"
    r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_TEKKEN = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*|\p{{N}}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_SUFFIX = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
_GPT4O = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_SUFFIX}|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_SUFFIX}"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PUNCTUATION = r"[\p{P}\$\+<=>\^~\|`]+"
_HAN_AND_HANGUL = (
    "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"  # as published: the middle range is odd, and part of the definition
)
# Written as code points: some of these letters change under Unicode normalisation, as editors and tools apply it.
_DEEPSEEK_LETTERS = (
    "\\s?["
    "A-Za-z\xb5\xc0-\xd6\xd8-\xf6\xf8-\u01ba\u01bc-\u01bf\u01c4-\u0293\u0295-\u02af\u0370-\u0373\u0376\u0377"
    "\u037b-\u037d\u037f\u0386\u0388-\u038a\u038c\u038e-\u03a1\u03a3-\u03f5\u03f7-\u0481\u048a-\u052f"
    "\u0531-\u0556\u10a0-\u10c5\u13a0-\u13f5\u13f8-\u13fd\u1c90-\u1cba\u1cbd-\u1cbf\u1d00-\u1d2b\u1d6b-\u1d77"
    "\u1d79-\u1d9a\u1e00-\u1f15\u1f18-\u1f1d\u1f20-\u1f45\u1f48-\u1f4d\u1f50-\u1f57\u1f59\u1f5b\u1f5d"
    "\u1f5f-\u1f7d\u1f80-\u1fb4\u1fb6-\u1fbc\u1fbe\u1fc2-\u1fc4\u1fc6-\u1fcc\u1fd0-\u1fd3\u1fd6-\u1fdb"
    "\u1fe0-\u1fec\u1ff2-\u1ff4\u1ff6-\u1ffc\u2102\u2107\u210a-\u2113\u2115\u2119-\u211d\u2124\u2126\u2128"
    "\u212a-\u212d\u212f-\u2134\u2139\u213c-\u213f\u2145-\u2149\u214e\u2183\u2184\u2c00-\u2c7b\u2c7e-\u2ce4"
    "\u2ceb-\u2cee\u2cf2\u2cf3\ua640-\ua66d\ua680-\ua69b\ua722-\ua76f\ua771-\ua787\ua78b-\ua78e\uab70-\uabbf"
    "\ufb00-\ufb06\ufb13-\ufb17\uff21-\uff3a\uff41-\uff5a\U00010400-\U0001044f\U000104b0-\U000104d3"
    "\U000104d8-\U000104fb\U00010c80-\U00010cb2\U00010cc0-\U00010cf2\U000118a0-\U000118df\U0001e900-\U0001e943"
    "]+"
)
_DEEPSEEK_LLM = (
    "[\r\n]",
    _DEEPSEEK_LETTERS,
    "\\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]+",
    r"\s+$",
    _HAN_AND_HANGUL,
    r"\p{N}+",
)
_DEEPSEEK_CODER = ("[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _HAN_AND_HANGUL, _DIGIT)
_DEEPSEEK_V3 = (
    r"\p{N}{1,3}",
    "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+",
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+",
)


@dataclass(frozen=True)
class PreTokenizer:
    """One row: `splits` in order, then the habits of the vocabularies that use it."""

    splits: tuple[str, ...]
    nfc: bool = False
    ignore_merges: bool = False  # a word that is a token is that token, whatever the merges say
    add_bos: bool = False  # where the file has no tokenizer.ggml.add_bos_token
    raw: bool = False  # tokens are plain UTF-8 with U+2581 for spaces and byte tokens, not byte-level letters


_GPT2_ROW = PreTokenizer((GPT2,))
_GPT2_NFC_ROW = PreTokenizer((GPT2,), nfc=True)
_DIGITS_ROW = PreTokenizer((_DIGIT, GPT2))
_LLAMA3_ROW = PreTokenizer((_LLAMA3,), ignore_merges=True, add_bos=True)
_CL100K_ROW = PreTokenizer((_LLAMA3,))
_QWEN2_ROW = PreTokenizer((_QWEN2,), nfc=True)
_GPT4O_ROW = PreTokenizer((_GPT4O,))

#: In order of preference: `recognise` takes the first that fits.
PRE_TOKENIZERS: dict[str, PreTokenizer] = {
    "gpt-2": _GPT2_ROW,
    "phi-2": _GPT2_ROW,
    "jais": _GPT2_ROW,
    "gigachat": _GPT2_ROW,
    "a.x-4.0": _GPT2_ROW,
    "mellum": _GPT2_ROW,
    "exaone4": _GPT2_ROW,
    "trillion": _GPT2_ROW,
    "granite-docling": _GPT2_ROW,
    "olmo": _GPT2_NFC_ROW,
    "mpt": _GPT2_NFC_ROW,
    "smollm": _DIGITS_ROW,
    "starcoder": _DIGITS_ROW,
    "refact": _DIGITS_ROW,
    "codeshell": _DIGITS_ROW,
    "exaone": _DIGITS_ROW,
    "minerva-7b": _DIGITS_ROW,
    "command-r": PreTokenizer((_DIGIT, GPT2), nfc=True),
    "llama-bpe": _LLAMA3_ROW,
    "llama3": _LLAMA3_ROW,
    "llama-v3": _LLAMA3_ROW,
    "falcon3": _LLAMA3_ROW,
    "falcon-h1": _LLAMA3_ROW,
    "pixtral": _LLAMA3_ROW,
    "midm-2.0": _LLAMA3_ROW,
    "lfm2": _LLAMA3_ROW,
    "dbrx": _CL100K_ROW,
    "smaug-bpe": _CL100K_ROW,
    "chatglm-bpe": _CL100K_ROW,
    "glm4": _CL100K_ROW,
    "qwen2": _QWEN2_ROW,
    "deepseek-r1-qwen": _QWEN2_ROW,
    "megrez": _QWEN2_ROW,
    "stablelm2": PreTokenizer((_QWEN2,)),
    "hunyuan": PreTokenizer((_QWEN2,)),
    "grok-2": PreTokenizer((_QWEN2,)),
    "qwen35": PreTokenizer((_QWEN35,), nfc=True),
    "tekken": PreTokenizer((_TEKKEN,), ignore_merges=True, add_bos=True),
    "gpt-4o": _GPT4O_ROW,
    "llama4": _GPT4O_ROW,
    "falcon": PreTokenizer((PUNCTUATION, GPT2, BYTE_LEVEL, r"\p{N}+", "[0-9][0-9][0-9]")),
    "deepseek-llm": PreTokenizer(_DEEPSEEK_LLM),
    "deepseek-coder": PreTokenizer(_DEEPSEEK_CODER),
    "deepseek-v3": PreTokenizer(_DEEPSEEK_V3),
    "hunyuan-dense": PreTokenizer(_DEEPSEEK_V3),
    "gemma4": PreTokenizer((r"[^\n]+|[\n]+",), add_bos=True, raw=True),
    "default": PreTokenizer((r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]")),
}

#: Files older than the key `pre`: what their architecture is known to use.
_BY_ARCHITECTURE = {
    "gptneox": "mpt",
    "gpt2": "gpt-2",
    "phi2": "phi-2",
    "falcon": "falcon",
    "mpt": "mpt",
    "qwen2": "qwen2",
}


def pre_tokenizer(name: str | None, architecture: object = None) -> PreTokenizer:
    """The row of a `tokenizer.ggml.pre`; without a name, that of the architecture, else llama.cpp's default.

    Raises UnsupportedError for a name that is not in the table.
    """
    if name is None:
        name = _BY_ARCHITECTURE.get(str(architecture), "default")
    try:
        return PRE_TOKENIZERS[name]
    except KeyError:
        known = ", ".join(sorted(PRE_TOKENIZERS))
        raise UnsupportedError(f"The pre-tokenizer {name!r} is not supported; known are {known}.") from None


def recognise(splits: Sequence[str], *, nfc: bool, ignore_merges: bool) -> str | None:
    """The name whose row has these splits, and as far as possible these habits; None if no row has the splits."""
    same = [(name, row) for name, row in PRE_TOKENIZERS.items() if row.splits == tuple(splits) and not row.raw]
    if not same:
        return None
    return max(same, key=lambda item: 2 * (item[1].nfc == nfc) + (item[1].ignore_merges == ignore_merges))[0]
