"""Detections of yolo_ros, which has messages of its own, as those of vision_msgs."""
from __future__ import annotations

from typing import Any

from rclpy.serialization import deserialize_message
from vision_msgs.msg import Detection2D, Detection2DArray

from ros_gpt4roi.messages import hypothesis

from .conversions import DetectionsError
from .optional import optional_messages

_MOST_BYTES = 2**23  # of an array with masks and keypoints


def yolo_type() -> type:
    """yolo_msgs/DetectionArray. Raises DetectionsError where yolo_msgs is not installed."""
    module = optional_messages("yolo_msgs", "DetectionArray")
    if module is None:
        raise DetectionsError("detections.type is yolo_msgs, but yolo_msgs/DetectionArray can not be imported; "
                              "expected a workspace with yolo_ros's messages to be sourced")
    return module.DetectionArray


def detections_from_yolo(data: bytes, most: int) -> tuple[Detection2DArray, int]:
    """Reads a serialised yolo_msgs/DetectionArray: headers, boxes, scores, names of classes and a tracker's ids.

    Args:
        data: The message as a raw subscription gives it.
        most: How many detections are taken, from the first one on.

    Returns:
        The detections, and how many there were.

    Raises:
        DetectionsError: The data is no such array, or has more than 8 MiB.
    """
    if len(data) > _MOST_BYTES:
        raise DetectionsError(f"an array of yolo_msgs has {len(data)} bytes; expected at most {_MOST_BYTES}")
    try:
        message: Any = deserialize_message(data, yolo_type())
    except DetectionsError:
        raise
    except Exception as error:  # whatever the middleware has for malformed data
        raise DetectionsError(f"{len(data)} bytes are no yolo_msgs/DetectionArray: {error}") from error
    converted = Detection2DArray(header=message.header)
    for found in message.detections[:most]:
        detection = Detection2D(header=message.header, id=found.id,
                                results=[hypothesis(found.class_name, found.score)])
        detection.bbox.center.position.x = found.bbox.center.position.x
        detection.bbox.center.position.y = found.bbox.center.position.y
        detection.bbox.center.theta = found.bbox.center.theta
        detection.bbox.size_x, detection.bbox.size_y = found.bbox.size.x, found.bbox.size.y
        converted.detections.append(detection)
    return converted, len(message.detections)
