"""Regions of boxes and masks that come from outside: which can be used, what they are called, what the network sees."""
from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable
from typing import TypeVar

from ..model.config import PointConfig
from ..model.region_shapes import RegionShape, ShapeError, box_region, encloses_nothing, point_region
from .masks import Mask, MaskError
from .types import Region

Box = tuple[float, float, float, float]
Given = TypeVar("Given")

_LONGEST_ID = 100  # characters; ids are shown, spoken and come back in every error
# The network computes boxes in float32: what is thinner or farther out than this collapses there or becomes infinite,
# and since all texts of a frame read all its regions, one such box would spoil every one of them.
_LEAST_VISIBLE = 0.1  # pixels of a box inside the image, each way
_FARTHEST = 1.0  # how far a box may reach beyond the image, in widths or heights of it
# Boxes that end within the first pixel are taken for normalised ones, with some room for what a detector rounds.
_NORMALISED_END = 1.05
# Of all masks that come together.
_MOST_NUMBERS = 2**20  # four bytes each
_MOST_CELLS = 2**25  # as 16 full HD masks have


class BoxError(ValueError):
    """A box that no region can be made of. The text names the box and what is wrong with it."""


def check_box(box: Box, width: int, height: int, *, points: bool = True, normalised: bool = True,
              shown: str = "") -> Box:
    """Refuses a box that the model cannot use. One that reaches over the border of the image is kept as it is.

    Args:
        box: x1 y1 x2 y2 in pixels of the image.
        width: of the image, in pixels.
        height: of the image, in pixels.
        points: whether a box without any extent is taken, as the point that it is.
        normalised: whether a box that ends within the first pixel is taken for one in units of the image, and refused.
        shown: how the box was written, for the error.

    Returns:
        The box.

    Raises:
        BoxError: the box is not finite, inverted, empty, normalised or wholly outside the image, shows less than 0.1
            pixels of itself inside it, or reaches more than the image's own size beyond it.
    """
    x1, y1, x2, y2 = box
    size = f"the image of {width}x{height}"
    if points and box[:2] == box[2:]:
        if not (0 <= x1 <= width and 0 <= y1 <= height):
            raise BoxError(f"point ({x1:g} {y1:g}) is outside {size}")
        return box
    shown = shown or f"box ({x1:g} {y1:g} {x2:g} {y2:g})"
    if not all(map(math.isfinite, box)):
        raise BoxError(f"{shown} is not finite")
    if x2 < x1 or y2 < y1:
        raise BoxError(f"{shown} is inverted; expected sizes above 0")
    if x1 >= width or y1 >= height or x2 <= 0 or y2 <= 0:
        raise BoxError(f"{shown} is outside {size}")
    if x2 == x1 or y2 == y1:
        raise BoxError(f"{shown} is empty; expected sizes above 0")
    if normalised and 0 < x2 <= _NORMALISED_END and 0 < y2 <= _NORMALISED_END:
        raise BoxError(f"{shown} ends within the first pixel: it seems to be normalised (0 to 1); expected pixels of "
                       f"{size} (a node takes normalised boxes with detections.width and detections.height of 1)")
    visible = min(x2, width) - max(x1, 0), min(y2, height) - max(y1, 0)
    if min(visible) < _LEAST_VISIBLE:
        raise BoxError(f"{shown} is too thin: {visible[0]:g} x {visible[1]:g} pixels of it are inside {size}; expected "
                       f"at least {_LEAST_VISIBLE:g} each way")
    if max(-x1, x2 - width) > _FARTHEST * width or max(-y1, y2 - height) > _FARTHEST * height:
        raise BoxError(f"{shown} reaches too far beyond {size}; expected at most the image's own size")
    return box


def check_mask(mask: Mask, box: Box | None, width: int, height: int, *, normalised: bool = True) -> Box:
    """Refuses a mask that the model cannot use.

    Args:
        mask: the mask.
        box: of its region, from `check_box`; None: the upright box around the mask.
        width: of the image, in pixels.
        height: of the image, in pixels.
        normalised: as `check_box` has it.

    Returns:
        The region's box.

    Raises:
        BoxError: the mask is such that a box around it would be refused, encloses nothing, or lies wholly outside
            its region's box.
    """
    around = mask.bounds(width, height)
    shown = "mask around ({:g} {:g} {:g} {:g})".format(*around)
    check_box(around, width, height, points=False, normalised=normalised, shown=shown)
    if mask.polygons and encloses_nothing(mask.polygons):
        raise BoxError(f"{shown} encloses nothing; expected corners that are not on one line")
    if box is None:
        return around
    if min(around[2], box[2]) <= max(around[0], box[0]) or min(around[3], box[3]) <= max(around[1], box[1]):
        raise BoxError(f"{shown} lies outside its box ({box[0]:g} {box[1]:g} {box[2]:g} {box[3]:g})")
    return box


