"""Records frames and what is said of them, as far as its rules say that they are worth it, into MCAP files.

It only listens: whatever becomes of it or of its disk, the other nodes go on. Callbacks hold what comes; a thread
of its own blacks out, encodes and writes.
"""
from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.qos import QoSProfile
from rclpy.serialization import deserialize_message, serialize_message
from ros_gpt4roi_interfaces.msg import Answer, Correction, Query, RegionDescriptionArray
from sensor_msgs.msg import CompressedImage, Image
from vision_msgs.msg import Detection2DArray

from ros_gpt4roi.configuration import Configuration, setting
from ros_gpt4roi.image_messages import ImageError, MessageImage, rgb_to_compressed
from ros_gpt4roi.recording.bag_folder import BagFolder, Serialised, StorageOptions
from ros_gpt4roi.recording.blackout import BlackoutOptions, Withheld, black_out
from ros_gpt4roi.recording.moments import Moments, Note, RecordingRules
from ros_gpt4roi.recording.writer import BagWriter, Pending
from ros_gpt4roi.runtime.regions import BoxError

from .conversions import DetectionsError, box_from_message, detections_from_cdr, stamp_ns
from .diagnostics import DiagnosticsPublisher, Problems, Report
from .frame_source import DetectionParameters, ImageParameters
from .message_definitions import message_definition
from .parameters import TopicQos, declare, read
from .process import NodeFailure, run_node
from .topics import Input
from .yolo import detections_from_yolo, yolo_type

_PERIOD_S = 0.2  # how often what is held is looked through
_MOST_BYTES = 8 << 20  # of a note, as those who read bags have it
_SAID = QoSProfile(depth=100)


@dataclass(frozen=True)
class RecorderQos(Configuration):
    """How inputs are subscribed."""

    image: TopicQos = TopicQos(depth=5)
    detections: TopicQos = TopicQos(depth=5)


@dataclass(frozen=True)
class RecorderParameters(Configuration):
    """Parameters of the recorder node, given at its start."""

    transport: str = setting("raw", "raw: Image on `image`; compressed: CompressedImage on `image/compressed`.",
                             choices=("raw", "compressed"))
    rules: RecordingRules = RecordingRules()
    blackout: BlackoutOptions = BlackoutOptions()
    storage: StorageOptions = StorageOptions()
    queue_mib: int = setting(64, "Most that may wait for the disk; more is dropped and counted.", at_least=1,
                             at_most=65536, unit="MiB")
    image: ImageParameters = ImageParameters()
    detections: DetectionParameters = DetectionParameters()
    qos: RecorderQos = RecorderQos()


class _Boxes(NamedTuple):
    """The detections of a frame, and whether there are more, which were not read."""

    message: Detection2DArray
    more: bool


