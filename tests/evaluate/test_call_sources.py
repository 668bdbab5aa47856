"""Public data sets as API-call items: from miniatures of their files, from wrong ones and, where they are, from all."""

from __future__ import annotations

import json
import lzma
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import request_files as files
from ingle.errors import DataError, UsageError
from ingle.evaluate.calls.item import Item
from ingle.evaluate.calls.sources import available, clinc, held_out, load_items, missing, nlu, sgd, snips
from ingle.evaluate.calls.sources import files as reading
from ingle.evaluate.calls.sources.request import Request, normalised, split_of
from request_files import HELD_OUT, there
from shared_data import DATA


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    files.write_all(tmp_path)
    return tmp_path


def text(item: Item) -> str:
    return str(item.messages[0]["content"])


# ---- the split


@pytest.mark.parametrize(
    ("said", "split"),
    [
        ("play some jazz", "train"),
        ("what's the weather in Oslo tomorrow", "train"),
        ("今天天气怎么样", "train"),
        ("", "train"),
        ("wake me at 42", "validation"),
        ("navigate home", "test"),
        ("wake me at 36", "test"),
    ],
)
def test_the_split_of_a_text_never_changes(said: str, split: str) -> None:
    assert split_of(said) == split


def test_the_split_is_blind_to_what_two_tellings_differ_in() -> None:
    assert normalised("  Wake me, at SIX!! ") == "wake me at six"
    for said in (f"Wake me at {number}" for number in range(200)):
        assert split_of(said) == split_of(f" {said.upper()} !") == split_of(said.replace(" ", "  "))


def test_a_tenth_is_test_and_a_fiftieth_validation() -> None:
    found = Counter(split_of(f"request number {number}") for number in range(20000))
    assert found["test"] == pytest.approx(2000, abs=150)
    assert found["validation"] == pytest.approx(400, abs=75)


# ---- each data set, by hand


def test_snips(tmp_path: Path) -> None:
    rows = [
        files.snips_row("Play ", ("Blue  Moon", "track"), " from the ", ("poi", "poi"), " at ", ("noon", "timeRange")),
        files.snips_row(("jazz", "genre"), " or ", ("folk", "genre")),  # a slot twice: left out
        files.snips_row(" "),
    ]
    files.write_snips(tmp_path, {"PlayMusic": rows})
    slots = (("track", "Blue Moon"), ("place", "poi"), ("time_range", "noon"))
    assert snips.requests(tmp_path) == [Request("Play Blue Moon from the poi at noon", "play_music", slots, "music")]


def test_snips_in_latin_1(tmp_path: Path) -> None:
    files.write_snips(tmp_path, {"GetWeather": [files.snips_row("rain?")]})
    data = json.dumps({"PlayMusic": [files.snips_row("play ", ("Café", "track"))]}, ensure_ascii=False)
    (tmp_path / "snips" / "train_PlayMusic_full.json").write_bytes(data.encode("latin-1"))
    assert [request.slots for request in snips.requests(tmp_path)] == [(), (("track", "Café"),)]


def test_hwu64_and_slurp(tmp_path: Path) -> None:
    files.write_hwu64(
        tmp_path,
        [
            *(files.hwu_example(f"lamp {n} in the attic", "iot_hue_lighton", house_place="attic") for n in range(3)),
            files.hwu_example("lamp of Anna on", "iot_hue_lighton", person="Anna"),  # too rare to be an argument
            files.hwu_example("tell me a joke", "general_joke"),
            files.hwu_example("you are kind", "general_praise", person="you"),
            files.hwu_example("what is this", "an_intent_unknown_here"),
        ],
    )
    room = (("room", "attic"),)
    assert nlu.hwu64(tmp_path) == [
        *(Request(f"lamp {n} in the attic", "lights_on", room, "light") for n in range(3)),
        Request("lamp of Anna on", "lights_on", (), "light"),
        Request("tell me a joke", None, (), "joke"),
        Request("you are kind", None, (), "talk"),
    ]
    rows = [files.slurp_row(f"make [timeofday : evening] call {n} at [time : six pm]", "alarm_set") for n in range(3)]
    rows.append(files.slurp_row("wake me at [time : six] or [time : seven]", "alarm_set"))  # a slot twice: left out
    files.write_lines(tmp_path / files.SLURP, rows)
    slots = (("time_of_day", "evening"), ("time", "six pm"))
    assert nlu.slurp(tmp_path) == [
        Request(f"make evening call {n} at six pm", "set_alarm", slots, "alarm") for n in range(3)
    ]


