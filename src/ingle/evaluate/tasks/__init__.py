"""Tasks of lm-evaluation-harness: the sets of the papers, and their data from local files."""

from ingle.evaluate.tasks.catalog import SETS
from ingle.evaluate.tasks.plan import Planned, plan_tasks

__all__ = ["SETS", "Planned", "plan_tasks"]
