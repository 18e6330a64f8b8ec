"""The camera frames that a web console holds: their pictures, what was said about them, and what is sent of them."""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
from ros_gpt4roi_interfaces.msg import Region, RegionDescriptionArray
from std_msgs.msg import Header

from ros_gpt4roi.image_messages import MessageImage
from ros_gpt4roi.messages import corners, stamp_text

_MOST_FRAMES, _MOST_BYTES = 64, 128 * 2**20
_UNDESCRIBED_S = 2.0  # without descriptions for so long, the camera's newest picture is shown as it is
_SHEET_BYTES = 6000  # of crops: half a second at 100 kbit/s
_SHEET_TILES = (96, 72, 48, 32)  # pixels of a crop's longer side, the first that fits
_MOST_CROPS = 32


def stamp_of(header: Header) -> str:
    """A frame's name: its stamp in seconds, to the nanosecond."""
    return stamp_text(header.stamp)


def finite_corners(region: Region) -> list[float]:
    """A region's box (x1, y1, x2, y2) in pixels, finite."""
    return [finite(value, 1) for value in corners(region.bbox)]


def finite(value: float, digits: int) -> float:
    """A number for a page, rounded: JSON has none that is not finite."""
    return round(float(value), digits) if math.isfinite(value) else 0.0


@dataclass(frozen=True)
class Level:
    """How much of a picture is sent.

    Attributes:
        width: The most pixels of a row; 0 sends crops of the regions alone.
        quality: Of the jpeg.
        period_s: The least time between two pictures.
    """

    width: int
    quality: int
    period_s: float = 0.0


LEVELS = (Level(1280, 80), Level(960, 70), Level(640, 60), Level(480, 50), Level(320, 35), Level(0, 45, 1.0))


@dataclass
class Frame:
    """One camera frame.

    Attributes:
        header: The image's.
        received_s: When its image, or where that never came its descriptions, arrived, by `time.monotonic`.
        image: None where it never came.
        descriptions: None until they came.
        number: Counts the frames that are shown.
        pictures: What was made of it for sending, by level.
    """

    header: Header
    received_s: float
    image: MessageImage | None = None
    descriptions: RegionDescriptionArray | None = None
    number: int = 0
    pictures: dict[Level, tuple[dict[str, Any], bytes]] = field(default_factory=dict)

    @property
    def stamp(self) -> str:
        """The frame's name."""
        return stamp_of(self.header)

    def as_json(self) -> dict[str, Any]:
        """What a page needs to know of it, without its picture."""
        height, width = self.image.shape[:2] if self.image is not None else (0, 0)
        regions = [] if self.descriptions is None else [
            {"id": item.region.id, "box": finite_corners(item.region), "label": item.region.label, "text": item.text,
             "confidence": finite(item.confidence, 3), "reused": item.reused}
            for item in self.descriptions.descriptions]
        return {"stamp": self.stamp, "frame_id": self.header.frame_id, "age_s": time.monotonic() - self.received_s,
                "width": width, "height": height, "described": self.descriptions is not None, "regions": regions}

    def encode(self, level: Level) -> tuple[dict[str, Any], bytes]:
        """The frame's picture at a level; made once. It takes milliseconds.

        Returns:
            What goes into the message about the picture, and a jpeg; b"" where there is no picture.

        Raises:
            ImageError: The image can't be decoded.
        """
        made = self.pictures.get(level)
        if made is None:
            made = self.pictures[level] = self._encode(level)
        return made

    def _encode(self, level: Level) -> tuple[dict[str, Any], bytes]:
        if self.image is None:
            return {"picture": "none"}, b""
        pixels = np.asarray(self.image)
        if level.width:
            height, width = pixels.shape[:2]
            if width > level.width:
                size = (level.width, max(1, round(height * level.width / width)))
                pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
            return {"picture": "whole"}, _jpeg(pixels, level.quality)
        boxes = [] if self.descriptions is None else [
            finite_corners(item.region) for item in self.descriptions.descriptions]
        for side in _SHEET_TILES:
            tiles, sheet = _crops(pixels, boxes[:_MOST_CROPS], side)
            data = _jpeg(sheet, level.quality)
            if len(data) <= _SHEET_BYTES:
                break
        return {"picture": "crops", "tiles": tiles}, data


