"""Messages ↔ the runtime's dataclasses, both ways."""
from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from builtin_interfaces.msg import Duration, Time
from rclpy.serialization import deserialize_message
from ros_gpt4roi_interfaces.msg import Answer as AnswerMessage
from ros_gpt4roi_interfaces.msg import Region as RegionMessage
from ros_gpt4roi_interfaces.msg import RegionDescription, RegionDescriptionArray, RegionMask, StageTime
from std_msgs.msg import Header
from vision_msgs.msg import BoundingBox2D, Detection2D, Detection2DArray

from ros_gpt4roi.messages import box_to_message, outlines_to_message, runs_to_message
from ros_gpt4roi.runtime.masks import Mask, MaskError, check_corners
from ros_gpt4roi.runtime.regions import Box, BoxError, check_box, check_mask, name_regions
from ros_gpt4roi.runtime.types import Answer, FrameDescriptions, Region, Status

from .positions import Position

NANOSECONDS = 1_000_000_000
Positions = Mapping[str, Position]  # by the regions' ids
NO_POSITIONS: Positions = MappingProxyType({})
_MOST_DRAWN = 256
_MOST_CORNERS = 2**15  # of the polygons of a request together
_MOST_BYTES = 2 * 2**20  # of a detection array; rclpy takes a second and more to make messages of twice as many


class DetectionsError(ValueError):
    """A detection array that can not be read. The text says why."""


class Outline(NamedTuple):
    """The mask of a detection.

    Attributes:
        corners: float32 [M, 2], x y.
        size: Width and height of the picture that they are in; zeros where the detector does not say.
    """

    corners: np.ndarray
    size: tuple[int, int]


def stamp_ns(stamp: Time) -> int:
    """A message's time in nanoseconds."""
    return stamp.sec * NANOSECONDS + stamp.nanosec


def box_from_message(message: BoundingBox2D, width: int, height: int, resolution: tuple[int, int] | None = None,
                     points: bool = False) -> Box:
    """Converts a box to its corners; a turned box to those of the upright one around it.

    Args:
        message: the box, in pixels of the image, or of the resolution where one is given.
        width: of the image, in pixels.
        height: of the image, in pixels.
        resolution: width and height of the picture that the box is of: the same view as the image, in another size.
            (1, 1) for normalised boxes.
        points: whether sizes that are both 0 make the centre a point, (x, y, x, y).

    Returns:
        (x1, y1, x2, y2) in pixels of the image.

    Raises:
        BoxError: the model cannot use the box (see `check_box`).
    """
    x, y = message.center.position.x, message.center.position.y
    size_x, size_y, theta = message.size_x, message.size_y, message.center.theta
    turn = f", theta {theta:g}" if theta else ""
    shown = f"box (centre {x:g} {y:g}, size {size_x:g} {size_y:g}{turn})"
    if not math.isfinite(theta):
        raise BoxError(f"{shown} is not finite")
    if theta and size_x > 0 and size_y > 0:
        cosine, sine = abs(math.cos(theta)), abs(math.sin(theta))
        size_x, size_y = size_x * cosine + size_y * sine, size_x * sine + size_y * cosine
    across, down = (1.0, 1.0) if resolution is None else (width / resolution[0], height / resolution[1])
    box = ((x - size_x / 2) * across, (y - size_y / 2) * down, (x + size_x / 2) * across, (y + size_y / 2) * down)
    return check_box(box, width, height, points=points, normalised=resolution is None, shown=shown)


def _best_hypothesis(detection: Detection2D) -> tuple[str, float]:
    """Label and score of the likeliest hypothesis; a score that is not finite counts as 0."""
    label, score = "", 0.0
    for place, result in enumerate(detection.results):
        value = result.hypothesis.score if math.isfinite(result.hypothesis.score) else 0.0
        if place == 0 or value > score:
            label, score = result.hypothesis.class_id, value
    return label, score