def name_regions(given: Iterable[tuple[str, Given, str, float]],
                 shape_of: Callable[[Given], tuple[Box, Mask | None]],
                 taken: Collection[str] = ()) -> tuple[tuple[Region, ...], tuple[str, ...]]:
    """Makes regions with ids that are unique. One bad box costs only itself; the time is linear in their number.

    A box without an id of its own gets its 1-based place, counted on from the regions there are, or the next number
    that nobody has: a tracker's "2" stays "2" wherever it stands.

    Args:
        given: id, box (as `shape_of` takes it), label and score of each.
        shape_of: turns what was given as box into x1 y1 x2 y2 in pixels and a mask; raises BoxError or MaskError for
            one that is refused.
        taken: ids of the regions that there are.

    Returns:
        The regions in their order, and for each box that was refused a text that names it and says why.
    """
    items, used = list(given), set(taken)
    first_place = number = len(used) + 1
    reserved = used | {identifier for identifier, *_ in items if identifier}
    regions, refusals, numbers, cells = [], [], 0, 0
    for place, (identifier, given_box, label, score) in enumerate(items, first_place):
        try:
            box, mask = shape_of(given_box)
            if len(identifier) > _LONGEST_ID:
                raise BoxError(f"its id has {len(identifier)} characters; expected at most {_LONGEST_ID}")
            if identifier in used:
                raise BoxError(f"id {identifier!r} is given to two boxes")
            if mask is not None:  # one that is refused is not counted for those behind it
                for count, most, what in ((numbers + mask.numbers, _MOST_NUMBERS, "numbers"),
                                          (cells + mask.cells, _MOST_CELLS, "cells")):
                    if count > most:
                        raise BoxError(f"the masks up to it hold {count} {what}; expected at most {most} in all")
                numbers, cells = numbers + mask.numbers, cells + mask.cells
        except (BoxError, MaskError) as error:
            refusals.append(f"region {identifier[:_LONGEST_ID] or place}: {error}")
            continue
        if not identifier:
            number = max(number, place)
            while str(number) in reserved:
                number += 1
            identifier = str(number)
            reserved.add(identifier)
        used.add(identifier)
        regions.append(Region(identifier, box, label, score, mask))
    return tuple(regions), tuple(refusals)


def usable_regions(regions: Iterable[Region], width: int, height: int,
                   normalised: bool = True) -> tuple[tuple[Region, ...], tuple[str, ...]]:
    """Names regions that were made elsewhere, and leaves out those whose box is no good.

    Args:
        regions: with boxes in pixels of the image; those without an id have an empty one. A box whose numbers are all
            0 becomes the upright box around the mask.
        width: of the image, in pixels.
        height: of the image, in pixels.
        normalised: as `check_box` has it.

    Returns:
        As `name_regions`.
    """
    def shape_of(region: Region) -> tuple[Box, Mask | None]:
        if region.mask is None:
            return check_box(region.box, width, height, normalised=normalised), None
        box = check_box(region.box, width, height, points=False, normalised=normalised) if any(region.box) else None
        return check_mask(region.mask, box, width, height, normalised=normalised), region.mask

    return name_regions([(region.id, region, region.label, region.score) for region in regions], shape_of)


def region_shapes(regions: Iterable[Region], width: int, height: int,
                  points: PointConfig) -> tuple[tuple[tuple[Region, RegionShape], ...], tuple[str, ...]]:
    """Makes of regions what the network takes.

    Args:
        regions: from `usable_regions`.
        width: of the image, in pixels.
        height: of the image, in pixels.
        points: of the model.

    Returns:
        Regions and their shapes, in their order, and for each whose mask has nothing in its box a text that says so.
    """
    found, refusals = [], []
    for region in regions:
        try:
            if region.mask is not None:
                shape = region.mask.shape(region.box, width, height)
            elif region.is_point:
                shape = point_region(*region.box[:2], width, height, points)
            else:
                shape = box_region(*region.box)
            found.append((region, shape))
        except ShapeError as error:
            refusals.append(f"region {region.id}: {error}")
    return tuple(found), tuple(refusals)