def test_clinc150(tmp_path: Path) -> None:
    files.write_clinc(
        tmp_path,
        train=[["when is  payday", "payday"]],
        val=[["set a timer", "timer"]],
        test=[["what are your hobbies", "what_are_your_hobbies"]],
        oos_val=[["why", "oos"]],
    )
    assert clinc.in_scope(tmp_path) == [
        Request("when is payday", "get_payday", (), "payday"),
        Request("set a timer", None, (), "alarm"),
        Request("what are your hobbies", None, (), "what_are_your_hobbies"),
    ]
    assert clinc.out_of_scope(tmp_path, "val") == [Request("why", None, (), "oos")]
    assert clinc.out_of_scope(tmp_path, "test") == []


def test_sgd(folder: Path) -> None:
    (bus,) = sgd.tools(folder, "train")["Buses_1"]
    assert (bus.name, bus.description, list(bus.parameters["properties"])) == ("find_bus", "FindBus it.", ["to", "day"])
    assert sgd.requests(folder, "train") == [
        ("Buses_1", Request("A bus to Oslo", "find_bus", (("to", "Oslo"),), "buses"))  # the fare is of a fixed list
    ]
    slots = (("to", "Rome"), ("day", "Friday"))
    assert ("Buses_3", Request("A bus to Rome on Friday", "find_bus", slots, "buses")) in sgd.requests(folder, "test")


def test_sgd_leaves_out_what_one_turn_cannot_tell(tmp_path: Path) -> None:
    schema = [service := files.service("Buses_1", "FindBus", ["to"], []), service | {"service_name": "Buses_2"}]
    dialogues = [
        files.dialogue("train", "Buses_1", "FindBus", "A bus to Oslo", to="Oslo"),
        files.dialogue("train", "Buses_1", "NONE", "Hello"),
        files.dialogue("train", "Hotels_1", "FindBus", "Another bus"),
        files.dialogue("train", "Buses_1", "FindBus", "A bus to the capital", to="Oslo"),
        files.dialogue("dev", "Buses_1", "FindBus", "A bus of another part"),
        files.dialogue("train", "Buses_1", "FindBus", "Which one?") | {"services": ["Buses_1", "Buses_2"]},
    ]
    files.write_sgd(tmp_path, {"train": schema}, dialogues)
    assert [request.text for _, request in sgd.requests(tmp_path, "train")] == ["A bus to Oslo"]


# ---- items


@pytest.mark.parametrize("source", HELD_OUT)
def test_items_are_sound_and_the_same_each_time(folder: Path, source: str) -> None:
    found = load_items([source], folder)
    expect_sound(found)
    assert found == load_items([source], folder)
    assert [item.id for item in found] == sorted(item.id for item in found)


def expect_sound(found: list[Item]) -> None:
    assert found
    assert len({item.id for item in found}) == len(found)
    assert len({(item.source, normalised(text(item))) for item in found}) == len(found)
    for item in found:
        tools = {tool.name: tool for tool in item.tools}
        assert 0 < len(tools) == len(item.tools) <= held_out.N_TOOLS
        for call in item.expected:
            assert call.arguments.keys() <= tools[call.name].parameters["properties"].keys()
            assert all(value and value in text(item) for (value,) in call.arguments.values())


def test_only_the_test_split_is_held_out(folder: Path) -> None:
    found = {source: [text(item) for item in load_items([source], folder)] for source in HELD_OUT}
    assert sorted(found["snips"]) == sorted(files.in_split("play {} now", "test", 3))
    assert sorted(found["hwu64"]) == sorted(
        [*files.in_split("wake me at {}", "test", 4), *files.in_split("you are {}", "test", 2)]
    )
    assert sorted(map(normalised, found["slurp"])) == sorted(files.in_split("wake me at {}", "test", 4))
    assert sorted(found["clinc150"]) == sorted(files.in_split("is it payday in {}", "test", 2))
    assert found["out_of_scope"] == ["why is test so"]  # the data set's own part
    assert found["sgd"] == ["A bus to Rome on Friday"]
    assert found["sgd_new"] == ["My alarms"]  # alarms are in no training part


