"""Regions as vectors on top of words: what the encoder saw in a region's box is replayed behind its name.

RoIAlign over the encoder's merged feature map gives size × size vectors of each region, which stand in the prompt as
the tokens of a picture do (the idea of Grasp Any Region, arXiv 2510.18876). They come from the same map as the image
tokens and are laid out like a second, small picture of as many rows and columns, so that a pretrained model meets
nothing that it has not seen: between the marks of a picture, with positions of their own on all axes, and with the
features of DeepStack, resampled from their maps by the same weights. Positions of the places they come from would be
fractions, which no model was trained with, and without these features the first layers would lack a part of what they
expect.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from ..configuration import Configuration, setting
from .roi_align import roi_align

_SAMPLES = 2  # sampling points a bin and axis


@dataclass(frozen=True)
class RegionReplay(Configuration):
    """Regions as words and vectors."""

    kind: str = setting("replay", "What the encoder saw in the box, behind its words.", choices=("replay",))
    size: int = setting(8, "Vectors a side of a region. A 640×480 frame has 20×15 image tokens.", at_least=1,
                        at_most=32)

    @property
    def roi_size(self) -> int:
        """Bins a side of a region's mask."""
        return self.size

    @property
    def embeddings(self) -> int:
        """Vectors a region."""
        return self.size**2


class Replay(nn.Module):
    """Makes the vectors of regions.

    A vector that is learned marks them as a region's; it starts as nothing, so that an untrained model replays what its
    encoder saw as it is.

    Args:
        config: How many.
        width: D, the language model's width.
    """

    def __init__(self, config: RegionReplay, width: int):
        super().__init__()
        self.config = config
        self.mark = nn.Parameter(torch.zeros(width))

    def forward(self, image_tokens: torch.Tensor, deepstack: torch.Tensor | None, grid: tuple[int, int],
                boxes: torch.Tensor, masks: torch.Tensor | None = None) -> torch.Tensor:
        """Replay regions of one picture.

        Args:
            image_tokens: [1, T, D], row by row.
            deepstack: [layers, T, D], or None.
            grid: Rows and columns of the image tokens.
            boxes: [1, N, 4], x1 y1 x2 y2 in units of the image.
            masks: What each vector is weighed with, [1, N, size, size] in 0..1, or None.

        Returns:
            [1 + layers, N, size², D]: the vectors, and their features of DeepStack.
        """
        levels = image_tokens if deepstack is None else torch.cat([image_tokens, deepstack])
        # One level after the other in the channels: all have the same weights of interpolation.
        maps = levels.transpose(1, 2).flatten(0, 1).unflatten(1, grid).unsqueeze(0)
        found = roi_align(maps, boxes, self.config.size, _SAMPLES, masks)
        found = found.flatten(2).unflatten(1, (len(levels), -1)).permute(1, 0, 3, 2)
        return torch.cat([found[:1] + self.mark.to(found.dtype), found[1:]])
