"""The published way to the same outputs, from the same weights: the baseline of the vision benchmarks.

Every level is resized first and convolved at full size, RoIAlign is torchvision's.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torchvision.ops import roi_align

from ros_gpt4roi.engine.export import VisionNetwork
from ros_gpt4roi.model.regions import coordinates, resize


def pyramid(network: VisionNetwork, levels: list[torch.Tensor]) -> list[torch.Tensor]:
    """levels: [B, C_i, H_i, W_i] → [B, channels, H_i · scale, W_i · scale] each."""
    module, fused = network.regions.pyramid, []
    for level, conv, scale in zip(levels, module.lateral, module.scales):
        height, width = level.shape[-2:]
        large = resize(level, round(height * scale), round(width * scale))
        fused.append(conv(torch.cat([large, coordinates(large)], dim=1)))
    for fuse in module.rounds:
        fused = fuse(fused)
    return fused


def regions(network: VisionNetwork, fused: list[torch.Tensor], boxes: torch.Tensor) -> torch.Tensor:
    """Pyramid levels and boxes [B, N, 4] in units of the image → [B, N, K, D]."""
    module, (batch, count) = network.regions, boxes.shape[:2]
    total = 0
    for level, conv in zip(fused, module.convs):
        height, width = level.shape[-2:]
        scale = torch.tensor([width, height, width, height], dtype=boxes.dtype, device=boxes.device)
        bins = roi_align(level, list(boxes * scale), module.config.roi_size, 1.0, module.config.samples, aligned=True)
        total = total + conv(bins)
    vectors = module.flatten(F.relu(total).flatten(1)).unflatten(0, (batch, count)) + module.position(boxes)
    return module.project(vectors).unflatten(-1, (module.config.embeddings, -1))


def encode(network: VisionNetwork, images: torch.Tensor, boxes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The whole vision stage, as VisionNetwork.forward."""
    tokens, levels = network.vision(images)
    return network.projector(tokens), regions(network, pyramid(network, levels), boxes)
