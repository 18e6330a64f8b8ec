"""Masks: what of a box belongs to its region. Kept as compactly as they were given, since many frames are held."""
from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from .. import run_lengths
from ..model.region_shapes import RegionShape, mask_region, polygon_region

# Bounds of one mask. An outline at a camera's full resolution has some hundreds or thousands of corners.
_MOST_NUMBERS = 2**16  # two a corner, one a run
_MOST_POLYGONS = 1024
_MOST_CELLS, _LONGEST_SIDE = 2**23, 2**14  # of a grid; a 4K picture has 2160 * 3840


class MaskError(ValueError):
    """A mask that no region can have. The text says what it holds and what was expected."""


def check_corners(count: int) -> None:
    """Raises MaskError for polygons of too many corners in all."""
    if count * 2 > _MOST_NUMBERS:
        raise MaskError(f"mask has {count} corners; expected at most {_MOST_NUMBERS // 2}")


@dataclass(frozen=True, eq=False)
class Mask:
    """The inside of polygons, or of the runs of a grid.

    Attributes:
        polygons: Corners, float32 [M, 2], x y in pixels of the frame. What is in any of them belongs to the region.
        counts: Lengths of runs of cells, uint32 [N], outside and inside by turns, the first one outside, column after
            column, as COCO's uncompressed run lengths; None where there are polygons.
        grid: Width and height of the grid that the runs fill, which spans the whole frame.
    """

    polygons: tuple[np.ndarray, ...] = ()
    counts: np.ndarray | None = None
    grid: tuple[int, int] = (0, 0)

    @classmethod
    def of_polygons(cls, polygons: Sequence[Sequence[Sequence[float]] | np.ndarray]) -> Mask:
        """Makes a mask of outlines.

        Args:
            polygons: Corners [M, 2] of each, x y in pixels of the frame, M at least 3.

        Raises:
            MaskError: One has fewer corners or corners that are not finite, or they have too many.
        """
        check_corners(sum(map(len, polygons)))
        if len(polygons) > _MOST_POLYGONS:
            raise MaskError(f"mask has {len(polygons)} polygons; expected at most {_MOST_POLYGONS}")
        arrays = tuple(np.asarray(polygon, np.float32).reshape(-1, 2) for polygon in polygons)
        for place, array in enumerate(arrays, 1):
            if len(array) < 3:
                raise MaskError(f"polygon {place} of the mask has {len(array)} corners; expected at least 3")
            if not np.isfinite(array).all():
                raise MaskError(f"polygon {place} of the mask has a corner that is not finite")
        return cls(arrays)

    @classmethod
    def of_runs(cls, width: int, height: int, counts: Sequence[int] | np.ndarray) -> Mask:
        """Makes a mask of run lengths.

        Args:
            width: Of the grid.
            height: Of the grid.
            counts: Lengths of runs, as `counts` of this class has them.

        Raises:
            MaskError: The grid is none or too large, there are too many runs, or they do not fill the grid, or are all
                outside.
        """
        if not (0 < width <= _LONGEST_SIDE and 0 < height <= _LONGEST_SIDE and width * height <= _MOST_CELLS):
            raise MaskError(f"mask has a grid of {width}x{height}; expected 1 to {_LONGEST_SIDE} cells a side and at "
                            f"most {_MOST_CELLS} in all")
        if len(counts) > _MOST_NUMBERS:
            raise MaskError(f"mask has {len(counts)} runs; expected at most {_MOST_NUMBERS}")
        try:
            runs = run_lengths.check(counts, width, height)
        except ValueError as error:
            raise MaskError(str(error)) from error
        if not runs[1::2].any():
            raise MaskError("mask is empty; expected at least one pixel in it")
        return cls((), runs, (width, height))

    @property
    def numbers(self) -> int:
        """How many numbers it holds, of four bytes each."""
        return sum(polygon.size for polygon in self.polygons) + (0 if self.counts is None else self.counts.size)

    @property
    def cells(self) -> int:
        """How many cells its grid has; none where there are polygons."""
        return self.grid[0] * self.grid[1]

    def decode(self, first: int = 0, end: int | None = None) -> np.ndarray:
        """The cells of the grid's columns from `first` to before `end`, bool [height, end - first]; of runs."""
        assert self.counts is not None
        width, height = self.grid
        end = width if end is None else end
        # The runs' ends, held to the columns' cells.
        ends = np.cumsum(self.counts, dtype=np.int64).clip(first * height, end * height)
        return run_lengths.decode(np.diff(ends, prepend=first * height), end - first, height)

    def bounds(self, width: int, height: int) -> tuple[float, float, float, float]:
        """The upright box x1 y1 x2 y2 around it, in pixels of a width x height frame."""
        if self.counts is None:
            corners = np.concatenate(self.polygons)
            (x1, y1), (x2, y2) = corners.min(0).tolist(), corners.max(0).tolist()
            return x1, y1, x2, y2
        (across, down), (first, last) = self.grid, self._runs()
        lefts, rights, tops, bottoms = first // down, last // down, first % down, last % down
        through = lefts != rights  # a run that goes on in the next column touches a bottom and a top
        top, bottom = np.where(through, 0, tops).min(), np.where(through, down - 1, bottoms).max()
        x, y = width / across, height / down
        return float(lefts.min() * x), float(top * y), float((rights.max() + 1) * x), float((bottom + 1) * y)

    def contains(self, x: float, y: float, width: int, height: int) -> bool:
        """Whether a place of a width x height frame, in its pixels, is inside."""
        if self.counts is None:
            return any(cv2.pointPolygonTest(polygon, (x, y), False) >= 0 for polygon in self.polygons)
        column, row = (min(int(at * cells / length), cells - 1)
                       for at, cells, length in zip((x, y), self.grid, (width, height)))
        first, last = self._runs()
        cell = column * self.grid[1] + row
        return bool(((first <= cell) & (cell <= last)).any())

    def shape(self, box: tuple[float, float, float, float], width: int, height: int) -> RegionShape:
        """A box of a width x height frame with the part of it that is inside, as the network takes it.

        Raises:
            ShapeError: Nothing of the box is inside.
        """
        if self.counts is None:
            return polygon_region(*self.polygons, box=box)
        x, y = self.grid[0] / width, self.grid[1] / height
        # Only the columns that the box shows are decoded.
        first = min(max(0, math.floor(box[0] * x)), self.grid[0] - 1)
        end = max(first + 1, min(self.grid[0], math.ceil(box[2] * x)))
        shown = (box[0] * x - first, box[1] * y, box[2] * x - first, box[3] * y)
        return mask_region(self.decode(first, end), shown)._replace(box=box)

    def outlines(self, width: int, height: int) -> list[np.ndarray]:
        """Its outlines [M, 2], x y in pixels of a width x height frame."""
        if self.counts is None:
            return list(self.polygons)
        found, _ = cv2.findContours(self.decode().astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
        # Those that are found go through the centres of cells.
        return [(contour[:, 0] + 0.5) * (width / self.grid[0], height / self.grid[1]) for contour in found]

    def _runs(self) -> tuple[np.ndarray, np.ndarray]:
        """The first and the last cell of each run inside, counted down the columns."""
        assert self.counts is not None
        ends = np.cumsum(self.counts, dtype=np.int64)
        last = ends[1::2]
        first = ends[::2][:len(last)]
        return first[last > first], last[last > first] - 1
