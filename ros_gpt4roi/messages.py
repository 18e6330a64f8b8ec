"""What both sides of the interface do with messages."""

from __future__ import annotations

from collections.abc import Sequence

from builtin_interfaces.msg import Time
from vision_msgs.msg import BoundingBox2D, ObjectHypothesisWithPose


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
