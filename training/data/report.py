"""What was left out of a data set and why: counted, named, and an error where it is too much."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from training.data.record import Filtered, RecordError, explain

NAMED_ERRORS = 20

log = logging.getLogger(__name__)


class TooManyMalformedError(RecordError):
    """More items are malformed than may be; the message lists the first of them."""


@dataclass
class Malformed:
    """Counts items that cannot be used and lets a run go on without them, up to a limit.

    Attributes:
        limit: How many may be malformed.
        malformed: How many were.
        errors: What was wrong with the first of them.
    """

    limit: int
    malformed: int = 0
    errors: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._known: set[Hashable] = set()

    def fail(self, message: str, key: Hashable = None) -> None:
        """Count and log one item.

        Args:
            message: Names the item and says what is wrong with it.
            key: Of an item that may come again; it is counted and logged once.

        Raises:
            TooManyMalformedError: More than ``limit`` items are malformed.
        """
        if key is not None and key in self._known:
            return
        self._known.add(key)
        self.malformed += 1
        if len(self.errors) < NAMED_ERRORS:
            self.errors.append(message)
        log.warning("malformed, skipped: %s", message)
        if self.malformed > self.limit:
            listing = "\n  ".join(self.errors)
            raise TooManyMalformedError(f"more than {self.limit} malformed items; the first of them:\n  {listing}")


@dataclass
class Report(Malformed):
    """What a scan of annotation files did.

    Attributes:
        read: Items in the files: images, or lines.
        kept: Entries in the index.
        filtered: Reason → how many items were left out on purpose.
        noted: What was done → to how many items that were kept.
        counted: What kept entries hold → how much of it.
        metadata: What is true of the whole file, such as class names, so that nobody has to open it again.
    """

    read: int = 0
    kept: int = 0
    filtered: dict[str, int] = field(default_factory=dict)
    noted: dict[str, int] = field(default_factory=dict)
    counted: dict[str, int] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """Return what is there, what was left out or changed and the first errors, a line each."""
        counts = [("counted", self.counted), ("filtered", self.filtered), ("noted", self.noted)]
        lines = [f"{word} {count}: {reason}" for word, found in counts for reason, count in sorted(found.items())]
        return [*lines, f"malformed {self.malformed}", *(f"  {message}" for message in self.errors)]

    @contextmanager
    def item(self, where: str) -> Iterator[None]:
        """A context in which one item is read: it is counted where that fails, and the scan goes on behind it.

        `Filtered` counts it as left out on purpose, what malformed values raise (ValueError, KeyError, …) as malformed.

        Args:
            where: What messages call the item.

        Raises:
            TooManyMalformedError: More than ``limit`` items are malformed.
        """
        try:
            yield
        except Filtered as reason:
            self.filter(str(reason))
        except TooManyMalformedError:
            raise
        except (ValueError, TypeError, LookupError, ArithmeticError, RecursionError) as error:
            self.fail(f"{where}: {explain(error)}")

    def filter(self, reason: str) -> None:
        """Count an item that is left out on purpose."""
        self.filtered[reason] = self.filtered.get(reason, 0) + 1

    def count(self, what: str, number: int = 1) -> None:
        """Count what an entry that is kept holds."""
        if number:
            self.counted[what] = self.counted.get(what, 0) + number

    def note(self, action: str) -> None:
        """Count an item that is kept, but not as it was."""
        self.noted[action] = self.noted.get(action, 0) + 1
