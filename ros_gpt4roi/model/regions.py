"""Region extractors: feature levels and boxes in, region embeddings out.

All have one interface:

    extractor(levels: list of [B, C_i, H_i, W_i], finest first; boxes: [B, N, 4] in units of the image;
              masks: [B, N, P, P] in 0..1 or None; extra: added to its `features`, or None) -> [B, N, K, D]

`features(levels, boxes, masks)` are the regions' vectors before they are projected: [B, N, feature_width].
Masks weigh what is seen of a region, in a grid over its box: bin (i, j) is row i from the top, column j from the left.
Boxes are padded to N an image; rows that pad cost work and are ignored by the caller.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from .config import ConfigError, DeformableConfig, RoIAlignConfig
from .deformable import DeformableExtractor
from .layers import BoxPlace, BoxPosition
from .roi_align import roi_align


def build_region_extractor(config: RoIAlignConfig | DeformableConfig, level_channels: Sequence[int],
                           out_width: int) -> RegionExtractor:
    """Make the extractor that a config describes.

    Args:
        config: Its kind and sizes.
        level_channels: Channels of each feature level, finest first.
        out_width: D, the language model's width.

    Returns:
        The extractor, with PyTorch's initial weights.
    """
    if isinstance(config, DeformableConfig):
        return DeformableExtractor(config, level_channels, out_width)
    return RoIAlignExtractor(config, level_channels, out_width)


def resize(features: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Resize maps [..., C, H, W] bilinearly with corners aligned, as the published pyramid does it."""
    if features.shape[-2:] == (height, width):
        return features
    return F.interpolate(features, (height, width), mode="bilinear", align_corners=True)


class FusionRound(nn.Module):
    """One round of the pyramid: every level takes a quarter of its channels from each neighbour level.

    Args:
        channels: Of every level.
        groups: Of the group normalisation.
    """

    def __init__(self, channels: int, groups: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm = nn.GroupNorm(groups, channels)

    def forward(self, levels: list[torch.Tensor]) -> list[torch.Tensor]:
        """Mix levels [B, channels, H_i, W_i], finest first; they keep their shapes."""
        last, channels = len(levels) - 1, levels[0].shape[1]
        # own, for the coarser neighbour, for the finer one
        parts = [level.split([channels // 2, channels // 4, channels // 4], dim=1) for level in levels]
        out = []
        for i, (own, _, _) in enumerate(parts):
            size = own.shape[-2:]
            from_coarser = resize(parts[min(i + 1, last)][2], *size)
            from_finer = resize(parts[max(i - 1, 0)][1], *size)
            mixed = torch.cat([own, from_coarser, from_finer], dim=1)
            out.append(F.relu(self.norm(self.conv(mixed))))
        return out


class FeaturePyramid(nn.Module):
    """Levels of any channels → levels of one width that have seen each other.

    Args:
        config: Sizes; `scales` is how much larger each level becomes.
        level_channels: Channels of each level, finest first.

    Raises:
        ConfigError: `scales` has another number of entries than there are levels.
    """

    def __init__(self, config: RoIAlignConfig, level_channels: Sequence[int]):
        super().__init__()
        self.scales = config.scales or (1,) * len(level_channels)
        if len(self.scales) != len(level_channels):
            raise ConfigError(f"regions.scales has {len(self.scales)} entries, "
                              f"expected one a level: {len(level_channels)}")
        # Two more input channels: the coordinates x and y.
        self.lateral = nn.ModuleList(nn.Conv2d(c + 2, config.channels, 1) for c in level_channels)
        self.rounds = nn.ModuleList(FusionRound(config.channels, config.groups) for _ in range(config.fusion_rounds))

    def forward(self, levels: list[torch.Tensor]) -> list[torch.Tensor]:
        """Fuse levels [B, C_i, H_i, W_i] to [B, channels, H_i · scale_i, W_i · scale_i] each."""
        fused = []
        for level, conv, scale in zip(levels, self.lateral, self.scales):
            height, width = level.shape[-2:]
            with_place = torch.cat([level, coordinates(level)], dim=1)
            # Resizing and a 1×1 convolution commute exactly, coordinates included: convolve where the map is small.
            fused.append(resize(conv(with_place), round(height * scale), round(width * scale)))
        for fuse in self.rounds:
            fused = fuse(fused)
        return fused


def coordinates(features: torch.Tensor) -> torch.Tensor:
    """Return coordinate channels for a map [B, C, H, W]: [B, 2, H, W], x then y, each linear from −1 to 1."""
    batch, _, height, width = features.shape
    x = torch.linspace(-1, 1, width, device=features.device, dtype=features.dtype).expand(batch, 1, height, width)
    y = torch.linspace(-1, 1, height, device=features.device, dtype=features.dtype)
    return torch.cat([x, y.unsqueeze(-1).expand(batch, 1, height, width)], dim=1)


class RoIAlignExtractor(nn.Module):
    """Feature pyramid and RoIAlign (GPT4RoI, arXiv 2307.03601): bins of all levels are convolved, summed, flattened.

    Args:
        config: Sizes; `embeddings` vectors a region.
        level_channels: Channels of each feature level, finest first.
        out_width: D, the language model's width.
    """

    sum_in_fp32 = True  # bins of four levels: halves of up to 65504 would not fit in one
    keep_unquantised = ("project",)  # cheap, and the language model reads what it writes

    def __init__(self, config: RoIAlignConfig, level_channels: Sequence[int], out_width: int):
        super().__init__()
        self.config = config
        self.pyramid = FeaturePyramid(config, level_channels)
        self.convs = nn.ModuleList(nn.Conv2d(config.channels, config.channels, 3, padding=1) for _ in level_channels)
        self.flatten = nn.Linear(config.channels * config.roi_size ** 2, config.hidden)
        self.position = BoxPosition(config.position_hidden, config.hidden)
        self.project = nn.Linear(config.hidden, out_width * config.embeddings)
        self.place = BoxPlace(out_width, config.place) if config.place else None
        self.feature_width = config.hidden

    def features(self, levels: list[torch.Tensor], boxes: torch.Tensor,
                 masks: torch.Tensor | None = None) -> torch.Tensor:
        """Compute the regions' vectors before they are projected to the language model: [B, N, hidden]."""
        batch, count = boxes.shape[:2]
        bins = [conv(roi_align(level, boxes, self.config.roi_size, self.config.samples, masks))
                for level, conv in zip(self.pyramid(levels), self.convs)]
        total = functools.reduce(torch.add, bins)
        return self.flatten(F.relu(total).flatten(1)).unflatten(0, (batch, count)) + self.position(boxes)

    def forward(self, levels: list[torch.Tensor], boxes: torch.Tensor, masks: torch.Tensor | None = None,
                extra: torch.Tensor | None = None) -> torch.Tensor:
        """Compute the regions' embeddings [B, N, K, D]; `extra` is added to `features`."""
        features = self.features(levels, boxes, masks)
        projected = self.project(features if extra is None else features + extra)
        embeddings = projected.unflatten(-1, (self.config.embeddings, -1))
        return embeddings if self.place is None else embeddings + self.place(boxes).unsqueeze(-2)


RegionExtractor = RoIAlignExtractor | DeformableExtractor
