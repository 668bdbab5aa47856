"""What a run leaves on disk: its log, checkpoints, pictures, README and model; and what is done when a disk is full."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from time import monotonic
from typing import Any

from torch import Tensor

from ingle.errors import CheckpointError, TrainingError
from ingle.files import write_whole
from ingle.train.checkpoint import (
    Checkpoint,
    checkpoints,
    load_checkpoint,
    prune,
    read_json,
    save_checkpoint,
    save_model,
)
from ingle.train.config import Config
from ingle.train.pictures import draw_curves
from ingle.train.readme import describe
from ingle.train.run_folder import Log, RunFolder
from ingle.train.shape import Shape

__all__ = ["Keeper"]

_PAINT_S = 60.0  # drawing takes a second: not with each of many checkpoints


class Keeper:
    """Only the first of several devices writes; the others call the same methods in vain."""

    def __init__(
        self, run: RunFolder, config: Config, shape: Shape, first: bool, say: Callable[[dict[str, Any]], None]
    ) -> None:
        self.run, self.config, self.shape, self.first, self.tell = run, config, shape, first, say
        self.log = Log(run.log)
        self.last_checkpoint: Path | None = None
        self._step = 0
        self._painted_at = monotonic()
        self._unsaved: str | None = None  # why the last checkpoint could not be written

    def record(self, record: dict[str, Any]) -> None:
        """Into the log, and to whoever listens."""
        self._step = record.get("step", self._step)
        if self.first:
            self.log.append(record)
            self.tell(record)

    def warn(self, text: str) -> None:
        """Say what a person should know, and go on."""
        self.record({"event": "warning", "step": self._step, "text": text})

    def resume(self) -> Checkpoint | None:
        """The newest whole checkpoint; the log is cut back to it. Raises TrainingError where all are damaged."""
        found, damaged = None, []
        for place in checkpoints(self.run.checkpoints):
            try:
                found = load_checkpoint(place)
                self.last_checkpoint = place
                break
            except CheckpointError as error:
                damaged.append(str(error))
        if damaged and found is None:
            raise TrainingError(f"No checkpoint of this run is whole: {damaged[0]} Begin a new run.")
        if self.first:
            self.log.cut(found.step if found else 0)
            self._step = found.step if found else 0
            if damaged:
                self.warn(f"{' '.join(damaged)} Going on from {self.last_checkpoint}, which is whole.")
        return found

    def save(
        self, step: int, tensors: Mapping[str, Tensor], optimizer: Mapping[str, Tensor], state: Mapping[str, Any]
    ) -> None:
        """Write a checkpoint. Where that fails, say so, keep the last one, and let the run go on."""
        if not self.first:
            return
        try:
            self.last_checkpoint = save_checkpoint(self.run.checkpoints, step, tensors, optimizer, state)
        except OSError as error:
            self._unsaved = f"The checkpoint of step {step} cannot be written: {error.strerror}."
            kept = f"{self.last_checkpoint.name} is whole" if self.last_checkpoint else "there is none yet"
            self.warn(
                f"{self._unsaved} The run goes on and tries again in {self.config.training.checkpoint_minutes:g} "
                f"minutes; {kept}. Make room on the disk of {self.run.path}."
            )
            return
        self._unsaved = None
        prune(self.run.checkpoints)
        self.record({"event": "checkpoint", "step": step, "path": str(self.last_checkpoint.relative_to(self.run.path))})
        if monotonic() - self._painted_at > _PAINT_S:
            self._paint()

    def finish(self, tensors: Mapping[str, Tensor]) -> None:
        """Write the final model. Raises TrainingError where the disk does not take it."""
        if not self.first:
            return
        info = {"name": self.run.path.name, "sources": list(self.config.data.train), "step": self._step}
        if self.config.quantize:
            info["scheme"] = self.config.quantize.scheme
        if (beside := self.run.path / "tokenizer_config.json").is_file():  # where the end token's name does not tell
            info["tokenizer_config"] = read_json(beside)
        try:
            save_model(self.run.model, self.shape, tensors, self.run.tokenizer.read_bytes(), info)
        except OSError as error:
            raise TrainingError(
                f"The trained model cannot be written to {self.run.model}: {error.strerror}. Make room and go on with "
                "--resume" + ("." if self._unsaved is None else f", from {self.last_checkpoint or 'the beginning'}.")
            ) from None

    def end(self, status: str, step: int, elapsed_s: float, loss: float | None) -> None:
        """The last record. Raises TrainingError where the last checkpoint could not be written."""
        if not self.first:
            return
        if self._unsaved is not None and status != "finished":
            raise TrainingError(
                f"{self._unsaved} The run stopped; --resume goes on from {self.last_checkpoint or 'the beginning'}."
            )
        outcome = {"status": status, "validation_loss": loss, "elapsed_s": round(elapsed_s, 3)}
        self.record({"event": "end", "step": step, **outcome})
        self._paint()

    def _paint(self) -> None:
        self._painted_at = monotonic()
        try:
            draw_curves(self.log.records, self.run.curves, self.run.path.name)
            write_whole(self.run.readme, describe(self.config, self.shape, self.log.records, self.run.path))
        except OSError as error:
            self.warn(f"curves.png and README.md cannot be written: {error.strerror}.")
