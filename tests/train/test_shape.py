"""Shapes: the published parameter counts, and what is refused."""

from __future__ import annotations

import pytest

from ingle.errors import UsageError
from ingle.train.shape import SHAPES, Shape

PUBLISHED = {  # parameters of the checkpoints that the paper's authors publish
    "mobilellm-125m": 124_635_456,
    "mobilellm-350m": 345_355_200,
    "mobilellm-600m": 603_188_352,
    "mobilellm-1b": 1_005_461_760,
    "mobilellm-1.5b": 1_511_188_800,
}


@pytest.mark.parametrize("name", SHAPES)
def test_named_shapes_have_the_published_parameter_counts(name: str) -> None:
    assert SHAPES[name].n_parameters == PUBLISHED[name.removesuffix("-ls")]


def test_every_published_shape_has_a_sharing_variant_of_twice_the_depth() -> None:
    assert set(SHAPES) == {*PUBLISHED, *(f"{name}-ls" for name in PUBLISHED)}
    for name in PUBLISHED:
        plain, shared = SHAPES[name], SHAPES[f"{name}-ls"]
        assert len(shared.schedule) == 2 * len(plain.schedule)
        assert shared.schedule[:4] == (0, 0, 1, 1)


@pytest.mark.parametrize(
    ("sharing", "repeat", "schedule"),
    [
        ("none", 0, (0, 1)),
        ("immediate", 2, (0, 0, 1, 1)),
        ("immediate", 3, (0, 0, 0, 1, 1, 1)),
        ("repeat", 3, (0, 1, 0, 1, 0, 1)),
        ("reverse", 2, (0, 1, 1, 0)),
        ("reverse", 3, (0, 1, 1, 0, 0, 1)),
    ],
)
def test_sharing_schedules(sharing: str, repeat: int, schedule: tuple[int, ...]) -> None:
    assert Shape.from_dict({"layers": 2, "sharing": sharing, "repeat": repeat}).schedule == schedule


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"width": 64, "heads": 3}, "cannot be cut into 3 heads"),
        ({"width": 64, "heads": 4, "kv_heads": 3}, "cannot share 3 key/value heads"),
        ({"width": 36, "heads": 4, "kv_heads": 2}, "must be even"),
        ({"layers": 0}, "expected a whole number"),
        ({"layers": 10**9}, "expected a whole number"),
        ({"layers": True}, "expected a whole number"),
        ({"feed_forward": "swish"}, "expected one of swiglu"),
        ({"sharing": "twice"}, "expected one of none"),
        ({"repeat": 2}, "without sharing"),
        ({"sharing": "repeat", "repeat": 1000}, "from 1 to 64"),
        ({"depth": 3}, "has no setting 'depth'"),
        ({"layer": 3}, "did you mean layers?"),
        ({"shape": "mobilellm-7b"}, "Ingle knows mobilellm-125m"),
        ({"rope_theta": float("nan")}, "positive number"),
    ],
)
def test_impossible_shapes_are_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message.replace("?", r"\?")):
        Shape.from_dict(values)


def test_a_named_shape_takes_changes() -> None:
    shape = Shape.from_dict({"shape": "mobilellm-125m", "sharing": "reverse", "width": 288, "layers": 3})
    assert (shape.head_dim, shape.repeat, shape.layers) == (32, 2, 3)
    assert Shape.from_dict(shape.to_dict()) == shape
