"""What every data set hands to the trainer: one image as the network takes it, and a conversation about its regions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from training.data.record import Round


@dataclass(frozen=True)
class Sample:
    """One image, ready for the network, and what is said about it.

    Attributes:
        image: uint8 RGB [S, S, 3].
        boxes: float32 [N, 4], x1 y1 x2 y2 in units of the image.
        rounds: The conversation.
        attributes: int64 [N, A], the class of each region in each attribute, −100 where it has none; None where the
            data set does not know attributes.
    """

    image: np.ndarray
    boxes: np.ndarray
    rounds: Sequence[Round]
    attributes: np.ndarray | None = None
