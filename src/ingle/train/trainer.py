"""The training loop: from a config to a run's folder with a model in it, however often it is interrupted."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from signal import Signals
from typing import Any, Literal

import torch
from torch import Tensor

from ingle.errors import IngleError, MemoryLimitError, TrainingError, UsageError
from ingle.train.config import Config
from ingle.train.decoder import Decoder
from ingle.train.distributed import Devices, Parallel, connected, full_parameters, load_full, wrap
from ingle.train.keeper import Keeper
from ingle.train.optim import build_optimizer, not_finite
from ingle.train.peak import peak_flops
from ingle.train.prepare import build_distiller, load_start, open_prepared, prepare
from ingle.train.run_folder import RunFolder, locked
from ingle.train.schedule import factor
from ingle.train.setup import decide, describe_device, memory_bytes, set_threads, state_bytes
from ingle.train.signals import StopSignals
from ingle.train.validate import Score, Validation, to_device, token_bytes

__all__ = ["Result", "train"]

Event = Callable[[dict[str, Any]], None]

_VALIDATIONS = 20  # in a run, unless train.validate_every says otherwise
_NO_MEMORY = ("can't allocate memory", "not enough memory", "out of memory")  # what a CPU's RuntimeError says
_DATA_TIMEOUT_S = 3600.0  # how long the other devices wait for the first one to prepare the data


@dataclass(frozen=True)
class Result:
    """How a run ended: "finished", or "stopped" by `signal` after a checkpoint. elapsed_s over all its parts."""

    status: Literal["finished", "stopped"]
    out: Path
    step: int
    tokens: int
    elapsed_s: float
    validation: Score | None
    signal: Signals | None = None


def train(config: Config, out: Path, *, resume: bool = False, on_event: Event | None = None) -> Result:
    """Train what `config` describes in the folder `out`, or go on with what is there.

    on_event: gets every record of log.jsonl, and {"event": "prepare", ...} while data is prepared; on the first device
    only. SIGINT and SIGTERM end the run after the step and a checkpoint; a second one raises KeyboardInterrupt.
    Raises UsageError, DataError, TrainingError (also for a loss that is not a number) and MemoryLimitError.
    """
    run = RunFolder(out)
    with connected(config.training.device, timeout_s=_DATA_TIMEOUT_S) as devices:
        say: Event = on_event if on_event is not None and devices.first else lambda event: None
        if not devices.first:
            _first_does(devices, lambda: None)
            return _train(config, run, devices, say)
        with ExitStack() as lock:

            def begin() -> None:
                # First what can refuse: the lock makes the folder.
                if resume:
                    run.read_config()
                else:
                    run.expect_free()
                    config.expect_files()
                lock.enter_context(locked(out))
                if resume:
                    run.go_on(config)
                else:
                    run.create(config)
                prepare(config, run, say, resume=resume)

            _first_does(devices, begin)
            return _train(config, run, devices, say)


def _first_does(devices: Devices, work: Callable[[], None]) -> None:
    """The first device does `work` while the others wait; all of them fail where it fails."""
    failure: IngleError | OSError | None = None
    try:
        work()
    except (IngleError, OSError) as error:
        failure = error
    if devices.any_over(failure is not None):
        raise failure or TrainingError("The first process could not prepare this run; its message says why.")


def _train(config: Config, run: RunFolder, devices: Devices, say: Event) -> Result:
    with StopSignals() as stop:
        try:
            loop = _Loop(config, run, devices, say, stop)
            with loop.loader:
                return loop.run()
        except RuntimeError as error:
            if isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in _NO_MEMORY):
                raise MemoryLimitError(
                    f"This run needs more memory than {devices.device} has; set train.micro_tokens smaller, or "
                    "data.positions, or choose a smaller model. The last checkpoint is whole."
                ) from None
            raise


class _Loop:
    """One process's part of a run."""

    def __init__(self, config: Config, run: RunFolder, devices: Devices, say: Event, stop: StopSignals) -> None:
        from ingle.train.data.loader import Loader, validation_rows

        self.config, self.devices, self.stop = config, devices, stop
        self.device = devices.device
        threads = set_threads(config.training.threads)
        vocabulary, shards = open_prepared(config, run)
        started_from = load_start(config)
        shape = started_from[0] if started_from else config.shape(vocabulary.size)
        if vocabulary.size > shape.vocabulary:
            raise UsageError(
                f"The tokenizer has {vocabulary.size} tokens, the model to start from knows {shape.vocabulary}; give "
                "the tokenizer that it was trained with."
            )
        self.keeper = Keeper(run, config, shape, devices.first, say)
        self.setup = decide(config, shape, self.device, devices.world, self.keeper.warn)
        self.shape = shape

        torch.manual_seed(config.training.seed)
        decoder = Decoder(shape, config.recipe.init).to(self.device)
        if started_from:
            decoder.load_state_dict(started_from[1])
        self.quantized = False
        self.distiller = build_distiller(config, vocabulary, self.device)
        if self.setup.compile:
            decoder.compile()
        self.parallel: Parallel = wrap(decoder, devices, config.training.distributed)  # type: ignore[arg-type]
        self.decoder = decoder
        self.optimizer = build_optimizer(decoder, config.recipe)
        self.loader = Loader(shards.train, self.setup.positions, self.setup.rows, config.training.seed)
        self.validation: Validation | None = None
        if shards.validation.n_documents:
            n_rows = max(1, config.training.validation_tokens // self.setup.positions)
            rows = validation_rows(shards.validation, self.setup.positions, n_rows)
            n_bytes = token_bytes(run.tokenizer.read_bytes(), shape.vocabulary)
            self.validation = Validation(rows, n_bytes, self.setup, devices.rank, devices.world)
        self.steps = self._steps()

        self.step = self.tokens = 0
        self.elapsed_s = 0.0  # of all parts of the run, up to `self.clock`
        self.score: Score | None = None
        self.validated = 0, 0.0  # the step and the share of the budget of the last validation
        self._resume()
        self.peak = peak_flops(self.device)
        self.keeper.record(
            {
                "event": "start",
                "step": self.step,
                "parameters": shape.n_parameters,
                "budget": str(config.budget),
                "steps": self.steps,
                "batch_tokens": self.setup.rows * self.setup.positions,
                "positions": self.setup.positions,
                "micro_rows": self.setup.micro_rows,
                "train_tokens": shards.train.n_tokens,
                "validation_tokens": self.validation.n_tokens if self.validation else 0,
                "device": describe_device(self.device),
                "devices": devices.world,
                "threads": threads,
                "precision": "bf16" if self.setup.bf16 else "f32",
                "compile": self.setup.compile,
                "file_type": self.config.quantize.file_type if self.config.quantize else "q8_0",
                "peak_flops": self.peak.flops * devices.world,
                "peak_source": self.peak.source,
                "state_bytes": state_bytes(shape, config.recipe),
                "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            }
        )

    def run(self) -> Result:
        """Steps until the budget is spent or a signal comes."""
        if self.setup.compile:
            self._compile()
        self.clock = self.checkpoint_clock = time.monotonic()
        done = self._done()
        while done < 1:
            self._quantize(done)
            wanted, late = self._one_step(done)
            done = self._done()
            if done >= 1:
                break
            if self._validates(done) and not wanted:
                self._validate()
            if wanted or late:
                self._checkpoint()
            if wanted:
                return self._result("stopped")
        return self._finish()

    def _one_step(self, done: float) -> tuple[bool, bool]:
        """Returns whether to stop, and whether a checkpoint is due; all devices agree on both."""
        began = time.monotonic()
        batches = self.loader.next(self.devices.rank, self.devices.world, self.setup.micro_rows)
        n_targets = self.loader.n_targets
        self.optimizer.zero_grad()
        total = torch.zeros((), device=self.device)
        for number, batch in enumerate(batches):
            with self.parallel.accumulating(last=number == len(batches) - 1):
                with self.setup.autocast(self.device):
                    loss = self._loss(*to_device(batch, self.device))
                torch.autograd.backward([loss / max(1, n_targets)])
            total += loss.detach()
        loss_value = float(self.devices.sum_over(total)) / max(1, n_targets)
        norm = self.optimizer.clip()
        rate = self._rate(done)
        self._expect_finite(loss_value, norm, rate)
        self.optimizer.step(rate)
        self.step += 1
        n_tokens = self.setup.rows * self.setup.positions
        self.tokens += n_tokens
        seconds = time.monotonic() - began
        self._tick()
        speed = n_tokens / seconds
        self.keeper.record(
            {
                "event": "step",
                "step": self.step,
                "tokens": self.tokens,
                "loss": loss_value,
                "lr": rate * self._peak_rate,
                "grad_norm": norm,
                "tokens_per_s": round(speed, 1),
                "mfu": self._mfu(speed),
                "elapsed_s": round(self.elapsed_s, 3),
                "rss_bytes": memory_bytes(self.device),
                "done": round(self._done(), 6),
            }
        )
        wanted = self.devices.any_over(self.stop.received is not None)
        late = time.monotonic() - self.checkpoint_clock > 60 * self.config.training.checkpoint_minutes
        return wanted, self.devices.any_over(late and self.devices.first)

    def _loss(self, tokens: Tensor, targets: Tensor, documents: Tensor) -> Tensor:
        if self.distiller is not None:
            return self.parallel.call(self.distiller.loss, tokens, targets, documents)
        return self.parallel(tokens, targets, documents)

    def _expect_finite(self, loss: float, norm: float, rate: float) -> None:
        if math.isfinite(loss) and math.isfinite(norm):
            return
        names = not_finite(self.decoder)
        where = (
            f"the loss is {loss}"
            if not math.isfinite(loss)
            else f"the gradient of {', '.join(names[:3]) or 'all weights'} is {norm}"
        )
        kept = self.keeper.last_checkpoint
        raise TrainingError(
            f"In step {self.step + 1}, after {self.tokens:,} tokens and at a learning rate of "
            f"{rate * self._peak_rate:.3g}, {where}. "
            + (f"{kept} is good and was left as it is; " if kept else "There is no checkpoint yet; ")
            + "begin a new run with a smaller train.lr or a longer train.warmup"
            + (', or with precision = "f32".' if self.setup.bf16 else ".")
        )

    def _validate(self) -> None:
        if self.validation is None:
            return
        self.score = self.validation(self.parallel)
        self.validated = self.step, self._done()
        self._tick()
        self.keeper.record(
            {
                "event": "validation",
                "step": self.step,
                "tokens": self.tokens,
                "loss": self.score.loss,
                "bits_per_byte": self.score.bits_per_byte,
                "elapsed_s": round(self.elapsed_s, 3),
            }
        )

    def _checkpoint(self) -> None:
        tensors, optimizer = full_parameters(self.decoder), self.optimizer.state_dict_flat()
        self._tick()
        self.keeper.save(self.step, tensors, optimizer, self._state())
        self.checkpoint_clock = time.monotonic()

    def _state(self) -> dict[str, Any]:
        return {
            "shape": self.shape.to_dict(),
            "tokens": self.tokens,
            "elapsed_s": self.elapsed_s,
            "loader": self.loader.state(),
            "quantized": self.quantized,
            "validated": list(self.validated),
            "validation": self.score and {"loss": self.score.loss, "bits_per_byte": self.score.bits_per_byte},
        }

    def _resume(self) -> None:
        """Go on from the newest whole checkpoint; all devices read it, and rank 0's tensors count."""
        found = self.keeper.resume()
        if found is None:
            return
        load_full(self.decoder, found.tensors)
        self.optimizer.load_flat(found.optimizer)
        try:
            self.loader.restore(found.state["loader"])
            self.step, self.tokens = found.step, int(found.state["tokens"])
            self.elapsed_s = float(found.state["elapsed_s"])
            self.validated = found.state["validated"][0], found.state["validated"][1]
            score = found.state.get("validation")
            if isinstance(score, dict) and self.validation is not None:
                self.score = Score(score["loss"], score["bits_per_byte"], self.validation.n_tokens)
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise TrainingError(
                f"state.json in {self.keeper.last_checkpoint} is not what was written: {type(error).__name__} {error}; "
                "delete that folder to go on from the checkpoint before it."
            ) from None
        if found.state.get("quantized"):  # it stays so, also where a longer budget puts the start off
            self._quantize(1.0)

    def _finish(self) -> Result:
        """The last validation, checkpoint and model."""
        if self.score is None or self.validated[0] != self.step:
            self._validate()
        self._checkpoint()
        self.keeper.finish(full_parameters(self.decoder))
        return self._result("finished")

    def _result(self, status: Literal["finished", "stopped"]) -> Result:
        self.keeper.end(status, self.step, self.elapsed_s, None if self.score is None else self.score.loss)
        received = self.stop.received if status == "stopped" else None
        return Result(status, self.keeper.run.path, self.step, self.tokens, self.elapsed_s, self.score, received)

    def _validates(self, done: float) -> bool:
        every = self.config.training.validate_every
        if self.validation is None:
            return False
        if every:
            return self.step % every == 0
        # A forward pass costs a third of a step: so seldom that validation takes less than a tenth of the time.
        often = 4 * self.validation.n_rows < self.setup.rows * (self.step - self.validated[0])
        return often and math.floor(done * _VALIDATIONS) > math.floor(self.validated[1] * _VALIDATIONS)

    def _steps(self) -> int | None:
        """Steps of the whole run; None where the clock decides."""
        kind, amount = self.config.budget.kind, self.config.budget.amount
        if kind == "minutes":
            return None
        if kind == "steps":
            return int(amount)
        tokens = amount if kind == "tokens" else amount * self.loader.epoch_positions()
        return max(1, math.ceil(tokens / (self.setup.rows * self.setup.positions)))

    def _done(self) -> float:
        """The share of the budget that is spent, the same on all devices."""
        if self.steps is not None:
            return self.step / self.steps
        elapsed = torch.tensor(self.elapsed_s if self.devices.first else 0.0, device=self.device)
        return float(self.devices.sum_over(elapsed)) / (60 * self.config.budget.amount)

    def _rate(self, done: float) -> float:
        recipe = self.config.recipe
        if self.steps is not None:
            done = (self.step + 0.5) / self.steps
        return factor(
            recipe.schedule, done, warmup=recipe.warmup, decay=recipe.decay, final=recipe.final, step=self.step
        )

    @property
    def _peak_rate(self) -> float:
        return self.config.recipe.muon_lr if self.config.recipe.optimizer == "muon" else self.config.recipe.lr

    def _mfu(self, tokens_per_s: float) -> float | None:
        if not self.peak.flops:
            return None
        flops = self.shape.flops_per_token(self.setup.positions) * tokens_per_s
        return round(flops / (self.peak.flops * self.devices.world), 4)

    def _tick(self) -> None:
        now = time.monotonic()
        self.elapsed_s += now - self.clock
        self.clock = now

    def _quantize(self, done: float) -> None:
        wanted = self.config.quantize
        if wanted is None or self.quantized or done < wanted.start:
            return
        from ingle.train.compress.schemes import apply_scheme

        apply_scheme(self.decoder, wanted.scheme)
        self.quantized = True

    def _compile(self) -> None:
        """Compile before the clock starts."""
        self.keeper.tell({"event": "prepare", "what": "compile"})
        shape = self.setup.micro_rows, self.setup.positions
        tokens = torch.zeros(shape, dtype=torch.int64, device=self.device)
        with self.parallel.accumulating(last=True), self.setup.autocast(self.device):
            loss = self._loss(tokens, tokens, tokens.to(torch.int32))
        torch.autograd.backward([loss])
        self.optimizer.zero_grad()
