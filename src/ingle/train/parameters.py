"""The names and shapes of a decoder's parameters, without making one."""

from __future__ import annotations

from collections.abc import Mapping

from ingle.errors import CheckpointError
from ingle.train.shape import Shape

__all__ = ["expect_parameters", "parameter_shapes"]


def parameter_shapes(shape: Shape) -> dict[str, tuple[int, ...]]:
    """GGUF name -> shape (rows first) of each parameter of a `Decoder`, in its order."""
    query, key = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    layer: dict[str, tuple[int, ...]] = {
        "attn_norm": (shape.width,),
        "attn_q": (query, shape.width),
        "attn_k": (key, shape.width),
        "attn_v": (key, shape.width),
        "attn_output": (shape.width, query),
    }
    if shape.qk_norm:
        layer |= {"attn_q_norm": (shape.head_dim,), "attn_k_norm": (shape.head_dim,)}
    layer["ffn_norm"] = (shape.width,)
    if shape.feed_forward == "swiglu":
        layer["ffn_gate"] = (shape.hidden, shape.width)
    layer |= {"ffn_up": (shape.hidden, shape.width), "ffn_down": (shape.width, shape.hidden)}
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (shape.vocabulary, shape.width)}
    shapes |= {f"blk.{i}.{name}.weight": size for i in range(shape.layers) for name, size in layer.items()}
    shapes["output_norm.weight"] = (shape.width,)
    return shapes if shape.tied else shapes | {"output.weight": (shape.vocabulary, shape.width)}


def expect_parameters(shape: Shape, found: Mapping[str, tuple[int, ...]], where: str) -> None:
    """Raise CheckpointError, naming the first tensor of `where` that is missing, too many or misshapen."""
    expected = parameter_shapes(shape)
    for name in (*expected, *(name for name in found if name not in expected)):
        if expected.get(name) != found.get(name):
            came = f"has it with shape {list(found[name])}" if name in found else "has none"
            wanted = f"of shape {list(expected[name])}" if name in expected else "of no such name"
            raise CheckpointError(
                f"A model of this shape has a tensor {name} {wanted}, and {where} {came}; the folder is incomplete "
                "or mixed up from two models: train or copy it again."
            )
