"""How many operations a second a device can do at most: what model FLOPs utilisation (MFU) is a share of."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from functools import cache

import torch

__all__ = ["Peak", "multiplies_bfloat16", "peak_flops"]

#: Dense bf16 teraflops with float32 sums, from the makers' data sheets, by words of the name: the first counts.
_PUBLISHED_TFLOPS: tuple[tuple[str, float], ...] = (
    ("GB200", 2500.0),
    ("B200", 2250.0),
    ("GH200", 989.4),
    ("H200 NVL", 835.5),
    ("H200", 989.4),
    ("H100 PCIe", 756.5),
    ("H100 NVL", 835.5),
    ("H100", 989.4),
    ("A100", 312.0),
    ("A10G", 70.0),
    ("A10", 125.0),
    ("A40", 149.7),
    ("L40S", 362.1),
    ("L40", 181.0),
    ("L4", 121.0),
    ("RTX 5090", 209.5),
    ("RTX 4090", 165.2),
    ("RTX 3090", 71.0),
    ("MI300X", 1307.4),
)
_NAMESAKES = re.compile(r"\b(Laptop|Max-Q|Ti|D|MIG)\b")  # smaller or larger chips, and slices of one

_SIZE = 2048
_MIN_RUNS, _SECONDS = 3, 0.3


@dataclass(frozen=True)
class Peak:
    """flops: operations a second. source: where the figure comes from, for whoever reads the MFU."""

    flops: float
    source: str


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether `device` has instructions for products in bfloat16."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    can = torch.cpu.get_capabilities() if device.type == "cpu" else {}
    return bool(can.get("amx_bf16") or can.get("avx512_bf16") or can.get("bf16"))


def peak_flops(device: torch.device) -> Peak:
    """The most that `device` does, with as many threads as PyTorch now has.

    Published for a known GPU. Else the best of some products of 2048 x 2048 matrices, in float32 or, where it has
    that, bf16, whichever is faster, which takes about a second, once a process.
    """
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        for words, tflops in _PUBLISHED_TFLOPS:
            # Whole words: an RTX A1000 is no A100, an RTX A4000 no A40.
            if re.search(rf"\b{words}\b", name) and not _NAMESAKES.search(name):
                return Peak(tflops * 1e12, f"{name}, published, bf16 dense")
    return _measured(device, torch.get_num_threads())


@cache
def _measured(device: torch.device, threads: int) -> Peak:
    # Without instructions for it, one product in bfloat16 can take half a minute.
    dtypes = (torch.bfloat16, torch.float32) if multiplies_bfloat16(device) else (torch.float32,)
    best, of = max((_product(device, dtype), str(dtype)[6:]) for dtype in dtypes)
    threaded = f" with {threads} threads" if device.type == "cpu" else ""
    return Peak(best, f"{of} matrix product of {_SIZE}, measured on {device.type}{threaded}")


@torch.no_grad()
def _product(device: torch.device, dtype: torch.dtype) -> float:
    a, b = torch.ones(2, _SIZE, _SIZE, device=device, dtype=dtype)
    least, began, runs = float("inf"), time.perf_counter(), 0
    while runs < _MIN_RUNS or time.perf_counter() - began < _SECONDS:
        start = time.perf_counter()
        (a @ b)[0, 0].item()  # waits for a GPU to finish
        least, runs = min(least, time.perf_counter() - start), runs + 1
    return 2 * _SIZE**3 / least
