"""What both sides of the interface do with messages."""

from __future__ import annotations

import array
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import numpy as np
from builtin_interfaces.msg import Time
from geometry_msgs.msg import Point32, Polygon
from ros_gpt4roi_interfaces.msg import Answer, Region, RegionMask
from vision_msgs.msg import BoundingBox2D, ObjectHypothesisWithPose

from . import run_lengths

#: A region as a caller writes it: a message; (x1, y1, x2, y2) or a point (x, y); an outline of three or more (x, y); or
#: a mask, bool [H, W], of the image's pixels.
Place: TypeAlias = Region | Sequence[float] | Sequence[Sequence[float]] | np.ndarray


def place_to_message(place: Place) -> Region:
    """The region that a caller means; coordinates are pixels of the image. Raises ValueError for what is none."""
    if isinstance(place, Region):
        return place
    numbers: np.ndarray = np.asarray(place)
    if numbers.ndim == 2 and numbers.dtype == bool:
        return Region(mask=runs_to_message(numbers.shape[1], numbers.shape[0], run_lengths.encode(numbers)))
    if numbers.ndim == 2 and numbers.shape[1] == 2 and len(numbers) > 2:
        return Region(mask=outlines_to_message([numbers.tolist()]))
    if numbers.shape not in ((2,), (4,)):
        raise ValueError(f"a region has {numbers.size} numbers, of shape {numbers.shape}; expected x1, y1, x2, y2; x, "
                         "y of a point; three or more corners x, y of an outline; or a mask, bool [H, W]")
    return Region(bbox=box_to_message(numbers.tolist() * (4 // len(numbers))))


def outlines_to_message(outlines: Iterable[Iterable[Sequence[float]]]) -> RegionMask:
    """A mask of what is in any of these outlines, each of corners x, y."""
    return RegionMask(polygons=[Polygon(points=[Point32(x=float(x), y=float(y)) for x, y in outline])
                                for outline in outlines])


def runs_to_message(width: int, height: int, counts: np.ndarray) -> RegionMask:
    """A mask of run lengths, uint32 [N], over a grid (see `run_lengths`)."""
    return RegionMask(width=width, height=height, counts=array.array("I", counts.tobytes()))


def box_to_message(box: Sequence[float]) -> BoundingBox2D:
    """Centre and size of a box (x1, y1, x2, y2)."""
    x1, y1, x2, y2 = map(float, box)
    message = BoundingBox2D(size_x=x2 - x1, size_y=y2 - y1)
    message.center.position.x, message.center.position.y = (x1 + x2) / 2, (y1 + y2) / 2
    return message


def corners(message: BoundingBox2D) -> tuple[float, float, float, float]:
    """The box (x1, y1, x2, y2) of a centre and a size; how it is turned is not looked at."""
    x, y = message.center.position.x, message.center.position.y
    half_width, half_height = message.size_x / 2, message.size_y / 2
    return x - half_width, y - half_height, x + half_width, y + half_height


def hypothesis(name: str, score: float) -> ObjectHypothesisWithPose:
    """What a detection is, with its score."""
    message = ObjectHypothesisWithPose()
    message.hypothesis.class_id, message.hypothesis.score = name, float(score)
    return message


def stamp_text(stamp: Time) -> str:
    """A stamp in seconds, to the nanosecond."""
    return f"{stamp.sec}.{stamp.nanosec:09d}"


def seconds_text(stamp_ns: int) -> str:
    """A stamp that is given in nanoseconds, as `stamp_text` has it."""
    return f"{stamp_ns // 10**9}.{stamp_ns % 10**9:09d}"


def meaning(answer: Any) -> tuple[Any, ...]:
    """What of an answer counts as a change: what is said, and of which regions; or why nothing is.

    Args:
        answer: The message, or the runtime's.
    """
    return answer.status, answer.text if answer.status == Answer.OK else "", tuple(answer.region_ids)
