"""What the node publishes about every frame that it has described."""
from __future__ import annotations

import numpy as np
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import QoSProfile
from ros_gpt4roi_interfaces.msg import RegionDescriptionArray
from sensor_msgs.msg import CompressedImage, Image

from ros_gpt4roi.annotate import annotate
from ros_gpt4roi.runtime.types import FrameDescriptions

from .conversions import descriptions_to_message
from .diagnostics import Problems
from .images import rgb_to_compressed, rgb_to_image
from .topics import publisher_events

_DESCRIPTIONS_DEPTH = 10


class Outputs:
    """The publishers of descriptions, as messages and drawn onto the image.

    What takes time to make is made only while somebody subscribes, and once for all who do.

    Args:
        node: The node.
        image_qos: QoS of the annotated images.
        problems: Receives who subscribes in vain.
    """

    def __init__(self, node: LifecycleNode, image_qos: QoSProfile, problems: Problems) -> None:
        self._node = node
        self._descriptions = node.create_publisher(RegionDescriptionArray, "region_descriptions", _DESCRIPTIONS_DEPTH)
        self._annotated, self._compressed = (
            node.create_publisher(kind, topic, image_qos,
                                  event_callbacks=publisher_events(node, topic, image_qos, problems))
            for kind, topic in ((Image, "annotated_image"), (CompressedImage, "annotated_image/compressed")))
        self._shape, self._height = (0, 0, 0), 0  # of the last frame that was drawn, and of the picture made of it

    def destroy(self) -> None:
        """Takes the publishers back."""
        for publisher in (self._descriptions, self._annotated, self._compressed):
            self._node.destroy_publisher(publisher)

    def publish(self, result: FrameDescriptions) -> None:
        """Publishes the descriptions of a frame; called on the worker's thread."""
        self._descriptions.publish(descriptions_to_message(result))
        raw, compressed = (publisher.get_subscription_count() for publisher in (self._annotated, self._compressed))
        if raw or compressed:
            picture, header = self._draw(result), result.frame.header
            if raw:
                self._annotated.publish(rgb_to_image(picture, header))
            if compressed:
                self._compressed.publish(rgb_to_compressed(picture, header))

    def _draw(self, result: FrameDescriptions) -> np.ndarray:
        image = np.asarray(result.frame.image)
        # A legend's room stays while the camera's size does: viewers and video files bear no size that comes and goes.
        least = self._height if image.shape == self._shape else 0
        picture = annotate(image, [(item.region, item.text) for item in result.descriptions], least)
        self._shape, self._height = image.shape, picture.shape[0]
        return picture
