"""The thread that writes recordings: whoever hands messages in never waits for a disk."""
from __future__ import annotations

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from typing import NamedTuple

from .bag_folder import BagFolder, Serialised
from .blackout import Withheld

_RETRY_S = 5.0
_SLOW_S = 5.0  # a write that takes longer is told
_CLOSE_S = 4.0  # within what a node's end may take
_INDEX_S = 1.0  # of that, for the index

logger = logging.getLogger(__name__)


class Pending(NamedTuple):
    """A message to write.

    Attributes:
        make: Makes it, in the writing thread. Raises Withheld, or ValueError where there is nothing to write.
        size: Bytes that it holds until then.
    """

    make: Callable[[], Serialised]
    size: int


class BagWriter:
    """Writes messages in a thread of its own.

    Where the disk fails, what comes is dropped and counted, and every five seconds one message is tried again.

    Args:
        bag: Where to.
        most_bytes: What may wait; more is dropped and counted.
    """

    def __init__(self, bag: BagFolder, most_bytes: int) -> None:
        self._bag, self._most = bag, most_bytes
        self._waiting: deque[Pending] = deque()
        self._bytes = 0
        self._condition = threading.Condition()
        self._closing = False
        self._writing_since_s = 0.0
        self._retry_s = 0.0
        self.failure = ""  # why nothing is written
        self.counts: Counter[str] = Counter()
        self._thread = threading.Thread(target=self._run, name="recorder", daemon=True)
        self._thread.start()

    def put(self, pending: Pending) -> None:
        """Hands a message in, from any thread."""
        with self._condition:
            if self._bytes + pending.size > self._most:
                self.counts["dropped, the disk is too slow"] += 1
                return
            self._waiting.append(pending)
            self._bytes += pending.size
            self._condition.notify()

    def slow(self) -> str:
        """Says that a write takes long; empty where none does."""
        began_s = self._writing_since_s
        taken_s = time.monotonic() - began_s
        return f"the disk has not taken a message for {taken_s:.0f} s" if began_s and taken_s > _SLOW_S else ""

    def close(self) -> None:
        """Writes what waits and ends the file, within four seconds; a disk that hangs is left alone."""
        with self._condition:
            self._closing = True
            self._condition.notify()
        self._thread.join(_CLOSE_S)

    def _run(self) -> None:
        end_s = float("inf")
        while True:
            with self._condition:
                self._condition.wait_for(lambda: self._waiting or self._closing)
                if self._closing:
                    end_s = min(end_s, time.monotonic() + _CLOSE_S - _INDEX_S)
                if not self._waiting or time.monotonic() > end_s:
                    lost = len(self._waiting)
                    break
                pending = self._waiting.popleft()
                self._bytes -= pending.size
            self._writing_since_s = time.monotonic()
            self._write(pending)
            self._writing_since_s = 0.0
        if lost:
            logger.error("the disk is too slow: %d messages are not written at the end", lost)
        try:
            self._bag.close()
        except OSError as error:
            logger.error("the recording has no index: %s", error)

    def _write(self, pending: Pending) -> None:
        if self.failure and time.monotonic() < self._retry_s:
            self.counts["dropped, the disk failed"] += 1
            return
        try:
            message = pending.make()
            self._bag.write(message)
        except OSError as error:
            self.counts["dropped, the disk failed"] += 1
            self._retry_s = time.monotonic() + _RETRY_S
            if not self.failure:
                logger.error("recording stops: %s", error)
            self.failure = str(error)
        except Withheld as error:
            self.counts[f"withheld: {error}"] += 1
        except Exception as error:  # of a damaged picture; it costs only itself
            self.counts["not written"] += 1
            if self.counts["not written"] == 1:
                logger.warning("a message is not recorded: %s", error)
        else:
            if self.failure:
                logger.warning("recording goes on")
            self.failure = ""
            self.counts["messages"] += 1
            self.counts["bytes"] += len(message.data)
