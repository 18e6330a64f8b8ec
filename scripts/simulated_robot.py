"""A simulated robot: nodes as processes in a ROS domain of their own, and programs that run beside them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from demo import executable
from isolation import claim_domain, for_children, variables
from processes import ProcessDied, Processes

from ros_gpt4roi.interrupts import Interrupts
from ros_gpt4roi.printable import show

ROOT = Path(__file__).resolve().parent.parent
_READ_S = 10.0  # for the last lines of a program that has ended


class Robot:
    """The nodes as processes in a ROS domain of their own. A context manager; on leaving it all have ended.

    logs: a folder, where each node's output goes.
    """

    def __init__(self, logs: Path, interrupts: Interrupts) -> None:
        self._logs, self._interrupts = logs, interrupts
        self._running: list[Processes] = []
        self._stack = ExitStack()

    def __enter__(self) -> Robot:
        domain, claim = claim_domain()
        self._stack.enter_context(claim)
        os.environ.update(variables(domain, self._logs))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def check(self) -> None:
        """Raises KeyboardInterrupt where the demonstration is to end, ProcessDied where a node has ended."""
        self._interrupts.check()
        for processes in self._running:
            processes.check()

    @contextmanager
    def running(self, nodes: dict[str, dict[str, Any]]) -> Iterator[None]:
        """Runs nodes, by their names and with their parameters, until the block ends."""
        with Processes(self._logs, for_children()) as processes:
            for name, parameters in nodes.items():
                options = [word for key, value in parameters.items() for word in ("-p", f"{key}:={value}")]
                processes.start(name, [executable(name), *(["--ros-args", *options] if options else [])])
            self._running.append(processes)
            try:
                yield
            finally:
                self._running.remove(processes)

    def run(self, name: str, *arguments: object) -> float:
        """Runs a Python module to its end: what it prints is shown, the rest goes to a log. Returns its peak MiB."""
        log = self._logs / f"{name}.log"
        with log.open("wb") as errors:
            child = subprocess.Popen(
                [sys.executable, "-u", "-m", *map(str, arguments)], cwd=ROOT, env=for_children(), text=True,
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, start_new_session=True)
        reader = threading.Thread(target=_show_lines, args=(child.stdout,), daemon=True)
        reader.start()
        try:
            while True:
                ended, status, usage = os.wait4(child.pid, os.WNOHANG)
                if ended:
                    break
                self.check()
                time.sleep(0.2)
        except BaseException:
            child.send_signal(signal.SIGINT)
            try:
                child.wait(20.0)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
            raise
        reader.join(_READ_S)
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            last = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:])
            raise ProcessDied(f"{name} ended with status {child.returncode}; its last lines:\n{last}")
        return usage.ru_maxrss / 1024


def _show_lines(lines: Iterable[str]) -> None:
    for line in lines:
        if not line.startswith("{"):  # transformers' own, of every few steps
            show(f"   {line.rstrip()}")
