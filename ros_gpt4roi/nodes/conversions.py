"""Messages ↔ the runtime's dataclasses; with `images` the only files that know both sides."""
from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterable, Sequence

from builtin_interfaces.msg import Duration, Time
from rclpy.serialization import deserialize_message
from ros_gpt4roi_interfaces.msg import Answer as AnswerMessage
from ros_gpt4roi_interfaces.msg import Region as RegionMessage
from ros_gpt4roi_interfaces.msg import RegionDescription, RegionDescriptionArray, StageTime
from std_msgs.msg import Header
from vision_msgs.msg import BoundingBox2D, Detection2D, Detection2DArray

from ros_gpt4roi.runtime.types import Answer, FrameDescriptions, Region, Status

NANOSECONDS = 1_000_000_000
_LONGEST_ID = 100  # characters; ids are shown, spoken and come back in every error
# The network computes boxes in float32: what is thinner or farther out than this collapses there or becomes infinite,
# and since all texts of a frame read all its regions, one such box would spoil every one of them.
_LEAST_VISIBLE = 0.1  # pixels of a box inside the image, each way
_FARTHEST = 1.0  # how far a box may reach beyond the image, in widths or heights of it
# Boxes that end within the first pixel are taken for normalised ones, with some room for what a detector rounds.
_NORMALISED_END = 1.05
_MOST_DRAWN = 256
_MOST_BYTES = 2 * 2**20  # of a detection array; rclpy takes a second and more to make messages of twice as many


class BoxError(ValueError):
    """A box that no region can be made of. The text names the box and what is wrong with it."""


class DetectionsError(ValueError):
    """A detection array that can not be read. The text says why."""


def stamp_ns(stamp: Time) -> int:
    """A message's time in nanoseconds."""
    return stamp.sec * NANOSECONDS + stamp.nanosec


def box_from_message(message: BoundingBox2D, width: int, height: int,
                     resolution: tuple[int, int] | None = None) -> tuple[float, float, float, float]:
    """Converts a box to its corners; a turned box to those of the upright one around it.

    A box that reaches over the border of the image is kept as it is.

    Args:
        message: the box, in pixels of the image, or of the resolution where one is given.
        width: of the image, in pixels.
        height: of the image, in pixels.
        resolution: width and height of the picture that the box is of: the same view as the image, in another size.
            (1, 1) for normalised boxes.

    Returns:
        (x1, y1, x2, y2) in pixels of the image.

    Raises:
        BoxError: the box is not finite, inverted, empty, normalised or wholly outside the image, shows less than 0.1
            pixels of itself inside it, or reaches more than the image's own size beyond it.
    """
    x, y = message.center.position.x, message.center.position.y
    size_x, size_y, theta = message.size_x, message.size_y, message.center.theta
    shown = f"box (centre {x:g} {y:g}, size {size_x:g} {size_y:g})"
    if not all(map(math.isfinite, (x, y, size_x, size_y, theta))):
        raise BoxError(f"{shown}, theta {theta:g}, is not finite")
    if size_x < 0 or size_y < 0:
        raise BoxError(f"{shown} is inverted; expected sizes above 0")
    if size_x == 0 or size_y == 0:
        raise BoxError(f"{shown} is empty; expected sizes above 0")
    if theta:
        cosine, sine = abs(math.cos(theta)), abs(math.sin(theta))
        size_x, size_y = size_x * cosine + size_y * sine, size_x * sine + size_y * cosine
    box = (x - size_x / 2, y - size_y / 2, x + size_x / 2, y + size_y / 2)
    if resolution is not None:
        across, down = width / resolution[0], height / resolution[1]
        box = (box[0] * across, box[1] * down, box[2] * across, box[3] * down)
    elif 0 < box[2] <= _NORMALISED_END and 0 < box[3] <= _NORMALISED_END:
        raise BoxError(f"{shown} ends within the first pixel: it seems to be normalised (0 to 1); expected pixels of "
                       f"the image of {width}x{height}, or detections.width and detections.height of 1 for normalised "
                       "boxes")
    if box[0] >= width or box[1] >= height or box[2] <= 0 or box[3] <= 0:
        raise BoxError(f"{shown} is outside the image of {width}x{height}")
    visible = min(box[2], width) - max(box[0], 0), min(box[3], height) - max(box[1], 0)
    if min(visible) < _LEAST_VISIBLE:
        raise BoxError(f"{shown} is too thin: {visible[0]:g} x {visible[1]:g} pixels of it are inside the image of "
                       f"{width}x{height}; expected at least {_LEAST_VISIBLE:g} each way")
    if max(-box[0], box[2] - width) > _FARTHEST * width or max(-box[1], box[3] - height) > _FARTHEST * height:
        raise BoxError(f"{shown} reaches too far beyond the image of {width}x{height}; expected at most the image's "
                       "own size")
    return box


def drawn_from_message(message: BoundingBox2D, width: int, height: int) -> tuple[float, float, float, float]:
    """As `box_from_message`, but sizes that are both 0 make the centre a point, (x, y, x, y).

    Raises BoxError, also for a point outside the image.
    """
    x, y = message.center.position.x, message.center.position.y
    if message.size_x or message.size_y or not (math.isfinite(x) and math.isfinite(y)):
        return box_from_message(message, width, height)
    if not (0 <= x <= width and 0 <= y <= height):
        raise BoxError(f"point ({x:g} {y:g}) is outside the image of {width}x{height}")
    return x, y, x, y


def box_to_message(box: Sequence[float]) -> BoundingBox2D:
    """Centre and size of a box (x1, y1, x2, y2)."""
    x1, y1, x2, y2 = map(float, box)
    message = BoundingBox2D(size_x=x2 - x1, size_y=y2 - y1)
    message.center.position.x, message.center.position.y = (x1 + x2) / 2, (y1 + y2) / 2
    return message


