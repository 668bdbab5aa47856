"""A model's weights, block by block, with its Spec."""

from __future__ import annotations

from os import PathLike

from ingle.errors import CheckpointError, GGUFError, ModelFileError
from ingle.models.families import family_of_architecture
from ingle.models.layout import Part, attention_parts, embedding_parts, feed_forward_parts, output_parts
from ingle.models.source import ExtraMetadata, GGUFSource, Source, open_source
from ingle.models.spec import Spec
from ingle.models.tensor import Tensor

__all__ = ["Checkpoint", "open_checkpoint"]


class Checkpoint:
    """The Spec of a source, and its tensors by block and role (the roles of `ingle.backends.base`).

    Opening checks that every tensor that is needed is there in the right shape, before any is touched: GGUFError or
    CheckpointError name the first that is not. `context` is how many positions will be used (LongRoPE asks).
    """

    def __init__(self, source: Source, context: int | None = None) -> None:
        self.source = source
        family = family_of_architecture(source.metadata.get_str("general.architecture"), source.name)
        self.spec: Spec = family.spec(source, context)
        names = source.headers.keys()
        self.embedding_parts = embedding_parts(self.spec, names)
        self.output_parts = output_parts(self.spec, names)
        layers = range(self.spec.n_layers)
        self._attention = [attention_parts(self.spec, names, layer) for layer in layers]
        self._feed_forward = [feed_forward_parts(self.spec, names, layer) for layer in layers]
        for part in self.parts():
            self._check(part)

    def parts(self) -> list[Part]:
        """Every part of every block, in the order of computing."""
        return [part for block in (self.embedding_parts, *self.blocks(), self.output_parts) for part in block]

    def blocks(self) -> list[list[Part]]:
        """The parts of each block with weights: attention and feed-forward of layer 0, of layer 1, and so on."""
        return [block for pair in zip(self._attention, self._feed_forward, strict=True) for block in pair]

    def embedding(self) -> dict[str, Tensor]:
        """The tensors that turn tokens into hidden states."""
        return self._load(self.embedding_parts)

    def attention(self, layer: int) -> dict[str, Tensor]:
        """The tensors of a layer's attention block."""
        return self._load(self._attention[layer])

    def feed_forward(self, layer: int) -> dict[str, Tensor]:
        """The tensors of a layer's feed-forward block."""
        return self._load(self._feed_forward[layer])

    def output(self) -> dict[str, Tensor]:
        """The tensors that turn hidden states into logits."""
        return self._load(self.output_parts)

    def close(self) -> None:
        """Let go of the files. Tensors that were given out must not be used afterwards."""
        self.source.close()

    def _load(self, parts: list[Part]) -> dict[str, Tensor]:
        loaded = {}
        for part in parts:
            tensor = self.source.tensors[part.tensor]
            loaded[part.role] = tensor.rows(part.start, part.stop) if part.stop else tensor
        return loaded

    def _check(self, part: Part) -> None:
        header = self.source.headers.get(part.tensor)
        expected = " or ".join(str(list(shape)) for shape in part.shapes)
        called = self.source.origin(part.tensor)
        if header is None:
            raise self._unsound(f"{self.source.name} has no tensor {called}, expected with shape {expected}")
        if header.shape not in part.shapes:
            raise self._unsound(
                f"Tensor {called} of {self.source.name} has shape {list(header.shape)} where its settings need "
                f"{expected}"
            )

    def _unsound(self, what: str) -> ModelFileError:
        if isinstance(self.source, GGUFSource):
            return GGUFError(f"{what}; the file is incomplete or wrongly converted: download or convert it again.")
        return CheckpointError(f"{what}; download the checkpoint and its config.json again, from one revision.")


def open_checkpoint(
    path: str | PathLike[str], context: int | None = None, extra_metadata: ExtraMetadata | None = None
) -> Checkpoint:
    """Open a GGUF file or a Hugging Face directory for running. See `open_source` and `Checkpoint` for the errors."""
    source = open_source(path, extra_metadata)
    try:
        return Checkpoint(source, context)
    except BaseException:
        source.close()
        raise