def detections_from_cdr(data: bytes, most: int, kind: type = Detection2DArray) -> tuple[Any, int]:
    """Reads a serialised detection array, but no more of its detections than are wanted.

    rclpy makes about 5,000 detections, or 150,000 corners of masks, a second, on the executor's thread: their number is
    bounded before it begins.

    Args:
        data: the message as a raw subscription gives it.
        most: how many detections are read, from the first one on.
        kind: the array's type; it begins with a header and the sequence of detections.

    Returns:
        The message, and how many detections it had.

    Raises:
        DetectionsError: the data is no detection array, or has more than 2 MiB.
    """
    order = "<" if data[1:2] == b"\x01" else ">"  # of the encapsulation header's second byte, as CDR has it
    try:
        (length,) = struct.unpack_from(order + "I", data, 12)  # of frame_id, behind the stamp
        place = 16 + length + -length % 4
        (count,) = struct.unpack_from(order + "I", data, place)
        if count > most:  # the rest of the sequence is never read
            data = data[:place] + struct.pack(order + "I", most) + data[place + 4:_MOST_BYTES]
        if len(data) > _MOST_BYTES:
            raise DetectionsError(f"an array of {count} detections has {len(data)} bytes; expected at most "
                                  f"{_MOST_BYTES}")
        return deserialize_message(data, kind), count
    except DetectionsError:
        raise
    except Exception as error:  # struct's, and whatever the middleware has for malformed data
        raise DetectionsError(f"{len(data)} bytes are no {kind.__name__}: {error}") from error


def tell_apart(message: Detection2DArray) -> tuple[str, ...]:
    """Numbers the detections whose id was given before in the same array: "cup", "cup 2", "cup 3".

    Some detectors put the class's name where a tracker's id belongs. The time is linear in the number of detections.

    Args:
        message: the array; the ids in it are changed.

    Returns:
        The ids that were given more than once.
    """
    reserved = {detection.id for detection in message.detections}
    numbers: dict[str, int] = {}
    for detection in message.detections:
        name = detection.id
        if not name or numbers.setdefault(name, 0) == 0:
            numbers[name] = 1
            continue
        numbers[name] += 1
        while f"{name} {numbers[name]}" in reserved:
            numbers[name] += 1
        detection.id = f"{name} {numbers[name]}"
    return tuple(name for name, number in numbers.items() if name and number > 1)


def regions_from_detections(
        message: Detection2DArray, width: int, height: int, resolution: tuple[int, int] | None = None,
        outlines: Sequence[Outline | None] = ()) -> tuple[tuple[Region, ...], tuple[str, ...]]:
    """Makes regions of a detection array. One bad box costs only itself.

    Args:
        message: the array; its ids are unique (see `tell_apart`).
        width: of the image, in pixels.
        height: of the image, in pixels.
        resolution: of the picture that the boxes are of, if it is not the image's (see `box_from_message`).
        outlines: the mask of each detection that has one; or none of any.

    Returns:
        The regions in the array's order, and a text for each box refused. A region's id is the detection's, else its
        1-based place in the array; label and score are those of the best hypothesis.
    """
    def shape_of(given: tuple[BoundingBox2D, Outline | None]) -> tuple[Box, Mask | None]:
        box, outline = box_from_message(given[0], width, height, resolution), given[1]
        if outline is None:
            return box, None
        across, down = outline.size if min(outline.size) > 0 else resolution or (width, height)
        mask = Mask.of_polygons([outline.corners * (width / across, height / down)])
        return check_mask(mask, box, width, height, normalised=False), mask

    outlines = outlines or [None] * len(message.detections)
    items = [(detection.id, (detection.bbox, outline), *_best_hypothesis(detection))
             for detection, outline in zip(message.detections, outlines, strict=True)]
    return name_regions(items, shape_of)


