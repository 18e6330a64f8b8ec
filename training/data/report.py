"""What was left out of a data set and why: counted, named, and an error where it is too much."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any

from training.data.record import RecordError

NAMED_ERRORS = 20

log = logging.getLogger(__name__)


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

    def fail(self, message: str) -> None:
        """Count and log one item.

        Args:
            message: Names the item and says what is wrong with it.

        Raises:
            RecordError: More than ``limit`` items are malformed; the message lists the first of them.
        """
        self.malformed += 1
        if len(self.errors) < NAMED_ERRORS:
            self.errors.append(message)
        log.warning("malformed, skipped: %s", message)
        if self.malformed > self.limit:
            listing = "\n  ".join(self.errors)
            raise RecordError(f"more than {self.limit} malformed items; the first of them:\n  {listing}")


@dataclass
class Report(Malformed):
    """What a scan of annotation files did.

    Attributes:
        read: Items in the files: images, or lines.
        kept: Entries in the index.
        filtered: Reason → how many items were left out on purpose.
        noted: What was done → to how many items that were kept.
        metadata: What is true of the whole file, such as class names, so that nobody has to open it again.
    """

    read: int = 0
    kept: int = 0
    filtered: dict[str, int] = field(default_factory=dict)
    noted: dict[str, int] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """Return what was left out or changed and the first errors, a line each."""
        counts = [("filtered", self.filtered), ("noted", self.noted)]
        lines = [f"{word} {count}: {reason}" for word, found in counts for reason, count in sorted(found.items())]
        return [*lines, f"malformed {self.malformed}", *(f"  {message}" for message in self.errors)]

    def filter(self, reason: str, count: int = 1) -> None:
        """Count items that are left out on purpose."""
        self.filtered[reason] = self.filtered.get(reason, 0) + count

    def note(self, action: str) -> None:
        """Count an item that is kept, but not as it was."""
        self.noted[action] = self.noted.get(action, 0) + 1
