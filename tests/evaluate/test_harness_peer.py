"""The trust in our figures: text for text, they are those of lm-evaluation-harness's own Hugging Face model (HFLM).

The same checkpoint, float32, three kinds of tokenizer: the story teller's (its end token also begins a text), a
byte-level one with nothing around a text, and one like Llama's (spaces are letters, a beginning before every text).
"""

from __future__ import annotations

import copy
import json
import random
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ingle
import toys
from ingle.evaluate.tasks.plan import plan_tasks
from ingle.evaluate.tasks.surroundings import surroundings
from shared_data import shared
from story_teller import STORY_TELLER
from task_items import data_folder

pytest.importorskip("lm_eval", reason="lm-eval is not installed")
torch = pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("accelerate", reason="accelerate is not installed, which lm_eval's model wants")

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of the peer's dependencies, while they are imported
    import transformers
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    from ingle.evaluate.adapter import IngleLM
    from ingle.evaluate.tasks.build import build, set_shots

pytestmark = pytest.mark.filterwarnings("ignore")  # lm_eval's and its dependencies' own

AWKWARD = ["Ice", " ice", "ice ", "a  b", "\n", "Tom\n\n said: ", "naïve 中", "</s>", "<s> x", "<|im_end|>y", "don't"]


def stories(folder: Path) -> Path:
    from ingle.train.export_hf import export_hf
    from ingle.train.load import load_model

    return export_hf(load_model(STORY_TELLER), folder)


def like_llama(folder: Path) -> Path:
    """Random weights, and a vocabulary of the kind that SentencePiece makes, trained on a few sentences."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    toys.huggingface_llama(folder, seed=1)
    fast = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    fast.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    decoder = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    fast.decoder = decoders.Sequence(decoder)
    specials = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    n_vocab = json.loads((folder / "config.json").read_text())["vocab_size"]
    trainer = trainers.BpeTrainer(vocab_size=340, special_tokens=specials, show_progress=False)
    text = "the question is which answer a person would give: ice melts. Ann and the box. Answer: yes no Question"
    fast.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")  # no token goes over a space
    fast.train_from_iterator([text] * 4, trainer)
    made = json.loads(fast.to_str())
    made["pre_tokenizer"] = None
    made["added_tokens"] = made["added_tokens"][:3]
    made["model"]["merges"] = _all_merges(made["model"]["vocab"])
    post = processors.TemplateProcessing(single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 1)])
    made["post_processor"] = json.loads(post.__getstate__())
    (folder / "tokenizer.json").write_text(json.dumps(made))
    about = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    about |= {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    (folder / "tokenizer_config.json").write_text(json.dumps(about))
    _resize(folder, n_vocab, len(made["model"]["vocab"]))
    return folder


def _all_merges(vocab: dict[str, int]) -> list[tuple[str, str]]:
    """As SentencePiece merges: any two tokens that make a third; first where the third comes first."""
    merges = []
    for token in sorted(vocab, key=vocab.__getitem__)[259:]:
        splits = [(token[:i], token[i:]) for i in range(1, len(token))]
        merges += [(left, right) for left, right in splits if left in vocab and right in vocab]
    return merges


def _resize(folder: Path, n_old: int, n_vocab: int) -> None:
    from safetensors.numpy import load_file, save_file

    config = json.loads((folder / "config.json").read_text()) | {"vocab_size": n_vocab}
    config |= {"bos_token_id": 1, "eos_token_id": 2}
    (folder / "config.json").write_text(json.dumps(config))
    arrays = load_file(folder / "model.safetensors")
    rng = np.random.default_rng(2)
    for name, array in arrays.items():
        if array.shape[0] == n_old:
            arrays[name] = (rng.standard_normal((n_vocab, array.shape[1])) * array.std()).astype(np.float32)
    # Single bytes are never said: transformers makes more than one U+FFFD of a run of them that is no UTF-8.
    arrays["lm_head.weight"][3:259] = 0
    save_file(arrays, folder / "model.safetensors")


KINDS = {"stories": stories, "toy": toys.huggingface_llama, "like llama": like_llama}


@pytest.fixture(scope="module", params=KINDS)
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = KINDS[request.param](tmp_path_factory.mktemp("peer") / "model")
    return path


class Peer(HFLM):  # type: ignore[misc]
    """Answers what it was asked before from memory: both our backends are held against it."""

    def __init__(self, checkpoint: Path) -> None:
        decoder = transformers.AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
        tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint)
        super().__init__(pretrained=decoder, tokenizer=tokenizer, batch_size=1, device="cpu")
        self._known: dict[str, Any] = {}

    def answers(self, kind: str, asked: list[Any]) -> Any:
        key = repr((kind, [request.args for request in asked]))
        if key not in self._known:
            self._known[key] = getattr(self, kind)(copy.deepcopy(asked), disable_tqdm=True)
        return self._known[key]


@pytest.fixture(scope="module")
def theirs(checkpoint: Path) -> Iterator[Peer]:
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)  # more help nothing so small
    yield Peer(checkpoint)
    torch.set_num_threads(n_threads)


@pytest.fixture(scope="module", params=["native", "reference"])
def ours(request: pytest.FixtureRequest, checkpoint: Path) -> Iterator[IngleLM]:
    with ingle.load(checkpoint, backend=request.param, threads=1, kv_type="f32", n_slots=4) as model:
        yield IngleLM(model=model)


def instances(kind: str, folder: Path, tasks: list[str], n_items: int) -> list[Any]:
    """The requests of this kind of the first items of the tasks."""
    found = []
    with surroundings(offline=True):
        for task in tasks:
            [built] = build(plan_tasks([task], folder)[0])
            set_shots(built, None, seed=0)
            built.task.build_all_requests(limit=n_items)
            found += [request for request in built.task.instances if request.request_type == kind]
    return found


def requests(kind: str, *arguments: tuple[Any, ...]) -> list[Any]:
    return [Instance(request_type=kind, doc={}, arguments=each, idx=0) for each in arguments]


def expect_same(ours: IngleLM, theirs: Peer, asked: list[Any]) -> None:
    found, expected = ours.loglikelihood(asked), theirs.answers("loglikelihood", asked)
    np.testing.assert_allclose([one for one, _ in found], [one for one, _ in expected], rtol=2e-5, atol=1e-4)
    assert [greedy for _, greedy in found] == [greedy for _, greedy in expected]


def test_token_ids(ours: IngleLM, theirs: Peer) -> None:
    prefix = theirs.tokenizer.decode(theirs.prefix_token_id)
    for text in [*AWKWARD, prefix + "Ice", prefix]:
        for add in (None, False):
            assert ours.tok_encode(text, add) == theirs.tok_encode(text, add), (text, add)
    for first in AWKWARD:
        for second in AWKWARD:
            assert ours._encode_pair(first, second) == theirs._encode_pair(first, second), (first, second)
    assert ours.prefix_token_id == theirs.prefix_token_id
    assert ours.eot_token_id == theirs.eot_token_id
    assert ours.max_length == theirs.max_length


@pytest.mark.parametrize("by_itself", [True, False])
def test_the_beginning_of_a_text_can_be_forced_or_left_away(tmp_path: Path, by_itself: bool) -> None:
    """Both where the checkpoint's tokenizer begins a text by itself and where it does not."""
    folder = like_llama(tmp_path)
    if not by_itself:
        file = folder / "tokenizer.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"post_processor": None}))
    begun = []
    with ingle.load(folder, threads=1) as model:
        for wanted in (None, True, False):
            for prefix, texts in ((None, [*AWKWARD, "<s>Ice"]), (2, ["</s>", "</s> x", "Ice"])):
                asked = {"add_bos_token": wanted, "prefix_token_id": prefix}
                mine = IngleLM(model=model, **asked)
                peer = HFLM(pretrained=str(folder), batch_size=1, device="cpu", **asked)
                for text in texts:
                    for add in (None, False):
                        assert mine.tok_encode(text, add) == peer.tok_encode(text, add), (text, add, asked)
            begun.append(mine.tok_encode("Ice")[0] == model.tokenizer.bos_id)
    assert begun == [by_itself, True, False]


