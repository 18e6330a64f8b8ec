"""The card of a retrained model, `card.json` in its folder: how often it is right, and how often the one before was."""

from __future__ import annotations

from pathlib import Path

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
    path = folder / CARD_FILE
    if not path.exists():
        return 0.0
    try:
        old = read_json(path)["old"]
        before, after = old["before"], old["after"]
        return 0.0 if before is None or after is None else max(0.0, float(before) - float(after))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CardError(f"{path}: {error!r}, expected {{\"old\": {{\"before\": 0.9, \"after\": 0.9}}}}") from error
