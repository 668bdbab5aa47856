"""Running the real program: with pipes, or on a pseudo-terminal of its own."""

from __future__ import annotations

import os
import re
import select
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType

INGLE = [sys.executable, "-m", "ingle"]
PATIENCE_S = 30.0

# A terminal's Ctrl-C reaches only who has it as controlling terminal.
TAKE_TERMINAL = (
    "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
    "os.execv(sys.executable, [sys.executable, '-m', 'ingle', *sys.argv[1:]])"
)


def ingle(*words: str | Path, stdin: str | bytes = "", **options: object) -> subprocess.CompletedProcess[str]:
    """Run to the end; output as text."""
    given = stdin if isinstance(stdin, bytes) else stdin.encode()
    done = subprocess.run(
        [*INGLE, *map(str, words)],
        input=given,
        capture_output=True,
        timeout=PATIENCE_S,
        **options,  # type: ignore[call-overload]
    )
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())


class Terminal:
    """The program on a pseudo-terminal. `seen` is all it has shown, without the codes that move the cursor."""

    def __init__(self, *words: str | Path, stdout: int | None = None) -> None:
        import pty

        self.master, slave = pty.openpty()
        environment = os.environ | {"TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1", "COLUMNS": "100", "LINES": "40"}
        self.process = subprocess.Popen(
            [sys.executable, "-c", TAKE_TERMINAL, *map(str, words)],
            stdin=slave,
            stdout=slave if stdout is None else stdout,
            stderr=slave,
            start_new_session=True,
            env=environment,
        )
        os.close(slave)
        self.raw = ""

    @property
    def seen(self) -> str:
        # A code that has not come to its end yet is left out too: positions in this text must stay what they are.
        return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]|\x1b[=>]|\x1b\[?[0-9;?]*$", "", self.raw).replace("\r", "")

    def expect(self, pattern: str, after: int = 0) -> int:
        """Wait until what was shown from `after` on matches; gives where the match ends."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            found = re.search(pattern, self.seen[after:])
            if found:
                return after + found.end()
            self._read()
        raise AssertionError(f"{pattern!r} was not shown; instead: {self.seen[after:][-2000:]!r}")

    def send(self, text: str) -> None:
        os.write(self.master, text.encode())

    def wait(self) -> int:
        """The exit status."""
        deadline = time.monotonic() + PATIENCE_S
        while self.process.poll() is None and time.monotonic() < deadline:
            self._read()
        self._read()
        return self.process.wait(1)

    def _read(self) -> None:
        if select.select([self.master], [], [], 0.1)[0]:
            try:
                self.raw += os.read(self.master, 65536).decode(errors="replace")
            except OSError:  # the other end is closed
                time.sleep(0.05)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self.master)
