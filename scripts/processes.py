"""Child processes that end with their parent's work: started together, watched, stopped by SIGINT within a limit."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

_STOP_LIMIT_S = 20.0
_SHOWN_LINES = 15


class ProcessDied(RuntimeError):
    """A child ended by itself or did not end when told; the text has its name, exit status and last output."""


class Processes:
    """A context manager; on leaving it every child has ended.

    folder: where each child's output goes, as NAME.log. environment: of all children.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self._folder = folder
        self._environment = dict(environment)
        self._children: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        stubborn = self._stop()
        if stubborn and kind is None:
            raise ProcessDied(stubborn)

    def start(self, name: str, command: Sequence[str]) -> None:
        with (self._folder / f"{name}.log").open("wb") as output:
            # In a session of its own: Ctrl-C in the terminal reaches the parent only, which then stops it in order.
            self._children[name] = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=self._environment,
                start_new_session=True)

    def check(self) -> None:
        """Raises ProcessDied where a child has ended."""
        for name, child in self._children.items():
            if child.poll() is not None:
                raise ProcessDied(self._report(name, f"ended with status {child.returncode}"))

    def _stop(self) -> str:
        """Stop all children. Returns which had to be killed, or ""."""
        reports = []
        for child in self._children.values():
            if child.poll() is None:
                child.send_signal(signal.SIGINT)
        for name, child in self._children.items():
            try:
                child.wait(_STOP_LIMIT_S)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
                reports.append(self._report(name, f"did not end within {_STOP_LIMIT_S:g} s of SIGINT and was killed"))
        return "\n".join(reports)

    def _report(self, name: str, what: str) -> str:
        lines = (self._folder / f"{name}.log").read_text(encoding="utf-8", errors="replace").splitlines()
        shown = "\n".join(f"    {line}" for line in lines[-_SHOWN_LINES:])
        return f"{name} {what}; its last lines:\n{shown or '    (none)'}"
