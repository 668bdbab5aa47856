"""`ingle run --tools`: calls as JSON on stdout, or the model's sentence."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import toys
from ingle.cli import cli
from ingle.cli import run as module
from ingle.cli.calls import CallWriter, tools_of
from ingle.text.calls.hermes import HERMES
from ingle.text.calls.scanner import CallScanner
from ingle.text.grammar import Grammar
from ingle.text.tools import Tool
from ingle.train.data.conversation import CHAT_TEMPLATE
from tool_calls import call

EXAMPLE = Path(__file__).parents[2] / "examples" / "tools.json"
END = toys.vocabulary().index("<|im_end|>")
ALARM = call("set_alarm", time="six", date="tomorrow")
WEATHER = call("get_weather", city="Zürich")


@pytest.fixture
def says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[dict[str, Any]]]:
    """Has `ingle run` open a model that says these answers; gives the options that it is opened with."""
    path = toys.toy_gguf(tmp_path / "toy.gguf", template=CHAT_TEMPLATE, n_context=4096)
    opened: list[dict[str, Any]] = []

    def script(*texts: str) -> list[dict[str, Any]]:
        tokenizer = toys.scripted_model(path, toys.hashed(9))[0].tokenizer

        def open_model(_: str | None, options: dict[str, Any]) -> Any:
            opened.append(options)
            return toys.scripted_model(path, toys.answers(tokenizer, texts, END))[0]

        monkeypatch.setattr(module, "open_model", open_model)
        return opened

    return script


def invoke(*words: str | Path, stdin: str | None = None) -> tuple[int, str, str]:
    result = CliRunner().invoke(cli, ["run", *map(str, words)], input=stdin)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def test_the_example_has_tools_that_grammars_can_follow() -> None:
    tools = tools_of(EXAMPLE)
    assert {tool.name for tool in tools} >= {"set_alarm", "get_weather", "play_music", "set_timer", "set_light"}
    assert Grammar.tool_calls(tools).warnings == ()


@pytest.mark.parametrize("how", [(), ("--no-grammar",)])
def test_a_call_is_json_on_stdout(says: Callable[..., Any], how: tuple[str, ...]) -> None:
    says(ALARM)
    status, stdout, stderr = invoke("--tools", EXAMPLE, "wake me at six tomorrow", *how)
    assert (status, stderr) == (0, "")
    assert stdout == '{"name": "set_alarm", "arguments": {"time": "six", "date": "tomorrow"}}\n'


def test_calls_are_one_a_line(says: Callable[..., Any]) -> None:
    says(f"{ALARM}\n{WEATHER}")
    status, stdout, _ = invoke("--tools", EXAMPLE, "wake me, and the weather")
    assert status == 0
    assert [json.loads(line)["name"] for line in stdout.splitlines()] == ["set_alarm", "get_weather"]
    assert "Zürich" in stdout


def test_a_sentence_where_no_tool_fits(says: Callable[..., Any]) -> None:
    says("None of the tools can do that.")
    assert invoke("--tools", EXAMPLE, "sing") == (0, "None of the tools can do that.\n", "")


def test_the_grammar_holds_calls_to_the_schemas(says: Callable[..., Any]) -> None:
    """A model that would name a tool that is not there writes one that is: here of as many tokens, so it goes on."""
    says(call("set_alarn", time="six"))
    _, held, _ = invoke("--tools", EXAMPLE, "wake me")
    _, free, _ = invoke("--tools", EXAMPLE, "wake me", "--no-grammar")
    assert json.loads(held) == {"name": "set_alarm", "arguments": {"time": "six"}}
    assert json.loads(free) == {"name": "set_alarn", "arguments": {"time": "six"}}


def test_copied_arguments_are_words_of_the_prompt(says: Callable[..., Any], tmp_path: Path) -> None:
    """A model that would correct what was typed copies it."""
    says(call("play", genre="jazz"))
    path = tmp_path / "play.json"
    parameters = {"type": "object", "properties": {"genre": {"type": "string"}}}
    path.write_text(json.dumps({"name": "play", "parameters": parameters}))
    for words, genre in (((), "jazz"), (("--copy",), "jazs")):
        status, stdout, stderr = invoke("--tools", path, "play some jazs", *words)
        assert (status, stderr) == (0, "")
        assert json.loads(stdout) == {"name": "play", "arguments": {"genre": genre}}


def test_text_around_calls_and_broken_calls(says: Callable[..., Any]) -> None:
    says(f"  Sure:\n{ALARM} and\n<tool_call>{{</tool_call>{WEATHER} done. ")
    status, stdout, stderr = invoke("--tools", EXAMPLE, "a", "--no-grammar")
    assert status == 0
    lines = stdout.splitlines()
    assert lines[0] == "Sure:"
    assert [json.loads(line)["name"] for line in lines[1:3]] == ["set_alarm", "get_weather"]
    assert " ".join(lines[3:]).split() == ["and", "done."]
    assert stderr.startswith("A call is not JSON: ")


def test_the_record_has_the_calls(says: Callable[..., Any]) -> None:
    says(ALARM)
    status, stdout, _ = invoke("--tools", EXAMPLE, "wake me", "--json")
    record = json.loads(stdout)
    assert status == 0
    assert record["calls"] == [{"name": "set_alarm", "arguments": {"time": "six", "date": "tomorrow"}}]
    assert record["problems"] == []
    assert record["text"] == ALARM
    assert record["finish_reason"] == "eos"


def test_a_call_that_is_cut_off_is_told(says: Callable[..., Any]) -> None:
    says(ALARM)
    status, stdout, stderr = invoke("--tools", EXAMPLE, "wake me", "-n", "30")
    assert (status, stdout) == (0, "")
    assert "has no end" in stderr


@pytest.mark.parametrize(("words", "temperature"), [((), 0.0), (("-t", "0.5"), 0.5), (("--temperature", "0.8"), 0.8)])
def test_the_temperature_is_0_unless_said(says: Callable[..., Any], words: tuple[str, ...], temperature: float) -> None:
    says(ALARM)
    sampling = json.loads(invoke("--tools", EXAMPLE, "wake me", "--json", *words)[1])["sampling"]
    assert sampling["temperature"] == temperature


def test_what_a_person_types_is_not_printed_as_a_call(says: Callable[..., Any]) -> None:
    says("No tool fits.")
    status, stdout, _ = invoke("--tools", EXAMPLE, "--json", ALARM)
    assert status == 0
    assert json.loads(stdout)["calls"] == []


def test_calls_in_a_conversation(says: Callable[..., Any]) -> None:
    opened = says("Hello.", ALARM, "Bye.")
    status, stdout, stderr = invoke("toy.gguf", "--tools", EXAMPLE, stdin="hi\nwake me\nbye\n")
    assert (status, stderr) == (0, "")
    assert stdout == 'Hello.\n{"name": "set_alarm", "arguments": {"time": "six", "date": "tomorrow"}}\nBye.\n'
    assert len(opened) == 1


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "cannot be read"),
        ("[", "is not JSON (line 1)"),
        ("\ud800", "is not JSON"),
        ("[" * 5000, "is not JSON"),
        ("[]", "has no tools"),
        ("7", "a number"),
        ('[{"name": "f", "parameters": {"properties": {"a": {"type": "file"}}}}]', "'file'"),
        ('[{"name": "f", "parameters": {"properties": {"a": {"type": "string", "pattern": "(?=a)"}}}}]', "look-around"),
        (" " * (1 << 22) + "[]", "bytes"),
    ],
)
def test_a_file_of_no_tools_is_a_sentence(
    says: Callable[..., Any], tmp_path: Path, content: str | None, said: str
) -> None:
    opened = says(ALARM)
    path = tmp_path / "t.json"
    if content is not None:
        path.write_bytes(content.encode("utf-8", "surrogatepass"))
    status, stdout, stderr = invoke("--tools", path, "wake me")
    assert (status, stdout) == (2, "")
    assert said in stderr
    assert stderr.count("\n") == 1
    assert opened == [], "it is said before a model is loaded"


def test_what_the_grammar_leaves_open_is_told(says: Callable[..., Any], tmp_path: Path) -> None:
    says("Hello.")
    path = tmp_path / "t.json"
    properties = {"a": {"type": "array", "uniqueItems": True}}
    path.write_text(json.dumps({"name": "f", "parameters": {"type": "object", "properties": properties}}))
    status, stdout, stderr = invoke("--tools", path, "hi")
    assert (status, stdout) == (0, "Hello.\n")
    assert "uniqueItems" in stderr


def test_options_that_do_not_go_together(plain: Path) -> None:
    for words, said in (
        (("--tools", EXAMPLE, "--raw", "a"), "--raw"),
        (("--no-grammar", "a"), "--tools"),
        ((plain, "--tools", EXAMPLE, "a"), "needs a chat template"),
        ((plain, "--tools", EXAMPLE), "needs a chat template"),
        (("--copy", "a"), "--copy limits the calls"),
        (("--copy", "--tools", EXAMPLE, "--no-grammar", "a"), "--copy limits the calls"),
        ((plain, "--copy", "--tools", EXAMPLE), "--copy limits the calls"),
    ):
        status, stdout, stderr = invoke(*words)
        assert (status, stdout) == (2, "")
        assert said in stderr


def test_text_is_written_as_it_comes(capsys: pytest.CaptureFixture[str]) -> None:
    writer = CallWriter(CallScanner(HERMES))
    writer.write("\n Hel")
    assert capsys.readouterr().out == "Hel"
    writer.write("lo <tool")
    assert capsys.readouterr().out == "lo"
    writer.write(" box>")
    assert capsys.readouterr().out == " <tool box>"
    for piece in ("<tool", '_call>{"name": ', '"f"}</tool_', "call> "):
        writer.write(piece)
    assert capsys.readouterr().out == ""
    writer.end()
    assert capsys.readouterr().out == '\n{"name": "f", "arguments": {}}\n'


def test_tools_need_no_description() -> None:
    assert Grammar.tool_calls([Tool("f")]).warnings == ()