def test_what_the_training_part_has_too_is_not_held_out(folder: Path) -> None:
    """Where data sets come split, both parts have some texts."""
    schemas = {
        "train": [files.service("Buses_1", "FindBus", [], [])],
        "test": [files.service("Buses_3", "FindBus", [], []), files.service("Alarm_1", "GetAlarms", [], [])],
    }
    openings = [("train", "A bus?"), ("test", "a  BUS"), ("test", "Another bus.")]
    dialogues = [
        files.dialogue(part, "Buses_1" if part == "train" else "Buses_3", "FindBus", said) for part, said in openings
    ]
    files.write_sgd(folder, schemas, dialogues)
    assert [text(item) for item in held_out.items("sgd", folder)] == ["Another bus."]
    assert [text(item) for item in held_out.items("sgd", folder, "train")] == ["A bus?"]
    files.write_clinc(folder, val=[["Why so?", "meaning_of_life"]], oos_test=[["why so", "oos"], ["why not", "oos"]])
    assert [text(item) for item in held_out.items("out_of_scope", folder)] == ["why not"]


def test_what_is_offered(folder: Path) -> None:
    for item in load_items(["hwu64", "clinc150", "out_of_scope"], folder):
        assert len(item.tools) == held_out.N_TOOLS
    for item in load_items(["hwu64"], folder):
        alarms = {"get_alarms", "remove_alarm", "set_alarm"}
        if item.expected:  # the others of the subject are what it can be mistaken for
            assert alarms <= {tool.name for tool in item.tools}
    assert {tool.name for item in load_items(["sgd"], folder) for tool in item.tools} == {"find_bus", "get_alarms"}


def test_no_tool_for_any_question_is_offered_out_of_scope(folder: Path) -> None:
    """It would fit most of these requests, which are questions; HWU64 has such a tool."""
    asked = [[f"why is test {n}", "oos"] for n in range(40)]
    files.write_clinc(folder, oos_test=asked)
    items = load_items(["out_of_scope"], folder)
    offered = {tool.name for item in items for tool in item.tools}
    assert len(items) == 40
    assert "answer_question" not in offered
    assert {"define", "get_news", "set_alarm"} <= offered


def test_a_text_of_two_services_gets_the_tools_of_the_first(tmp_path: Path) -> None:
    schema = [files.service("Media_1", "PlayMovie", [], []), files.service("Movies_1", "FindMovies", [], [])]
    said = "I'd like to watch a movie."
    dialogues = [
        files.dialogue("train", "Media_1", "PlayMovie", "Play Alien"),
        files.dialogue("test", "Media_1", "PlayMovie", said),
        files.dialogue("test", "Movies_1", "FindMovies", said),
    ]
    kinds = {"train": schema, "test": [*schema, *(files.service(f"Kind{n}_1", f"Do{n}", [], []) for n in range(9))]}
    files.write_sgd(tmp_path, kinds, dialogues)
    (item,) = held_out.items("sgd", tmp_path)
    assert item.expected[0].name == "play_movie"
    expect_sound([item])


def test_ids_and_offers_never_change(folder: Path) -> None:
    """Results are compared by these ids, and a text keeps its tools."""
    (item,) = load_items(["out_of_scope"], folder)
    assert item.id == "out_of_scope-9a42a29e3305"
    names = "get_news brighten_lights get_posts volume_up convert_currency check_food_order get_traffic find_events"
    assert [tool.name for tool in item.tools] == names.split()


def test_available_names_what_is_there(folder: Path, tmp_path: Path) -> None:
    assert available(folder) == HELD_OUT
    (folder / files.SLURP).unlink()
    assert "slurp" not in available(folder)
    data = tmp_path / "data"
    data.mkdir()
    assert available(data) == []
    folder_of_data = tmp_path / "more"
    (folder_of_data / "api_calls").mkdir(parents=True)
    files.write_all(folder_of_data / "api_calls")
    assert available(folder_of_data) == HELD_OUT
    assert load_items(["snips"], folder_of_data) == load_items(["snips"], folder_of_data / "api_calls")


