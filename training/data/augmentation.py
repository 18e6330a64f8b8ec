"""Pictures that look a little otherwise at every visit, so that a few of them teach what they have in common."""

from __future__ import annotations

import dataclasses
import re

import cv2
import numpy as np

from training.data.record import Record

_SHIFT = 0.04  # of a box's width or height, by which each edge moves at most: no detector's boxes are exact
_ZOOM = 0.85, 1.2  # far less than what makes a thing a small or a large one
_GAIN, _OFFSET = 0.15, 10.0  # of brightness; the offset in steps of 255
_SIDE = re.compile(r"\b(left|right)", re.IGNORECASE)


def vary(record: Record, rng: np.random.Generator) -> Record:
    """Mirror and zoom a picture, move the edges of its boxes, and change its brightness; all that is said stays true.

    A picture is not mirrored where a text speaks of left or right. Where a region has a mask, no region moves.

    Args:
        record: Its image uint8 RGB [H, W, 3], without points.
        rng: Draws the changes.
    """
    assert isinstance(record.image, np.ndarray)
    image, boxes = record.image, record.boxes
    height, width = image.shape[:2]
    if all(mask is None for mask in record.masks):
        if rng.random() < 0.5 and not any(_SIDE.search(turn.question + turn.answer) for turn in record.rounds):
            image = image[:, ::-1]
            boxes = np.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], axis=1)
        image, boxes = _zoomed(image, boxes, rng)
        boxes = moved_edges(boxes, _SHIFT, width, height, rng)
    lit = image * np.float32(1 + rng.uniform(-_GAIN, _GAIN)) + np.float32(rng.uniform(-_OFFSET, _OFFSET))
    return dataclasses.replace(record, image=np.clip(lit, 0, 255).astype(np.uint8), boxes=boxes)


def moved_edges(boxes: np.ndarray, most: float, width: int, height: int, rng: np.random.Generator) -> np.ndarray:
    """Boxes as a detector may give them: each edge moved for itself.

    Args:
        boxes: float32 [N, 4], x1 y1 x2 y2 in pixels.
        most: Part of a box's width or height, below a half, that an edge moves by at most.
        width: Of the image, pixels, beyond which no edge moves.
        height: Likewise.
        rng: Draws how far.

    Returns:
        float32 [N, 4].
    """
    sizes = np.tile(boxes[:, 2:] - boxes[:, :2], 2)
    moved = boxes + rng.uniform(-most, most, boxes.shape) * sizes
    return np.clip(moved, 0, (width, height, width, height)).astype(np.float32)


def _zoomed(image: np.ndarray, boxes: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A picture from a little nearer, with all its boxes, or from a little further away, its border drawn out."""
    size = np.asarray(image.shape[1::-1], np.float64)
    scale = float(np.exp(rng.uniform(*np.log(_ZOOM))))
    low, high = np.minimum(0, size * (1 - scale)), np.maximum(0, size * (1 - scale))
    if scale > 1 and len(boxes):
        low = np.maximum(low, -scale * np.clip(boxes[:, :2], 0, size).min(0))
        high = np.minimum(high, size - scale * np.clip(boxes[:, 2:], 0, size).max(0))
    move = rng.uniform(size=2)
    if (low > high).any():
        return image, boxes
    move = low + (high - low) * move
    shift = move + (scale - 1) / 2  # OpenCV's whole numbers are centres of pixels, ours are their edges
    matrix = np.asarray([[scale, 0, shift[0]], [0, scale, shift[1]]])
    image = cv2.warpAffine(image, matrix, image.shape[1::-1], flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return image, (boxes * scale + np.tile(move, 2)).astype(np.float32)
