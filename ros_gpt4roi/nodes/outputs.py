"""What the node publishes about every frame that it has described."""
from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from rclpy.lifecycle import LifecycleNode
from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile
from ros_gpt4roi_interfaces.msg import RegionDescriptionArray
from sensor_msgs.msg import CompressedImage, Image
from vision_msgs.msg import Detection2DArray, Detection3DArray
from visualization_msgs.msg import ImageMarker, MarkerArray

from ros_gpt4roi.annotate import annotate
from ros_gpt4roi.image_messages import rgb_to_compressed, rgb_to_image
from ros_gpt4roi.runtime.types import FrameDescriptions

from .conversions import Positions, descriptions_to_message
from .depth import DepthSource
from .diagnostics import Problems
from .displays import (
    described_detections,
    described_detections_3d,
    image_annotations,
    image_marker,
    text_markers,
)
from .optional import optional_messages
from .process import shown
from .topics import publisher_events

_DEPTH = 10


class Outputs:
    """The publishers of descriptions: as messages, drawn onto the image, and as what display tools show.

    Everything but the descriptions themselves is made only while somebody subscribes to it.

    Args:
        node: The node.
        depth: Says where regions are.
        image_qos: QoS of the annotated images.
        problems: Receives who subscribes in vain.
    """

    def __init__(self, node: LifecycleNode, depth: DepthSource, image_qos: QoSProfile, problems: Problems) -> None:
        self._node, self._depth = node, depth
        self._descriptions = node.create_publisher(RegionDescriptionArray, "region_descriptions", _DEPTH)
        self._annotated, self._compressed = (
            node.create_publisher(kind, topic, image_qos,
                                  event_callbacks=publisher_events(node, topic, image_qos, problems))
            for kind, topic in ((Image, "annotated_image"), (CompressedImage, "annotated_image/compressed")))
        # Each with what makes its message of a frame's descriptions.
        self._displays: list[tuple[Publisher, Callable[[FrameDescriptions], Any]]] = [
            (node.create_publisher(Detection2DArray, "described_detections", _DEPTH), described_detections),
            (node.create_publisher(ImageMarker, "image_marker", _DEPTH), image_marker)]
        self._displays_in_space: list[tuple[Publisher, Callable[[FrameDescriptions, Positions], Any]]] = [
            (node.create_publisher(Detection3DArray, "described_detections_3d", _DEPTH), described_detections_3d),
            (node.create_publisher(MarkerArray, "region_markers", _DEPTH), text_markers)]
        if foxglove := optional_messages("foxglove_msgs", "ImageAnnotations"):
            try:
                self._displays.append((node.create_publisher(foxglove.ImageAnnotations, "image_annotations", _DEPTH),
                                       partial(image_annotations, foxglove)))
            except Exception as error:  # its libraries are not those of this middleware
                problems.report("foxglove_msgs not used", shown(error))
        self._shape, self._height = (0, 0, 0), 0  # of the last frame that was drawn, and of the picture made of it

    def destroy(self) -> None:
        """Takes the publishers back."""
        displays = [publisher for publisher, _ in (*self._displays, *self._displays_in_space)]
        for publisher in (self._descriptions, self._annotated, self._compressed, *displays):
            self._node.destroy_publisher(publisher)

    def publish(self, result: FrameDescriptions) -> None:
        """Publishes the descriptions of a frame; called on the worker's thread."""
        positions = self._depth.positions(result.frame, [item.region for item in result.descriptions])
        self._descriptions.publish(descriptions_to_message(result, positions))
        for publisher, make in self._displays:
            if publisher.get_subscription_count():
                publisher.publish(make(result))
        for publisher, make_in_space in self._displays_in_space:
            if publisher.get_subscription_count():
                publisher.publish(make_in_space(result, positions))
        raw, compressed = (publisher.get_subscription_count() for publisher in (self._annotated, self._compressed))
        if raw or compressed:  # drawn once for both
            picture, header = self._draw(result), result.frame.header
            if raw:
                self._annotated.publish(rgb_to_image(picture, header))
            if compressed:
                self._compressed.publish(rgb_to_compressed(picture, header))

    def _draw(self, result: FrameDescriptions) -> np.ndarray:
        image = np.asarray(result.frame.image) if result.pixels is None else result.pixels
        # A legend's room stays while the camera's size does: viewers and video files bear no size that comes and goes.
        least = self._height if image.shape == self._shape else 0
        picture = annotate(image, [(item.region, item.text) for item in result.descriptions], least)
        self._shape, self._height = image.shape, picture.shape[0]
        return picture
