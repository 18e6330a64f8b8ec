"""The benchmarks' baseline computes what ours does: only then is a ratio of times worth anything."""

from __future__ import annotations

import pytest
import torch
from engine_fixtures import config_of, inputs

from benchmarks import published
from ros_gpt4roi.engine.export import VisionNetwork
from ros_gpt4roi.engine.gate import relative_error


@pytest.mark.parametrize("encoder", ["clip", "resnet"])
def test_published_way_gives_the_same_outputs(encoder: str) -> None:
    torch.manual_seed(2)
    network = VisionNetwork.build(config_of(encoder, "roi_align"), width=32)
    images, boxes = map(torch.from_numpy, inputs(32, 2, 5))
    with torch.inference_mode():
        for got, expected in zip(published.encode(network, images, boxes), network(images, boxes)):
            assert relative_error(got, expected) < 1e-4
