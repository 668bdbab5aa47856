"""For all tests: property tests have no deadline (machines are shared), and CI tries the same examples every time."""

from __future__ import annotations

import os

from hypothesis import settings

settings.register_profile("ingle", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("ingle")
