"""Samples of a data set → batches of one objective."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from torch.utils.data import Dataset

from ros_gpt4roi.model.prompt import IGNORED, PromptBuilder
from ros_gpt4roi.sim.tabletop.question_templates import attribute_of_each
from ros_gpt4roi.sim.tabletop.scoring import ATTRIBUTES

from .data.record import Round
from .pointers import NOWHERE, PointerFinder


class Sample(NamedTuple):
    """One image, ready for the network, and what is said about it.

    image: uint8 RGB [S, S, 3]. boxes: float32 [N, 4] in units of the image.
    attributes: int64 [N, A], a class a region and attribute (stage 0 only), or None. rounds: the conversation.
    told: what the conversation takes for the regions' attributes where they are not those, [N, A], or None.
    """

    image: np.ndarray
    boxes: np.ndarray
    attributes: np.ndarray | None
    rounds: Sequence[Round]
    told: np.ndarray | None = None


def _pictures(samples: Sequence[Sample]) -> dict[str, torch.Tensor]:
    """images [B, S, S, 3] and boxes [B, N, 4], padded to the largest N with empty boxes."""
    boxes = torch.zeros(len(samples), max(1, max(len(s.boxes) for s in samples)), 4)
    for row, sample in zip(boxes, samples):
        row[:len(sample.boxes)] = torch.from_numpy(sample.boxes)
    return {"images": torch.from_numpy(np.stack([s.image for s in samples])), "boxes": boxes}


def _attributes(attributes: Sequence[np.ndarray], regions: int) -> torch.Tensor:
    """[B, regions, A], −100 where there is no region."""
    padded = torch.full((len(attributes), regions, attributes[0].shape[1]), IGNORED)
    for row, known in zip(padded, attributes):
        row[:len(known)] = torch.from_numpy(known)
    return padded


class _Varied(Dataset, ABC):
    """A data set of which a random share is changed, another part every epoch: a function of seed, epoch and index, so that
    a resumed run repeats it.
    """

    _draws = 0  # each subclass draws from numbers of its own

    def __init__(self, samples: Dataset, seed: int, share: float):
        self.samples, self.seed, self.share, self.epoch = samples, seed, share, 0

    def set_epoch(self, epoch: int) -> None:
        """Called by the trainer."""
        self.epoch = epoch
        self.samples.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        sample = self.samples[index]
        rng = np.random.default_rng([self.seed, self.epoch, index, self._draws])
        return self._changed(sample, rng) if rng.random() < self.share else sample

    @abstractmethod
    def _changed(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """The sample changed, as the generator draws it."""


class Mirrored(_Varied):
    """Mirrors half of the images left to right.

    For attributes only: what a thing is does not depend on its side, but what is said of its place does.
    """

    def __init__(self, samples: Dataset, seed: int):
        super().__init__(samples, seed, share=0.5)

    def _changed(self, sample: Sample, rng: np.random.Generator) -> Sample:
        x1, y1, x2, y2 = sample.boxes.T
        return sample._replace(image=sample.image[:, ::-1], boxes=np.stack([1 - x2, y1, 1 - x1, y2], axis=1))


class Recoloured(_Varied):
    """Permutes the colour channels of half of the images.

    For attributes only: what kind a thing is must not be guessed from its colour, or a pair of kind and colour that no
    training scene shows is never recognised. A permuted image's colours have no name: their class becomes −100.
    colour: which of the attributes that is.
    """

    _draws = 1

    def __init__(self, samples: Dataset, seed: int, colour: int):
        super().__init__(samples, seed, share=0.5)
        self.colour = colour

    def _changed(self, sample: Sample, rng: np.random.Generator) -> Sample:
        order = ((0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))[rng.integers(5)]
        attributes = sample.attributes.copy()
        attributes[:, self.colour] = IGNORED
        return sample._replace(image=np.ascontiguousarray(sample.image[..., list(order)]), attributes=attributes)


class Recombined(_Varied):
    """Asks about one attribute of every region, all others told at random, in a share of the images.

    Training scenes lack some pairs of kind and colour. A language model that has only read those that exist answers any
    other pair with the likeliest that it knows; here it learns to read each attribute whatever the others are. No text
    holds such a pair: what was drawn at random is never asked.
    samples: with `attribute_names` and `classes`, as TabletopDataset has them.
    """

    _draws = 2

    def _changed(self, sample: Sample, rng: np.random.Generator) -> Sample:
        asked = rng.integers(len(self.samples.classes))
        told = rng.integers(self.samples.classes, size=sample.attributes.shape)
        told[:, asked] = sample.attributes[:, asked]
        task = self.samples.attribute_names[asked]
        values = [ATTRIBUTES[task][value] for value in told[:, asked]]
        rounds = [Round(question, answer, task) for question, answer in attribute_of_each(task, values, rng)]
        return sample._replace(rounds=rounds, told=told)


class AttributeCollator:
    """Batches for the attribute objective: images, boxes and labels [B, N, A], −100 where there is no region.

    image_size: side that images are resized to, pixels; 0: as they come.
    """

    def __init__(self, image_size: int = 0):
        self.image_size = image_size

    def __call__(self, samples: Sequence[Sample]) -> dict[str, torch.Tensor]:
        if self.image_size:
            side = (self.image_size, self.image_size)
            samples = [s._replace(image=cv2.resize(s.image, side, interpolation=cv2.INTER_AREA)) for s in samples]
        batch = _pictures(samples)
        return {**batch, "labels": _attributes([s.attributes for s in samples], batch["boxes"].shape[1])}


class ConversationCollator:
    """Batches for next-token objectives: ids, mask and labels [B, L], padded on the right.

    list_regions: every conversation introduces all regions of its image (stage 2), or only those it speaks of.
    told: add the regions' attributes, and what the conversations take for them, "told", both [B, N, A].
    guided: add the pointers [B, HEADS, L] (see pointers.py).
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
            regions = batch["boxes"].shape[1]
            batch["attributes"] = _attributes([s.attributes for s in samples], regions)
            batch["told"] = _attributes([s.attributes if s.told is None else s.told for s in samples], regions)
        if self.pointers is not None:
            found = [self.pointers(e) for e in encoded]
            batch["pointers"] = torch.stack([padded(rows, NOWHERE) for rows in zip(*found)], dim=1)
        return {**batch,
                "input_ids": padded([e.input_ids for e in encoded], pad),
                "attention_mask": padded([[1] * len(e.input_ids) for e in encoded], 0),
                "labels": padded([e.labels for e in encoded], IGNORED),
                "region_index": padded([e.region_index for e in encoded], -1)}
