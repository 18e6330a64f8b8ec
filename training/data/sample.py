"""What every data set hands to the trainer: one image as the network takes it, and a conversation about its regions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ros_gpt4roi.model.config import PreprocessConfig
from ros_gpt4roi.model.preprocess import normalise_boxes, preprocess_frame
from ros_gpt4roi.model.region_shapes import area_sample
from training.data.record import Record, Round


@dataclass(frozen=True)
class Sample:
    """One image, ready for the network, and what is said about it.

    Attributes:
        image: uint8 RGB [S, S, 3].
        boxes: float32 [N, 4], x1 y1 x2 y2 in units of the image.
        rounds: The conversation.
        attributes: int64 [N, A], the class of each region in each attribute, −100 where it has none; None where the
            data set does not know attributes.
        masks: float32 [N, P, P] in 0..1, weights of a region's bins; None where every region is a whole box.
    """

    image: np.ndarray
    boxes: np.ndarray
    rounds: Sequence[Round]
    attributes: np.ndarray | None = None
    masks: np.ndarray | None = None


def make_sample(record: Record, preprocess: PreprocessConfig, roi_size: int) -> Sample:
    """Make a decoded record ready for the network.

    Args:
        record: Its image uint8 RGB [H, W, 3].
        preprocess: Of the model that is trained.
        roi_size: Bins a side of its region extractor, P.

    Returns:
        The sample.
    """
    height, width = record.image.shape[:2]
    masks = None
    if any(mask is not None for mask in record.masks):
        masks = np.stack([np.ones((roi_size, roi_size), np.float32) if mask is None else area_sample(mask, roi_size)
                          for mask in record.masks])
    boxes = normalise_boxes(record.boxes, width, height)
    return Sample(preprocess_frame(record.image, preprocess), boxes, record.rounds, masks=masks)
