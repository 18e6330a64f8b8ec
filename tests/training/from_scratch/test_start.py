"""How a model without any training starts."""

from __future__ import annotations

import pytest
import torch

from ros_gpt4roi.model.config import ModelConfig
from ros_gpt4roi.model.layers import BoxPosition
from training.errors import RecipeError
from training.from_scratch.start import random_model, spread_positions


def test_a_description_without_a_vocabulary_is_named():
    with pytest.raises(RecipeError, match="vocab_size is missing"):
        random_model(ModelConfig(), [])


def test_positions_differ_as_much_as_what_tells_things_apart():
    torch.manual_seed(0)
    position = BoxPosition(128, 256)
    centre, half = torch.rand(500, 2), torch.full((500, 2), 0.06)
    boxes = torch.cat([centre - half, centre + half], dim=1)
    with torch.no_grad():
        before = position(boxes).std(0).mean()
        spread_positions(position)
        after = position(boxes)
    assert before < 0.4, "a usual start hardly tells boxes apart: the test would show nothing"
    assert abs(after.std(0).mean() - 1) < 0.2 and after.mean(0).abs().mean() < 0.1
