"""GGUF, the one file format: reading, writing, quantising and dequantising.

with open_gguf("model.gguf") as file:
    file.metadata.get_str("general.architecture")
    tensor = file.tensors["token_embd.weight"]
    weights = dequantize(tensor.data, tensor.type, tensor.shape)
"""

from ingle.gguf.dequantize import dequantize, has_nonfinite_scales
from ingle.gguf.metadata import Metadata, StringArray, TypedValue, Value, ValueType
from ingle.gguf.policy import FileType, tensor_type_for
from ingle.gguf.quantize import QUANTIZABLE_TYPES, quantize
from ingle.gguf.reader import FileBytes, GGUFFile, TensorInfo, open_gguf, release_pages
from ingle.gguf.types import TensorType
from ingle.gguf.writer import TensorToWrite, write_gguf

__all__ = [
    "QUANTIZABLE_TYPES",
    "FileBytes",
    "FileType",
    "GGUFFile",
    "Metadata",
    "StringArray",
    "TensorInfo",
    "TensorToWrite",
    "TensorType",
    "TypedValue",
    "Value",
    "ValueType",
    "dequantize",
    "has_nonfinite_scales",
    "open_gguf",
    "quantize",
    "release_pages",
    "tensor_type_for",
    "write_gguf",
]
