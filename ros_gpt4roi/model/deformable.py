"""Region embeddings by multi-scale deformable attention (Zhu et al., Deformable DETR, arXiv 2010.04159).

A query made from the box's place looks at a few learned points a level instead of at a dense grid of bins. Points are
stated in units of the box, so that the same weights serve a box of any size. Sampling is `grid_sample`, which ONNX and
TensorRT have as an operator of their own.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from .config import DeformableConfig
from .layers import BoxPlace, BoxPosition


class DeformableAttention(nn.Module):
    """Queries gather values at a few learned places around their box.

    Args:
        hidden: Width of a query.
        heads: Attention heads, between which the width is shared out.
        levels: Feature levels.
        points: Places that a head looks at on each level.
    """

    keep_in_fp32 = ("offsets",)  # half precision is too coarse for places in an image

    def __init__(self, hidden: int, heads: int, levels: int, points: int):
        super().__init__()
        self.heads, self.levels, self.points = heads, levels, points
        self.value = nn.Conv2d(hidden, hidden, 1)
        self.offsets = nn.Linear(hidden, heads * levels * points * 2)
        self.weights = nn.Linear(hidden, heads * levels * points)
        self.out = nn.Linear(hidden, hidden)
        self._spread()

    @torch.no_grad()
    def _spread(self) -> None:
        """Starts every head on a ray of its own from the box's centre to its edge, all points weighted alike."""
        angle = torch.arange(self.heads) * (2 * math.pi / self.heads)
        ray = torch.stack([angle.cos(), angle.sin()], -1)
        ray = ray / ray.abs().amax(-1, keepdim=True)
        steps = torch.arange(1, self.points + 1) / self.points
        grid = ray[:, None, None, :] * steps[None, None, :, None]
        nn.init.zeros_(self.offsets.weight)
        self.offsets.bias.copy_(grid.expand(-1, self.levels, -1, -1).flatten())
        nn.init.zeros_(self.weights.weight)
        nn.init.zeros_(self.weights.bias)

    def forward(self, queries: torch.Tensor, boxes: torch.Tensor, levels: list[torch.Tensor],
                masks: torch.Tensor | None) -> torch.Tensor:
        """Gather what each query sees.

        Args:
            queries: [B, Q, hidden].
            boxes: The queries' boxes [B, Q, 4], x1 y1 x2 y2 in units of the image.
            levels: Feature maps [B, hidden, H_i, W_i] each.
            masks: Weights of what is seen of each box, [B, Q, P, P] in 0..1, or None.

        Returns:
            [B, Q, hidden].
        """
        batch, count = queries.shape[:2]
        shape = (batch, count, self.heads, self.levels, self.points)
        # Coordinates need more digits than half precision has, so sampling is done in single precision.
        # They are in units of half the box, from its centre.
        offsets = self.offsets(queries).float().reshape(*shape, 2)
        weights = self.weights(queries).unflatten(-1, (self.heads, self.levels * self.points)).softmax(-1)
        weights = weights.reshape(shape)
        if masks is not None:
            weights = weights * self._mask_at(masks, offsets).to(weights.dtype)
        boxes = boxes.float()
        centre = ((boxes[..., :2] + boxes[..., 2:]) / 2).reshape(batch, count, 1, 1, 1, 2)
        half = ((boxes[..., 2:] - boxes[..., :2]) / 2).reshape(batch, count, 1, 1, 1, 2)
        # grid_sample counts from −1 to 1 over the image.
        places = ((centre + offsets * half) * 2 - 1).permute(3, 0, 2, 1, 4, 5).flatten(1, 2)
        weights = weights.permute(3, 0, 2, 1, 4).flatten(1, 2).unsqueeze(2)
        parts = []
        for level, place, weight in zip(levels, places, weights):
            values = self.value(level).unflatten(1, (self.heads, -1)).flatten(0, 1)
            parts.append((F.grid_sample(values.float(), place, align_corners=False) * weight).sum(-1))
        total = functools.reduce(torch.add, parts)
        return self.out(total.to(queries.dtype).unflatten(0, (batch, self.heads)).flatten(1, 2).transpose(1, 2))

    def _mask_at(self, masks: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
        """The mask's weight at every point; outside the box that of the nearest bin, so that a full mask is no mask."""
        batch, count = masks.shape[:2]
        grid = offsets.flatten(0, 1).flatten(1, 2)
        sampled = F.grid_sample(masks.float().flatten(0, 1).unsqueeze(1), grid, padding_mode="border",
                                align_corners=False)
        return sampled.reshape(batch, count, self.heads, self.levels, self.points)


class DeformableLayer(nn.Module):
    """Attention and a feed-forward network, each with a normalised residual."""

    def __init__(self, hidden: int, heads: int, levels: int, points: int):
        super().__init__()
        self.attention = DeformableAttention(hidden, heads, levels, points)
        self.norm1, self.norm2 = nn.LayerNorm(hidden), nn.LayerNorm(hidden)
        self.mlp = nn.Sequential(nn.Linear(hidden, 4 * hidden), nn.GELU(), nn.Linear(4 * hidden, hidden))

    def forward(self, queries: torch.Tensor, boxes: torch.Tensor, levels: list[torch.Tensor],
                masks: torch.Tensor | None) -> torch.Tensor:
        """Refine queries [B, Q, hidden]; arguments as `DeformableAttention.forward`'s."""
        queries = self.norm1(queries + self.attention(queries, boxes, levels, masks))
        return self.norm2(queries + self.mlp(queries))


class DeformableExtractor(nn.Module):
    """Queries from the box's position embedding, refined by several layers of deformable attention.

    Args:
        config: Sizes; `embeddings` queries a region.
        level_channels: Channels of each feature level, finest first.
        out_width: D, the language model's width.
    """

    sum_in_fp32 = True  # what is seen of four levels: halves of up to 65504 would not fit in one
    keep_unquantised = ("project",)  # cheap, and the language model reads what it writes

    def __init__(self, config: DeformableConfig, level_channels: Sequence[int], out_width: int):
        super().__init__()
        self.config = config
        self.lateral = nn.ModuleList(nn.Conv2d(c, config.hidden, 1) for c in level_channels)
        self.position = BoxPosition(config.position_hidden, config.hidden)
        self.queries = nn.Parameter(torch.randn(config.embeddings, config.hidden) * 0.02)
        self.layers = nn.ModuleList(
            DeformableLayer(config.hidden, config.heads, len(level_channels), config.points)
            for _ in range(config.layers))
        self.project = nn.Linear(config.hidden, out_width)
        self.place = BoxPlace(out_width, config.place) if config.place else None
        self.feature_width = config.embeddings * config.hidden

    def features(self, levels: list[torch.Tensor], boxes: torch.Tensor,
                 masks: torch.Tensor | None = None) -> torch.Tensor:
        """Compute the regions' vectors before they are projected to the language model: [B, N, K·hidden]."""
        regions, count = boxes.shape[1], self.config.embeddings
        levels = [conv(level) for conv, level in zip(self.lateral, levels)]
        queries = (self.position(boxes).unsqueeze(2) + self.queries).flatten(1, 2)
        boxes = boxes.repeat_interleave(count, 1)
        if masks is not None:
            masks = masks.repeat_interleave(count, 1)
        for layer in self.layers:
            queries = layer(queries, boxes, levels, masks)
        return queries.unflatten(1, (regions, count)).flatten(2)

    def forward(self, levels: list[torch.Tensor], boxes: torch.Tensor, masks: torch.Tensor | None = None,
                extra: torch.Tensor | None = None) -> torch.Tensor:
        """Compute the regions' embeddings [B, N, K, D]; `extra` is added to `features`."""
        features = self.features(levels, boxes, masks)
        features = features if extra is None else features + extra
        embeddings = self.project(features.unflatten(-1, (self.config.embeddings, self.config.hidden)))
        return embeddings if self.place is None else embeddings + self.place(boxes).unsqueeze(-2)
