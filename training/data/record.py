"""The one record type every data set is turned into: an image, its boxes, and a conversation about them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

REFERENCE = re.compile(r"<(region|box|point)(\d+)>")


class RecordError(ValueError):
    """A record, or the annotation it comes from, breaks its format. The message names the record and what is wrong."""


class Filtered(Exception):
    """An item that is left out on purpose; the message is the reason, by which such items are counted."""


def explain(error: Exception) -> str:
    """Say in a file's own terms why an item of it cannot be used.

    Args:
        error: What reading the item raised.

    Returns:
        A KeyError as "has no NAME", any other error as its message.
    """
    return f"has no {error.args[0]!r}" if isinstance(error, KeyError) else str(error)


@dataclass(frozen=True)
class Round:
    """One question and its answer.

    Both texts refer to regions as ``<regionK>`` (named) or ``<boxK>`` (the bare region token), where K is the 1-based
    place of the region in the record's boxes. ``task`` names what is asked, for scoring.
    """

    question: str
    answer: str
    task: str = ""


@dataclass(frozen=True)
class Record:
    """An image with its regions and one conversation.

    Attributes:
        image: Path, or uint8 RGB [H, W, 3].
        boxes: float32 [N, 4], x1 y1 x2 y2 in pixels of that image.
        rounds: The conversation, in order.
        source: Data set and id, for error messages.
        masks: Of each box, weights in 0..1 of a grid [h, w] of any size that divides it, or None for all of it; empty
            where no box has one.
        points: Of regions that are pointed at instead of framed, by their 1-based place: x y in pixels, inside the box.
    """

    image: str | Path | np.ndarray
    boxes: np.ndarray = field(default_factory=lambda: np.zeros((0, 4), np.float32))
    rounds: tuple[Round, ...] = ()
    source: str = ""
    masks: tuple[np.ndarray | None, ...] = ()
    points: Mapping[int, tuple[float, float]] = field(default_factory=dict)


def references(text: str) -> list[int]:
    """The 1-based region places ``text`` refers to, in order, repeats kept."""
    return [int(number) for _, number in REFERENCE.findall(text)]


def check_record(record: Record) -> Record:
    """Return ``record`` unchanged, or raise RecordError where it breaks the contract."""
    boxes = record.boxes
    if boxes.dtype != np.float32 or boxes.ndim != 2 or boxes.shape[1] != 4:
        raise RecordError(f"{record.source}: boxes must be float32 [N, 4], got {boxes.dtype} {list(boxes.shape)}")
    if not np.isfinite(boxes).all():
        raise RecordError(f"{record.source}: boxes are not finite")
    if (boxes[:, 2:] <= boxes[:, :2]).any():
        raise RecordError(f"{record.source}: a box has no area: {boxes.tolist()}")
    if record.masks and len(record.masks) != len(boxes):
        raise RecordError(f"{record.source}: {len(record.masks)} masks for {len(boxes)} boxes")
    for number, point in record.points.items():
        box = boxes[number - 1] if 1 <= number <= len(boxes) else None
        if box is None or not ((box[:2] <= point) & (point <= box[2:])).all():
            raise RecordError(f"{record.source}: point {point} of region {number} is not inside its box")
    if not record.rounds:
        raise RecordError(f"{record.source}: no conversation")
    for turn in record.rounds:
        if not isinstance(turn.question, str) or not isinstance(turn.answer, str):
            raise RecordError(f"{record.source}: a question or answer is no text: {turn.question!r} / {turn.answer!r}")
        if not turn.question.strip() or not turn.answer.strip():
            raise RecordError(f"{record.source}: an empty question or answer: {turn.question!r} / {turn.answer!r}")
        for number in references(turn.question) + references(turn.answer):
            if not 1 <= number <= len(boxes):
                raise RecordError(f"{record.source}: region {number} is named but there are {len(boxes)} boxes")
    return record
