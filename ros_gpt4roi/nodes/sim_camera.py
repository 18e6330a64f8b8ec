"""A simulated RGB-D camera: images of a simulated world, their depth and its objects' true boxes, at a steady rate.

Rendering is slower than a camera. The views of a camera that circles the table are rendered once, in a thread of their
own, and played forth and back; publishing begins with the first of them.
"""
from __future__ import annotations

import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import psutil
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header
from vision_msgs.msg import Detection2D, Detection2DArray

from ros_gpt4roi.configuration import Configuration, setting
from ros_gpt4roi.image_messages import rgb_to_compressed, rgb_to_image
from ros_gpt4roi.messages import box_to_message, hypothesis
from ros_gpt4roi.sim.household.scene import SPLITS, HouseholdScene
from ros_gpt4roi.sim.tabletop.scene import ALL_SPLITS, Scene
from ros_gpt4roi.sim.worlds import RENDERERS, TABLETOP, region_id

from .parameters import TopicQos, declare, read
from .process import NodeFailure, run_node

_JOIN_LIMIT_S = 2.0  # a large picture takes longer, and is not waited for


@dataclass(frozen=True)
class CameraParameters(Configuration):
    """Parameters of the sim_camera node, given at its start."""

    world: str = setting(TABLETOP, "The simulated world: tabletop, plain shapes; household, things of a kitchen, "
                                   "whose models scripts/setup.sh --household installs.", choices=tuple(RENDERERS))
    seed: int = setting(0, "Seed of the scene.", at_least=0)
    scene: int = setting(0, "Number of the scene among those of its seed.", at_least=0)
    scenes: int = setting(1, "Scenes that are shown one after the other, from that one on.", at_least=1, at_most=1000)
    split: str = setting("test", "Scenes of one split are never among those of another. Only the household has "
                                 "unseen: with kinds, textures and cameras of no other split; only the tabletop has "
                                 "workshop: another room, with things of kinds of no other split.",
                         choices=tuple({**SPLITS, **ALL_SPLITS}))
    width: int = setting(640, "Width of the images.", at_least=32, at_most=4096, unit="pixels")
    height: int = setting(480, "Height of the images.", at_least=32, at_most=4096, unit="pixels")
    rate_hz: float = setting(30.0, "Frames a second.", at_least=0.1, at_most=1000, unit="Hz")
    views: int = setting(60, "Positions of the moving camera in each scene; 1 stands still.", at_least=1, at_most=1000)
    encoding: str = setting("rgb8", "rgb8 or bgr8 on `image`, jpeg or png on `image/compressed`.",
                            choices=("rgb8", "bgr8", "jpeg", "png"))
    depth: str = setting("16UC1", "Encoding of `depth/image`: 16UC1 in millimetres, 32FC1 in metres, or none.",
                         choices=("16UC1", "32FC1", "none"))
    frame_id: str = setting("camera_color_optical_frame", "Frame of the images' headers.")
    label: str = setting("object", "Class of every detection: the model is to say more.")
    qos: TopicQos = TopicQos()


@dataclass(frozen=True)
class _View:
    """The messages of one position of the camera."""

    image: Image | CompressedImage
    detections: Detection2DArray
    depth: Image | None
    info: CameraInfo


def depth_to_image(depth: np.ndarray, encoding: str) -> Image:
    """Makes a depth image of float32 [H, W] in metres; encoding is 16UC1 (whole millimetres) or 32FC1."""
    pixels = np.ascontiguousarray(np.rint(depth * 1000).clip(0, 65535).astype("<u2") if encoding == "16UC1" else depth)
    height, width = pixels.shape
    message = Image(height=height, width=width, encoding=encoding, step=width * pixels.itemsize)
    message.data.frombytes(pixels.view(np.uint8))
    return message


