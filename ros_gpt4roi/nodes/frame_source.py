"""Images and detections as they arrive, frames for the runtime as they leave."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header
from vision_msgs.msg import Detection2DArray

from ros_gpt4roi.runtime.types import Frame

from .conversions import regions_from_detections, stamp_ns
from .diagnostics import Problems
from .frame_buffer import FrameBuffer, Held
from .images import ImageError, MessageImage


@dataclass(eq=False)
class _Picture:
    """An image, and the frame made of it once one has been asked for."""

    image: MessageImage
    header: Header
    frame: Frame | None = None
    boxes: Detection2DArray | None = None  # those of `frame`


class FrameSource:
    """Pairs images with detections, hands each pair on as a Frame, and finds frames for questions.

    No pixel is touched here: a frame's image is converted by whoever asks for its pixels (see `MessageImage`). One
    thread, the executor's, owns it.

    Args:
        buffer: keeps images and boxes.
        max_pixels: the most pixels of an image; larger ones are refused.
        problems: receives what can not be used.
        on_frame: called with every pair that is newer than the last.
    """

    def __init__(self, buffer: FrameBuffer[_Picture, Detection2DArray], max_pixels: int, problems: Problems,
                 on_frame: Callable[[Frame], None]) -> None:
        self._buffer = buffer
        self._max_pixels = max_pixels
        self._problems = problems
        self._on_frame = on_frame
        self._images = self._detections = 0

    def on_image(self, message: Image | CompressedImage) -> None:
        """Subscription callback; takes both kinds of image."""
        self._images += 1
        try:
            image = MessageImage(message, self._max_pixels, partial(self._problems.report, "image refused"))
        except ImageError as error:
            self._problems.report("image refused", str(error))
            return
        set_back, stamp = self._buffer.stamps_set_back, stamp_ns(message.header.stamp)
        self._deliver(self._buffer.add_image(stamp, _Picture(image, message.header), image.nbytes))
        if self._buffer.stamps_set_back > set_back:
            self._problems.report("clock set back", f"an image of {stamp} ns came after images of much later stamps")

    def on_detections(self, message: Detection2DArray) -> None:
        """Subscription callback."""
        self._detections += 1
        dropped, stamp = self._buffer.boxes_without_image, stamp_ns(message.header.stamp)
        self._deliver(self._buffer.add_boxes(stamp, message))
        if self._buffer.boxes_without_image > dropped:  # a detector that stamps its boxes anew meets no image, ever
            newest = self._buffer.newest()
            held = ("none has come" if newest is None else
                    f"the newest is of {newest.stamp_ns} ns, and {len(self._buffer)} images of the last "
                    f"{self._buffer.span_s:.1f} s are held (sync.buffer_s, sync.buffer_mib)")
            self._problems.report("boxes without image", f"boxes of {stamp} ns and others before met no image within "
                                                         f"sync.slop_s; {held}")

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
        return None if held is None else self._frame(held)

    def statistics(self) -> dict[str, int]:
        """Counters since the start."""
        buffer = self._buffer
        return {"images received": self._images, "detections received": self._detections,
                "frames held": len(buffer), "frames held [MiB]": round(buffer.bytes / 2**20),
                "images dropped without boxes": buffer.images_without_boxes, "pairs too late": buffer.paired_late}

    def _deliver(self, held: Held[_Picture, Detection2DArray] | None) -> None:
        if held is not None and (frame := self._frame(held)) is not None:
            self._on_frame(frame)

    def _frame(self, held: Held[_Picture, Detection2DArray]) -> Frame | None:
        """The frame of what is held, made once; None, and no longer held, where its pixels turned out to be broken."""
        picture = held.image
        if picture.image.broken:
            self._buffer.discard(held.stamp_ns)
            return None
        if picture.frame is not None and picture.boxes is held.boxes:
            return picture.frame
        regions, refusals = (), ()
        if held.boxes is not None:
            height, width = picture.image.shape[:2]
            regions, refusals = regions_from_detections(held.boxes, width, height)
        for refusal in refusals:
            self._problems.report("box refused", refusal)
        picture.frame = Frame(picture.image, regions, held.stamp_ns, picture.header.frame_id, picture.header)
        picture.boxes = held.boxes
        return picture.frame
