"""What is drawn at random for an objective leaves what is said of a region true."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset

from ros_gpt4roi.model.config import IGNORED
from ros_gpt4roi.sim.tabletop.scoring import ATTRIBUTES, meaning
from training.data.sample import Sample
from training.from_scratch.augmentation import (
    Counterfactual,
    CounterfactualSample,
    RandomChannelPermutation,
    RandomFlip,
)
from training.from_scratch.collate import AttributeCollator
from training.from_scratch.losses import AttributeClassifier


class Scenes(Dataset):
    """So many pictures, each of three channels that differ, with one region of classes 3 and 5."""

    def __init__(self, count: int):
        self.count, self.epoch = count, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        image = np.tile(np.array([1, 2, 3], np.uint8), (4, 4, 1))
        return Sample(image, np.zeros((1, 4), np.float32), (), np.array([[3, 5]]))


def test_half_of_the_images_have_other_colours_without_names():
    samples = RandomChannelPermutation(Scenes(400), seed=1, colour=1)
    changed = 0
    for index in range(len(samples)):
        sample = samples[index]
        order = tuple(sample.image[0, 0])
        assert sorted(order) == [1, 2, 3] and (sample.image == order).all()
        assert sample.attributes.tolist() == ([[3, 5]] if order == (1, 2, 3) else [[3, IGNORED]])
        changed += order != (1, 2, 3)
    assert abs(changed - 200) < 4 * 10  # four standard deviations


def test_which_images_is_a_function_of_seed_epoch_and_index():
    def orders(seed: int, epoch: int) -> list[tuple[int, ...]]:
        samples = RandomChannelPermutation(Scenes(30), seed, colour=1)
        samples.set_epoch(epoch)
        assert samples.samples.epoch == epoch
        return [tuple(samples[index].image[0, 0]) for index in range(30)]

    assert orders(1, 0) == orders(1, 0)
    assert orders(1, 0) != orders(1, 1) and orders(1, 0) != orders(2, 0)


class Halves(Scenes):
    """Pictures that are dark on the left, with a region there."""

    def __getitem__(self, index: int) -> Sample:
        image = np.repeat(np.array([0, 0, 200, 200], np.uint8)[None, :, None], 4, axis=0).repeat(3, axis=2)
        mask = np.array([[[1, 0.5], [0, 0]]], np.float32)
        return Sample(image, np.array([[0, 0.25, 0.5, 1]], np.float32), (), np.array([[3, 5]]), mask)


def test_a_mirrored_image_takes_its_boxes_and_masks_along():
    samples, mirrored = RandomFlip(Halves(400), seed=1), 0
    for index in range(len(samples)):
        sample = samples[index]
        left = sample.image[0, 0, 0] == 0
        np.testing.assert_allclose(sample.boxes, [[0, 0.25, 0.5, 1] if left else [0.5, 0.25, 1, 1]])
        assert sample.masks[0, 0].tolist() == ([1, 0.5] if left else [0.5, 1])
        mirrored += not left
    assert abs(mirrored - 200) < 4 * 10


def test_small_pictures_for_the_encoder_are_the_same_pictures():
    samples = [Halves(1)[0], RandomFlip(Halves(9), seed=1)[3]]
    small, whole = AttributeCollator(image_size=2)(samples), AttributeCollator()(samples)
    assert small["images"].shape == (2, 2, 2, 3) and whole["images"].shape == (2, 4, 4, 3)
    assert (small["images"] == whole["images"][:, ::2, ::2]).all()
    for name in ("boxes", "labels"):
        assert (small[name] == whole[name]).all()


class Described(Scenes):
    """Pictures with three regions, the attributes of each a row."""

    attribute_names, classes = tuple(ATTRIBUTES), tuple(map(len, ATTRIBUTES.values()))
    rows = np.array([[0, 1, 1, 0], [3, 5, 0, 1], [7, 9, 1, 1]])

    def __getitem__(self, index: int) -> Sample:
        return Sample(np.zeros((4, 4, 3), np.uint8), np.zeros((3, 4), np.float32), (), self.rows)


def test_one_attribute_is_asked_and_all_others_are_replaced_at_random():
    samples = Counterfactual(Described(400), seed=1, share=0.25)
    changed = [sample for sample in map(samples.__getitem__, range(400)) if isinstance(sample, CounterfactualSample)]
    assert abs(len(changed) - 100) < 4 * 9  # four standard deviations
    pairs, tasks = set(), set()
    for sample in changed:
        (task,) = {turn.task for turn in sample.rounds}
        asked = samples.samples.attribute_names.index(task)
        assert (sample.counterfactual[:, asked] == Described.rows[:, asked]).all()
        assert (sample.attributes == Described.rows).all()
        said = {turn.question.partition("<region")[2][0]: meaning(turn.answer) for turn in sample.rounds}
        assert said == {str(i + 1): (ATTRIBUTES[task][row[asked]],) for i, row in enumerate(Described.rows)}
        tasks.add(task)
        pairs |= {(kind, colour) for kind, colour, *_ in sample.counterfactual}
    # Most of the 80 pairs of kind and colour, where the pictures show three.
    assert tasks == set(ATTRIBUTES) and len(pairs) > 60


def test_attributes_without_a_name_are_not_learned():
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.config = type("Config", (), {"regions": type("Regions", (), {"hidden": 4})})
            self.vision = lambda images: (None, images)
            self.regions = type("Extractor", (), {"features": staticmethod(lambda levels, boxes, masks: levels)})

    torch.manual_seed(0)
    objective = AttributeClassifier(Model(), (8, 10))
    vectors, boxes = torch.randn(1, 2, 4), torch.zeros(1, 2, 4)
    labels = torch.tensor([[[3, IGNORED], [IGNORED, IGNORED]]])
    found = objective(vectors, boxes, labels)
    wanted = nn.functional.cross_entropy(objective.heads[0](vectors[0, :1]), torch.tensor([3]))
    torch.testing.assert_close(found["loss"], wanted)
    assert objective(vectors, boxes, torch.tensor([[[3, 5], [IGNORED, IGNORED]]]))["loss"] > found["loss"]
