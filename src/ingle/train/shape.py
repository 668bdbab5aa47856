"""What a small decoder looks like: every choice of MobileLLM (Liu et al., arXiv 2402.14905), as numbers and words.

The named shapes are those of the paper's table; their parameter counts are the published ones, exactly.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, get_args

from ingle.errors import UsageError
from ingle.models.families.mobilellm import schedule_of
from ingle.train.tables import hint

__all__ = ["SHAPES", "FeedForward", "Shape", "Sharing", "named_shape"]

FeedForward = Literal["swiglu", "gelu", "relu", "relu2"]
Sharing = Literal["none", "immediate", "repeat", "reverse"]

_LIMIT = 2**24
_MAX_LAYERS = 1024
_MAX_REPEAT = 64


@dataclass(frozen=True, slots=True)
class Shape:
    """A decoder to train. Letters as in `models.spec`: V, E, L layers with weights, H, K, D, F.

    feed_forward: "swiglu" is down(silu(gate x) * up x), three matrices; the others are down(act(up x)), two matrices;
    "relu" is the paper's baseline, "relu2" the square of it (So et al., arXiv 2109.08668).
    tied: the output matrix is the embedding. qk_norm: each head of q and k is RMS-normed before the rotation
    (Henry et al., arXiv 2010.04245; weights as in Qwen 3).
    sharing, repeat: each layer's weights are used `repeat` times, in the order of `schedule`. With sharing "none" the
    repeat is 1.
    """

    vocabulary: int = 32000
    width: int = 576
    layers: int = 30
    heads: int = 9
    kv_heads: int = 3
    head_dim: int = 0  # 0 stands for width / heads
    hidden: int = 1536
    feed_forward: FeedForward = "swiglu"
    tied: bool = True
    qk_norm: bool = False
    sharing: Sharing = "none"
    repeat: int = 0  # 0 stands for 1 without sharing and 2 with it
    context: int = 2048
    rope_theta: float = 10000.0
    norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        for name, limit in (
            *((n, _LIMIT) for n in ("vocabulary", "width", "hidden", "context")),
            *((n, 2**16) for n in ("heads", "kv_heads")),
            ("layers", _MAX_LAYERS),
        ):
            _expect_count(name, getattr(self, name), limit)
        for name, known in (("feed_forward", get_args(FeedForward)), ("sharing", get_args(Sharing))):
            if getattr(self, name) not in known:
                raise UsageError(f"{name} is {getattr(self, name)!r}; expected one of {', '.join(known)}.")
        if self.heads % self.kv_heads:
            raise UsageError(
                f"{self.heads} query heads cannot share {self.kv_heads} key/value heads evenly; choose a kv_heads "
                f"that divides {self.heads}."
            )
        if self.head_dim == 0:
            if self.width % self.heads:
                raise UsageError(
                    f"A width of {self.width} cannot be cut into {self.heads} heads; choose a width that is a "
                    "multiple of heads, or set head_dim."
                )
            object.__setattr__(self, "head_dim", self.width // self.heads)
        _expect_count("head_dim", self.head_dim, 2**16)
        if self.head_dim % 2:
            raise UsageError(f"Heads of {self.head_dim} dimensions cannot be rotated in pairs; head_dim must be even.")
        if self.repeat == 0:
            object.__setattr__(self, "repeat", 1 if self.sharing == "none" else 2)
        _expect_count("repeat", self.repeat, _MAX_REPEAT)
        if self.sharing == "none" and self.repeat != 1:
            raise UsageError(
                f'repeat is {self.repeat} without sharing; set sharing to "immediate", "repeat" or "reverse".'
            )
        for name in ("rope_theta", "norm_eps"):
            value = getattr(self, name)
            if not (isinstance(value, int | float) and 0 < value < 1e12):
                raise UsageError(f"{name} is {value!r}; expected a positive number.")

    @property
    def schedule(self) -> tuple[int, ...]:
        """The layer whose weights each pass uses."""
        return schedule_of("repeat" if self.sharing == "none" else self.sharing, self.layers, self.repeat)

    @property
    def n_matrix_parameters(self) -> int:
        """Weights in the matrices of all layers, without embedding, output and norms."""
        attention = 2 * self.width * self.head_dim * (self.heads + self.kv_heads)
        return self.layers * (attention + (3 if self.feed_forward == "swiglu" else 2) * self.width * self.hidden)

    @property
    def n_parameters(self) -> int:
        """All weights, each counted once however often it is used."""
        norms = self.layers * (2 * self.width + (2 * self.head_dim if self.qk_norm else 0)) + self.width
        return self.n_matrix_parameters + norms + (1 if self.tied else 2) * self.vocabulary * self.width

    def flops_per_token(self, positions: int) -> float:
        """Floating-point operations that training on one token takes, forward and backward, in rows of `positions`.

        Counted as in PaLM (Chowdhery et al., arXiv 2204.02311, appendix B), with causal attention counted for the
        half of the square that is needed: 6 for each weight that multiplies, as often as it is used, and
        6 * positions * heads * head_dim for each pass. Embedding look-ups count nothing; the output matrix does.
        """
        matrices = self.n_matrix_parameters * self.repeat + self.vocabulary * self.width
        return 6.0 * matrices + 6.0 * len(self.schedule) * positions * self.heads * self.head_dim

    def to_dict(self) -> dict[str, Any]:
        """Every field, ready for JSON or TOML."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Shape:
        """The shape that `values` describe; `shape` names the one to begin from. Raises UsageError."""
        values = dict(values)
        base = named_shape(values.pop("shape")) if "shape" in values else None
        known = {field.name: field for field in fields(cls)}
        for name, value in values.items():
            if name not in known:
                raise UsageError(f"A model has no setting {name!r}; {hint(name, known)}")
            kind = type(known[name].default)
            if kind is float and type(value) is int:
                values[name] = float(value)
            elif type(value) is not kind:
                raise UsageError(f"{name} is {value!r}; expected {_KINDS[kind]}.")
        if base is None:
            return cls(**values)
        derived = {"head_dim"} if {"width", "heads"} & values.keys() else set()
        derived |= {"repeat"} if "sharing" in values else set()
        return replace(base, **(dict.fromkeys(derived, 0) | values))


