"""From results to docs/experiments.md's tables and picture: `python experiments/report.py [--scale tiny]`.

Arms are compared seed by seed: the difference in held-out loss at the end, its mean, and a 95% interval from Student's
t over the seeds. An expectation "reproduces" where the interval lies on its side of zero, "does not reproduce" where
it lies on the other, and is "not resolved" otherwise.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from plan import EXPERIMENTS, Experiment
from scipy.stats import t as student

HERE = Path(__file__).parent
DOCS = HERE.parent / "docs"
BEGIN, END = "<!-- tables: made by experiments/report.py -->", "<!-- end of tables -->"

Run = dict[str, Any]
Results = dict[str, dict[int, Run]]  # arm -> seed -> run


def read(path: Path) -> Results:
    """Results by arm and seed; a later line replaces an earlier one."""
    results: Results = defaultdict(dict)
    for line in path.read_text().splitlines():
        run = json.loads(line)
        results[run["arm"]][run["seed"]] = run
    return results


def interval(differences: Sequence[float]) -> tuple[float, float]:
    """Mean, and half the width of its 95% interval (infinite for a single value)."""
    n, mean = len(differences), statistics.fmean(differences)
    if n < 2:
        return mean, float("inf")
    return mean, float(student.ppf(0.975, n - 1)) * statistics.stdev(differences) / n**0.5


def verdict(mean: float, half: float, expected: str) -> str:
    """What the interval of (arm - baseline) says of the expectation; lower is better."""
    if expected == "equal":
        return "reproduces" if abs(mean) <= half else "does not reproduce"
    better = mean + half < 0 if expected == "better" else mean - half > 0
    opposite = mean - half > 0 if expected == "better" else mean + half < 0
    return "reproduces" if better else "does not reproduce" if opposite else "not resolved"


def spread(values: Sequence[float], digits: int = 3) -> str:
    """Mean and standard deviation over the seeds."""
    if len(values) < 2:
        return f"{values[0]:.{digits}f}"
    return f"{statistics.fmean(values):.{digits}f} ± {statistics.stdev(values):.{digits}f}"


def table(experiment: Experiment, results: Results) -> list[str]:
    """An experiment as lines of Markdown."""
    first = experiment.arms[0]
    lines = [f"### {experiment.name}: {experiment.claim}", ""]
    if experiment.question:
        lines += [experiment.question, ""]
    lines += [
        "| arm | parameters | layers x width | held-out loss | minus the first, by seed | processor s | verdict |",
        "|---|---|---|---|---|---|---|",
    ]
    for arm in experiment.arms:
        runs = results.get(arm.name)
        shape = f"{arm.shape.layers} x {arm.shape.width}"
        if not runs:
            lines.append(f"| {arm.name} | {arm.parameters:,} | {shape} | not run | | | |")
            continue
        losses = spread([runs[seed]["loss"] for seed in sorted(runs)])
        seconds = f"{min(run['train_s'] for run in runs.values()):.0f}"
        compared, found = "", ""
        seeds = sorted(runs.keys() & results.get(first.name, {}).keys())
        if arm is not first and seeds:
            mean, half = interval([runs[s]["loss"] - results[first.name][s]["loss"] for s in seeds])
            compared = f"{mean:+.3f} ± {half:.3f} (n={len(seeds)})" if len(seeds) > 1 else f"{mean:+.3f} (n=1)"
            if arm.name in experiment.expect:
                found = verdict(mean, half, experiment.expect[arm.name])
        note = f" ({arm.note})" if arm.note else ""
        lines.append(
            f"| {arm.name}{note} | {arm.parameters:,} | {shape} | {losses} | {compared} | {seconds} | {found} |"
        )
    return [*lines, ""]


def reached(run: Run, loss: float) -> float | None:
    """Tokens after which a run's held-out loss first was at most `loss`, on a line between two validations."""
    before: dict[str, float] | None = None
    for point in run["curve"]:
        if point["loss"] <= loss:
            if before is None:
                return point["tokens"]
            part = (before["loss"] - loss) / (before["loss"] - point["loss"])
            return before["tokens"] + part * (point["tokens"] - before["tokens"])
        before = point
    return None


def race(results: Results, arms: Sequence[str] = ("adamw-tuned", "ours-adamw", "base")) -> list[str]:
    """How soon other recipes reach the loss that the paper's ends with.

    A recipe's seconds are its tokens times its least seconds a token over all seeds: the least disturbed run.
    """

    def pace(arm: str) -> float:
        return min(run["train_s"] / run["tokens"] for run in results[arm].values())

    lines = [
        "### the same loss, sooner",
        "",
        "Share of the paper's tokens and processor seconds after which a recipe has the paper's final held-out loss.",
        "",
        "| recipe | share of the tokens | share of the seconds | seeds |",
        "|---|---|---|---|",
    ]
    for arm in arms:
        tokens, seconds = [], []
        seeds = sorted(results.get(arm, {}).keys() & results.get("paper", {}).keys())
        for seed in seeds:
            paper = results["paper"][seed]
            at = reached(results[arm][seed], paper["loss"])
            if at is not None:
                tokens.append(at / paper["tokens"])
                seconds.append(tokens[-1] * pace(arm) / pace("paper"))
        name = {"base": "ingle"}.get(arm, arm)
        if tokens:
            lines.append(f"| {name} | {spread(tokens, 2)} | {spread(seconds, 2)} | {len(tokens)} of {len(seeds)} |")
        elif seeds:
            lines.append(f"| {name} | never | never | 0 of {len(seeds)} |")
    return [*lines, ""]


