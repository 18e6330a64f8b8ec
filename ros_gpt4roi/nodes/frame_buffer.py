"""Which frame belongs to which boxes and to which question. Knows neither messages nor clocks: stamps and payloads."""
from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Generic, TypeVar

Image = TypeVar("Image")
Boxes = TypeVar("Boxes")


@dataclass(eq=False)
class Held(Generic[Image, Boxes]):
    """An image that is kept, and the boxes that were found in it; None until they arrive."""

    stamp_ns: int
    image: Image
    boxes: Boxes | None = None


class FrameBuffer(Generic[Image, Boxes]):
    """The last few images and the boxes that wait for theirs, both bounded, paired by stamp in either order of arrival.

    size: images kept, and boxes kept waiting. slop_ns: how far the stamps of image and boxes may lie apart; 0 asks for
    equal stamps, which is what a detector gives that copies its image's header.

    Not thread-safe: one thread, the executor's, owns it.
    """

    def __init__(self, size: int, slop_ns: int = 0) -> None:
        if size < 1:
            raise ValueError(f"frame buffer size is {size}; expected at least 1")
        if slop_ns < 0:
            raise ValueError(f"frame buffer slop is {slop_ns} ns; expected at least 0")
        self._size = size
        self._slop_ns = slop_ns
        self._images: OrderedDict[int, Held[Image, Boxes]] = OrderedDict()
        self._waiting: OrderedDict[int, Boxes] = OrderedDict()
        self._last_paired_ns: int | None = None
        self.images_without_boxes = 0
        self.boxes_without_image = 0
        self.paired_late = 0
        self.time_jumps = 0

    def __len__(self) -> int:
        return len(self._images)

    def add_image(self, stamp_ns: int, image: Image) -> Held[Image, Boxes] | None:
        """Keeps an image. Returns it with its boxes if they were waiting and no newer pair has been returned before."""
        if self._images and stamp_ns < next(iter(self._images)):
            # One camera's images arrive in order: the clock was set back or a bag began again, and what is held would
            # stay "newest" until the clock has caught up.
            self.clear()
            self.time_jumps += 1
        held = Held(stamp_ns, image)
        self._images[stamp_ns] = held
        self._images.move_to_end(stamp_ns)
        while len(self._images) > self._size:
            _, dropped = self._images.popitem(last=False)
            self.images_without_boxes += dropped.boxes is None
        match = self._nearest(self._waiting, stamp_ns)
        if match is None:
            return None
        return self._pair(held, self._waiting.pop(match))

    def add_boxes(self, stamp_ns: int, boxes: Boxes) -> Held[Image, Boxes] | None:
        """Gives boxes to the image of their stamp, or keeps them waiting for it.

        Returns the image with its boxes if it is there and no newer pair has been returned before.
        """
        match = self._nearest(self._images, stamp_ns)
        if match is not None:
            return self._pair(self._images[match], boxes)
        self._waiting[stamp_ns] = boxes
        while len(self._waiting) > self._size:
            self._waiting.popitem(last=False)
            self.boxes_without_image += 1
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
        self._images.pop(stamp_ns, None)

    def clear(self) -> None:
        """Forgets images and boxes; the counters stay."""
        self._images.clear()
        self._waiting.clear()
        self._last_paired_ns = None

    def _nearest(self, stamps: OrderedDict[int, object], stamp_ns: int) -> int | None:
        if stamp_ns in stamps:
            return stamp_ns
        if not self._slop_ns or not stamps:
            return None
        nearest = min(stamps, key=lambda other: abs(other - stamp_ns))
        return nearest if abs(nearest - stamp_ns) <= self._slop_ns else None

    def _pair(self, held: Held[Image, Boxes], boxes: Boxes) -> Held[Image, Boxes] | None:
        held.boxes = boxes
        if self._last_paired_ns is not None and held.stamp_ns < self._last_paired_ns:
            self.paired_late += 1  # kept for questions, but a newer frame has gone to be described
            return None
        self._last_paired_ns = held.stamp_ns
        return held
