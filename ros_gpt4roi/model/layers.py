"""Layers that several region extractors share.

A module says what it needs of number formats in class attributes, which engines follow: `keep_in_fp32`, parts whose
products stay in float32; `sum_in_fp32`, whether sums within it do; `keep_unquantised`, parts that int8 and fp8 leave
out.
"""
from __future__ import annotations

import torch
from torch import nn


class BoxPosition(nn.Module):
    """A box's place and size in the image as a vector.

    Args:
        hidden: Width of the first of the two layers.
        width: Width of the vector.
    """

    keep_in_fp32 = ("layers",)  # half precision is too coarse for places in an image

    def __init__(self, hidden: int, width: int):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(4, hidden), nn.ReLU(), nn.LayerNorm(hidden),
            nn.Linear(hidden, width), nn.ReLU(), nn.LayerNorm(width))

    def forward(self, boxes: torch.Tensor) -> torch.Tensor:
        """Embed boxes [..., 4], x1 y1 x2 y2 in units of the image, as vectors [..., width]."""
        return self.layers(boxes.to(next(self.layers.parameters()).dtype))
