"""The table of malformed messages: each kind is a function that makes one message.

To add a kind, write it beside those of its input, under `@kind(name, input)`. To add an input, enter its type under
`TOPICS`, with what is well-formed under `Sample.message`, or in `senders.py` under `SERVICES`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np
from geometry_msgs.msg import Point, PointStamped
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header, String
from vision_msgs.msg import Detection2D, Detection2DArray

from ros_gpt4roi.image_messages import rgb_to_compressed, rgb_to_image
from ros_gpt4roi.messages import box_to_message
from ros_gpt4roi.nodes.sim_camera import depth_to_image, pinhole

MAX_PIXELS = 1_000_000  # of the node; what is beyond it need not be large, then
HUGE = (2**16, 2**31 - 1, 2**31, 2**32 - 1)
TOPICS: dict[str, type] = {
    "image": Image, "image/compressed": CompressedImage, "detections": Detection2DArray, "depth/image": Image,
    "camera_info": CameraInfo, "query_text": String, "image_mouse_left": Point, "annotated_image_mouse_left": Point,
    "clicked_point": PointStamped}
ODD_TEXTS = (
    "", " ", "\n", "\t\r\n", "\x1b[2J\x1b[31m", "\x1b]0;title\x07", "\u202egnihton", "\u200b\u200d", "e\u0301" * 50,
    "\U0001f600", "\ufeff", "\u2028line", "%s%n%x", "{0}{region}{image}", "../../etc/passwd", "'; DROP TABLE x; --",
    "<script>alert(1)</script>", "bın-1", "\u00df\u0130", "\ud55c\uad6d\uc5b4", "\x00hidden", "\x7f\x80\x9f", "nan",
    "-1", "999999999999999999999", "region", "cup 2", "a" * 101, "x" * 10_000)


@dataclass(frozen=True)
class Sample:
    """What is well-formed.

    Attributes:
        input: Where a message is to go.
        pixels: A picture, uint8 RGB [H, W, 3].
        header: Of a message; for what belongs to an image, that of one that was just published.
    """

    input: str
    pixels: np.ndarray
    header: Header

    def message(self, topic: str = "") -> Any:
        """A well-formed message of the topic, by default the input's own."""
        height, width = self.pixels.shape[:2]
        match topic or self.input:
            case "image":
                return rgb_to_image(self.pixels, self.header)
            case "image/compressed":
                return rgb_to_compressed(self.pixels, self.header, "jpeg")
            case "detections":
                one = Detection2D(id="one", bbox=box_to_message((10, 10, 60, 60)))
                return Detection2DArray(header=self.header, detections=[one])
            case "depth/image":
                message = depth_to_image(np.full((height, width), 1.5, np.float32), "16UC1")
            case "camera_info":
                message = pinhole(width, height, float(width))
            case "query_text":
                return String(data="What is region 1?")
            case "image_mouse_left" | "annotated_image_mouse_left":
                return Point(x=20.0, y=20.0)
            case "clicked_point":
                return PointStamped(header=self.header, point=Point(x=0.1, y=0.1, z=1.0))
        message.header = self.header
        return message


Make = Callable[[Random, Sample], Any]


@dataclass(frozen=True)
class Kind:
    """One kind of malformed message.

    Attributes:
        input: Where it goes.
        name: What is wrong with it.
        make: Makes one: a message or request, or bytes that are published as they are, past every check of rclpy's.
    """

    input: str
    name: str
    make: Make


KINDS: list[Kind] = []


def kind(name: str, *inputs: str) -> Callable[[Make], Make]:
    """Enter a function into the table.

    Args:
        name: What is wrong with its messages.
        inputs: Where they go.
    """
    def enter(make: Make) -> Make:
        KINDS.extend(Kind(input, name, make) for input in inputs)
        return make
    return enter


def odd_header(random: Random) -> Header:
    """A header whose frame id and stamp are not those of any image."""
    header = Header(frame_id=random.choice(ODD_TEXTS))
    header.stamp.sec = random.choice((0, -1, -2**31, 2**31 - 1, random.randrange(2**31)))
    header.stamp.nanosec = random.choice((0, 1, 10**9, 2**32 - 1, random.getrandbits(32)))
    return header


def odd_number(random: Random) -> float:
    """A number at the ends of what a double holds, or none."""
    return random.choice((float("nan"), float("inf"), -float("inf"), 1e308, -1e308, 1e39, 1e-308, 1e-5, 0.0, -0.0, -5.0,
                          0.5, 1e9, random.uniform(-1000, 1000)))


@kind("wrong stamp or frame id", "image", "image/compressed", "detections", "depth/image", "camera_info",
      "clicked_point")
def _(random: Random, sample: Sample) -> Any:
    message = sample.message()
    message.header = odd_header(random)
    return message
