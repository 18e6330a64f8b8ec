"""Focal crop: a second, enlarged view of a region's surroundings through the same encoder.

Small objects cover a cell or two of the encoder's maps; in the crop they cover many. The crop is cut from the network's
own input by RoIAlign, so a model with it has the same inputs as one without.
"""

from __future__ import annotations

import torch
from torch import nn

from .config import FocalConfig, ModelConfig, PreprocessConfig
from .roi_align import roi_align_image
from .vision import VisionEncoder

# A crop narrower than this part of the image would only enlarge single pixels.
_NARROWEST = 1 / 16


class FocalCrop(nn.Module):
    """What a region's enlarged view adds to its vector. Costs one run of the encoder a region.

    feature_width: the extractor's.
    """

    def __init__(self, config: FocalConfig, preprocess: PreprocessConfig, feature_width: int):
        super().__init__()
        self.scale, self.size = config.scale, config.size or preprocess.image_size
        self.join = nn.Linear(feature_width, feature_width)
        # Starts as nothing: a trained model gains the view without losing what it knows.
        nn.init.zeros_(self.join.weight)
        nn.init.zeros_(self.join.bias)

    def crop(self, images: torch.Tensor, boxes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """images: normalised [B, 3, S, S]. boxes: [B, N, 4] in units of the image.

        Returns crops [B·N, 3, C, C], square around the boxes' centres and grey outside the image, and the boxes in
        units of their crops [B·N, 1, 4].
        """
        boxes = boxes.float()
        centre, extent = (boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]
        side = (extent.amax(-1, keepdim=True) * self.scale).clamp(min=_NARROWEST)
        corner = centre - side / 2
        crops = roi_align_image(images, torch.cat([corner, corner + side], -1), self.size, samples=2)
        inner = (boxes - torch.cat([corner, corner], -1)) / side
        return crops, inner.flatten(0, 1).unsqueeze(1)

    def forward(self, images: torch.Tensor, boxes: torch.Tensor, masks: torch.Tensor | None, vision: VisionEncoder,
                regions: nn.Module) -> torch.Tensor:
        """images: uint8 [B, S, S, 3] → [B, N, feature_width] to be added to the extractor's `features`."""
        crops, inner = self.crop(vision.normalise(images), boxes)
        if masks is not None:
            masks = masks.flatten(0, 1).unsqueeze(1)
        features = regions.features(vision.levels(crops), inner, masks).squeeze(1)
        return self.join(features.unflatten(0, boxes.shape[:2]))


def build_focal_crop(config: ModelConfig, regions: nn.Module) -> FocalCrop | None:
    """The focal crop that the config asks for beside a region extractor; None where it asks for none."""
    return FocalCrop(config.focal, config.preprocess, regions.feature_width) if config.focal else None
