"""Layers that several region extractors share.

A module says what it needs of number formats in class attributes, which engines follow: `keep_in_fp32`, parts whose
products stay in float32; `sum_in_fp32`, whether sums within it do; `keep_unquantised`, parts that int8 and fp8 leave
out.
"""
from __future__ import annotations

import torch
from torch import nn


class BoxPlace(nn.Module):
    """Where a box's middle is, and how large it is, as a vector that is added to a region's embedding.

    What learns to see does not need to know where it looks, so little of that is left in an embedding. A language model
    can compare places only where they stand out in it; by their squares and product it can tell which are near, by
    width and height which box holds another and where things touch what they stand on.

    Args:
        width: Width of the vector.
        length: Of what a term that is 1, at the image's edge, adds before training.
    """

    keep_in_fp32 = ("layer",)  # half precision is too coarse for places in an image

    def __init__(self, width: int, length: float):
        super().__init__()
        self.layer = nn.Linear(7, width, bias=False)
        nn.init.normal_(self.layer.weight, std=length / width ** 0.5)

    def forward(self, boxes: torch.Tensor) -> torch.Tensor:
        """Embed boxes [..., 4], x1 y1 x2 y2 in units of the image, as vectors [..., width]."""
        first, last = boxes.to(self.layer.weight.dtype).chunk(2, -1)
        middle = first + last - 1  # −1..1
        terms = [middle, middle * middle, middle[..., :1] * middle[..., 1:], 2 * (last - first)]
        return self.layer(torch.cat(terms, -1))


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
