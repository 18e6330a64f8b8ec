"""Which frame belongs to which boxes and to which question. Knows no messages: stamps, payloads and their sizes."""
from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

Image = TypeVar("Image")
Boxes = TypeVar("Boxes")

_NANOSECONDS = 1_000_000_000
_FEWEST_IMAGES = 2  # of a camera slower than the time that images are kept: the newest one, and one with boxes
_MOST_WAITING = 256  # arrays of boxes


@dataclass(eq=False)
class Held(Generic[Image, Boxes]):
    """An image that is kept, and the boxes that were found in it; None until they arrive.

    Attributes:
        stamp_ns: the image's stamp in nanoseconds.
        image: the payload.
        size: its bytes, and those of its boxes.
        arrived_s: when it arrived, on the buffer's clock.
        number: how many images had arrived before it.
        boxes: the boxes of the image, or None.
        boxes_size: their bytes.
    """

    stamp_ns: int
    image: Image
    size: int
    arrived_s: float
    number: int
    boxes: Boxes | None = None
    boxes_size: int = 0


class FrameBuffer(Generic[Image, Boxes]):
    """The images of the last seconds and the boxes that wait for theirs, paired by stamp in either order of arrival.

    Stamps only say what belongs together. Which image is newer, and how long one is kept, is told by its arrival on a
    steady clock, so that one image with a stamp far in the future, or a clock that is set back, costs no other image.
    Not thread-safe: one thread, the executor's, owns it.

    Args:
        keep_s: how long images, and boxes without an image, are kept after they arrived, in seconds. The last two
            images stay for longer.
        max_bytes: the most bytes of images, and of boxes paired with them, that are kept; the oldest are dropped, but
            for the newest image.
        slop_ns: how far the stamps of image and boxes may lie apart, in nanoseconds; 0 asks for equal stamps, which is
            what a detector gives that copies its image's header.
        clock: a steady clock in seconds.

    Raises:
        ValueError: a limit is out of its range.
    """

    def __init__(self, keep_s: float, max_bytes: int, slop_ns: int = 0,
                 clock: Callable[[], float] = time.monotonic) -> None:
        if not keep_s > 0:
            raise ValueError(f"frame buffer keeps images for {keep_s} s; expected more than 0")
        if max_bytes < 1:
            raise ValueError(f"frame buffer holds {max_bytes} bytes; expected at least 1")
        if slop_ns < 0:
            raise ValueError(f"frame buffer slop is {slop_ns} ns; expected at least 0")
        self._keep_s, self._max_bytes, self._slop_ns, self._clock = keep_s, max_bytes, slop_ns, clock
        self._images: OrderedDict[int, Held[Image, Boxes]] = OrderedDict()  # in their order of arrival
        self._waiting: OrderedDict[int, tuple[float, Boxes, int]] = OrderedDict()
        self._arrived = 0
        self._last_paired = -1
        self.bytes = 0
        self.images_without_boxes = 0
        self.boxes_without_image = 0
        self.last_boxes_without_image_ns = 0  # the stamp of the last of them
        self.paired_late = 0
        self.stamps_set_back = 0

    def __len__(self) -> int:
        return len(self._images)

    @property
    def span_s(self) -> float:
        """How long ago the oldest image that is held arrived, in seconds; 0 without any."""
        return self._clock() - next(iter(self._images.values())).arrived_s if self._images else 0.0

    def add_image(self, stamp_ns: int, image: Image, size: int) -> Held[Image, Boxes] | None:
        """Keeps an image of `size` bytes.

        Returns:
            The image with its boxes, if they were waiting and no newer pair has been returned before.
        """
        if self._images and stamp_ns < next(reversed(self._images)) - self._keep_s * _NANOSECONDS:
            self.stamps_set_back += 1
        self.discard(stamp_ns)
        held: Held[Image, Boxes] = Held(stamp_ns, image, size, self._clock(), self._arrived)
        self._images[stamp_ns] = held
        self._arrived += 1
        self.bytes += size
        self._drop()
        match = self._nearest(self._waiting, stamp_ns)
        return None if match is None else self._pair(held, *self._waiting.pop(match)[1:])

    def add_boxes(self, stamp_ns: int, boxes: Boxes, size: int = 0) -> Held[Image, Boxes] | None:
        """Gives boxes, with masks of `size` bytes, to the image of their stamp, or keeps them waiting for it.

        Returns:
            The image with its boxes, if it is there and no newer pair has been returned before.
        """
        match = self._nearest(self._images, stamp_ns)
        if match is not None:
            return self._pair(self._images[match], boxes, size)
        self._waiting[stamp_ns] = self._clock(), boxes, size
        self._waiting.move_to_end(stamp_ns)
        self._drop()
        return None

    def newest(self) -> Held[Image, Boxes] | None:
        """The newest image whose boxes have come, as a question speaks of boxes; without any, the newest image."""
        for held in reversed(self._images.values()):
            if held.boxes is not None:
                return held
        return next(reversed(self._images.values()), None)

    def find(self, stamp_ns: int) -> Held[Image, Boxes] | None:
        """The image of that stamp, within the slop, or None if it isn't held (any more)."""
        match = self._nearest(self._images, stamp_ns)
        return None if match is None else self._images[match]

    def discard(self, stamp_ns: int) -> None:
        """Forgets the image of exactly that stamp, if it is held."""
        held = self._images.pop(stamp_ns, None)
        if held is not None:
            self.bytes -= held.size

    def clear(self) -> None:
        """Forgets all images and boxes; the counters stay."""
        self._images.clear()
        self._waiting.clear()
        self.bytes = 0

    def _drop(self) -> None:
        """Drops what has been kept for long enough, or is too much."""
        before = self._clock() - self._keep_s
        while self.bytes > self._max_bytes and len(self._images) > 1 or (
                len(self._images) > _FEWEST_IMAGES and next(iter(self._images.values())).arrived_s < before):
            oldest = next(iter(self._images.values()))
            self.discard(oldest.stamp_ns)
            self.images_without_boxes += oldest.boxes is None
        while self._waiting and (len(self._waiting) > _MOST_WAITING
                                 or next(iter(self._waiting.values()))[0] < before):
            self.last_boxes_without_image_ns, _ = self._waiting.popitem(last=False)
            self.boxes_without_image += 1

    def _nearest(self, stamps: Mapping[int, object], stamp_ns: int) -> int | None:
        if stamp_ns in stamps:
            return stamp_ns
        if not self._slop_ns or not stamps:
            return None
        nearest = min(stamps, key=lambda other: abs(other - stamp_ns))
        return nearest if abs(nearest - stamp_ns) <= self._slop_ns else None

    def _pair(self, held: Held[Image, Boxes], boxes: Boxes, size: int) -> Held[Image, Boxes] | None:
        self.bytes += size - held.boxes_size
        held.size += size - held.boxes_size
        held.boxes, held.boxes_size = boxes, size
        if held.number < self._last_paired:
            self.paired_late += 1  # kept for questions, but a newer frame has gone to be described
            return None
        self._last_paired = held.number
        return held