def test_a_source_is_available_when_all_its_files_are(tmp_path: Path) -> None:
    """Requests out of scope are offered the tools of two other data sets, and SLURP's those of HWU64."""
    everything = tmp_path / "everything"
    everything.mkdir()
    files.write_all(everything)
    for name, found in ((files.CLINC, ["clinc150"]), (files.SLURP, []), (files.SGD, []), (files.HWU64, ["hwu64"])):
        some = tmp_path / name.partition(".")[0]
        some.mkdir()
        (some / name).write_bytes((everything / name).read_bytes())
        assert available(some) == found
        for source in available(some):
            expect_sound(load_items([source], some))
    simple = tmp_path / "bfcl" / "BFCL_v4_simple_python.json"
    simple.parent.mkdir()
    simple.touch()
    assert (available(tmp_path), missing("bfcl_simple", tmp_path)) == (
        [],
        ["bfcl/possible_answer/BFCL_v4_simple_python.json"],
    )


def test_sources_that_are_none() -> None:
    with pytest.raises(UsageError, match="no source of API calls named 'atis'; expected snips, hwu64"):
        load_items(["atis"], Path())
    with pytest.raises(UsageError, match="no source of requests named 'atis'"):
        held_out.items("atis", Path())


# ---- wrong files

FILES = {
    "snips": "snips/train_PlayMusic_full.json",
    "hwu64": files.HWU64,
    "slurp": files.SLURP,
    "clinc150": files.CLINC,
    "out_of_scope": files.CLINC,
    "sgd": files.SGD,
    "sgd_new": "sgd_schema_test.json",
}


@pytest.mark.parametrize("source", HELD_OUT)
def test_a_missing_file(folder: Path, source: str) -> None:
    (folder / FILES[source]).unlink()
    with pytest.raises(DataError, match=rf"{Path(FILES[source]).name} cannot be read: No such file"):
        load_items([source], folder)


@pytest.mark.parametrize("source", HELD_OUT)
@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b"7\n", b"null\n", b'"a"\n', b"[[]]\n"])
def test_a_file_of_something_else(folder: Path, source: str, content: bytes) -> None:
    path = folder / FILES[source]
    path.write_bytes(lzma.compress(content) if path.suffix == ".xz" else content)
    with pytest.raises(DataError):
        load_items([source], folder)


