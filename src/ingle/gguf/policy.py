"""Which type each tensor gets in a file of a given file type.

A file type such as Q4_K_M is a recipe: most matrices in one type, some that cost quality most (attn_v, ffn_down, the
output) in one with more bits. The recipes are those that people know from llama.cpp's quantisation tool, so that names
mean here what they mean elsewhere.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import Enum

from ingle.errors import UsageError
from ingle.gguf.types import TensorType as T

__all__ = ["FileType", "tensor_type_for"]


class FileType(Enum):
    """The recipes. The value is the number in the metadata key general.file_type."""

    base: T

    # name = (number, the type of most matrices)
    F32 = (0, T.F32)
    F16 = (1, T.F16)
    Q4_0 = (2, T.Q4_0)
    Q4_1 = (3, T.Q4_1)
    Q8_0 = (7, T.Q8_0)
    Q5_0 = (8, T.Q5_0)
    Q5_1 = (9, T.Q5_1)
    Q2_K = (10, T.Q2_K)
    Q3_K_S = (11, T.Q3_K)
    Q3_K_M = (12, T.Q3_K)
    Q3_K_L = (13, T.Q3_K)
    Q4_K_S = (14, T.Q4_K)
    Q4_K_M = (15, T.Q4_K)
    Q5_K_S = (16, T.Q5_K)
    Q5_K_M = (17, T.Q5_K)
    Q6_K = (18, T.Q6_K)
    IQ4_NL = (25, T.IQ4_NL)
    BF16 = (32, T.BF16)

    def __new__(cls, number: int, base: T) -> FileType:
        member = object.__new__(cls)
        member._value_ = number
        member.base = base
        return member

    @property
    def id(self) -> int:
        """The number for general.file_type."""
        return int(self.value)

    @classmethod
    def parse(cls, name: str) -> FileType:
        """The file type called `name`, in either case, such as "q4_k_m"; UsageError lists them."""
        try:
            return cls[name.strip().upper()]
        except KeyError:
            known = ", ".join(member.name.lower() for member in cls)
            raise UsageError(f'there is no file type called "{name}": choose one of {known}') from None


#: What replaces a type whose blocks do not divide a row: one of about as many bits with blocks of 32.
_FALLBACK = {T.Q2_K: T.Q4_0, T.Q3_K: T.Q4_0, T.Q4_K: T.Q5_0, T.Q5_K: T.Q5_1, T.Q6_K: T.Q8_0}

#: Small tensors that computations are sensitive to, or that are looked up rather than multiplied.
_KEPT_IN_FLOAT = re.compile(r"norm|ffn_gate_inp|position_embd|token_types|ssm_conv1d")

_LAYER = re.compile(r"blk\.(\d+)\.")


def tensor_type_for(
    file_type: FileType | str,
    name: str,
    shape: Sequence[int],
    n_layers: int,
    *,
    tied_embeddings: bool = False,
    queries_per_kv_head: int = 1,
    n_experts: int = 0,
) -> T:
    """The type of the tensor `name` (as in GGUF files) of `shape` (rows first) in a file of `file_type`.

    Vectors, norms and routers are F32. A row that is not whole blocks of the recipe's type gets one with smaller blocks
    (q2_k, q3_k -> q4_0; q4_k -> q5_0; q5_k -> q5_1; q6_k -> q8_0), and F16 when it is not a multiple of 32 either.
    `tied_embeddings` says that token_embd is the output matrix too and is treated as that.
    """
    if isinstance(file_type, str):
        file_type = FileType.parse(file_type)
    if len(shape) < 2 or not name.endswith(".weight") or _KEPT_IN_FLOAT.search(name):
        return T.F32
    wanted = file_type.base
    if wanted.is_quantized:
        found = _LAYER.match(name)
        layer = int(found[1]) if found else 0
        wanted = _recipe(file_type, name, layer, n_layers, tied_embeddings, queries_per_kv_head, n_experts)
    if shape[-1] % wanted.weights_per_block:
        wanted = _FALLBACK.get(wanted, T.F16)
    return wanted if shape[-1] % wanted.weights_per_block == 0 else T.F16


def _recipe(file: FileType, name: str, layer: int, n_layers: int, tied: bool, gqa: int, n_experts: int) -> T:
    """The type that the recipe wants, whatever the tensor's shape."""
    role = name.removesuffix(".weight").rpartition(".")[2]
    if role == "output" or (role == "token_embd" and tied):
        return T.Q8_0 if file is FileType.Q8_0 else T.Q6_K
    if role == "attn_v":
        return T.Q8_0 if n_experts == 8 else _attn_v(file, layer, n_layers, gqa)
    if role == "attn_k":
        return T.Q8_0 if n_experts == 8 else file.base
    if role.startswith("ffn_down"):
        return _ffn_down(file, layer, n_layers)
    if role == "attn_output":
        if n_experts == 8 and file in _RAISED_OUTPUT_WITH_EXPERTS:
            return T.Q5_K
        mixes = {FileType.Q2_K: T.Q3_K, FileType.Q3_K_M: T.Q4_K, FileType.Q3_K_L: T.Q5_K}
        return file.base if n_experts == 8 else mixes.get(file, file.base)
    if role == "attn_qkv":
        fused = {FileType.Q3_K_M: T.Q4_K, FileType.Q3_K_L: T.Q4_K, FileType.Q4_K_M: T.Q5_K, FileType.Q5_K_M: T.Q6_K}
        return fused.get(file, file.base)
    return file.base


_RAISED_OUTPUT_WITH_EXPERTS = frozenset(
    (FileType.Q2_K, FileType.Q3_K_S, FileType.Q3_K_M, FileType.Q4_K_S, FileType.Q4_K_M, FileType.IQ4_NL)
)


def _attn_v(file: FileType, layer: int, n_layers: int, gqa: int) -> T:
    match file:
        case FileType.Q2_K:
            return T.Q4_K if gqa >= 4 else T.Q3_K
        case FileType.Q3_K_M:
            return T.Q5_K if layer < 2 else T.Q4_K
        case FileType.Q3_K_L:
            return T.Q5_K
        case FileType.Q4_K_S:
            return T.Q5_K if layer < 4 else T.Q4_K
        case FileType.Q4_K_M | FileType.Q5_K_M:
            return T.Q6_K if _matters_more(layer, n_layers) else file.base
        case FileType.IQ4_NL:
            return T.Q5_K if gqa >= 4 else T.IQ4_NL
    return file.base


def _ffn_down(file: FileType, layer: int, n_layers: int) -> T:
    match file:
        case FileType.Q2_K:
            return T.Q3_K
        case FileType.Q3_K_M:
            return T.Q5_K if layer < n_layers // 16 else T.Q4_K
        case FileType.Q3_K_L:
            return T.Q5_K
        case FileType.Q4_K_S | FileType.IQ4_NL:
            return T.Q5_K if layer < n_layers // 8 else file.base
        case FileType.Q4_K_M | FileType.Q5_K_M:
            return T.Q6_K if _matters_more(layer, n_layers) else file.base
    return file.base


def _matters_more(layer: int, n_layers: int) -> bool:
    """The first and last eighth of the layers, and every third between."""
    eighth = n_layers // 8
    return layer < eighth or layer >= 7 * n_layers // 8 or (layer - eighth) % 3 == 2
