"""Data sets of which a random share of the samples is changed, so that what is said of a region stays true."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from ros_gpt4roi.model.config import IGNORED
from ros_gpt4roi.sim.tabletop.question_templates import attribute_of_each
from ros_gpt4roi.sim.tabletop.scoring import ATTRIBUTES
from training.data.record import Round
from training.data.sample import Sample


@dataclass(frozen=True)
class CounterfactualSample(Sample):
    """A sample whose conversation speaks of other attributes than its regions have.

    Attributes:
        counterfactual: int64 [N, A], the attributes that the conversation speaks of.
    """

    counterfactual: np.ndarray | None = None


class _Augmented(Dataset, ABC):
    """Changes a random share of the samples, others every epoch.

    What is drawn is a function of seed, epoch and index, so that a resumed run repeats it.
    """

    _stream = 0  # each subclass draws from numbers of its own

    def __init__(self, samples: Any, seed: int, share: float = 0.5):
        self.samples, self.seed, self.share, self.epoch = samples, seed, share, 0

    def set_epoch(self, epoch: int) -> None:
        """Called by the trainer."""
        self.epoch = epoch
        self.samples.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        sample = self.samples[index]
        rng = np.random.default_rng([self.seed, self.epoch, index, self._stream])
        return self._changed(sample, rng) if rng.random() < self.share else sample

    @abstractmethod
    def _changed(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """The sample changed, as the generator draws it."""


class RandomFlip(_Augmented):
    """Mirrors half of the images left to right.

    For attributes only: what a thing is does not depend on its side, but what is said of its place does.
    """

    def _changed(self, sample: Sample, rng: np.random.Generator) -> Sample:
        x1, y1, x2, y2 = sample.boxes.T
        boxes = np.stack([1 - x2, y1, 1 - x1, y2], axis=1)
        masks = None if sample.masks is None else sample.masks[:, :, ::-1].copy()
        return dataclasses.replace(sample, image=sample.image[:, ::-1], boxes=boxes, masks=masks)


class RandomChannelPermutation(_Augmented):
    """Permutes the colour channels of half of the images.

    For attributes only: what kind a thing is must not be guessed from its colour, or a pair of kind and colour that no
    training scene shows is never recognised. A permuted image's colours have no name: their class becomes −100.

    Args:
        samples: The data set.
        seed: Of what is drawn.
        colour: Which of the attributes is the colour.
    """

    _stream = 1

    def __init__(self, samples: Dataset, seed: int, colour: int):
        super().__init__(samples, seed)
        self.colour = colour

    def _changed(self, sample: Sample, rng: np.random.Generator) -> Sample:
        order = ((0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))[rng.integers(5)]
        assert sample.attributes is not None
        attributes = sample.attributes.copy()
        attributes[:, self.colour] = IGNORED
        return dataclasses.replace(sample, image=np.ascontiguousarray(sample.image[..., list(order)]),
                                   attributes=attributes)


class Counterfactual(_Augmented):
    """Asks about one attribute of every region while all others are replaced at random, in a share of the images.

    Counterfactual data augmentation (arXiv 1909.12434): training scenes lack some pairs of kind and colour, and a
    language model that has only read those that exist answers any other pair with the likeliest that it knows. Here it
    learns to read each attribute whatever the others are. No text holds such a pair: what was drawn is never asked.

    Args:
        samples: A data set with `attribute_names` and `classes`, as TabletopDataset has them.
        seed: Of what is drawn.
        share: Part of the images, 0 to 1.
    """

    _stream = 2

    def _changed(self, sample: Sample, rng: np.random.Generator) -> Sample:
        assert sample.attributes is not None
        asked = rng.integers(len(self.samples.classes))
        attributes = rng.integers(self.samples.classes, size=sample.attributes.shape)
        attributes[:, asked] = sample.attributes[:, asked]
        task = self.samples.attribute_names[asked]
        values = [ATTRIBUTES[task][value] for value in attributes[:, asked]]
        rounds = [Round(question, answer, task) for question, answer in attribute_of_each(task, values, rng)]
        return CounterfactualSample(**{**vars(sample), "rounds": rounds, "counterfactual": attributes})
