"""Regions that are more than boxes: masks, polygons and points, made into what the network takes.

Every region has a box; a mask or polygon also weighs the grid of bins over it; a point is a small box that the prompt
marks with a token of its own. Coordinates are pixels of the frame, origin at the outer corner of the top left pixel.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

from .config import PointConfig, RegionConfig
from .preprocess import normalise_boxes
from .region_replay import RegionReplay

# Fractional bits of polygon corners, as cv2.fillPoly takes them.
_SHIFT = 4
# Most cells a side that a box is divided into before it is sampled; a polygon's always is into so many.
_GRID = 128
# How far away a polygon's corner is taken for what it is, in boxes: OpenCV counts in whole numbers.
_FARTHEST = 1 << 13
# Most corners that OpenCV fills: where lines cross a lot, its time grows with the cube of their number.
_MOST_FILLED = 256
# Least area of a polygon's hull, in parts of the box around it: less is what rounding makes of corners on a line.
_LEAST_AREA = 1e-4
_SHOWN = 200  # characters of a polygon in an error


class ShapeError(ValueError):
    """A region that cannot be one; the message names what it holds and what was expected."""


class RegionShape(NamedTuple):
    """A region of a frame.

    Attributes:
        box: x1 y1 x2 y2.
        mask: Weights in 0..1 of a grid [h, w] of any size that divides exactly the box; None: all of it.
        is_point: Whether the prompt speaks of it as a point.
    """

    box: tuple[float, float, float, float]
    mask: np.ndarray | None = None
    is_point: bool = False


class RegionInputs(NamedTuple):
    """What `GPT4RoI.encode` and `PromptBuilder.encode` take for the regions of one frame.

    Attributes:
        boxes: float32 [N, 4] in units of the image.
        masks: float32 [N, P, P], or None where every region is a whole box.
        points: Numbers, from 1, of the regions that are points.
    """

    boxes: np.ndarray
    masks: np.ndarray | None
    points: frozenset[int]


def box_region(x1: float, y1: float, x2: float, y2: float) -> RegionShape:
    """A whole box."""
    return RegionShape((float(x1), float(y1), float(x2), float(y2)))


def mask_region(mask: np.ndarray, box: Sequence[float] | None = None) -> RegionShape:
    """Make a region of a mask's pixels.

    Args:
        mask: bool, or numbers in 0..1, [H, W] of the whole frame.
        box: x1 y1 x2 y2 in pixels of the mask, which may reach outside; None: the tight box of the pixels.

    Returns:
        The box and the part of it that they cover.

    Raises:
        ShapeError: It is another array, or the box shows nothing of it.
    """
    mask = np.asarray(mask)
    if mask.ndim != 2 or not (mask.dtype == bool or np.issubdtype(mask.dtype, np.number)):
        raise ShapeError(f"mask is {mask.dtype} {mask.shape}, expected bool or numbers in 0..1, [H, W]")
    if mask.dtype != bool and mask.size and not (mask.min() >= 0 and mask.max() <= 1):
        raise ShapeError(f"mask holds {mask.min():g} to {mask.max():g}, expected 0 to 1")
    if box is not None:
        x1, y1, x2, y2 = map(float, box)
        weights = _part(mask, (x1, y1, x2, y2))
        if not weights.any():
            raise ShapeError(f"mask of {mask.shape} is empty within box {list(box)}, expected a pixel of it there")
        return RegionShape((x1, y1, x2, y2), weights)
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        raise ShapeError(f"mask of {mask.shape} is empty, expected at least one pixel in it")
    top, bottom, left, right = int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
    return RegionShape((left, top, right, bottom), mask[top:bottom, left:right].astype(np.float32))


def polygon_region(*polygons: np.ndarray, box: Sequence[float] | None = None) -> RegionShape:
    """Make a region of the inside of a polygon, or of several together; may reach outside the frame.

    Args:
        *polygons: Corners [M, 2], x y, M at least 3.
        box: x1 y1 x2 y2; None: the polygons' tight box.

    Returns:
        The box and the part of it that they cover.

    Raises:
        ShapeError: There are none, they are other arrays, they enclose nothing, or nothing of the box.
    """
    parts = [np.asarray(corners, dtype=np.float64) for corners in polygons]
    for corners in parts:
        if corners.ndim != 2 or corners.shape[1:] != (2,) or len(corners) < 3 or not np.isfinite(corners).all():
            raise ShapeError(f"polygon is {str(corners.tolist())[:_SHOWN]}, expected at least 3 corners of finite x y")
    everything = np.concatenate([np.zeros((0, 2)), *parts])
    shown = str(everything.tolist())[:_SHOWN]
    if not parts or encloses_nothing(parts):
        raise ShapeError(f"polygon {shown} encloses nothing")
    low, high = (everything.min(0), everything.max(0)) if box is None else np.array(box, np.float64).reshape(2, 2)
    # Drawn enlarged, so that thin and small polygons keep their form; its grid covers exactly the box.
    canvas = np.zeros((_GRID, _GRID), np.uint8)
    for corners in parts:
        grid = ((corners - low) / (high - low)).clip(-_FARTHEST, _FARTHEST) * _GRID
        if len(grid) > _MOST_FILLED:
            canvas[_inside(grid)] = 255
            continue
        # cv2 counts from the centres of pixels.
        cv2.fillPoly(canvas, [np.round((grid - 0.5) * (1 << _SHIFT)).astype(np.int32)], 255, shift=_SHIFT)
    if not canvas.any():
        raise ShapeError(f"polygon {shown} encloses nothing" + (f" of box {list(box)}" if box is not None else ""))
    return RegionShape((*low.tolist(), *high.tolist()), canvas.astype(np.float32) / 255)


def encloses_nothing(polygons: Sequence[np.ndarray]) -> bool:
    """Whether the corners [M, 2] of each polygon lie on one line."""
    return all(_on_a_line(np.asarray(corners, np.float64)) for corners in polygons)


def point_region(x: float, y: float, width: int, height: int, config: PointConfig) -> RegionShape:
    """A point of a width × height frame: a square box of `config.size` of the shorter side around it."""
    if not (np.isfinite((x, y)).all() and 0 <= x <= width and 0 <= y <= height):
        raise ShapeError(f"point is ({x}, {y}), expected one inside the {width} × {height} frame")
    half = config.size * min(width, height) / 2
    return RegionShape((x - half, y - half, x + half, y + half), is_point=True)


def region_inputs(regions: Sequence[RegionShape], width: int, height: int,
                  config: RegionConfig | RegionReplay | None) -> RegionInputs:
    """The regions of a width × height frame as the network's inputs; without masks where no config says their size.

    Raises ValueError where a box is not finite x1 < x2, y1 < y2 (see normalise_boxes).
    """
    boxes = normalise_boxes(np.array([region.box for region in regions], np.float32), width, height)
    points = frozenset(i for i, region in enumerate(regions, 1) if region.is_point)
    if config is None or all(region.mask is None for region in regions):
        return RegionInputs(boxes, None, points)
    size = config.roi_size
    masks = np.ones((len(regions), size, size), np.float32)
    for i, region in enumerate(regions):
        if region.mask is not None:
            masks[i] = area_sample(region.mask, size)
    return RegionInputs(boxes, masks, points)


def area_sample(mask: np.ndarray, size: int) -> np.ndarray:
    """A mask over a box [h, w] → the part of every bin that it covers, [size, size], exact for any h and w."""
    height, width = mask.shape
    rows, columns = _overlaps(0, height, height, size), _overlaps(0, width, width, size)
    return np.asarray(rows @ mask @ columns.T, np.float32)


def _on_a_line(corners: np.ndarray) -> bool:
    low, extent = corners.min(0), np.ptp(corners, axis=0)
    return not extent.all() or bool(
        cv2.contourArea(cv2.convexHull(((corners - low) / extent).astype(np.float32))) < _LEAST_AREA)


def _inside(corners: np.ndarray) -> np.ndarray:
    """The cells whose centre is inside a polygon of cells, bool; by the crossings of each row with its sides."""
    (x1, y1), (x2, y2) = corners.T, np.roll(corners, -1, axis=0).T
    centres, inside = np.arange(_GRID) + 0.5, np.zeros((_GRID, _GRID), bool)
    for row, y in enumerate(centres):
        crossed = (y1 <= y) != (y2 <= y)
        x, height = x1[crossed], (y2 - y1)[crossed]
        places = np.sort(x + (y - y1[crossed]) * (x2[crossed] - x) / height)
        inside[row] = np.searchsorted(places, centres) % 2 == 1
    return inside


def _part(mask: np.ndarray, box: tuple[float, float, float, float]) -> np.ndarray:
    """A mask over a box: its own pixels where the box is made of whole ones, at most 128 a side."""
    rows, top = _window(box[1], box[3], mask.shape[0])
    columns, left = _window(box[0], box[2], mask.shape[1])
    seen = mask[top:top + rows.shape[1], left:left + columns.shape[1]]
    return np.asarray(rows @ seen @ columns.T, np.float32)


def _window(low: float, high: float, length: int) -> tuple[np.ndarray, int]:
    """`_overlaps` of the cells that an interval covers in a mask of `length`, and the first of them."""
    first, end = max(0, math.floor(low)), max(0, min(length, math.ceil(high)))
    size = min(_GRID, max(1, math.ceil(high - low)))
    return _overlaps(low - first, high - first, max(0, end - first), size), first


def _overlaps(low: float, high: float, length: int, size: int) -> np.ndarray:
    """[size, length]: the part of bin i of the interval's `size` that lies in cell j, which is one wide."""
    step = (high - low) / size
    bins, cells = low + np.arange(size)[:, None] * step, np.arange(length)[None]
    shared = np.minimum(bins + step, cells + 1) - np.maximum(bins, cells)
    return np.asarray(shared.clip(min=0) / step)
