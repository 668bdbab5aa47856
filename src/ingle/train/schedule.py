"""How large the learning rate is, as a factor of its peak, at each moment of a run. Pure numbers; no PyTorch."""

from __future__ import annotations

import math

from ingle.errors import UsageError
from ingle.train.recipes import Schedule

__all__ = ["MIN_WARMUP_STEPS", "factor"]

MIN_WARMUP_STEPS = 10  # Adam's second moments and Muon's momentum know nothing before


def factor(
    schedule: Schedule, done: float, *, warmup: float, decay: float, final: float, step: int | None = None
) -> float:
    """The share of the peak learning rate, 0 to 1, when a share `done` of the budget is spent.

    Warm-up: done / warmup while done < warmup. After it
    * "cosine" (Loshchilov & Hutter, arXiv 1608.03983, without restarts):
      final + (1 - final) * (1 + cos(pi * p)) / 2, where p = (done - warmup) / (1 - warmup);
    * "wsd" (warm-up, stable, decay; Hu et al., arXiv 2404.06395): 1 until done = 1 - decay, then on a straight line to
      `final` at done = 1.

    `step`, the number of the step from 0, also holds the factor below (step + 0.5) / MIN_WARMUP_STEPS: a run whose
    warm-up share is shorter than some steps still warms up. `done` outside 0 to 1 counts as the nearer end; take it at
    the middle of the step ((step + 0.5) / steps), so that no step is spent at a rate of 0.

    Raises UsageError where the shares do not fit together.
    """
    if not (0 <= warmup <= 1 and 0 <= decay <= 1 and 0 <= final <= 1):
        raise UsageError(f"warmup {warmup}, decay {decay} and final {final} must each be from 0 to 1.")
    if schedule == "wsd" and warmup + decay > 1 + 1e-9:
        raise UsageError(
            f"A warm-up over {warmup:.0%} and a decay over {decay:.0%} of the run overlap; choose a warmup and a decay "
            "that add up to at most 1."
        )
    done = min(max(done, 0.0), 1.0)
    rise = done / warmup if done < warmup else 1.0
    if step is not None:
        rise = min(rise, (step + 0.5) / MIN_WARMUP_STEPS)
    if done < warmup:
        fall = 1.0
    elif schedule == "cosine":
        p = (done - warmup) / (1 - warmup) if warmup < 1 else 0.0
        fall = final + (1 - final) * (1 + math.cos(math.pi * p)) / 2
    else:
        left = (1 - done) / decay if done > 1 - decay else 1.0
        fall = final + (1 - final) * left
    return min(rise, fall)
