"""Regions of boxes that come from outside: which boxes can be used, and what their regions are called."""
from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable
from typing import TypeVar

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


def name_regions(given: Iterable[tuple[str, Given, str, float]], box_of: Callable[[Given], Box],
                 taken: Collection[str] = ()) -> tuple[tuple[Region, ...], tuple[str, ...]]:
    """Makes regions with ids that are unique. One bad box costs only itself; the time is linear in their number.

    A box without an id of its own gets its 1-based place, counted on from the regions there are, or the next number
    that nobody has: a tracker's "2" stays "2" wherever it stands.

    Args:
        given: id, box, label and score of each.
        box_of: turns what was given as box into x1 y1 x2 y2 in pixels; raises BoxError for one that is refused.
        taken: ids of the regions that there are.

    Returns:
        The regions in their order, and for each box that was refused a text that names it and says why.
    """
    items, used = list(given), set(taken)
    first_place = number = len(used) + 1
    reserved = used | {identifier for identifier, *_ in items if identifier}
    regions, refusals = [], []
    for place, (identifier, given_box, label, score) in enumerate(items, first_place):
        try:
            box = box_of(given_box)
            if len(identifier) > _LONGEST_ID:
                raise BoxError(f"its id has {len(identifier)} characters; expected at most {_LONGEST_ID}")
            if identifier in used:
                raise BoxError(f"id {identifier!r} is given to two boxes")
        except BoxError as error:
            refusals.append(f"region {identifier[:_LONGEST_ID] or place}: {error}")
            continue
        if not identifier:
            number = max(number, place)
            while str(number) in reserved:
                number += 1
            identifier = str(number)
            reserved.add(identifier)
        used.add(identifier)
        regions.append(Region(identifier, box, label, score))
    return tuple(regions), tuple(refusals)


def usable_regions(regions: Iterable[Region], width: int, height: int,
                   normalised: bool = True) -> tuple[tuple[Region, ...], tuple[str, ...]]:
    """Names regions that were made elsewhere, and leaves out those whose box is no good.

    Args:
        regions: with boxes in pixels of the image; those without an id have an empty one.
        width: of the image, in pixels.
        height: of the image, in pixels.
        normalised: as `check_box` has it.

    Returns:
        As `name_regions`.
    """
    return name_regions([(region.id, region.box, region.label, region.score) for region in regions],
                        lambda box: check_box(box, width, height, normalised=normalised))