def test_likelihoods_of_tasks(ours: IngleLM, theirs: Peer, tmp_path: Path) -> None:
    tasks = ["arc_easy", "boolq", "piqa", "hellaswag", "winogrande", "truthfulqa_mc2", "lambada_openai"]
    expect_same(ours, theirs, instances("loglikelihood", data_folder(tmp_path), tasks, 1))


def test_likelihoods_of_published_items(ours: IngleLM, theirs: Peer) -> None:
    folder = shared("eval")
    tasks = ["arc_challenge", "boolq", "social_iqa", "openbookqa", "truthfulqa_mc1"]
    asked = instances("loglikelihood", folder, tasks, 2)
    assert len(asked) > 2 * len(tasks)
    expect_same(ours, theirs, asked)


def test_likelihoods_at_the_edges(ours: IngleLM, theirs: Peer) -> None:
    """No context, spaces at its end, control tokens in the text, one token only, more than the context holds."""
    rng = random.Random(0)
    words = [rng.choice(["the ", "ice ", "and ", "Ann ", "sand, "]) for _ in range(700)]
    prefix = theirs.tokenizer.decode(theirs.prefix_token_id)
    pairs = [("", "Ice melts"), ("", prefix + "Ice"), ("Ann ", "sat"), ("Ann  ", " sat"), ("Ann\n", "sat")]
    pairs += [(prefix + "Ann", " sat"), ("Ann <|im_end|></s>", " sat"), ("Ann", "s"), ("".join(words), "the end.")]
    expect_same(ours, theirs, requests("loglikelihood", *pairs))


def test_what_is_greedy_is_said_to_be(ours: IngleLM, theirs: Peer) -> None:
    prompts = ["Ann had a box", "Question: Is it?\nAnswer:"]
    said = theirs.answers("generate_until", requests("", *((text, {"max_gen_toks": 3}) for text in prompts)))
    pairs = [pair for pair in zip(prompts, said, strict=True) if pair[1]]
    assert pairs
    expect_same(ours, theirs, requests("loglikelihood", *pairs))


def test_rolling_likelihoods(ours: IngleLM, theirs: Peer) -> None:
    long = "Ann and the box. " * 60  # several windows
    asked = requests("loglikelihood_rolling", ("Ice melts.",), (long,), (theirs.tokenizer.decode(5) + "x",))
    found, expected = ours.loglikelihood_rolling(asked), theirs.answers("loglikelihood_rolling", asked)
    np.testing.assert_allclose(found, expected, rtol=2e-5)


def test_answers(ours: IngleLM, theirs: Peer, tmp_path: Path) -> None:
    asked = instances("generate_until", data_folder(tmp_path, "triviaqa"), ["triviaqa"], 2)
    kinds = [{"max_gen_toks": 16}, {"max_gen_toks": 9, "until": []}, {"max_gen_toks": 16, "until": " "}]
    arguments = [(request.args[0], request.args[1] | kind) for request in asked for kind in kinds]
    arguments.append(("word " * 300, {"max_gen_toks": 5, "until": ["\n\n"]}))  # loses its beginning
    made = requests("generate_until", *arguments)
    expected = theirs.answers("generate_until", made)
    assert ours.generate_until(made) == expected
    assert ours.n_cut >= 1
    assert any(expected)
