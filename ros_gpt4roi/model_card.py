"""The card of a retrained model, `card.json` in its folder: how often it is right, and how often the one before was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .regular_file import read_json

CARD_FILE = "card.json"


class CardError(ValueError):
    """A card that cannot be read; the message names the file and what was expected."""


def measured_loss(folder: Path) -> float:
    """How much less of what was known before a model answers rightly, by its card.

    Args:
        folder: Of the model.

    Returns:
        0 to 1; 0 where it answers as much or more, and where it has no card or the card does not say.

    Raises:
        CardError: There is a card, but it cannot be read.
    """
    if not (folder / CARD_FILE).exists():
        return 0.0
    before, after = _shares(folder, "old")
    return 0.0 if before is None or after is None else max(0.0, before - after)


def summary(folder: Path) -> str:
    """What a card says, in one line. Raises CardError where it cannot be read."""
    def told(before: float | None, after: float | None) -> str:
        return "not measured" if before is None or after is None else f"{before:.1%} right before, {after:.1%} now"

    return (f"of corrections that were held out {told(*_shares(folder, 'new'))}; "
            f"of what was known {told(*_shares(folder, 'old'))}")


def _shares(folder: Path, group: str) -> tuple[float | None, float | None]:
    path = folder / CARD_FILE
    try:
        figures: dict[str, Any] = read_json(path)[group]
        before, after = (None if figures[name] is None else float(figures[name]) for name in ("before", "after"))
        if not all(share is None or 0 <= share <= 1 for share in (before, after)):  # NaN would be no loss
            raise ValueError(f"{group} is {before} and {after}")
        return before, after
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise CardError(f"{path}: {error!r}, expected {{\"{group}\": {{\"before\": 0.9, \"after\": 0.9}}}}") from error
