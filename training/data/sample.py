"""What every data set hands to the trainer: one image as the network takes it, and a conversation about its regions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ros_gpt4roi.model.config import ModelConfig
from ros_gpt4roi.model.preprocess import preprocess_frame
from ros_gpt4roi.model.qwen3_vl import MAX_PIXELS, Qwen3VLConfig, fit_frame
from ros_gpt4roi.model.region_replay import RegionReplay
from ros_gpt4roi.model.region_shapes import RegionInputs, RegionShape, point_region, region_inputs
from training.data.record import Record, RecordError, Round


@dataclass(frozen=True)
class Sample:
    """One image, ready for the network, and what is said about it.

    Attributes:
        image: uint8 RGB [S, S, 3], or [H, W, 3] for a model that takes pictures of any aspect.
        boxes: float32 [N, 4], x1 y1 x2 y2 in units of the image.
        rounds: The conversation.
        attributes: int64 [N, A], the class of each region in each attribute, −100 where it has none; None where the
            data set does not know attributes.
        masks: float32 [N, P, P] in 0..1, weights of a region's bins; None where every region is a whole box.
        points: Regions, by their 1-based place, that are points.
        image_tokens: How many the image has; None where the model has the same number for all.
    """

    image: np.ndarray
    boxes: np.ndarray
    rounds: Sequence[Round]
    attributes: np.ndarray | None = None
    masks: np.ndarray | None = None
    points: frozenset[int] = frozenset()
    image_tokens: int | None = None


class CheckedSamples:
    """A data set of records from outside, which leaves out what training cannot take.

    Attributes:
        check: Raises ValueError for such a sample; set by whoever trains.
    """

    check: Callable[[Sample], object] | None = None


def make_sample(record: Record, config: ModelConfig | Qwen3VLConfig,
                check: Callable[[Sample], object] | None = None) -> Sample:
    """Make a decoded record ready for the network.

    Args:
        record: Its image uint8 RGB [H, W, 3].
        config: Of the model that is trained.
        check: Raises ValueError for a sample that training cannot take.

    Returns:
        The sample.

    Raises:
        RecordError: The image or a region is none that the network takes, or the sample is refused.
    """
    assert isinstance(record.image, np.ndarray)
    tokens = None
    try:
        inputs = record_regions(record, config)
        if isinstance(config, Qwen3VLConfig):
            sizes = config.within(MAX_PIXELS).preprocess
            image = fit_frame(record.image, sizes)
            tokens = image.shape[0] * image.shape[1] // sizes.token_side**2
        else:
            image = preprocess_frame(record.image, config.preprocess)
        sample = Sample(image, inputs.boxes, record.rounds, masks=inputs.masks, points=inputs.points,
                        image_tokens=tokens)
        if check is not None:
            check(sample)
    except ValueError as error:
        raise RecordError(f"{record.source}: {error}") from error
    return sample


def record_regions(record: Record, config: ModelConfig | Qwen3VLConfig) -> RegionInputs:
    """Make a record's boxes, masks and points ready for the network.

    Args:
        record: Its image an array, of which only the size is looked at.
        config: Of the model that is trained.

    Returns:
        The network's inputs.

    Raises:
        ValueError: A region is none that the network takes.
    """
    assert isinstance(record.image, np.ndarray)
    height, width = record.image.shape[:2]
    masks = record.masks or (None,) * len(record.boxes)
    regions = [RegionShape(tuple(box), mask) for box, mask in zip(record.boxes.tolist(), masks, strict=True)]
    for number, (x, y) in record.points.items():
        regions[number - 1] = point_region(x, y, width, height, config.points)
    if isinstance(config, Qwen3VLConfig):
        shapes = config.regions if isinstance(config.regions, RegionReplay) else None
        return region_inputs(regions, width, height, shapes)
    return region_inputs(regions, width, height, config.regions)