class Recorder(Node):
    """See docs/recording.md."""

    def __init__(self) -> None:
        super().__init__("recorder")
        self.problems = Problems(self.get_logger().warning)
        if unknown := declare(self, RecorderParameters(), read_only=True):
            self.problems.report("unknown parameter", "; ".join(unknown))
        self._settings = settings = read(self, RecorderParameters)
        self._moments = Moments(settings.rules, needs_boxes=bool(settings.blackout.labels))
        self._said: dict[str, object] = {}  # by topic, what was last said: a change is told from it
        self._reported = self._dropped = 0
        self._definitions: dict[str, str] = {}
        compressed = settings.transport == "compressed"
        image_topic = self.resolve_topic_name("image/compressed" if compressed else "image")
        self._frame_topic = image_topic if compressed else f"{image_topic}/compressed"
        self._define(CompressedImage)
        try:
            boxes_type = yolo_type() if settings.detections.type == "yolo_msgs" else Detection2DArray
        except DetectionsError as error:
            raise NodeFailure(str(error)) from error
        self._watched = [
            Input(self, CompressedImage if compressed else Image, image_topic, self._on_image,
                  settings.qos.image.profile(), self.problems),
            self._listen(boxes_type, "detections", self._boxes, settings.qos.detections.profile(),
                         optional=not settings.blackout.labels),
            self._listen(RegionDescriptionArray, "region_descriptions", self._descriptions, _SAID, optional=True)]
        # Not watched: people may say nothing for hours.
        self._people = [self._listen(kind, topic, note, _SAID, optional=True) for kind, topic, note in (
            (Query, "queries", self._query), (Answer, "answers", self._answer),
            (Correction, "corrections", self._correction))]
        self._bag = BagFolder(settings.storage, self._definitions)
        self._writer = BagWriter(self._bag, settings.queue_mib * 2**20)
        self.create_timer(_PERIOD_S, self._take, clock=Clock(clock_type=ClockType.STEADY_TIME))
        self._diagnostics = DiagnosticsPublisher(self, "recorder", self._report)
        self.get_logger().info(f"recording into {settings.storage.folder}: {', '.join(settings.rules.triggers)}")

    def close(self) -> None:
        """Writes what is chosen already, and ends the file."""
        self._take()
        self._writer.close()

    def _define(self, kind: type) -> str:
        package, module, *_ = kind.__module__.split(".")
        name = f"{package}/{module}/{kind.__name__}"
        try:
            self._definitions[name] = message_definition(name)
        except LookupError as error:
            raise NodeFailure(str(error)) from error
        return name

    # What comes

    def _listen(self, kind: type, topic: str, note: Callable[[bytes, Any], tuple[int, Note]], profile: QoSProfile,
                optional: bool) -> Input:
        """Subscribes to what is said of frames; `note` makes a stamp and a note of a message and of what is written."""
        type_name, topic = self._define(kind), self.resolve_topic_name(topic)

        def received(data: bytes) -> None:
            if len(data) > _MOST_BYTES:
                self.problems.report("message refused", f"{topic}: a message has {len(data)} bytes, expected at most "
                                                        f"{_MOST_BYTES}")
                return
            written = Serialised(topic, type_name, bytes(data), time.time_ns())
            try:
                stamp, said = note(data, written)
            except Exception as error:  # of malformed messages, the middleware raises whatever it has
                self.problems.report("message refused", f"{topic}: {error}")
                return
            for message in self._moments.add_note(stamp, time.monotonic(), said):
                self._put(message)

        return Input(self, kind, topic, received, profile, self.problems, optional=optional, raw=True)

    def _on_image(self, message: Image | CompressedImage) -> None:
        try:
            image = MessageImage(message, self._settings.image.max_pixels)
        except ImageError as error:
            self.problems.report("image refused", str(error))
            return
        self._moments.add_frame(stamp_ns(message.header.stamp), time.monotonic(), (image, message), image.nbytes)

    def _boxes(self, data: bytes, written: Serialised) -> tuple[int, Note]:
        most = self._settings.detections.max
        if self._settings.detections.type == "yolo_msgs":
            message, count, _ = detections_from_yolo(data, most)
        else:
            message, count = detections_from_cdr(data, most)
        present = frozenset((found.id, *(result.hypothesis.class_id for result in found.results[:1]))
                            for found in message.detections)
        return stamp_ns(message.header.stamp), Note(written, len(data), self._changed(written.topic, present),
                                                    boxes=_Boxes(message, count > most))

    def _descriptions(self, data: bytes, written: Serialised) -> tuple[int, Note]:
        message = deserialize_message(data, RegionDescriptionArray)
        triggers = self._changed(written.topic, {item.region.id: item.text for item in message.descriptions})
        if any(item.confidence < self._settings.rules.min_confidence for item in message.descriptions):
            triggers.append("low_confidence")
        return stamp_ns(message.header.stamp), Note(written, len(data), triggers)

    def _changed(self, topic: str, said: object) -> list[str]:
        before, self._said[topic] = self._said.get(topic, said), said
        return ["changed"] if said != before else []

    def _query(self, data: bytes, written: Serialised) -> tuple[int, Note]:
        stamp = stamp_ns(deserialize_message(data, Query).header.stamp)
        return stamp, Note(written, len(data), ("asked",), people=True)

    def _answer(self, data: bytes, written: Serialised) -> tuple[int, Note]:
        message = deserialize_message(data, Answer)
        unsure = message.status == Answer.OK and message.confidence < self._settings.rules.min_confidence
        triggers = ("asked", "low_confidence") if unsure else ("asked",)
        return stamp_ns(message.header.stamp), Note(written, len(data), triggers, people=True)

    def _correction(self, data: bytes, written: Serialised) -> tuple[int, Note]:
        stamp = stamp_ns(deserialize_message(data, Correction).header.stamp)
        return stamp, Note(written, len(data), ("corrected",), people=True)

    # What is written

    def _take(self) -> None:
        for (image, message), boxes, messages in self._moments.take(time.monotonic()):
            self._writer.put(Pending(partial(self._picture, image, message, boxes), image.nbytes))
            for said in messages:
                self._put(said)

    def _put(self, message: Serialised) -> None:
        self._writer.put(Pending(lambda: message, len(message.data)))

    def _picture(self, image: MessageImage, message: Image | CompressedImage, boxes: Sequence[_Boxes]) -> Serialised:
        """Makes what is written of a frame, in the writing thread."""
        blackout = self._settings.blackout
        if blackout.any or isinstance(message, Image):
            pixels = np.asarray(image)
            if blackout.any:
                pixels = black_out(pixels, blackout, self._hidden(boxes, image))
            message = rgb_to_compressed(pixels, message.header)
        return Serialised(self._frame_topic, "sensor_msgs/msg/CompressedImage", serialize_message(message),
                          time.time_ns())

    def _hidden(self, boxes: Sequence[_Boxes], image: MessageImage) -> list[tuple[float, float, float, float]]:
        """The boxes to black out. Raises Withheld where not all of them are known."""
        blackout, (height, width, _) = self._settings.blackout, image.shape
        if not blackout.labels:
            return []
        if any(part.more for part in boxes):
            raise Withheld("frames with more detections than detections.max")
        resolution = self._settings.detections.resolution
        try:
            return [box_from_message(found.bbox, width, height, resolution) for part in boxes
                    for found in part.message.detections
                    if blackout.covers(result.hypothesis.class_id for result in found.results)]
        except BoxError as error:
            raise Withheld("frames with a box to black out that cannot be read") from error

    # Diagnostics

    def _report(self) -> Report:
        writer, total = self._writer, self.problems.total()
        counts, moments = dict(writer.counts), dict(self._moments.counts)
        dropped = sum(count for name, count in counts.items() if name.startswith("dropped"))
        silent = next(filter(None, (source.stale() for source in self._watched)), "")
        level, message = DiagnosticStatus.OK, "recording"
        if writer.failure:
            level, message = DiagnosticStatus.ERROR, f"not recording: {writer.failure}"
        elif trouble := writer.slow() or ("messages were dropped" if dropped > self._dropped else "") or silent:
            level, message = DiagnosticStatus.WARN, trouble
        elif total > self._reported:
            level, message = DiagnosticStatus.WARN, "problems since the last report"
        self._reported, self._dropped = total, dropped
        values = {"held [MiB]": round(self._moments.held_bytes / 2**20, 1), "oldest recordings removed":
                  self._bag.removed, **{f"chosen: {name}": count for name, count in moments.items()},
                  **{f"written: {name}": count for name, count in counts.items()}, **self.problems.values()}
        return Report(level, message, str(self._settings.storage.folder), values)


def main(args: Sequence[str] | None = None) -> int:
    """Runs the node; `ros2 run ros_gpt4roi recorder`."""
    return run_node(Recorder, args)


if __name__ == "__main__":
    sys.exit(main())