def test_xz_that_is_none_or_damaged_or_cut_short(folder: Path) -> None:
    path = folder / files.SGD
    whole = path.read_bytes()
    damaged = bytearray(whole)
    damaged[len(whole) // 2] ^= 0xFF
    for content, sentence in ((b"{}\n", "is damaged"), (bytes(damaged), "is damaged"), (whole[:-40], "ends too early")):
        path.write_bytes(content)
        with pytest.raises(DataError, match=f"{files.SGD} {sentence}"):
            load_items(["sgd"], folder)


def test_more_bytes_than_any_data_set_has(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Packed, a line without end is small."""
    monkeypatch.setattr(reading, "_MAX_BYTES", 1 << 16)
    (folder / files.SGD).write_bytes(lzma.compress(b" " * (1 << 17)))
    (folder / files.HWU64).write_bytes(b" " * (1 << 17))
    for source in ("sgd", "hwu64"):
        with pytest.raises(DataError, match="than 65,536 bytes"):
            load_items([source], folder)


SLOTS = [["Oslo", "to"]]
WRONG: dict[str, tuple[str, Callable[[Path, Any], None], list[Any]]] = {
    "snips": (
        "snips",
        lambda folder, row: files.write_snips(folder, {"PlayMusic": [row]}),
        [7, {}, {"data": 7}, {"data": [7]}, {"data": [{"text": 7}]}, {"data": [{"entity": "genre"}]}],
    ),
    "hwu64": (
        "hwu64",
        lambda folder, row: files.write_hwu64(folder, [row]),
        [
            7,
            {},
            {"text": "a", "intent": 7, "entities": []},
            {"text": "a", "intent": "alarm_set"},
            {"text": "a", "intent": "alarm_set", "entities": [{"entity": "time", "start": "0", "end": 1}]},
            {"text": "a", "intent": "alarm_set", "entities": [{"entity": 7, "start": 0, "end": 1}]},
            {"text": "a", "intent": "unknown", "entities": []},
        ],
    ),
    "slurp": (
        "slurp",
        lambda folder, row: files.write_lines(folder / files.SLURP, [row]),
        [{}, {"sentence": "a", "intent": "alarm_set"}, {"sentence": 7, "sentence_annotation": "a", "intent": "b"}],
    ),
    "clinc150": (
        "clinc150",
        lambda folder, row: files.write_clinc(folder, train=[row]),
        [7, [], ["a"], ["a", 7], ["a", "b", "c"]],
    ),
    "dialogues": (
        "sgd",
        lambda folder, row: files.write_lines(folder / files.SGD, [row]),
        [
            {"split": "test"},
            {"split": "test", "turns": [], "services": []},
            {"split": "test", "turns": [7], "services": []},
            {"split": "test", "turns": [{"u": 7}], "services": []},
            {"split": "test", "turns": [{"u": "a", "intent": "FindBus"}], "services": [[]]},
            {"split": "test", "turns": [{"u": "a", "intent": "FindBus", "slots": 7}], "services": ["Buses_3"]},
            {"split": "test", "turns": [{"u": "a", "intent": "FindBus", "slots": [7]}], "services": ["Buses_3"]},
            {"split": "test", "turns": [{"u": "a", "intent": "FindBus", "slots": [["a"]]}], "services": ["Buses_3"]},
            {"split": "test", "turns": [{"u": "a", "intent": "FindBus", "slots": [[[], 1]]}], "services": ["Buses_3"]},
            {"split": "unknown"},
        ],
    ),
    "schema": (
        "sgd",
        lambda folder, row: (folder / "sgd_schema_test.json").write_text(json.dumps([row])) and None,
        [
            7,
            {"service_name": "A_1", "slots": [], "intents": [7]},
            {"service_name": "A_1", "slots": 7, "intents": []},
            {"service_name": 7, "slots": [], "intents": []},
            {"service_name": "A_1", "slots": [{"name": []}], "intents": []},
            {
                "service_name": "A_1",
                "slots": [],
                "intents": [{"name": "B", "required_slots": [[]], "optional_slots": {}}],
            },
            {
                "service_name": "A_1",
                "slots": [],
                "intents": [{"name": "B", "required_slots": [], "optional_slots": []}],
            },
            {"service_name": "A_1", "slots": [], "intents": [{"name": 7, "required_slots": [], "optional_slots": {}}]},
        ],
    ),
}


@pytest.mark.parametrize(
    ("kind", "row"), [(kind, row) for kind, (_, _, rows) in WRONG.items() for row in rows], ids=lambda v: str(v)[:60]
)
def test_rows_of_another_shape(folder: Path, kind: str, row: Any) -> None:
    source, write, _ = WRONG[kind]
    write(folder, row)
    with pytest.raises(DataError) as caught:
        load_items([source], folder)
    assert str(caught.value)


# ---- the data sets themselves


@pytest.fixture(scope="module")
def real() -> dict[str, list[Item]]:
    return {source: load_items([source], DATA) for source in HELD_OUT}


@there
def test_how_many_items_there_are(real: dict[str, list[Item]]) -> None:
    assert {source: (len(found), sum(not item.expected for item in found)) for source, found in real.items()} == {
        "snips": (1321, 0),
        "hwu64": (1029, 175),
        "slurp": (199, 7),
        "clinc150": (718, 0),
        "out_of_scope": (996, 996),
        "sgd": (2199, 0),
        "sgd_new": (300, 0),
    }


@there
@pytest.mark.parametrize("source", HELD_OUT)
def test_all_items_are_sound(real: dict[str, list[Item]], source: str) -> None:
    expect_sound(real[source])
    size = 7 if source == "snips" else 8
    assert {len(item.tools) for item in real[source]} == {size}


@there
def test_no_test_item_is_a_training_request_of_any_data_set(real: dict[str, list[Item]]) -> None:
    folder = DATA / "api_calls"
    every = [*snips.requests(folder), *nlu.hwu64(folder), *nlu.slurp(folder), *clinc.in_scope(folder)]
    every += clinc.out_of_scope(folder, "train")
    every += [request for _, request in sgd.requests(folder, "train")]
    training = {normalised(request.text) for request in every if split_of(request.text) == "train"}
    assert len(training) > 40_000
    for source, found in real.items():
        assert [text(item) for item in found if normalised(text(item)) in training] == [], source


@there
def test_validation_is_apart_too(real: dict[str, list[Item]]) -> None:
    """Of SGD only apart from training: its own parts for validation and for tests share some openings."""
    for source in HELD_OUT:
        found = held_out.items(source, DATA / "api_calls", "validation")
        expect_sound(found)
        if not source.startswith("sgd"):
            tested = {normalised(text(item)) for item in real[source]}
            assert [text(item) for item in found if normalised(text(item)) in tested] == [], source
