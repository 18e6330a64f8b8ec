"""Bags as a robot records them, written by rosbags with messages that ROS serialised."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from builtin_interfaces.msg import Time
from rclpy.serialization import serialize_message
from ros_gpt4roi_interfaces.msg import Answer, Correction, Query, Region, RegionDescription, RegionDescriptionArray
from rosbags.rosbag2 import StoragePlugin, Writer
from sensor_msgs.msg import CompressedImage
from std_msgs.msg import Header
from vision_msgs.msg import Detection2D, Detection2DArray

from ros_gpt4roi.image_messages import rgb_to_compressed, rgb_to_image
from ros_gpt4roi.messages import box_to_message, hypothesis
from training.data.bags.messages import current_types

SIZE = (96, 64)
BOX = (10, 10, 40, 50)
STEP = 100_000_000  # nanoseconds from frame to frame
BEGIN = 1_700_000_000_000_000_000


def header(place: int, offset: int = 0) -> Header:
    """The header of the frame at a place."""
    stamp = BEGIN + place * STEP + offset
    return Header(stamp=Time(sec=stamp // 10**9, nanosec=stamp % 10**9), frame_id="camera")


def pixels(place: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """A picture that resembles no other."""
    cells = np.random.default_rng(place).integers(0, 255, (8, 8, 3), np.uint8)
    return cv2.resize(cells, size, interpolation=cv2.INTER_CUBIC)


def compressed(place: int, **changes: Any) -> CompressedImage:
    return rgb_to_compressed(pixels(changes.get("like", place), changes.get("size", SIZE)), header(place))


def image(place: int, size: tuple[int, int] = SIZE) -> Any:
    return rgb_to_image(pixels(place, size), header(place), "bgr8")


def detections(place: int, *found: tuple[str, str, float, tuple[float, ...]], offset: int = 0) -> Detection2DArray:
    """(id, name, score, box) of each."""
    message = Detection2DArray(header=header(place, offset))
    for name, label, score, box in found or (("1", "mug", 0.9, BOX),):
        message.detections.append(
            Detection2D(header=message.header, id=name, bbox=box_to_message(box), results=[hypothesis(label, score)]))
    return message


def region(name: str = "1", label: str = "mug", box: tuple[float, ...] = BOX) -> Region:
    return Region(id=name, bbox=box_to_message(box), label=label, score=0.9)


def descriptions(place: int, *texts: str, confidence: float = 0.75) -> RegionDescriptionArray:
    return RegionDescriptionArray(header=header(place), descriptions=[
        RegionDescription(region=region(str(number)), text=text, confidence=confidence)
        for number, text in enumerate(texts, 1)])


def correction(place: int, **fields: Any) -> Correction:
    """Of region 1's description unless the fields say otherwise."""
    values = {"kind": Correction.DESCRIPTION, "verdict": Correction.WRONG, "said": "a bowl", "who": "Ada",
              "time": Time(sec=100)} | fields
    values.setdefault("regions", [region()])
    return Correction(header=header(place), **values)


def answer(place: int, query: str, text: str, conversation: str = "c", **fields: Any) -> Answer:
    return Answer(header=header(place), query_id=query, conversation_id=conversation, text=text, confidence=0.5,
                  **fields)


def query(place: int, name: str, text: str) -> Query:
    return Query(header=header(place), query_id=name, text=text)


def write(folder: Path, *messages: tuple[str, Any], plugin: StoragePlugin = StoragePlugin.MCAP,
          store: Any = None, stream: Iterable[tuple[str, Any]] = ()) -> Path:
    """A bag of (topic, message) or (topic, (type, CDR)), in this order, then those of the stream."""
    connections: dict[str, Any] = {}
    with Writer(folder, version=9, storage_plugin=plugin) as writer:
        store = store or current_types()
        for number, (topic, message) in enumerate(chain(messages, stream)):
            if not isinstance(message, tuple):
                package, module, *_ = type(message).__module__.split(".")
                message = f"{package}/{module}/{type(message).__name__}", serialize_message(message)
            name, data = message
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, name, typestore=store)
            writer.write(connections[topic], BEGIN + number * 1000, data)
    return folder
