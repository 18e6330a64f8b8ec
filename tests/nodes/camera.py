"""A camera and a detector at a test's command."""
from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence

import numpy as np
from ros_peer import Peer
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header
from vision_msgs.msg import Detection2D, Detection2DArray

from ros_gpt4roi.image_messages import rgb_to_image
from ros_gpt4roi.messages import box_to_message

WIDTH, HEIGHT = 64, 48


def claim_size(picture: CompressedImage, width: int, height: int) -> CompressedImage:
    """The picture with another size in its header, as a decompression bomb has it."""
    data = bytearray(picture.data)
    if data[:4] == b"\x89PNG":
        data[16:24] = struct.pack(">II", width, height)
        data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    else:
        place = data.index(b"\xff\xc0") + 5
        data[place:place + 4] = struct.pack(">HH", height, width)
    claimed = CompressedImage(header=picture.header, format=picture.format)
    claimed.data.frombytes(data)
    return claimed


class Camera:
    """Publishes frames with rising stamps, one for every `send`."""

    def __init__(self, peer: Peer, first_second: int = 1000, namespace: str = "") -> None:
        self._first_second = first_second
        self._images = peer.publisher(Image, f"{namespace}/image", 10)
        self._detections = peer.publisher(Detection2DArray, f"{namespace}/detections", 10)
        self._count = 0

    def send(self, boxes: Sequence[tuple[float, float, float, float]], boxes_first: bool = False,
             changes: dict | None = None, ids: Sequence[str] = ()) -> Header:
        """Publishes an image and its boxes; `changes` spoils fields of the image. Returns the header of both."""
        header = self._next()
        pixels = np.random.default_rng(self._count).integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)
        image = rgb_to_image(pixels, header)
        for name, value in (changes or {}).items():
            setattr(image, name, value)
        if boxes_first:
            self.detect(header, boxes, ids)
        self._images.publish(image)
        if not boxes_first:
            self.detect(header, boxes, ids)
        return header

    def send_image(self) -> None:
        """Publishes an image alone."""
        self._images.publish(rgb_to_image(np.zeros((HEIGHT, WIDTH, 3), np.uint8), self._next()))

    def _next(self) -> Header:
        self._count += 1
        header = Header(frame_id="camera")
        header.stamp.sec, header.stamp.nanosec = self._first_second + self._count // 30, self._count % 30 * 33_000_000
        return header

    def detect(self, header: Header, boxes: Sequence[tuple[float, float, float, float]],
               ids: Sequence[str] = ()) -> None:
        """Publishes boxes alone."""
        self._detections.publish(Detection2DArray(header=header, detections=[
            Detection2D(bbox=box_to_message(box), id=identifier)
            for box, identifier in zip(boxes, ids or [""] * len(boxes))]))
