"""Samples of a data set → batches of next-token training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from typing_extensions import override

from ros_gpt4roi.model.config import IGNORED
from ros_gpt4roi.model.prompt import ChatPrompts, Encoded

from .data.sample import Sample
from .region_attention import NO_TARGET, RegionTargets


def stack_images(samples: Sequence[Sample]) -> dict[str, Any]:
    """The images and regions of a batch.

    Returns:
        images: uint8 [B, S, S, 3], or a list of [H, W, 3] where they differ in size. boxes: float32 [B, N, 4], padded
        to the largest N with empty boxes. masks: float32 [B, N, P, P], ones where a region is a whole box; left out
        where all are.
    """
    boxes = torch.zeros(len(samples), max(1, max(len(s.boxes) for s in samples)), 4)
    for row, sample in zip(boxes, samples):
        row[:len(sample.boxes)] = torch.from_numpy(sample.boxes)
    pictures = [torch.from_numpy(np.ascontiguousarray(s.image)) for s in samples]  # a mirrored one is read backwards
    alike = len({picture.shape for picture in pictures}) == 1
    batch: dict[str, Any] = {"images": torch.stack(pictures) if alike else pictures, "boxes": boxes}
    known = [(row, torch.from_numpy(s.masks)) for row, s in enumerate(samples) if s.masks is not None]
    if known:
        batch["masks"] = torch.ones(*boxes.shape[:2], *known[0][1].shape[1:])
        for row, masks in known:
            batch["masks"][row, :len(masks)] = masks
    return batch


def pad_tokens(rows: Sequence[Sequence[int]], value: int) -> torch.Tensor:
    """Rows of one entry a token, padded on the right to the longest: int64 [B, L]."""
    length = max(len(row) for row in rows)
    return torch.tensor([[*row, *[value] * (length - len(row))] for row in rows])


class ConversationCollator:
    """Makes batches of conversations.

    Args:
        prompts: Of the model that is trained.
        list_regions: Every conversation introduces all regions of its image, as the robot's prompts do; else only the
            regions that it speaks of have an embedding.
    """

    def __init__(self, prompts: ChatPrompts, list_regions: bool = True):
        self.prompts, self.list_regions = prompts, list_regions

    def encode(self, sample: Sample) -> Encoded:
        """The tokens of a sample's conversation."""
        rounds, prompts = [(r.question, r.answer) for r in sample.rounds], self.prompts
        if sample.image_tokens is not None:
            prompts = prompts.of_frame(sample.image_tokens, sample.boxes)
        return prompts.encode(rounds, len(sample.boxes), list_regions=self.list_regions, points=sample.points)

    def __call__(self, samples: Sequence[Sample]) -> dict[str, Any]:
        """The batch, as `GPT4RoI.forward` takes it: images, boxes, ids, mask, labels and region_index."""
        return self.batch(samples, [self.encode(sample) for sample in samples])

    def batch(self, samples: Sequence[Sample], encoded: Sequence[Encoded]) -> dict[str, Any]:
        """The batch of samples whose conversations are encoded already."""
        # Tokens first: transformers takes a batch's size from what it meets first, and images may be a list.
        return {  # Masked and not learned, it may be any token; not every tokenizer has one for padding.
                "input_ids": pad_tokens([e.input_ids for e in encoded], 0),
                "attention_mask": pad_tokens([[1] * len(e.input_ids) for e in encoded], 0),
                "labels": pad_tokens([e.labels for e in encoded], IGNORED),
                "region_index": pad_tokens([e.region_index for e in encoded], -1), **stack_images(samples)}


class AttentionCollator(ConversationCollator):
    """Makes batches of conversations that list all regions, with what their tokens should attend to.

    Adds to the batch attention_targets [B, K, L] (see region_attention.py).

    Args:
        prompts: Of the model that is trained.
        targets: Finds them; None: those of a pretrained language model.
    """

    def __init__(self, prompts: ChatPrompts, targets: RegionTargets | None = None):
        super().__init__(prompts)
        self.targets = targets or RegionTargets(prompts.tokenizer, prompts.embeddings)

    @override
    def batch(self, samples: Sequence[Sample], encoded: Sequence[Encoded]) -> dict[str, Any]:
        targets = zip(*(self.targets(e) for e in encoded))
        return {**super().batch(samples, encoded),
                "attention_targets": torch.stack([pad_tokens(rows, NO_TARGET) for rows in targets], dim=1)}