def pinhole(width: int, height: int, focal: float) -> CameraInfo:
    """The calibration of a camera without distortion that looks through the middle of its image.

    Args:
        width: Of the image, in pixels.
        height: Of the image, in pixels.
        focal: The focal length both ways, in pixels.
    """
    x, y = (width - 1) / 2, (height - 1) / 2  # whole numbers are centres of pixels
    return CameraInfo(width=width, height=height, distortion_model="plumb_bob", d=[0.0] * 5,
                      k=[focal, 0.0, x, 0.0, focal, y, 0.0, 0.0, 1.0], r=[1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0],
                      p=[focal, 0.0, x, 0.0, 0.0, focal, y, 0.0, 0.0, 0.0, 1.0, 0.0])


class SimCamera(Node):
    """Publishes `image` (or `image/compressed`), `depth/image`, `camera_info` and `detections` under one header."""

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
        with_depth = self._settings.depth != "none"
        self._depth = self.create_publisher(Image, "depth/image", profile) if with_depth else None
        self._info = self.create_publisher(CameraInfo, "camera_info", profile)
        self._views: list[_View] = []
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
            with RENDERERS[settings.world](settings.width, settings.height) as renderer:
                for place in range(settings.scenes * settings.views):
                    if self._stop.is_set():
                        return
                    number, step = divmod(place, settings.views)
                    scene = renderer.render_view(settings.split, settings.seed, settings.scene + number, step)
                    depth = None if self._depth is None else depth_to_image(renderer.depth(), settings.depth)
                    self._views.append(_View(*self._messages(scene), depth,
                                             pinhole(settings.width, settings.height, renderer.focal)))
                    if place == 0:
                        self._check_memory()
            self.get_logger().info(f"{len(self._views)} views of {settings.scenes} {settings.split} scenes from "
                                   f"{settings.seed}/{settings.scene} on are rendered")
        except Exception as error:  # handed to the executor's thread, which ends the node with it
            self._failure = error

    def _check_memory(self) -> None:
        """Raises ValueError where all views, if they are like the first one, are more than can be kept."""
        settings, view, most = self._settings, self._views[0], psutil.virtual_memory().total // 2
        each = len(view.image.data) + (0 if view.depth is None else len(view.depth.data))
        if settings.scenes * settings.views * each > most:
            raise ValueError(f"scenes is {settings.scenes} and views is {settings.views}, which take "
                             f"{settings.scenes * settings.views * each / 1e9:.0f} GB of memory, expected at most "
                             f"{most / 1e9:.0f} GB, half of this machine's")

    def _messages(self, scene: Scene | HouseholdScene) -> tuple[Image | CompressedImage, Detection2DArray]:
        encoding = self._settings.encoding
        write = rgb_to_compressed if encoding in ("jpeg", "png") else rgb_to_image
        detections = Detection2DArray()
        for item in scene.objects:
            detections.detections.append(Detection2D(id=region_id(item), bbox=box_to_message(item.box),
                                                     results=[hypothesis(self._settings.label, 1.0)]))
        return write(scene.image, Header(), encoding), detections

    def _publish(self) -> None:
        if self._failure is not None:
            raise NodeFailure(f"{type(self._failure).__name__}: {self._failure}") from self._failure
        if not self._views:
            return
        view = self._views[self._place]
        header = Header(frame_id=self._settings.frame_id, stamp=self.get_clock().now().to_msg())
        view.image.header = view.detections.header = view.info.header = header
        for detection in view.detections.detections:
            detection.header = header
        self._info.publish(view.info)
        if self._depth is not None and view.depth is not None:
            view.depth.header = header
            self._depth.publish(view.depth)
        self._images.publish(view.image)
        self._detections.publish(view.detections)
        if not 0 <= self._place + self._direction < len(self._views):
            self._direction = -self._direction
        self._place = min(max(self._place + self._direction, 0), len(self._views) - 1)


def main(args: Sequence[str] | None = None) -> int:
    """Runs the node; `ros2 run ros_gpt4roi sim_camera`."""
    return run_node(SimCamera, args)


if __name__ == "__main__":
    sys.exit(main())
