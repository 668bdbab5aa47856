"""For all tests: property tests have no deadline (machines are shared), and CI tries the same examples every time."""

from __future__ import annotations

import os
import signal

from hypothesis import settings

settings.register_profile("ingle", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("ingle")

# Where the tests run in the background of a shell, Ctrl-C is ignored, by children too; some tests send one.
signal.signal(signal.SIGINT, signal.default_int_handler)
