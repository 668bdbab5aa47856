"""The WebAssembly module as a backend: Node runs it in another process, and every call crosses a pipe."""

from __future__ import annotations

import json
import struct
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from ingle import errors
from ingle.backends.base import Rows
from ingle.models.spec import Activation, KVType, NormKind, Spec
from ingle.models.tensor import Tensor

RUNNER = Path(__file__).parent / "run_wasm.mjs"
KINDS = ("embedding", "attention", "feed_forward", "output")
KV_TYPES = get_args(KVType)
MATRICES = frozenset({"weight", "q", "k", "v", "o", "gate", "up", "down", "router"})


@dataclass(frozen=True)
class Room:
    """An argument: memory of so many bytes that the function fills."""

    n_bytes: int


class Module:
    """A module in a Node of its own. Close it."""

    def __init__(self, node: str, path: Path, *options: str) -> None:
        self.process = subprocess.Popen([node, *options, RUNNER, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.filled = b""  # by the last call

    def call(self, function: str, *arguments: float | str | bytes | Room) -> float:
        """What the function returns: numbers, and addresses as numbers."""
        plain: list[Any] = []
        payload = bytearray()
        for argument in arguments:
            if isinstance(argument, bytes):
                plain.append({"bytes": [len(payload), len(payload) + len(argument)]})
                payload += argument
            elif isinstance(argument, str):
                plain.append({"text": argument})
            else:
                plain.append({"room": argument.n_bytes} if isinstance(argument, Room) else argument)
        request = json.dumps({"function": function, "arguments": plain, "n_bytes": len(payload)}).encode()
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(struct.pack("<I", len(request)) + request + payload)
        self.process.stdin.flush()
        length = self.process.stdout.read(4)
        assert length, f"Node ended in {function}"
        reply = json.loads(self.process.stdout.read(*struct.unpack("<I", length)))
        self.filled = self.process.stdout.read(reply["n_bytes"])
        self.error = reply["error"]
        return float(reply["result"])

    def made(self, function: str, *arguments: float | str | bytes | Room) -> int:
        """What a function returns that must not return 0. Raises the error of `ingle.errors` that the module names."""
        result = int(self.call(function, *arguments))
        if result == 0:
            kind, _, message = self.error.partition(": ")
            raise getattr(errors, kind)(message)
        return result

    def close(self) -> None:
        self.process.terminate()
        self.process.communicate()


@dataclass
class WasmState:
    module: Module
    session: int
    n_rows: int
    width: int

    @property
    def delta(self) -> NDArray[np.float32]:
        """A copy."""
        self.module.call("read", self.module.made("delta", self.session), 4 * self.n_rows * self.width)
        return np.frombuffer(self.module.filled, np.float32).reshape(self.n_rows, self.width)


@dataclass
class WasmCache:
    module: Module
    address: int

    def copy(self, source: int, target: int, n_positions: int) -> None:
        self.module.made("copy_cache", self.address, source, target, n_positions)


class WasmBackend:
    """See `ingle.backends.base.Backend`."""

    def __init__(self, module: Module, spec: Spec) -> None:
        self.module, self.spec = module, spec
        self.session = module.made("new_decoder", self._spec())

    def _spec(self) -> int:
        spec, call = self.spec, self.module.made
        native = call("new_spec")
        fields: dict[str, float] = {
            name: getattr(spec, name)
            for name in (
                *("n_vocab", "n_embd", "n_ff", "n_heads", "n_kv_heads", "head_dim", "norm_eps", "gated", "parallel"),
                *("post_norm", "score_scale", "attention_softcap", "embed_scale", "logit_scale", "logit_softcap"),
            )
        }
        fields["norm"] = get_args(NormKind).index(spec.norm)
        fields["activation"] = get_args(Activation).index(spec.activation)
        fields["qk_norm"] = spec.qk_norm == "head"
        if spec.experts is not None:
            fields |= {"n_experts": spec.experts.n_experts, "n_experts_used": spec.experts.n_used}
            fields |= {"n_expert_ff": spec.experts.n_ff, "experts_normalised": spec.experts.normalised}
        for name, value in fields.items():
            call("set", native, name, float(value))
        call("set_alibi", native, np.array(spec.alibi_slopes, np.float32).tobytes(), len(spec.alibi_slopes))
        ropes: list[Any] = []
        for p in range(spec.n_passes):
            rope = spec.rope_of(p)
            if rope is not None and rope not in ropes:
                ropes.append(rope)
                frequencies = np.array(rope.frequencies).tobytes()
                call("add_rope", native, int(rope.style == "half"), rope.magnitude, frequencies, len(rope.frequencies))
            call("add_pass", native, spec.window_of(p), -1 if rope is None else ropes.index(rope))
        return native

    def _block(self, kind: str, tensors: Mapping[str, Tensor], shared: int = 0) -> int:
        weights = self.module.made("new_weights")
        if shared:
            self.module.made("share_weight", weights, shared)
        for role, tensor in tensors.items():
            if role in MATRICES:
                self._matrix(weights, role, tensor, *tensor.shape)
            elif role.endswith("_experts"):
                for i in range(tensor.shape[0]):
                    self._matrix(weights, f"{role}.{i}", tensor.rows(i, i + 1), *tensor.shape[1:])
            else:
                values = tensor.float32()
                self.module.made("add_vector", weights, role, values.tobytes(), values.size)
        return self.module.made("make_block", self.session, weights, KINDS.index(kind))

    def _matrix(self, weights: int, role: str, tensor: Tensor, n: int, k: int) -> None:
        """In pieces of 32 rows: small matrices take several, too."""
        matrix = self.module.made("add_matrix", self.session, weights, role, tensor.type.id, n, k)
        rows = tensor.data.reshape(n, -1)
        for first in range(0, n, 32):
            last = min(n, first + 32)
            data = rows[first:last].tobytes()
            self.module.made("write_rows", matrix, first, last - first, data, len(data))

    def load_embedding(self, tensors: Mapping[str, Tensor]) -> int:
        return self._block("embedding", tensors)

    def load_attention(self, tensors: Mapping[str, Tensor]) -> int:
        return self._block("attention", tensors)

    def load_feed_forward(self, tensors: Mapping[str, Tensor]) -> int:
        return self._block("feed_forward", tensors)

    def load_output(self, tensors: Mapping[str, Tensor], embedding: int) -> int:
        if not self.spec.tied:
            return self._block("output", tensors)
        return self._block("output", {role: t for role, t in tensors.items() if role != "weight"}, embedding)

    def new_cache(self, n_slots: int, context: int, kv_type: KVType = "f16") -> WasmCache:
        kind = KV_TYPES.index(kv_type)
        return WasmCache(self.module, self.module.made("new_cache", self.session, n_slots, context, kind))

    def embed(self, embedding: int, rows: Rows, cache: WasmCache) -> WasmState:
        tokens = 0 if rows.tokens is None else rows.tokens.astype(np.int32).tobytes()
        hidden = 0 if rows.hidden is None else rows.hidden.astype(np.float32).tobytes()
        places = [places.astype(np.int32).tobytes() for places in (rows.slots, rows.positions)]
        self.module.made("embed", self.session, embedding, tokens, hidden, *places, len(rows), cache.address)
        return WasmState(self.module, self.session, len(rows), self.spec.n_embd)

    def attention(self, block: int, state: WasmState, pass_index: int) -> None:
        self.module.made("attention", self.session, block, pass_index)

    def feed_forward(self, block: int, state: WasmState, pass_index: int) -> None:
        self.module.made("feed_forward", self.session, block, pass_index)

    def logits(self, output: int, state: WasmState, wanted: NDArray[np.int32]) -> NDArray[np.float32]:
        room = Room(4 * len(wanted) * self.spec.n_vocab)
        self.module.made("logits", self.session, output, wanted.astype(np.int32).tobytes(), len(wanted), room)
        return np.frombuffer(self.module.filled, np.float32).reshape(len(wanted), self.spec.n_vocab)