def compressed(results: Results) -> list[str]:
    """What post-training quantisation costs, for layers used once and more often."""
    schemes = ("w8a8", "q8_0", "q4_0")
    lines = [
        "### w8a8: Post-training W8A8 costs almost nothing, also with shared layers.",
        "",
        "Held-out loss of the finished models, quantised without any training after: the increase in nats per token.",
        "",
        "| arm | float | " + " | ".join(schemes) + " |",
        "|---" * (2 + len(schemes)) + "|",
    ]
    for arm in ("base", "immediate-x2", "repeat-x2", "reverse-x2", "immediate-x3"):
        runs = [run for run in results.get(arm, {}).values() if "quantized" in run]
        if runs:
            cells = [spread([run["quantized"][s] - run["quantized"]["float"] for run in runs], 4) for s in schemes]
            lines.append(
                f"| {arm} | {spread([run['quantized']['float'] for run in runs])} | " + " | ".join(cells) + " |"
            )
    return [*lines, ""]


def picture(scale: str, results: Results, path: Path) -> None:
    """One panel an experiment: the difference to its first arm with 95% intervals; and the race of the recipes."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    chosen = [e for e in EXPERIMENTS[scale].values() if any(arm.name in results for arm in e.arms[1:])]
    figure, axes = plt.subplots(2, 4, figsize=(15, 7.2), layout="constrained")
    for axis, experiment in zip(axes.flat, chosen, strict=False):
        first = results.get(experiment.arms[0].name, {})
        for at, arm in enumerate(reversed(experiment.arms)):
            runs = results.get(arm.name, {})
            seeds = sorted(runs.keys() & first.keys())
            if not seeds:
                continue
            each = [runs[s]["loss"] - first[s]["loss"] for s in seeds]
            mean, half = interval(each)
            axis.errorbar(mean, at, xerr=half if len(each) > 1 else 0, fmt="o", capsize=4, color="tab:blue")
            axis.plot(each, [at] * len(each), "|", color="tab:orange", markersize=12)
        axis.axvline(0, color="grey", linewidth=0.8)
        axis.set_yticks(range(len(experiment.arms)), [arm.name for arm in reversed(experiment.arms)])
        axis.set_ylim(-0.6, len(experiment.arms) - 0.4)
        axis.set_title(experiment.name, loc="left", fontweight="bold")
        axis.set_xlabel(f"nats per token minus {experiment.arms[0].name}")
    race_axis = axes.flat[len(chosen)]
    for arm, colour in (
        ("paper", "tab:grey"),
        ("adamw-tuned", "tab:blue"),
        ("ours-adamw", "tab:olive"),
        ("base", "tab:red"),
    ):
        for run in results.get(arm, {}).values():
            label = {"base": "ingle"}.get(arm, arm) if run is next(iter(results[arm].values())) else None
            race_axis.plot(
                [p["tokens"] / 1e6 for p in run["curve"]], [p["loss"] for p in run["curve"]], color=colour, label=label
            )
    race_axis.set_title("recipes, every seed", loc="left", fontweight="bold")
    race_axis.set_xlabel("million tokens")
    race_axis.set_ylabel("held-out loss")
    race_axis.legend()
    for axis in axes.flat[len(chosen) + 1 :]:
        axis.set_visible(False)
    figure.savefig(path, dpi=80)
    plt.close(figure)


def tables(scale: str, results: Results) -> str:
    """Everything between the two marks in docs/experiments.md."""
    lines = [line for experiment in EXPERIMENTS[scale].values() for line in table(experiment, results)]
    return "\n".join([*lines, *race(results), *compressed(results)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", choices=EXPERIMENTS, default="tiny")
    parser.add_argument("--no-picture", action="store_true")
    args = parser.parse_args()
    results = read(HERE / "results" / f"{args.scale}.jsonl")
    page = DOCS / "experiments.md"
    text = page.read_text()
    before, _, rest = text.partition(BEGIN)
    page.write_text(f"{before}{BEGIN}\n\n{tables(args.scale, results)}\n{END}{rest.partition(END)[2]}")
    if not args.no_picture:
        picture(args.scale, results, DOCS / f"experiments-{args.scale}.png")


if __name__ == "__main__":
    main()
