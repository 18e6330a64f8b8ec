"""RoIAlign as two small interpolation matrices a box.

Axis-aligned bilinear sampling is separable, so the average over a bin's sampling points factors exactly:
`out = W_y · F · W_xᵀ`. Matrix products run in every engine (TensorRT's own RoiAlign node is a plugin) and equal
torchvision.ops.roi_align(aligned=True) (He et al., Mask R-CNN, arXiv 1703.06870).
"""

from __future__ import annotations

import torch


def interpolation_matrices(boxes: torch.Tensor, height: int, width: int, size: int,
                           samples: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute the weights of a map's cells in each bin of every box.

    A sampling point further than one cell outside has no weight, one between is clamped to the edge, as in torchvision.

    Args:
        boxes: float32 [..., 4], x1 y1 x2 y2 in units of the image.
        height: Rows of the map.
        width: Columns of the map.
        size: Bins a side.
        samples: Sampling points a bin and axis.

    Returns:
        W_y [..., size, height] and W_x [..., size, width].
    """
    # Both axes at once, [..., 2, points]: a graph of half the operators.
    lengths = torch.linspace(width, height, 2, device=boxes.device, dtype=boxes.dtype).unsqueeze(-1)
    low, high = boxes[..., :2].unsqueeze(-1) * lengths, boxes[..., 2:].unsqueeze(-1) * lengths
    steps = torch.arange(size * samples, device=boxes.device, dtype=boxes.dtype)
    # Half a cell less: `aligned=True` puts the value of cell i at coordinate i, its centre.
    points = low - 0.5 + (steps + 0.5) * ((high - low) / (size * samples))
    inside = (points >= -1) & (points <= lengths)
    cells = torch.arange(max(height, width), device=boxes.device, dtype=boxes.dtype)
    distance = (torch.minimum(points.clamp(min=0), lengths - 1).unsqueeze(-1) - cells).abs()
    weights = (1 - distance).clamp(min=0) * inside.unsqueeze(-1).to(boxes.dtype)
    weights = weights.unflatten(-2, (size, samples)).mean(-2)
    return weights[..., 1, :, :height], weights[..., 0, :, :width]


def roi_align(features: torch.Tensor, boxes: torch.Tensor, size: int, samples: int,
              masks: torch.Tensor | None = None) -> torch.Tensor:
    """Average one feature level over the bins of every box.

    Args:
        features: [B, C, H, W].
        boxes: [B, N, 4], x1 y1 x2 y2 in units of the image: 0..1 inside, and they may reach outside.
        size: Bins a side.
        samples: Sampling points a bin and axis.
        masks: What every bin is multiplied with, [B, N, size, size], or None.

    Returns:
        [B·N, C, size, size]: bin (i, j) is row i from the top, column j from the left.
    """
    (batch, channels, height, width), count = features.shape, boxes.shape[1]
    # Coordinates need more digits than half precision has on fine maps.
    rows, columns = interpolation_matrices(boxes.float(), height, width, size, samples)
    columns = columns.unsqueeze(2)
    if masks is not None:
        # Far cheaper here than on the bins of all channels: [B, N, row, column, width].
        columns = columns * masks.float().unsqueeze(-1)
    # Channels last, which encoders' maps are anyway: nothing is moved between the two products, and none after them
    # where a convolution follows. One product for all boxes of an image over rows first: [N·P, H] · [H, W·C].
    flat = features.permute(0, 2, 3, 1).reshape(batch, height, width * channels)
    partial = torch.bmm(rows.to(features.dtype).reshape(batch, count * size, height), flat)
    partial = partial.reshape(batch, count, size, width, channels)
    return torch.matmul(columns.to(features.dtype), partial).flatten(0, 1).permute(0, 3, 1, 2)


def roi_align_image(images: torch.Tensor, boxes: torch.Tensor, size: int, samples: int) -> torch.Tensor:
    """Do as `roi_align` without masks, for maps of few channels such as an image.

    With those last, every product would be as narrow as they are few. Here they lie beside the rows.
    """
    (batch, channels, height, width), count = images.shape, boxes.shape[1]
    rows, columns = interpolation_matrices(boxes.float(), height, width, size, samples)
    # One product an image, [N·P, H] · [H, C·W], and one a box, [P·C, W] · [W, P].
    flat = images.permute(0, 2, 1, 3).reshape(batch, height, channels * width)
    partial = torch.bmm(rows.to(images.dtype).reshape(batch, count * size, height), flat)
    partial = partial.reshape(batch, count, size * channels, width)
    crops = torch.matmul(partial, columns.to(images.dtype).transpose(-1, -2))
    return crops.reshape(batch * count, size, channels, size).transpose(1, 2)
