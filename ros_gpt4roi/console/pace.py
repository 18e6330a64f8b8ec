"""How much of the pictures one browser gets: what it acknowledges in time."""

from __future__ import annotations

import math
import time

from .frames import LEVELS, Level

_FIRST = 2
_SLOW_S, _FAST_S = 0.4, 0.12  # of the transfer of one picture
_PATIENCE, _MOST_PATIENCE = 4, 64  # pictures that must be fast before the next level is tried


class Pace:
    """Chooses when the next picture is sent, and at which level.

    One picture is on its way at a time, so that its rate follows the browser's, and a text never waits for more than
    one. A ping goes before each picture: the time from its pong to the picture's acknowledgement is what the picture
    took, however far away the browser is.
    """

    def __init__(self) -> None:
        self._level = _FIRST
        self._fast = 0
        self._patience = _PATIENCE
        self._sent_s = -math.inf
        self._pong_s: float | None = None
        self._number: int | None = None  # of the picture on its way

    @property
    def level(self) -> Level:
        """At which the next picture is sent."""
        return LEVELS[self._level]

    def wait_s(self) -> float:
        """Seconds until the next picture may be sent; infinite while one is on its way."""
        if self._number is not None:
            return math.inf
        return max(0.0, self._sent_s + self.level.period_s - time.monotonic())

    def sent(self, number: int) -> None:
        """A picture was sent."""
        self._number, self._sent_s, self._pong_s = number, time.monotonic(), None

    def pong(self, number: int) -> None:
        """The browser answered the ping before a picture."""
        if number == self._number:
            self._pong_s = time.monotonic()

    def acknowledged(self, number: int) -> None:
        """The browser has a picture."""
        if number != self._number:
            return
        self._number = None
        taken = time.monotonic() - (self._pong_s or self._sent_s)
        if taken > _SLOW_S:
            self._level = min(self._level + 1 + int(math.log2(taken / _SLOW_S)), len(LEVELS) - 1)
            self._patience = min(2 * self._patience, _MOST_PATIENCE)  # soon trying again would stall it again
            self._fast = 0
        elif taken > _FAST_S:
            self._fast = 0
        elif self._level > 0:
            self._fast += 1
            if self._fast >= self._patience:
                self._level -= 1
                self._fast = 0
