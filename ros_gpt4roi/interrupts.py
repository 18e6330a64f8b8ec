"""Ctrl-C for programs that talk to ROS: a signal sets a flag, and the program looks at it where it waits."""

from __future__ import annotations

import signal
from types import FrameType
from typing import Any


def ending_signals() -> tuple[signal.Signals, ...]:
    """The signals that tell a program to end: SIGINT, SIGTERM, and SIGHUP (its terminal was closed) unless ignored.

    What `nohup` starts has SIGHUP ignored, and is meant to outlive its terminal.
    """
    hangup = () if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else (signal.SIGHUP,)
    return signal.SIGINT, signal.SIGTERM, *hangup


class Interrupts:
    """Counts the signals that tell a program to end while it is entered, in the main thread.

    Python's own handler raises KeyboardInterrupt wherever the thread is: within rclpy, that turns into another error or
    leaves a message half read.

    Attributes:
        count: How many signals have come.
    """

    def __init__(self) -> None:
        self.count = 0
        self._number = 0
        self._before: list[tuple[signal.Signals, Any]] = []

    def __enter__(self) -> Interrupts:
        self._before = [(number, signal.signal(number, self._on_signal)) for number in ending_signals()]
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before:
            signal.signal(number, handler)

    def check(self) -> None:
        """Raises KeyboardInterrupt where a signal has come; to be called where that does no harm."""
        if self.count:
            raise KeyboardInterrupt

    @property
    def status(self) -> int:
        """The exit status of a program that the signal has ended, as shells have it."""
        return 128 + self._number

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.count += 1
        self._number = number
