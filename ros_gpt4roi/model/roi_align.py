"""RoIAlign as two small interpolation matrices a box.

Axis-aligned bilinear sampling is separable, so the average over a bin's sampling points factors exactly:
`out = W_y · F · W_xᵀ`. Matrix products run in every engine (TensorRT's own RoiAlign node is a plugin) and equal
torchvision.ops.roi_align(aligned=True) (He et al., Mask R-CNN, arXiv 1703.06870).
"""

from __future__ import annotations

import torch


def interpolation_matrix(low: torch.Tensor, high: torch.Tensor, length: int, size: int, samples: int) -> torch.Tensor:
    """Weights of the `length` cells of one axis in each of `size` bins between `low` and `high`.

    low, high: [...] ends of the box along the axis, in cells, origin at the outer edge of cell 0.
    Returns [..., size, length]. A sampling point further than one cell outside has no weight, one between is clamped
    to the edge, as in torchvision.
    """
    steps = torch.arange(size * samples, device=low.device, dtype=low.dtype)
    # Half a cell less: `aligned=True` puts the value of cell i at coordinate i, its centre.
    start, step = (low - 0.5).unsqueeze(-1), ((high - low) / (size * samples)).unsqueeze(-1)
    points = start + (steps + 0.5) * step
    inside = (points >= -1) & (points <= length)
    cells = torch.arange(length, device=low.device, dtype=low.dtype)
    distance = (points.clamp(0, length - 1).unsqueeze(-1) - cells).abs()
    weights = (1 - distance).clamp(min=0) * inside.unsqueeze(-1).to(low.dtype)
    return weights.unflatten(-2, (size, samples)).mean(-2)


def roi_align(features: torch.Tensor, boxes: torch.Tensor, size: int, samples: int) -> torch.Tensor:
    """RoIAlign of one feature level.

    features: [B, C, H, W]. boxes: [B, N, 4] x1 y1 x2 y2 in units of the image (0..1 inside; may reach outside).
    Returns [B, N, C, size, size]: bin (i, j) is row i from the top, column j from the left.
    """
    height, width = features.shape[-2:]
    # Coordinates need more digits than half precision has on fine maps.
    boxes = boxes.float()
    rows = interpolation_matrix(boxes[..., 1] * height, boxes[..., 3] * height, height, size, samples)
    columns = interpolation_matrix(boxes[..., 0] * width, boxes[..., 2] * width, width, size, samples)
    batch, count = boxes.shape[:2]
    channels = features.shape[1]
    # One product for all boxes of an image over rows first: [N·P, H] · [H, C·W].
    flat = features.permute(0, 2, 1, 3).reshape(batch, height, channels * width)
    partial = torch.bmm(rows.to(features.dtype).reshape(batch, count * size, height), flat)
    partial = partial.reshape(batch, count, size, channels, width).permute(0, 1, 3, 2, 4)
    return torch.matmul(partial, columns.to(features.dtype).transpose(-1, -2).unsqueeze(2))
