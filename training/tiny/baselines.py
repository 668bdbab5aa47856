"""What simple methods get on the requests that ingle-tiny is tested on: `python baselines.py SHARED_DATA`.

They have all training requests of all sets, which the model had too, and pick among the same tools.
"""

from __future__ import annotations

import sys
from pathlib import Path

from ingle.evaluate.calls.baselines import baseline
from ingle.evaluate.calls.run import result_of
from ingle.evaluate.calls.sources import SPOKEN, held_out, load_items

NAMES = ("nearest_lexicon", "nearest", "description")
SHOWN = ("accuracy", "intent_em", "structure_em", "argument_f1", "abstention")


def main(data: Path) -> None:
    folder = data / "api_calls"
    train = [item for name in SPOKEN if name != "sgd_new" for item in held_out.items(name, folder, "train")]
    print(f"{len(train)} training requests\n| method | requests | {' | '.join(SHOWN)} |")
    tests = {name: load_items([name], data) for name in SPOKEN}
    tests["all"] = [item for items in tests.values() for item in items]
    for method in NAMES:
        for name, items in tests.items():
            result = result_of(name, items, baseline(method, train, items))
            found = {metric.name: metric for metric in result.metrics}
            cells = [
                f"{100 * found[m].value:.1f} ± {100 * (found[m].stderr or 0):.1f}" if m in found else "" for m in SHOWN
            ]
            print(f"| {method} | {name} ({len(items)}) | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
