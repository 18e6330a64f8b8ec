"""The comparison of region extractors: what is trained learns, and only objects count, the small ones apart."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from benchmarks.extractors import Candidate, Scenes, accuracy, candidates, train
from ros_gpt4roi.model.checkpoint import read_config
from ros_gpt4roi.model.config import PreprocessConfig, RoIAlignConfig
from ros_gpt4roi.paths import find_model
from ros_gpt4roi.sim.tabletop.scoring import ATTRIBUTES

CONFIG = dataclasses.replace(
    read_config(find_model("tabletop")), preprocess=PreprocessConfig(image_size=64),
    regions=RoIAlignConfig(channels=16, scales=None, fusion_rounds=1, groups=4, roi_size=3, hidden=32,
                           position_hidden=8))


def scenes(count: int = 24) -> Scenes:
    """Two objects a scene and a row of padding; what is in a box's place tells its attributes."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.stack([torch.randint(len(values), (count, 3), generator=generator)
                          for values in ATTRIBUTES.values()], -1)
    labels[:, 2] = -1
    boxes = torch.tensor([[0.0, 0, 0.5, 1], [0.5, 0.25, 0.75, 0.5], [0, 0, 0, 0]]).repeat(count, 1, 1)
    level = torch.zeros(count, len(ATTRIBUTES), 8, 8)
    level[..., :4], level[..., 4:] = labels[:, 0, :, None, None], labels[:, 1, :, None, None]
    crops = level[:, None].repeat(1, 3, 1, 1, 1)
    return Scenes([level.half()], boxes, labels, [crops.half()], boxes)


@pytest.mark.parametrize("name", candidates(CONFIG, 96))
def test_every_candidate_learns_and_padding_does_not_count(name: str) -> None:
    torch.manual_seed(0)
    candidate, seen = Candidate(candidates(CONFIG, 96)[name], (len(ATTRIBUTES),), 16), scenes()
    before = accuracy(candidate, seen, 100)
    candidate.train()
    assert train(candidate, seen, 200, 8, 0) > 0
    after = accuracy(candidate, seen, 100)
    assert (after["objects"], after["small_objects"], after["small_side_pixels"]) == (48, 24, 25)
    assert after["all"]["size"] > 0.9 and after["all"]["kind"] > before["all"]["kind"]
    assert set(after["small"]) == set(ATTRIBUTES)