_KINDS: dict[type, str] = {int: "a whole number", bool: "true or false", str: "a word in quotes", float: "a number"}


def _expect_count(name: str, value: object, limit: int) -> None:
    if type(value) is not int or not 0 < value <= limit:
        raise UsageError(f"{name} is {value!r}; expected a whole number from 1 to {limit}.")


#: MobileLLM's shapes (the paper's table of architectures), by their names; "-ls" shares layers, immediately, twice.
SHAPES: dict[str, Shape] = {
    "mobilellm-125m": Shape(width=576, layers=30, heads=9, kv_heads=3, hidden=1536),
    "mobilellm-350m": Shape(width=960, layers=32, heads=15, kv_heads=5, hidden=2560),
    "mobilellm-600m": Shape(width=1152, layers=40, heads=18, kv_heads=6, hidden=3072),
    "mobilellm-1b": Shape(width=1280, layers=54, heads=20, kv_heads=5, hidden=3584),
    "mobilellm-1.5b": Shape(width=1600, layers=54, heads=25, kv_heads=5, hidden=4352),
}
SHAPES |= {f"{name}-ls": replace(shape, sharing="immediate", repeat=2) for name, shape in SHAPES.items()}


def named_shape(name: object) -> Shape:
    """The shape called `name`. Raises UsageError that lists the known ones."""
    if not isinstance(name, str) or name not in SHAPES:
        raise UsageError(f"There is no shape {name!r}; Ingle knows {', '.join(SHAPES)}.")
    return SHAPES[name]
