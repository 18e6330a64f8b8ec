"""Samples of a data set → batches of one objective."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset

from ros_gpt4roi.model.prompt import IGNORED, PromptBuilder

from .data.record import Round
from .pointers import NOWHERE, PointerFinder


class Sample(NamedTuple):
    """One image, ready for the network, and what is said about it.

    image: uint8 RGB [S, S, 3]. boxes: float32 [N, 4] in units of the image.
    attributes: int64 [N, A], a class a region and attribute (stage 0 only), or None. rounds: the conversation.
    """

    image: np.ndarray
    boxes: np.ndarray
    attributes: np.ndarray | None
    rounds: Sequence[Round]


def _pictures(samples: Sequence[Sample]) -> dict[str, torch.Tensor]:
    """images [B, S, S, 3] and boxes [B, N, 4], padded to the largest N with empty boxes."""
    boxes = torch.zeros(len(samples), max(1, max(len(s.boxes) for s in samples)), 4)
    for row, sample in zip(boxes, samples):
        row[:len(sample.boxes)] = torch.from_numpy(sample.boxes)
    return {"images": torch.from_numpy(np.stack([s.image for s in samples])), "boxes": boxes}


def _attributes(samples: Sequence[Sample], regions: int) -> torch.Tensor:
    """[B, regions, A], −100 where there is no region."""
    attributes = torch.full((len(samples), regions, samples[0].attributes.shape[1]), IGNORED)
    for row, sample in zip(attributes, samples):
        row[:len(sample.attributes)] = torch.from_numpy(sample.attributes)
    return attributes


class _Varied(Dataset):
    """A data set of which a random half is changed, another half every epoch: a function of seed, epoch and index, so that
    a resumed run repeats it.
    """

    def __init__(self, samples: Dataset, seed: int):
        self.samples, self.seed, self.epoch = samples, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Called by the trainer."""
        self.epoch = epoch
        self.samples.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.samples)


class Mirrored(_Varied):
    """Mirrors images left to right.

    For attributes only: what a thing is does not depend on its side, but what is said of its place does.
    """

    def __getitem__(self, index: int) -> Sample:
        sample = self.samples[index]
        if np.random.default_rng([self.seed, self.epoch, index]).random() < 0.5:
            return sample
        x1, y1, x2, y2 = sample.boxes.T
        return sample._replace(image=sample.image[:, ::-1], boxes=np.stack([1 - x2, y1, 1 - x1, y2], axis=1))


class Recoloured(_Varied):
    """Permutes the colour channels of images.

    For attributes only: what kind a thing is must not be guessed from its colour, or a pair of kind and colour that no
    training scene shows is never recognised. A permuted image's colours have no name: their class becomes −100.
    colour: which of the attributes that is.
    """

    def __init__(self, samples: Dataset, seed: int, colour: int):
        super().__init__(samples, seed)
        self.colour = colour

    def __getitem__(self, index: int) -> Sample:
        sample = self.samples[index]
        rng = np.random.default_rng([self.seed, self.epoch, index, 1])
        if rng.random() < 0.5:
            return sample
        order = ((0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))[rng.integers(5)]
        attributes = sample.attributes.copy()
        attributes[:, self.colour] = IGNORED
        return sample._replace(image=np.ascontiguousarray(sample.image[..., list(order)]), attributes=attributes)


class AttributeCollator:
    """Batches for the attribute objective: images, boxes and labels [B, N, A], −100 where there is no region."""

    def __call__(self, samples: Sequence[Sample]) -> dict[str, torch.Tensor]:
        batch = _pictures(samples)
        return {**batch, "labels": _attributes(samples, batch["boxes"].shape[1])}


class ConversationCollator:
    """Batches for next-token objectives: ids, mask and labels [B, L], padded on the right.

    list_regions: every conversation introduces all regions of its image (stage 2), or only those it speaks of.
    told: add the regions' attributes [B, N, A]. guided: add the pointers [B, HEADS, L] (see pointers.py).
    """

    def __init__(self, prompts: PromptBuilder, list_regions: bool, told: bool = False, guided: bool = False):
        self.prompts, self.list_regions, self.told = prompts, list_regions, told
        self.pointers = PointerFinder(prompts.tokenizer) if guided else None

    def __call__(self, samples: Sequence[Sample]) -> dict[str, Any]:
        encoded = [self.prompts.encode([(r.question, r.answer) for r in s.rounds], len(s.boxes),
                                       list_regions=self.list_regions) for s in samples]
        length = max(len(e.input_ids) for e in encoded)

        def padded(rows: list[list[int]], value: int) -> torch.Tensor:
            return torch.tensor([row + [value] * (length - len(row)) for row in rows])

        pad, batch = self.prompts.tokenizer.pad_token_id, _pictures(samples)
        if self.told:
            batch["attributes"] = _attributes(samples, batch["boxes"].shape[1])
        if self.pointers is not None:
            found = [self.pointers(e) for e in encoded]
            batch["pointers"] = torch.stack([padded(rows, NOWHERE) for rows in zip(*found)], dim=1)
        return {**batch,
                "input_ids": padded([e.input_ids for e in encoded], pad),
                "attention_mask": padded([[1] * len(e.input_ids) for e in encoded], 0),
                "labels": padded([e.labels for e in encoded], IGNORED),
                "region_index": padded([e.region_index for e in encoded], -1)}
