"""SentencePiece vocabularies, against the `sentencepiece` package."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ingle.text import Tokenizer, metadata_from_hf

sentencepiece = pytest.importorskip("sentencepiece")

FILES = [
    "mistral_tokenizer.model.v1",
    "mistral_mistral_instruct_tokenizer_240323.model.v3",
    "open_llama_3b_tokenizer.model",
]
BYTES = [(f"<0x{byte:02X}>", 0.0, 6) for byte in range(256)]
SPECIAL = [("<unk>", 0.0, 2), ("<s>", 0.0, 3), ("</s>", 0.0, 3)]
quick = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def from_file(directory: Path, data: bytes) -> Tokenizer:
    (directory / "tokenizer.model").write_bytes(data)
    return Tokenizer.from_metadata(metadata_from_hf(directory))


@pytest.mark.parametrize("name", FILES)
def test_published_models(folder: Path, texts: st.SearchStrategy[str], tmp_path: Path, name: str) -> None:
    tokenizer = from_file(tmp_path, (folder / name).read_bytes())
    reference = sentencepiece.SentencePieceProcessor(model_file=str(folder / name))
    assert tokenizer.n_vocab == reference.vocab_size()
    assert (tokenizer.bos_id, tokenizer.eos_id) == (reference.bos_id(), reference.eos_id())

    @settings(quick, max_examples=250)
    @given(texts)
    def check(text: str) -> None:
        ids = tokenizer.encode(text, add_special=False)
        assert ids == reference.encode(text)
        # Where SentencePiece squeezes spaces it also takes away U+2581 that a text itself begins with; we keep it.
        if not text.lstrip(" ").startswith("\u2581"):
            assert tokenizer.decode(ids) == reference.decode(ids)

    check()


@pytest.mark.parametrize("with_bytes", [True, False])
def test_any_vocabulary(
    spm_file: Callable[..., bytes], tmp_path_factory: pytest.TempPathFactory, with_bytes: bool
) -> None:
    """Equal scores, unused and user-defined tokens, tokens with spaces inside, unknown characters."""
    tokens = st.text("ab\u2581c", min_size=1, max_size=4)
    kinds = st.sampled_from([1, 1, 1, 1, 4, 5])
    vocabularies = st.dictionaries(
        tokens, st.tuples(st.sampled_from([-1.0, -2.0, -2.5]), kinds), min_size=1, max_size=24
    )

    @settings(quick, max_examples=200)
    @given(
        vocabularies,
        st.lists(st.text("abc \u2581z", max_size=12), min_size=1, max_size=6),
        st.booleans(),
        st.booleans(),
    )
    def check(vocabulary: dict[str, tuple[float, int]], texts: list[str], prefix: bool, squeeze: bool) -> None:
        pieces = [*SPECIAL, *(BYTES if with_bytes else []), *((t, s, k) for t, (s, k) in vocabulary.items())]
        data = spm_file(pieces, prefix=prefix, squeeze=squeeze)
        tokenizer = from_file(tmp_path_factory.mktemp("spm"), data)
        reference = sentencepiece.SentencePieceProcessor(model_proto=data)
        for text in texts:
            assert tokenizer.encode(text, add_special=False) == reference.encode(text), text

    check()


@pytest.fixture
def small(spm_file: Callable[..., bytes], tmp_path: Path) -> Tokenizer:
    letters = [(c, -100.0, 1) for c in "<s>/\u2581hiHx"]
    merged = [("<s", -1.0, 1), ("<s>x", -2.0, 1), ("hi", -3.0, 1), ("\u2581hi", -4.0, 1)]
    return from_file(tmp_path, spm_file([*SPECIAL, *BYTES, *letters, *merged]))


def test_text_never_becomes_a_control_or_byte_token(small: Tokenizer) -> None:
    for text in ("<s>", "</s>", "<unk>", "<0x0A>", "<s>x"):
        assert not set(small.encode(text, add_special=False)) & {0, 1, 2, 3 + 0x0A}
    assert small.encode("<s>hi", parse_special=True) == [1, small.token_id("\u2581hi")]
    assert small.encode("hi</s>hi", add_special=False, parse_special=True)[1] == 2


def test_characters_outside_the_vocabulary_are_bytes(small: Tokenizer) -> None:
    ids = small.encode("\u00e9", add_special=False)
    assert [small.token_bytes(i) for i in ids] == [b" ", b"\xc3", b"\xa9"]
    assert small.decode(ids) == "\u00e9"


def test_bos_is_added_by_default_and_never_twice(small: Tokenizer) -> None:
    assert small.encode("hi")[0] == 1
    assert small.encode("<s>hi", parse_special=True).count(1) == 1


def test_the_prefixed_space_is_taken_away_where_it_was_added(small: Tokenizer) -> None:
    for text in ("hi", " hi", "<s>hi</s> hi", "  "):
        ids = small.encode(text, add_special=False, parse_special=True)
        assert small.decode(ids) == text
    assert small.decode([1, *small.encode("hi", add_special=False), 2], skip_special=True) == "hi"


def test_phi3_drops_whitespace_after_control_tokens(spm_file: Callable[..., bytes], tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(spm_file([*SPECIAL, *BYTES, ("a", -1.0, 1), ("\u2581", -1.0, 1)]))
    metadata = metadata_from_hf(tmp_path)
    with_space = Tokenizer.from_metadata(metadata).encode("</s>\na", add_special=False, parse_special=True)
    without = Tokenizer.from_metadata(metadata | {"general.architecture": "phi3"})
    assert without.encode("</s>\na", add_special=False, parse_special=True) == [i for i in with_space if i != 3 + 0x0A]
