"""Regions and their texts, drawn onto a frame."""
from __future__ import annotations

import zlib
from collections.abc import Iterable

import cv2
import numpy as np

from .runtime.types import Region

# Distinct on dark and light grounds, and in print (RGB).
_PALETTE = ((230, 75, 53), (0, 122, 194), (0, 150, 110), (225, 150, 0), (130, 80, 180), (200, 60, 140), (110, 110, 0),
            (0, 140, 160))
_FONT = cv2.FONT_HERSHEY_SIMPLEX


def region_colour(identifier: str) -> tuple[int, int, int]:
    """The RGB colour of a region, the same in every frame and process for the same id."""
    return _PALETTE[zlib.crc32(identifier.encode()) % len(_PALETTE)]


def annotate(image: np.ndarray, regions: Iterable[tuple[Region, str]]) -> np.ndarray:
    """A copy of uint8 RGB [H, W, 3] with each region's box, id and text; boxes in pixels of the image."""
    canvas = np.array(image, order="C")
    height, width = canvas.shape[:2]
    scale = max(0.35, min(width, height) / 1100)
    line = max(2, round(min(width, height) / 300))
    regions = list(regions)
    for region, _ in regions:
        # Boxes may reach far outside; OpenCV takes 32-bit corners only.
        x1, y1, x2, y2 = (int(round(v)) for v in np.clip(region.box, -1, max(width, height) + 1))
        cv2.rectangle(canvas, (x1, y1), (x2, y2), region_colour(region.id), line, cv2.LINE_AA)
    for region, text in regions:  # after all the boxes, so that no line crosses a text
        _draw_label(canvas, region, f"{region.id}: {text}" if text else region.id, scale)
    return canvas


def _draw_label(canvas: np.ndarray, region: Region, text: str, scale: float) -> None:
    height, width = canvas.shape[:2]
    pad = max(2, round(6 * scale))
    lines = _wrap(text, max(60, round(width * 0.4)), scale)
    sizes = [cv2.getTextSize(line, _FONT, scale, 1) for line in lines]
    text_width = max(size[0][0] for size in sizes)
    line_height = max(size[0][1] + size[1] for size in sizes) + pad // 2
    block = line_height * len(lines) + pad
    left = int(np.clip(region.box[0], 0, max(0, width - text_width - 2 * pad)))
    # Above the box where there is room, else inside it, along its upper edge.
    top = region.box[1] - block
    top = int(np.clip(top if top >= 0 else region.box[1], 0, max(0, height - block)))
    colour = region_colour(region.id)
    cv2.rectangle(canvas, (left, top), (left + text_width + 2 * pad, top + block), colour, cv2.FILLED)
    for number, line in enumerate(lines, 1):
        baseline = top + number * line_height - pad // 2
        cv2.putText(canvas, line, (left + pad, baseline), _FONT, scale, (255, 255, 255), 1, cv2.LINE_AA)


def _wrap(text: str, limit: int, scale: float) -> list[str]:
    """Breaks a text into lines of at most `limit` pixels, three of them; what is cut shows as dots."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and cv2.getTextSize(longer, _FONT, scale, 1)[0][0] > limit:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines if len(lines) <= 3 else [*lines[:2], lines[2] + " ..."]
