"""How a model without any training starts."""

from __future__ import annotations

import torch

from ros_gpt4roi.model.layers import BoxPosition
from training.from_scratch.start import spread_positions


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
