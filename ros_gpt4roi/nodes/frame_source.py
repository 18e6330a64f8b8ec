"""Images and detections as they arrive, frames for the runtime as they leave."""
from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, cast

import numpy as np
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header
from vision_msgs.msg import Detection2DArray

from ros_gpt4roi.configuration import ConfigError, Configuration, setting
from ros_gpt4roi.image_messages import MAX_PIXELS, ImageError, MessageImage
from ros_gpt4roi.messages import seconds_text
from ros_gpt4roi.runtime.types import Frame, Region

from .conversions import (
    NANOSECONDS,
    DetectionsError,
    Outline,
    detections_from_cdr,
    regions_from_detections,
    stamp_ns,
    tell_apart,
)
from .diagnostics import Problems
from .frame_buffer import FrameBuffer, Held
from .yolo import detections_from_yolo

_SHOWN_NAMES = 3
_DESCRIBED = 2  # frames: the one whose descriptions are seen, and the one before, for whoever has just clicked


@dataclass(frozen=True)
class SyncParameters(Configuration):
    """How boxes find their image."""

    slop_s: float = setting(0.0, "How far the stamps of image and boxes may lie apart; 0 asks for equal stamps.",
                            at_least=0, at_most=10, unit="seconds")
    buffer_s: float = setting(3.0, "How long images are kept for boxes and questions that come later.", at_least=0.1,
                              at_most=600, unit="seconds")
    buffer_mib: int = setting(256, "Most that the kept images may take, as they arrived, and the masks of their "
                                 "detections.", at_least=1, at_most=65536,
                              unit="MiB")


@dataclass(frozen=True)
class ImageParameters(Configuration):
    """Which images are taken."""

    max_pixels: int = setting(MAX_PIXELS, "Largest image, by its header; larger ones are refused undecoded.",
                              at_least=1, at_most=2**30, unit="pixels")


@dataclass(frozen=True)
class DetectionParameters(Configuration):
    """How detections are read."""

    type: str = setting("vision_msgs", "Whose messages `detections` has: vision_msgs/Detection2DArray, or yolo_ros's "
                        "yolo_msgs/DetectionArray.", choices=("vision_msgs", "yolo_msgs"))
    max: int = setting(500, "Most detections that are taken of an array, from the first one on.", at_least=1,
                       at_most=5000)
    width: int = setting(0, "Width of the picture that the boxes are of, where the detector works on another size of "
                            "the image; 1 for normalised boxes, 0 for the image's own.", at_least=0, unit="pixels")
    height: int = setting(0, "Height of the picture that the boxes are of; as width.", at_least=0, unit="pixels")

    def __post_init__(self) -> None:
        super().__post_init__()
        if bool(self.width) != bool(self.height):
            raise ConfigError(f"width is {self.width} and height {self.height}, expected both or neither to be 0")

    @property
    def resolution(self) -> tuple[int, int] | None:
        """Width and height that boxes are of; None for the image's own."""
        return (self.width, self.height) if self.width else None


class _Boxes(NamedTuple):
    """Detections, and the mask of each; or no masks."""

    message: Detection2DArray
    outlines: Sequence[Outline | None]


@dataclass(eq=False)
class _Picture:
    """An image, and the frame made of it once one has been asked for."""

    image: MessageImage
    header: Header
    frame: Frame | None = None
    boxes: _Boxes | None = None  # those of `frame`


