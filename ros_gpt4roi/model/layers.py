"""Layers that several region extractors share."""

from __future__ import annotations

import torch
from torch import nn


class BoxPosition(nn.Module):
    """A box's place and size in the image as a vector: [..., 4] in units of the image → [..., width]."""

    def __init__(self, hidden: int, width: int):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(4, hidden), nn.ReLU(), nn.LayerNorm(hidden),
            nn.Linear(hidden, width), nn.ReLU(), nn.LayerNorm(width))

    def forward(self, boxes: torch.Tensor) -> torch.Tensor:
        return self.layers(boxes.to(self.layers[0].weight.dtype))
