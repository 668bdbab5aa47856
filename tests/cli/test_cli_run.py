"""`ingle run` with one prompt: what goes where, and how it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

import toys
from cli.processes import INGLE, PATIENCE_S, Terminal, ingle
from ingle.cli import cli
from ingle.cli.report import quantile
from ingle.cli.run import model_and_prompt
from ingle.gguf import open_gguf
from ingle.text import Tokenizer

SHORT = ("--max-tokens", "6", "--seed", "1")


def invoke(*words: str | Path) -> tuple[int, str, str]:
    result = CliRunner().invoke(cli, list(map(str, words)))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def test_which_argument_is_which(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "checkpoint").mkdir()
    assert model_and_prompt(None, None) == (None, None)
    assert model_and_prompt("m.gguf", "hello") == ("m.gguf", "hello")
    assert model_and_prompt("m.gguf", None) == ("m.gguf", None)
    assert model_and_prompt("some/folder", None) == ("some/folder", None)
    assert model_and_prompt("checkpoint", None) == ("checkpoint", None)
    assert model_and_prompt("Once upon a time", None) == (None, "Once upon a time")
    assert model_and_prompt("What is 1/2 of 10?", None) == (None, "What is 1/2 of 10?")
    assert model_and_prompt("hello", None) == (None, "hello")
    assert model_and_prompt("-", None) == (None, "-")
    assert model_and_prompt("long " * 5000, None) == (None, "long " * 5000)
    assert model_and_prompt("nul\0", None) == (None, "nul\0")


def test_the_answer_is_all_there_is_on_stdout(plain: Path) -> None:
    done = ingle("run", plain, "the cat", *SHORT)
    record = json.loads(ingle("run", plain, "the cat", *SHORT, "--json").stdout)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == record["text"].removesuffix("\n") + "\n"
    assert not done.stdout.startswith("the cat")


def test_the_record(toy: Path) -> None:
    status, stdout, stderr = invoke("run", toy, "héllo", *SHORT, "--json", "--top-k", "7", "--backend", "reference")
    assert (status, stderr) == (0, "")
    assert stdout.count("\n") == 1
    record = json.loads(stdout)
    assert set(record) == {
        *("model", "family", "backend", "ingle", "context", "prompt", "text"),
        *("finish_reason", "tokens", "sampling", "timings"),
    }
    assert record["model"] == str(toy)
    assert (record["family"], record["backend"], record["context"]) == ("llama", "reference", 256)
    assert record["prompt"] == "héllo"
    assert record["finish_reason"] in ("length", "eos")
    assert len(record["tokens"]) == record["timings"]["n_tokens"] <= 6
    assert "".join(token["text"] for token in record["tokens"]) == record["text"]
    for token in record["tokens"]:
        assert set(token) == {"id", "text", "logprob", "time_s"}
        assert token["logprob"] < 0
    assert record["sampling"] == {
        "temperature": 0.8,
        "top_k": 7,
        "top_p": 0.95,
        "min_p": 0.05,
        "repeat_penalty": 1.0,
        "repeat_last_n": 64,
        "seed": 1,
        "frequency_penalty": 0.0,
        "presence_penalty": 0.0,
        "logit_bias": {},
    }
    timings = record["timings"]
    assert timings["prompt_tokens"] > len("hello")
    assert timings["cached_tokens"] == 0
    assert timings["ttft_s"] == record["tokens"][0]["time_s"]


def test_the_type_of_the_cache_reaches_the_model(toy: Path) -> None:
    found = {}
    for kv_type in ("f32", "f16", "q8", "q4"):
        record = json.loads(invoke("run", toy, "a", *SHORT, "--json", "--kv-type", kv_type)[1])
        found[kv_type] = record["tokens"][1]["logprob"]
    assert len(set(found.values())) == 4
    status, _, stderr = invoke("run", toy, "a", "--kv-type", "q5")
    assert status == 2
    assert "'f32', 'f16', 'q8', 'q4'" in stderr


def test_a_record_can_be_repeated(toy: Path) -> None:
    first = json.loads(invoke("run", toy, "a", "--max-tokens", "6", "--json")[1])
    again = json.loads(invoke("run", toy, "a", "--max-tokens", "6", "--json", "--seed", first["sampling"]["seed"])[1])
    assert again["text"] == first["text"]


def test_the_template_is_used_where_there_is_one(toy: Path, plain: Path) -> None:
    def prompt_tokens(*words: str | Path) -> int:
        status, stdout, _ = invoke("run", *words, *SHORT, "--json")
        assert status == 0
        count = json.loads(stdout)["timings"]["prompt_tokens"]
        assert isinstance(count, int)
        return count

    def length(text: str) -> int:
        return len(Tokenizer.from_metadata(open_gguf(toy).metadata).encode(text, parse_special=True))

    asked = "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n"
    assert prompt_tokens(plain, "hello") == prompt_tokens(toy, "hello", "--raw") == length("hello")
    assert prompt_tokens(toy, "hello") == length(asked)
    assert prompt_tokens(toy, "hello", "--system", "hush") == length("<|im_start|>system\nhush<|im_end|>\n" + asked)


def test_stop_strings_end_the_answer(endless: Path) -> None:
    status, stdout, _ = invoke("run", endless, "x", "--stop", "zz", "--stop", "aaaa", "--max-tokens", "50")
    assert (status, stdout) == (0, "")
    status, stdout, _ = invoke("run", endless, "x", "--max-tokens", "7")
    assert (status, stdout) == (0, "aaaaaaa\n")


def test_stdin_is_the_prompt(plain: Path) -> None:
    by_argument = json.loads(ingle("run", plain, "the é cat", *SHORT, "--json").stdout)
    by_pipe = json.loads(ingle("run", plain, "-", *SHORT, "--json", stdin="the é cat\n").stdout)
    assert by_pipe["prompt"] == "the é cat"
    assert by_pipe["text"] == by_argument["text"]
    bad = ingle("run", plain, "-", stdin=b"\xff\xfe")
    assert (bad.returncode, bad.stdout) == (2, "")
    assert "not UTF-8" in bad.stderr


def test_bytes_that_are_no_text_are_survived(plain: Path) -> None:
    process = subprocess.run(
        [*map(str.encode, INGLE), b"run", bytes(plain), b"caf\xe9", b"--json", b"--max-tokens", b"2"],
        capture_output=True,
        check=True,
    )
    assert json.loads(process.stdout)["prompt"] == "caf\udce9"
    assert process.stderr == b""


def test_a_locale_without_the_characters_is_survived(endless: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    done = ingle("run", endless, "é", "--json", "--max-tokens", "2")
    assert json.loads(done.stdout)["prompt"] == "é"
    assert ingle("run", endless, "x", "--max-tokens", "2").stdout == "aa\n"


def test_a_prompt_that_takes_long_shows_a_bar(endless: Path) -> None:
    words = ("--context", "10000", "--backend", "reference", "--max-tokens", "2")
    with Terminal("run", endless, "b" * 3_500, *words) as terminal:
        assert terminal.wait() == 0
        assert "Reading" in terminal.seen
        assert terminal.seen.rstrip().endswith("aa")


def test_verbose_tells_the_numbers_on_stderr(toy: Path) -> None:
    done = ingle("run", toy, "hello", *SHORT, "--verbose")
    for word in ("TTFT", "ITL", "p99", "tokens/s", "peak memory", "prefill", "decode", str(toy)):
        assert word in done.stderr
        assert word not in done.stdout
    assert "\x1b" not in done.stderr


def test_quantiles() -> None:
    assert quantile([3.0], 0.5) == 3
    assert quantile([1, 2, 3, 4], 0.5) == 2
    assert quantile(list(range(1, 101)), 0.99) == 99
    assert quantile(list(range(1, 102)), 0.99) == 100


def test_text_comes_as_it_is_made(endless: Path) -> None:
    process = subprocess.Popen(
        [*INGLE, "run", str(endless), "x", "--max-tokens", "100000", "--context", "110000"], stdout=subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        assert process.stdout.read(1) == b"a"
        assert process.poll() is None
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("as_json", [False, True])
def test_ctrl_c_keeps_what_was_said(endless: Path, as_json: bool) -> None:
    words = ["run", str(endless), "x", "--context", "110000", "--verbose"]
    began = time.monotonic()
    ingle(*words, "--max-tokens", "1")
    start_s = time.monotonic() - began  # what it takes on this machine, now
    words += ["--max-tokens", "100000"]
    process = subprocess.Popen(
        [*INGLE, *words, *(["--json"] if as_json else [])],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler) and None,
    )
    assert process.stdout is not None
    if as_json:
        time.sleep(2 * start_s)  # nothing is printed before the end that could be waited for
        head = b""
    else:
        head = process.stdout.read(5)
    process.send_signal(signal.SIGINT)
    rest, stderr = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130, stderr
    assert b"Traceback" not in stderr
    if as_json:
        record = json.loads(rest)
        assert record["finish_reason"] == "interrupted"
        assert set(record["text"]) == {"a"}
    else:
        assert (head + rest).decode().strip("a") == "\n"
        assert b"tokens/s" in stderr


def test_a_reader_that_has_enough_ends_it_quietly(endless: Path) -> None:
    words = [*INGLE, "run", str(endless), "x", "--max-tokens", "100000", "--context", "110000"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.read(3) == b"aaa"
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(PATIENCE_S) == 0


def test_on_a_terminal_the_prompt_is_shown_and_control_characters_are_not(plain: Path) -> None:
    with Terminal("run", plain, "the cat \x1b]0;title\x07", *SHORT) as terminal:
        assert terminal.wait() == 0
        assert "the cat ]0;title" in terminal.seen
        assert "\x1b]0" not in terminal.raw
        assert "\x1b[2m" in terminal.raw


def test_on_a_terminal_a_continued_prompt_is_shown_and_a_question_is_not(toy: Path, tmp_path: Path) -> None:
    story = toys.toy_gguf(tmp_path / "story.gguf", template="{% for m in messages %}{{ m.content }}{% endfor %}")
    for model, shown in ((story, True), (toy, False)):
        with Terminal("run", model, "the cat", *SHORT) as terminal:
            assert terminal.wait() == 0
            assert terminal.seen.startswith("the cat") == shown
        assert not ingle("run", model, "the cat", *SHORT).stdout.startswith("the cat")


def test_a_cut_nobody_asked_for_is_told(endless: Path) -> None:
    with Terminal("run", endless, "x") as terminal:
        assert terminal.wait() == 0
        assert "a" * 100 in terminal.seen.replace("\n", "")
        assert "cut after 512 tokens; --max-tokens" in terminal.seen
    with Terminal("run", endless, "x", "--max-tokens", "5") as terminal:
        assert terminal.wait() == 0
        assert "cut" not in terminal.seen


def test_no_colour_where_none_is_wanted(plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    with Terminal("run", plain, "the cat", *SHORT, "--verbose") as terminal:
        assert terminal.wait() == 0
        assert "the cat" in terminal.raw
        assert "tokens/s" in terminal.raw
        assert "\x1b[" not in terminal.raw


def test_loading_that_takes_long_shows_a_bar(plain: Path) -> None:
    script = (
        "import ingle.cli.console as c, time; c.SLOW_S = 0.05\n"
        "with c.loading_bar('Loading') as report:\n"
        "    for n in range(5): report(n, 5); time.sleep(0.1)\n"
    )
    import pty

    master, slave = pty.openpty()
    subprocess.run([sys.executable, "-c", script], stderr=slave, check=True, env=os.environ | {"TERM": "xterm"})
    os.close(slave)
    shown = os.read(master, 65536).decode()
    os.close(master)
    assert "Loading" in shown
    quiet = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert quiet.stderr == b""
