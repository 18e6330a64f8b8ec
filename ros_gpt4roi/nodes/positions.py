"""Where a region is in space, from the depth of its pixels and the camera's calibration. Knows no messages."""
from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

_INNER = 0.5  # the part of a box, each way around its centre, whose depth is taken: its border shows the background
_POINT_SIDE = 5  # pixels around a point
_MOST_SAMPLES = 64  # pixels each way
_LEAST_VALID = 0.2  # of the pixels that are looked at
_PINHOLE = (4, 5, 8, 12, 14)  # numbers of coefficients that OpenCV knows
_COEFFICIENTS = {"plumb_bob": _PINHOLE, "rational_polynomial": _PINHOLE, "equidistant": (4,)}
_MIDDLE = (16, 84)  # percentiles: one standard deviation each way, were the depths normally distributed


class CalibrationError(ValueError):
    """A calibration that positions can not be computed with. The text says why."""


@dataclass(frozen=True)
class Position:
    """Where a region is in the camera's optical frame: x to the right, y downwards, z forward.

    Attributes:
        point: (x, y, z) in metres, of the middle of the region, or of its mask, at its median depth.
        spread: Half the range of the middle 68 % of its depths, in metres.
        size: Width and height of the box at that depth, in metres.
    """

    point: tuple[float, float, float]
    spread: float
    size: tuple[float, float]


@dataclass(frozen=True)
class Calibration:
    """A pinhole camera with distortion.

    Attributes:
        focal: Focal lengths (x, y) in pixels.
        centre: Principal point (x, y) in pixels; whole numbers are centres of pixels.
        model: How `distortion` is meant: plumb_bob, rational_polynomial or equidistant.
        distortion: Its coefficients, as OpenCV orders them; empty for a rectified image.
    """

    focal: tuple[float, float]
    centre: tuple[float, float]
    model: str = "plumb_bob"
    distortion: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        numbers = (*self.focal, *self.centre, *self.distortion)
        if not (all(map(math.isfinite, numbers)) and min(self.focal) > 0):
            raise CalibrationError(f"focal lengths are {self.focal} and the centre {self.centre}; expected a "
                                   "calibrated camera, with focal lengths above 0")
        if not any(self.distortion):
            return
        counts = _COEFFICIENTS.get(self.model)
        if counts is None:
            raise CalibrationError(f"distortion model is {self.model[:40]!r}; expected {', '.join(_COEFFICIENTS)}, or "
                                   "a rectified image (depth.rectified)")
        if len(self.distortion) not in counts:
            raise CalibrationError(f"distortion model {self.model} comes with {len(self.distortion)} coefficients; "
                                   f"expected {' or '.join(map(str, counts))}")

    def project(self, point: tuple[float, float, float]) -> tuple[float, float]:
        """The place (x, y) in the image of a point of the optical frame. Raises CalibrationError for one behind it."""
        if not all(map(math.isfinite, point)) or point[2] <= 0:
            raise CalibrationError(f"point {point} is not before the camera; expected z above 0")
        project = cv2.fisheye.projectPoints if self.model == "equidistant" else cv2.projectPoints
        coefficients = np.array(self.distortion) if any(self.distortion) else np.zeros(4)
        (x, y), = project(np.array([[point]]), np.zeros(3), np.zeros(3), self._matrix,
                          coefficients)[0].reshape(-1, 2).tolist()
        return x + 0.5, y + 0.5

    @property
    def _matrix(self) -> np.ndarray:
        return np.array([[self.focal[0], 0, self.centre[0]], [0, self.focal[1], self.centre[1]], [0, 0, 1]])

    def ray(self, x: float, y: float) -> tuple[float, float]:
        """The direction (x / z, y / z) of a place in the image, whose origin is the outer corner of its first pixel."""
        x, y = x - 0.5, y - 0.5
        if not any(self.distortion):
            return (x - self.centre[0]) / self.focal[0], (y - self.centre[1]) / self.focal[1]
        undistort = cv2.fisheye.undistortPoints if self.model == "equidistant" else cv2.undistortPoints
        (across, down), = undistort(np.array([[[x, y]]]), self._matrix, np.array(self.distortion))[0].tolist()
        return across, down


def locate(depth: np.ndarray, unit_m: float, box: tuple[float, float, float, float],
           calibration: Calibration, mask: np.ndarray | None = None) -> Position | None:
    """Finds where the thing in a box is.

    The depths of the inner half of the box (each way) are taken, as the rest also shows what is behind; with a mask,
    those inside it; of a point, those of 5 x 5 pixels.

    Args:
        depth: [H, W], aligned to the colour image; 0 and what is not finite is unknown.
        unit_m: What a 1 of it means, in metres.
        box: x1 y1 x2 y2 in pixels of the colour image, which has the same size.
        calibration: Of the colour image.
        mask: What of the box belongs to the thing, weights in 0..1 of a grid [h, w] that divides the box.

    Returns:
        The position, or None where less than a fifth of these pixels have a depth, or the distortion is one that no
        camera has, so that the place is not finite.
    """
    height, width = depth.shape
    x1, y1, x2, y2 = np.clip(box, 0, (width, height, width, height)).tolist()
    middle = (x1 + x2) / 2, (y1 + y2) / 2
    part = _INNER if mask is None else 1.0
    rows, columns = _inner(y1, y2, height, part), _inner(x1, x2, width, part)
    samples = depth[rows, columns]
    if mask is not None:
        y, x = np.mgrid[rows, columns] + 0.5
        seen = mask[_cells(y, box[1], box[3], mask.shape[0]), _cells(x, box[0], box[2], mask.shape[1])] >= 0.5
        samples = samples[seen]
        middle = (float(x[seen].mean()), float(y[seen].mean())) if samples.size else middle
    known = samples[np.isfinite(samples) & (samples > 0)]
    if not known.size or known.size < _LEAST_VALID * samples.size:
        return None
    low, z, high = (float(value) * unit_m for value in np.percentile(known, (_MIDDLE[0], 50, _MIDDLE[1])))
    across, down = calibration.ray(*middle)
    found = Position((across * z, down * z, z), (high - low) / 2,
                     ((x2 - x1) / calibration.focal[0] * z, (y2 - y1) / calibration.focal[1] * z))
    return found if all(map(math.isfinite, (*found.point, *found.size))) else None


def _cells(places: np.ndarray, low: float, high: float, count: int) -> np.ndarray:
    """Which of the cells between low and high each place is in."""
    return ((places - low) / (high - low) * count).astype(int).clip(0, count - 1)


def _inner(low: float, high: float, length: int, part: float) -> slice:
    """The pixels of one direction that are looked at, in the middle part of the box."""
    half = max((high - low) * part, 1) / 2 if high > low else _POINT_SIDE / 2
    middle = min(max((low + high) / 2, 0.5), length - 0.5)
    first, last = max(0, math.floor(middle - half)), min(length, math.ceil(middle + half))
    return slice(first, last, max(1, (last - first) // _MOST_SAMPLES))
