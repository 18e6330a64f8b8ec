"""Parts of pictures that must not be recorded."""
from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from ros_gpt4roi.configuration import ConfigError, Configuration, setting


class Withheld(Exception):
    """A picture that must not be written, because what is to be blacked out of it is not known. The text says why."""


@dataclass(frozen=True)
class BlackoutOptions(Configuration):
    """What is blacked out of every picture before it is written."""

    areas: tuple[float, ...] = setting((), "Areas, each by four numbers x1 y1 x2 y2 one after another: fractions of "
                                           "the picture's width and height.", at_least=0, at_most=1)
    labels: tuple[str, ...] = setting((), "Detections of these classes, such as person and face, in upper or lower "
                                          "case; pictures without detections are then not recorded.")
    margin: float = setting(0.1, "Blacked out around each detection, as a fraction of its width and height.",
                            at_least=0, at_most=10)

    def __post_init__(self) -> None:
        super().__post_init__()
        left, top, right, bottom = (np.array(self.areas[side::4]) for side in range(4))
        if len(self.areas) % 4 or (left >= right).any() or (top >= bottom).any():
            raise ConfigError(f"areas is {list(self.areas)}, expected x1 y1 x2 y2 of each, with x1 < x2 and "
                              "y1 < y2")

    @property
    def any(self) -> bool:
        """Whether something is blacked out."""
        return bool(self.areas or self.labels)

    def covers(self, labels: Iterable[str]) -> bool:
        """Whether a detection is blacked out, by any class that it may have."""
        wanted = {label.strip().casefold() for label in self.labels}
        return any(label.strip().casefold() in wanted for label in labels)


def black_out(pixels: np.ndarray, options: BlackoutOptions,
              boxes: Sequence[tuple[float, float, float, float]]) -> np.ndarray:
    """Blacks parts of a picture out.

    Args:
        pixels: uint8 [H, W, 3]; not changed.
        options: Has the areas and the margin.
        boxes: x1 y1 x2 y2 in pixels, of the detections that are to be blacked out.

    Returns:
        The picture without them, uint8 [H, W, 3].
    """
    height, width = pixels.shape[:2]
    result = pixels.copy()
    areas = np.array(options.areas).reshape(-1, 4) * (width, height, width, height)
    found = np.array(boxes, float).reshape(-1, 4)
    around = np.tile(found[:, 2:] - found[:, :2], 2) * options.margin * (-1, -1, 1, 1)
    for x1, y1, x2, y2 in np.concatenate([areas, found + around]).clip(0, (width, height, width, height)):
        result[int(y1):int(np.ceil(y2)), int(x1):int(np.ceil(x2))] = 0
    return result