def regions_from_messages(messages: Sequence[RegionMessage], present: Sequence[Region], width: int,
                          height: int) -> tuple[tuple[Region, ...], tuple[str, ...]]:
    """Regions an asker has drawn, beside those already present, and a text for each box refused.

    A box whose sizes are both 0 is a point, the centre it names; one whose numbers are all 0 becomes the box around its
    mask. Without a score of its own a region gets the best:
    where there are more than the model takes, what somebody has drawn is not what is left out. More than 256 are
    refused, all of them. Their polygons have at most 32,768 corners together: each is an object of its own here.
    """
    if len(messages) > _MOST_DRAWN:
        return (), (f"{len(messages)} boxes are given; expected at most {_MOST_DRAWN}",)
    corners = 0

    def shape_of(message: RegionMessage) -> tuple[Box, Mask | None]:
        nonlocal corners
        own = sum(len(polygon.points) for polygon in message.mask.polygons)
        together = corners + own
        if own <= _MOST_CORNERS < together:  # one that has too many by itself is told so
            raise MaskError(f"the masks up to it have {together} corners; expected at most {_MOST_CORNERS} in all")
        mask = mask_from_message(message.mask)
        if mask is None:
            return box_from_message(message.bbox, width, height, points=True), None
        box = None if message.bbox == BoundingBox2D() else box_from_message(message.bbox, width, height)
        checked = check_mask(mask, box, width, height)
        corners = together
        return checked, mask

    items = [(message.id, message, message.label,
              message.score if message.score and math.isfinite(message.score) else 1.0) for message in messages]
    return name_regions(items, shape_of, {region.id for region in present})


def mask_from_message(message: RegionMask) -> Mask | None:
    """The mask of a message; None where it has none. Raises MaskError for one that no region can have."""
    if message.polygons and message.counts:
        raise MaskError("mask has both polygons and run lengths; expected one of them")
    if message.polygons:
        check_corners(sum(len(polygon.points) for polygon in message.polygons))
        return Mask.of_polygons([[(corner.x, corner.y) for corner in polygon.points] for polygon in message.polygons])
    if message.counts or message.width or message.height:
        return Mask.of_runs(message.width, message.height, message.counts)
    return None


def mask_to_message(mask: Mask) -> RegionMask:
    """A mask as it was given, in pixels of its frame."""
    if mask.counts is not None:
        return runs_to_message(*mask.grid, mask.counts)
    return outlines_to_message(polygon.tolist() for polygon in mask.polygons)


def region_to_message(region: Region, position: Position | None = None) -> RegionMessage:
    """A region with its box as centre and size, its mask, and its position where that is known."""
    message = RegionMessage(id=region.id, bbox=box_to_message(region.box), label=region.label,
                            score=float(region.score))
    if region.mask is not None:
        message.mask = mask_to_message(region.mask)
    if position is not None:
        message.has_position, message.position_spread = True, position.spread
        message.position.x, message.position.y, message.position.z = position.point
    return message


def descriptions_to_message(result: FrameDescriptions, positions: Positions = NO_POSITIONS) -> RegionDescriptionArray:
    """The descriptions of a frame under that frame's own header, with the positions that are known, by id."""
    message = RegionDescriptionArray(header=result.frame.header, model_version=result.model_version)
    for description in result.descriptions:
        message.descriptions.append(RegionDescription(
            region=region_to_message(description.region, positions.get(description.region.id)), text=description.text,
            confidence=float(description.confidence), reused=description.reused))
    for stage, seconds in result.timings.items():
        whole = int(seconds)
        duration = Duration(sec=whole, nanosec=int((seconds - whole) * NANOSECONDS))
        message.stage_times.append(StageTime(stage=stage, duration=duration))
    return message


def answer_to_message(answer: Answer, text_format: str = "", positions: Positions = NO_POSITIONS) -> AnswerMessage:
    """An answer under the header of the frame it speaks of, with the boxes of the regions it names.

    Args:
        answer: Of the runtime.
        text_format: "json", or whatever else a query asked for, which gets the words.
        positions: Those of its regions that are known, in metres in the camera's frame.
    """
    return AnswerMessage(
        header=answer.frame.header if answer.frame is not None else Header(), query_id=answer.query_id,
        conversation_id=answer.conversation_id, status=int(answer.status), error=answer.error,
        text=answer.as_json() if text_format == "json" else answer.text, region_ids=list(answer.region_ids),
        evidence_ids=list(answer.evidence_ids),
        regions=[region_to_message(region, positions.get(region.id)) for region in answer.regions],
        confidence=float(answer.confidence), model_version=answer.model_version)


def answer_as_text(answer: Answer) -> str:
    """An answer for a plain String topic: its text, or the status and the reason in square brackets."""
    if answer.status == Status.OK:
        return answer.text
    return f"{answer.text} [{answer.status.name}: {answer.error}]".lstrip()
