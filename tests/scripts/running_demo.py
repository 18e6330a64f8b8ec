"""The demonstration in a process of its own, read up to where it waits for people."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LIMIT_S = 120.0
WAITS = r"^Answers:\n"


class RunningDemo:
    """scripts/demo.py, which stays.

    Attributes:
        shown: What it has printed so far.
    """

    def __init__(self, root: Path, *arguments: str | Path) -> None:
        self.shown = ""
        self._process = subprocess.Popen([sys.executable, root / "scripts" / "demo.py", *arguments],
                                         stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def read_to(self, pattern: str) -> re.Match[str]:
        """Reads on until what is printed has the pattern."""
        while (found := re.search(pattern, self.shown, re.MULTILINE)) is None:
            line = self._process.stdout.readline()
            assert line, self.shown
            self.shown += line
        return found

    def stop(self) -> str:
        """Tells it to end, which it must do in order. Returns what it printed since."""
        self._process.terminate()
        rest = self._process.communicate(timeout=LIMIT_S)[0]
        assert self._process.returncode == 0 and "\nDone. Try next:" in rest and "Traceback" not in rest, rest
        return rest

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


@contextmanager
def running_demo(root: Path, *arguments: str | Path) -> Iterator[RunningDemo]:
    """A demonstration that is gone behind the block, also where nobody has stopped it."""
    demo = RunningDemo(root, *arguments)
    try:
        yield demo
    finally:
        demo.kill()