def _best_hypothesis(detection: Detection2D) -> tuple[str, float]:
    """Label and score of the likeliest hypothesis; a score that is not finite counts as 0."""
    label, score = "", 0.0
    for place, result in enumerate(detection.results):
        value = result.hypothesis.score if math.isfinite(result.hypothesis.score) else 0.0
        if place == 0 or value > score:
            label, score = result.hypothesis.class_id, value
    return label, score


def _make_regions(items: Iterable[tuple[str, BoundingBox2D, str, float]], taken: set[str], first_place: int,
                  box_of: Callable[[BoundingBox2D], tuple[float, float, float, float]],
                  ) -> tuple[tuple[Region, ...], tuple[str, ...]]:
    """Regions with ids that are unique among themselves and `taken`, and why others were refused.

    Without an id of its own, a box gets its place counted from `first_place`, or the next number nobody has.
    box_of: raises BoxError for a box that is refused. The time is linear in the number of boxes.
    """
    items = list(items)
    number = first_place
    taken = set(taken)
    # Ids that are given out come after all those that are asked for: a tracker's "2" stays "2" wherever it stands.
    reserved = taken | {identifier for identifier, *_ in items if identifier}
    regions, refusals = [], []
    for place, (identifier, box_message, label, score) in enumerate(items, first_place):
        try:
            box = box_of(box_message)
            if len(identifier) > _LONGEST_ID:
                raise BoxError(f"its id has {len(identifier)} characters; expected at most {_LONGEST_ID}")
            if identifier in taken:
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
        taken.add(identifier)
        regions.append(Region(identifier, box, label, score))
    return tuple(regions), tuple(refusals)


def detections_from_cdr(data: bytes, most: int) -> tuple[Detection2DArray, int]:
    """Reads a serialised detection array, but no more of its detections than are wanted.

    rclpy makes about 5,000 detections a second, on the executor's thread: the number is bounded before it begins.

    Args:
        data: the message as a raw subscription gives it.
        most: how many detections are read, from the first one on.

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
        return deserialize_message(data, Detection2DArray), count
    except DetectionsError:
        raise
    except Exception as error:  # struct's, and whatever the middleware has for malformed data
        raise DetectionsError(f"{len(data)} bytes are no Detection2DArray: {error}") from error


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
        message: Detection2DArray, width: int, height: int,
        resolution: tuple[int, int] | None = None) -> tuple[tuple[Region, ...], tuple[str, ...]]:
    """Makes regions of a detection array. One bad box costs only itself.

    Args:
        message: the array; its ids are unique (see `tell_apart`).
        width: of the image, in pixels.
        height: of the image, in pixels.
        resolution: of the picture that the boxes are of, if it is not the image's (see `box_from_message`).

    Returns:
        The regions in the array's order, and a text for each box refused. A region's id is the detection's, else its
        1-based place in the array; label and score are those of the best hypothesis.
    """
    items = [(detection.id, detection.bbox, *_best_hypothesis(detection)) for detection in message.detections]
    return _make_regions(items, set(), 1, lambda box: box_from_message(box, width, height, resolution))


def regions_from_messages(messages: Sequence[RegionMessage], present: Sequence[Region], width: int,
                          height: int) -> tuple[tuple[Region, ...], tuple[str, ...]]:
    """Regions an asker has drawn, beside those already present, and a text for each box refused.

    A box whose sizes are both 0 is a point, the centre it names. Without a score of its own a region gets the best:
    where there are more than the model takes, what somebody has drawn is not what is left out. More than 256 are
    refused, all of them.
    """
    if len(messages) > _MOST_DRAWN:
        return (), (f"{len(messages)} boxes are given; expected at most {_MOST_DRAWN}",)
    items = [(message.id, message.bbox, message.label,
              message.score if message.score and math.isfinite(message.score) else 1.0) for message in messages]
    return _make_regions(items, {region.id for region in present}, len(present) + 1,
                         lambda box: drawn_from_message(box, width, height))


def region_to_message(region: Region) -> RegionMessage:
    """A region with its box as centre and size."""
    return RegionMessage(id=region.id, bbox=box_to_message(region.box), label=region.label, score=float(region.score))


def descriptions_to_message(result: FrameDescriptions) -> RegionDescriptionArray:
    """The descriptions of a frame under that frame's own header."""
    message = RegionDescriptionArray(header=result.frame.header)
    for description in result.descriptions:
        message.descriptions.append(RegionDescription(
            region=region_to_message(description.region), text=description.text,
            confidence=float(description.confidence), reused=description.reused))
    for stage, seconds in result.timings.items():
        whole = int(seconds)
        duration = Duration(sec=whole, nanosec=int((seconds - whole) * NANOSECONDS))
        message.stage_times.append(StageTime(stage=stage, duration=duration))
    return message


def answer_to_message(answer: Answer) -> AnswerMessage:
    """An answer under the header of the frame it speaks of, with the boxes of the regions it names."""
    message = AnswerMessage(
        header=answer.frame.header if answer.frame is not None else Header(), query_id=answer.query_id,
        conversation_id=answer.conversation_id, status=int(answer.status), text=answer.text, error=answer.error,
        region_ids=list(answer.region_ids), confidence=float(answer.confidence))
    if answer.frame is not None:
        named = {region.id: region for region in answer.frame.regions}
        message.regions = [region_to_message(named[i]) for i in answer.region_ids if i in named]
    return message


def answer_as_text(answer: Answer) -> str:
    """An answer for a plain String topic: its text, or the status and the reason in square brackets."""
    if answer.status == Status.OK:
        return answer.text
    return f"{answer.text} [{answer.status.name}: {answer.error}]".lstrip()
