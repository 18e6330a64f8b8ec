"""Detections of yolo_ros, which has messages of its own, as those of vision_msgs."""
from __future__ import annotations

import numpy as np
from vision_msgs.msg import Detection2D, Detection2DArray

from ros_gpt4roi.messages import hypothesis

from .conversions import DetectionsError, Outline, detections_from_cdr
from .optional import optional_messages


def yolo_type() -> type:
    """yolo_msgs/DetectionArray. Raises DetectionsError where yolo_msgs is not installed."""
    module = optional_messages("yolo_msgs", "DetectionArray")
    if module is None:
        raise DetectionsError("detections.type is yolo_msgs, but yolo_msgs/DetectionArray can not be imported; "
                              "expected a workspace with yolo_ros's messages to be sourced")
    return module.DetectionArray


def detections_from_yolo(data: bytes, most: int) -> tuple[Detection2DArray, int, list[Outline | None]]:
    """Reads a serialised yolo_msgs/DetectionArray: headers, boxes, masks, scores, names of classes, a tracker's ids.

    Args:
        data: The message as a raw subscription gives it.
        most: How many detections are taken, from the first one on.

    Returns:
        The detections, how many there were, and the mask of each.

    Raises:
        DetectionsError: The data is no such array, or has more than 2 MiB.
    """
    message, count = detections_from_cdr(data, most, yolo_type())
    converted = Detection2DArray(header=message.header)
    outlines: list[Outline | None] = []
    for found in message.detections:
        detection = Detection2D(header=message.header, id=found.id,
                                results=[hypothesis(found.class_name, found.score)])
        detection.bbox.center.position.x = found.bbox.center.position.x
        detection.bbox.center.position.y = found.bbox.center.position.y
        detection.bbox.center.theta = found.bbox.center.theta
        detection.bbox.size_x, detection.bbox.size_y = found.bbox.size.x, found.bbox.size.y
        converted.detections.append(detection)
        corners = np.array([(corner.x, corner.y) for corner in found.mask.data], np.float32)
        outlines.append(Outline(corners, (found.mask.width, found.mask.height)) if len(corners) else None)
    return converted, count, outlines