class FrameSource:
    """Pairs images with detections, hands each pair on as a Frame, and finds frames for questions.

    No pixel is touched here: a frame's image is converted by whoever asks for its pixels (see `MessageImage`). One
    thread, the executor's, owns it. Frames that are described stay longer than others: a slow model describes a picture
    for longer than images are kept, and people ask about what they see.

    Args:
        sync: how boxes find their image.
        image: which images are taken.
        detections: how detections are read.
        problems: receives what can not be used.
        on_frame: called with every pair that is newer than the last.
    """

    def __init__(self, sync: SyncParameters, image: ImageParameters, detections: DetectionParameters,
                 problems: Problems, on_frame: Callable[[Frame], None]) -> None:
        self._buffer: FrameBuffer[_Picture, _Boxes] = FrameBuffer(
            sync.buffer_s, sync.buffer_mib * 2**20, round(sync.slop_s * NANOSECONDS))
        self._image_parameters, self._detection_parameters = image, detections
        self._problems = problems
        self._on_frame = on_frame
        self._described: deque[Frame] = deque(maxlen=_DESCRIBED)
        self._images = self._detections = 0

    def on_image(self, message: Image | CompressedImage) -> None:
        """Subscription callback; takes both kinds of image."""
        self._images += 1
        try:
            image = MessageImage(message, self._image_parameters.max_pixels,
                                 partial(self._problems.report, "image refused"))
        except ImageError as error:
            self._problems.report("image refused", str(error))
            return
        set_back, stamp = self._buffer.stamps_set_back, stamp_ns(message.header.stamp)
        dropped = self._buffer.boxes_without_image
        self._deliver(self._buffer.add_image(stamp, _Picture(image, message.header), image.nbytes))
        self._report_boxes(dropped)
        if self._buffer.stamps_set_back > set_back:
            self._problems.report("clock set back", f"an image of {seconds_text(stamp)} s came after images "
                                                    "of much later stamps")

    def on_detections(self, data: bytes) -> None:
        """Callback of a raw subscription."""
        self._detections += 1
        most = self._detection_parameters.max
        outlines: Sequence[Outline | None] = ()
        try:
            if self._detection_parameters.type == "yolo_msgs":
                message, count, outlines = detections_from_yolo(data, most)
            else:
                message, count = detections_from_cdr(data, most)
        except DetectionsError as error:
            self._problems.report("detections refused", str(error))
            return
        if count > most:
            self._problems.report("too many detections", f"an array has {count}; expected at most {most} "
                                                         "(detections.max), which are taken, from the first one on")
        if repeated := tell_apart(message):
            self._problems.note("detection ids repeat",
                                f"{_listed(repeated)}: told apart as {repeated[0]!r}, '{repeated[0]} 2' and so on; "
                                "expected a tracker's ids, or none")
        dropped = self._buffer.boxes_without_image
        size = sum(outline.corners.nbytes for outline in outlines if outline is not None)
        self._deliver(self._buffer.add_boxes(stamp_ns(message.header.stamp), _Boxes(message, outlines), size))
        self._report_boxes(dropped)

    def newest(self) -> Frame | None:
        """The newest frame, one with boxes before one without; None before the first image."""
        while (held := self._buffer.newest()) is not None:
            frame = self._frame(held)
            if frame is not None:
                return frame
        return None

    def find(self, stamp: int) -> Frame | None:
        """The frame of that stamp in nanoseconds; None if it isn't held (any more)."""
        held = self._buffer.find(stamp)
        if held is None:
            return next((frame for frame in tuple(self._described) if frame.stamp_ns == stamp), None)
        return self._frame(held)

    def keep(self, frame: Frame) -> None:
        """Holds a frame whose descriptions people see, until two newer ones are seen. From any thread."""
        self._described.append(frame)

    def statistics(self) -> dict[str, int]:
        """Counters since the start."""
        buffer = self._buffer
        return {"images received": self._images, "detections received": self._detections,
                "frames held": len(buffer), "frames held [MiB]": round(buffer.bytes / 2**20),
                "images dropped without boxes": buffer.images_without_boxes,
                "boxes dropped without image": buffer.boxes_without_image, "pairs too late": buffer.paired_late}

    def clear(self) -> None:
        """Forgets the frames, and boxes that wait for theirs; the counters stay."""
        self._buffer.clear()
        self._described.clear()

    def _report_boxes(self, dropped: int) -> None:
        """Says which boxes met no image, if more than `dropped` have: a detector's that stamps anew never do."""
        buffer = self._buffer
        if buffer.boxes_without_image == dropped:
            return
        newest = buffer.newest()
        held = ("none has come" if newest is None else
                f"the newest is of {seconds_text(newest.stamp_ns)} s, and {len(buffer)} images of the last "
                f"{buffer.span_s:.1f} s are held (sync.buffer_s, sync.buffer_mib)")
        self._problems.report("boxes without image", "boxes of "
                                                     f"{seconds_text(buffer.last_boxes_without_image_ns)} s and others "
                                                     f"before met no image within sync.slop_s; {held}")

    def _deliver(self, held: Held[_Picture, _Boxes] | None) -> None:
        if held is not None and (frame := self._frame(held)) is not None:
            self._on_frame(frame)

    def _frame(self, held: Held[_Picture, _Boxes]) -> Frame | None:
        """The frame of what is held, made once; None, and no longer held, where its pixels turned out to be broken."""
        picture = held.image
        if picture.image.broken:
            self._buffer.discard(held.stamp_ns)
            return None
        if picture.frame is not None and picture.boxes is held.boxes:
            return picture.frame
        regions: tuple[Region, ...] = ()
        refusals: tuple[str, ...] = ()
        if held.boxes is not None:
            height, width = picture.image.shape[:2]
            regions, refusals = regions_from_detections(held.boxes.message, width, height,
                                                         self._detection_parameters.resolution, held.boxes.outlines)
        for refusal in refusals:
            self._problems.report("box refused", refusal)
        # An array-like of the shape: see `Frame`.
        pixels = cast(np.ndarray, picture.image)
        picture.frame = Frame(pixels, regions, held.stamp_ns, picture.header.frame_id, picture.header)
        picture.boxes = held.boxes
        return picture.frame


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(map(repr, names[:_SHOWN_NAMES]))
    return shown if len(names) <= _SHOWN_NAMES else f"{shown} and {len(names) - _SHOWN_NAMES} more"
