"""What both sides of the interface do with messages."""

from __future__ import annotations

from collections.abc import Sequence

from vision_msgs.msg import BoundingBox2D


def box_to_message(box: Sequence[float]) -> BoundingBox2D:
    """Centre and size of a box (x1, y1, x2, y2)."""
    x1, y1, x2, y2 = map(float, box)
    message = BoundingBox2D(size_x=x2 - x1, size_y=y2 - y1)
    message.center.position.x, message.center.position.y = (x1 + x2) / 2, (y1 + y2) / 2
    return message
