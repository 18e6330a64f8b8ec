"""Samples that know their regions' attributes → batches of the curriculum's objectives."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import torch
from typing_extensions import override

from ros_gpt4roi.model.config import IGNORED
from ros_gpt4roi.model.prompt import Encoded, PromptBuilder
from training.collate import AttentionCollator, stack_images
from training.data.sample import Sample

from .attention import AttentionTargets
from .augmentation import CounterfactualSample


def _pad_attributes(attributes: Sequence[np.ndarray], regions: int) -> torch.Tensor:
    """[B, regions, A], −100 where there is no region."""
    padded = torch.full((len(attributes), regions, attributes[0].shape[1]), IGNORED)
    for row, known in zip(padded, attributes):
        row[:len(known)] = torch.from_numpy(known)
    return padded


class AttributeCollator:
    """Makes batches of images, boxes and labels [B, N, A], −100 where there is no region.

    Args:
        image_size: Side that images are resized to, pixels; 0: as they come.
    """

    def __init__(self, image_size: int = 0):
        self.image_size = image_size

    def __call__(self, samples: Sequence[Sample]) -> dict[str, torch.Tensor]:
        """The batch of samples that know their attributes."""
        if self.image_size:
            side = (self.image_size, self.image_size)
            samples = [dataclasses.replace(s, image=cv2.resize(s.image, side, interpolation=cv2.INTER_AREA))
                       for s in samples]
        batch = stack_images(samples)
        return {**batch, "labels": _pad_attributes([_known(s) for s in samples], batch["boxes"].shape[1])}


class SupervisedConversationCollator(AttentionCollator):
    """Makes batches of conversations with the regions' attributes and targets of the attention.

    Adds to the batch attributes and counterfactual [B, N, A], what the regions have and what the conversations speak
    of, and attention_targets [B, HEADS, L] (see attention.py). Every conversation lists all regions.

    Args:
        prompts: Of the model that is trained.
    """

    def __init__(self, prompts: PromptBuilder):
        super().__init__(prompts, AttentionTargets(prompts.tokenizer, prompts.embeddings))

    @override
    def batch(self, samples: Sequence[Sample], encoded: Sequence[Encoded]) -> dict[str, Any]:
        batch = super().batch(samples, encoded)
        regions = batch["boxes"].shape[1]
        spoken_of = [s.counterfactual if isinstance(s, CounterfactualSample) and s.counterfactual is not None
                     else _known(s) for s in samples]
        return {**batch, "attributes": _pad_attributes([_known(s) for s in samples], regions),
                "counterfactual": _pad_attributes(spoken_of, regions)}


def _known(sample: Sample) -> np.ndarray:
    assert sample.attributes is not None  # the curriculum's data sets know them
    return sample.attributes