def _jpeg(pixels: np.ndarray, quality: int) -> bytes:
    done, data = cv2.imencode(".jpg", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    assert done  # a jpeg can be made of every uint8 RGB
    return data.tobytes()


def _crops(pixels: np.ndarray, boxes: Sequence[Sequence[float]], side: int) -> tuple[list[list[int]], np.ndarray]:
    """All regions in one picture: one jpeg's tables instead of one for each.

    Returns:
        For each crop, its place and size in the sheet and the place and size in the frame that it shows, as
        [x, y, width, height] twice; and the sheet.
    """
    height, width = pixels.shape[:2]
    columns = max(1, math.ceil(math.sqrt(len(boxes))))
    rows = max(1, math.ceil(len(boxes) / columns))
    sheet = np.zeros((rows * side, columns * side, 3), np.uint8)
    tiles = []
    for place, box in enumerate(boxes):
        x1, y1 = (int(np.clip(box[axis], 0, limit - 1)) for axis, limit in ((0, width), (1, height)))
        x2, y2 = (int(np.clip(math.ceil(box[axis]), low + 1, limit))
                  for axis, low, limit in ((2, x1, width), (3, y1, height)))
        scale = min(1.0, side / max(x2 - x1, y2 - y1))
        size = max(1, round((x2 - x1) * scale)), max(1, round((y2 - y1) * scale))
        left, top = place % columns * side, place // columns * side
        sheet[top:top + size[1], left:left + size[0]] = cv2.resize(pixels[y1:y2, x1:x2], size,
                                                                   interpolation=cv2.INTER_AREA)
        tiles.append([left, top, *size, x1, y1, x2 - x1, y2 - y1])
    return tiles, sheet


class Frames:
    """The frames of the last seconds, and which one is shown.

    Shown is the newest described one, so that boxes lie on their own picture; and the camera's newest picture while
    there are no descriptions.
    """

    def __init__(self) -> None:
        self.shown: Frame | None = None
        self._frames: OrderedDict[str, Frame] = OrderedDict()
        self._count = 0
        self._described_s = -math.inf

    def add_image(self, header: Header, image: MessageImage, now: float) -> None:
        """Takes an image."""
        frame = self._frame(header, now)
        frame.image = image
        while self._bytes() > _MOST_BYTES and len(self._frames) > 1:
            self._frames.popitem(last=False)
        if now - self._described_s > _UNDESCRIBED_S or frame.descriptions is not None and frame is self.shown:
            self._show(frame)

    def add_descriptions(self, message: RegionDescriptionArray, now: float) -> float:
        """Takes a frame's descriptions.

        Returns:
            Seconds from the arrival of its image.
        """
        self._described_s = now
        frame = self._frame(message.header, now)
        frame.descriptions = message
        self._show(frame)
        return now - frame.received_s

    def find(self, stamp: str) -> Frame | None:
        """The frame of that stamp, if it is held."""
        return self._frames.get(stamp)

    def clear(self) -> None:
        """Forgets all frames."""
        self._frames.clear()
        self.shown = None

    def _frame(self, header: Header, now: float) -> Frame:
        frame = self._frames.setdefault(stamp_of(header), Frame(header, now))
        if len(self._frames) > _MOST_FRAMES:
            self._frames.popitem(last=False)
        return frame

    def _show(self, frame: Frame) -> None:
        self._count += 1
        frame.number = self._count
        frame.pictures.clear()  # crops of a frame that had no descriptions yet
        self.shown = frame

    def _bytes(self) -> int:
        return sum(frame.image.nbytes for frame in self._frames.values() if frame.image is not None)
