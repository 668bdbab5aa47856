"""`python -m ingle` is the command `ingle`."""

from __future__ import annotations

from ingle.cli import main

if __name__ == "__main__":
    main()
