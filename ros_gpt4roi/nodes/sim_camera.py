"""A simulated robot camera: images of a tabletop and the true boxes of its objects, at a steady rate.

Rendering is slower than a camera. The views of a camera that circles the table are rendered once, in a thread of their
own, and played forth and back; publishing begins with the first of them.
"""
from __future__ import annotations

import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass

from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header
from vision_msgs.msg import Detection2D, Detection2DArray, ObjectHypothesisWithPose

from ros_gpt4roi.configuration import Configuration, setting
from ros_gpt4roi.sim.tabletop.renderer import TabletopRenderer
from ros_gpt4roi.sim.tabletop.scene import SPLITS, Scene

from .conversions import box_to_message
from .images import rgb_to_compressed, rgb_to_image
from .parameters import TopicQos, declare, read
from .process import NodeFailure, run_node

_JOIN_LIMIT_S = 10.0


@dataclass(frozen=True)
class CameraParameters(Configuration):
    """Parameters of the sim_camera node, given at its start."""

    seed: int = setting(0, "Seed of the scene.", at_least=0)
    scene: int = setting(0, "Number of the scene among those of its seed.", at_least=0)
    split: str = setting("test", "Scenes of one split are never among those of another.", choices=SPLITS)
    width: int = setting(640, "Width of the images.", at_least=32, at_most=4096, unit="pixels")
    height: int = setting(480, "Height of the images.", at_least=32, at_most=4096, unit="pixels")
    rate_hz: float = setting(30.0, "Frames a second.", at_least=0.1, at_most=1000, unit="Hz")
    views: int = setting(60, "Positions of the moving camera; 1 stands still.", at_least=1, at_most=1000)
    encoding: str = setting("rgb8", "rgb8 or bgr8 on `image`, jpeg or png on `image/compressed`.",
                            choices=("rgb8", "bgr8", "jpeg", "png"))
    frame_id: str = setting("camera_color_optical_frame", "Frame of the images' headers.")
    label: str = setting("object", "Class of every detection: the model is to say more.")
    qos: TopicQos = TopicQos()


class SimCamera(Node):
    """Publishes `image` (or `image/compressed`) and `detections`, both under the same header."""

    def __init__(self) -> None:
        super().__init__("sim_camera")
        for text in declare(self, CameraParameters(), read_only=True):
            self.get_logger().warning(text)
        self._settings = read(self, CameraParameters)
        compressed = self._settings.encoding in ("jpeg", "png")
        profile = self._settings.qos.profile()
        self._images = (self.create_publisher(CompressedImage, "image/compressed", profile) if compressed
                        else self.create_publisher(Image, "image", profile))
        self._detections = self.create_publisher(Detection2DArray, "detections", profile)
        self._views: list[tuple[Image | CompressedImage, Detection2DArray]] = []
        self._place, self._direction = 0, 1
        self._failure: Exception | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._render, name="render", daemon=True)
        self._thread.start()
        # Paced by a steady clock: with use_sim_time and no /clock, or a paused one, ROS time stands still.
        self.create_timer(1.0 / self._settings.rate_hz, self._publish, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def close(self) -> None:
        """Ends the rendering."""
        self._stop.set()
        self._thread.join(_JOIN_LIMIT_S)

    def _render(self) -> None:
        # An OpenGL context belongs to the thread that made it.
        settings = self._settings
        try:
            with TabletopRenderer(settings.width, settings.height) as renderer:
                for step in range(settings.views):
                    if self._stop.is_set():
                        return
                    self._views.append(self._messages(
                        renderer.render_view(settings.split, settings.seed, settings.scene, step)))
            self.get_logger().info(f"{settings.views} views of {settings.split} scene {settings.seed}/{settings.scene} "
                                   "are rendered")
        except Exception as error:  # handed to the executor's thread, which ends the node with it
            self._failure = error

    def _messages(self, scene: Scene) -> tuple[Image | CompressedImage, Detection2DArray]:
        encoding = self._settings.encoding
        write = rgb_to_compressed if encoding in ("jpeg", "png") else rgb_to_image
        detections = Detection2DArray()
        for item in scene.objects:
            # The object's own number, so that it is the same region in every view, as a tracker would have it.
            detection = Detection2D(id=str(item.object_index + 1), bbox=box_to_message(item.box))
            hypothesis = ObjectHypothesisWithPose()
            hypothesis.hypothesis.class_id, hypothesis.hypothesis.score = self._settings.label, 1.0
            detection.results.append(hypothesis)
            detections.detections.append(detection)
        return write(scene.image, Header(), encoding), detections

    def _publish(self) -> None:
        if self._failure is not None:
            raise NodeFailure(f"{type(self._failure).__name__}: {self._failure}") from self._failure
        if not self._views:
            return
        image, detections = self._views[self._place]
        header = Header(frame_id=self._settings.frame_id, stamp=self.get_clock().now().to_msg())
        image.header = detections.header = header
        for detection in detections.detections:
            detection.header = header
        self._images.publish(image)
        self._detections.publish(detections)
        if not 0 <= self._place + self._direction < len(self._views):
            self._direction = -self._direction
        self._place = min(max(self._place + self._direction, 0), len(self._views) - 1)


def main(args: Sequence[str] | None = None) -> int:
    """Runs the node; `ros2 run ros_gpt4roi sim_camera`."""
    return run_node(SimCamera, args)


if __name__ == "__main__":
    sys.exit(main())
