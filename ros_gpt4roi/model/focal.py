"""Focal crop: a second, enlarged view of a region's surroundings through the same encoder.

Small objects cover a cell or two of the encoder's maps; in the crop they cover many. The crop is cut from the network's
own input by RoIAlign, so a model with it has the same inputs as one without.
"""

from __future__ import annotations

import torch
from torch import nn

from .config import FocalConfig, ModelConfig, PreprocessConfig
from .regions import RegionExtractor
from .roi_align import roi_align_image
from .vision import VisionEncoder

# A crop narrower than this part of the image would only enlarge single pixels.
_NARROWEST = 1 / 16


class FocalCrop(nn.Module):
    """What a region's enlarged view adds to its vector. Costs one run of the encoder a region.

    Args:
        config: Of the crop.
        preprocess: Of the model; its image size is the crop's where `config` names none.
        feature_width: Width of the region extractor's `features`.
    """

    def __init__(self, config: FocalConfig, preprocess: PreprocessConfig, feature_width: int):
        super().__init__()
        self.scale, self.size = config.scale, config.size or preprocess.image_size
        self.join = nn.Linear(feature_width, feature_width)
        # Starts as nothing: a trained model gains the view without losing what it knows.
        nn.init.zeros_(self.join.weight)
        nn.init.zeros_(self.join.bias)

    def crop(self, images: torch.Tensor, boxes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Cut the regions' surroundings out.

        Args:
            images: Normalised [B, 3, S, S].
            boxes: [B, N, 4], x1 y1 x2 y2 in units of the image.

        Returns:
            Crops [B·N, 3, C, C], square around the boxes' centres and grey outside the image, and the boxes in units
            of their crops [B·N, 1, 4].
        """
        boxes = boxes.float()
        centre, extent = (boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]
        side = (extent.amax(-1, keepdim=True) * self.scale).clamp(min=_NARROWEST)
        corner = centre - side / 2
        crops = roi_align_image(images, torch.cat([corner, corner + side], -1), self.size, samples=2)
        inner = (boxes - torch.cat([corner, corner], -1)) / side
        return crops, inner.flatten(0, 1).unsqueeze(1)

    def forward(self, images: torch.Tensor, boxes: torch.Tensor, masks: torch.Tensor | None, vision: VisionEncoder,
                regions: RegionExtractor) -> torch.Tensor:
        """Look at every region once more, enlarged.

        Args:
            images: uint8 RGB [B, S, S, 3].
            boxes: [B, N, 4], x1 y1 x2 y2 in units of the image.
            masks: Weights of what is seen of each box, [B, N, P, P] in 0..1, or None.
            vision: The model's encoder.
            regions: The model's region extractor.

        Returns:
            [B, N, feature_width], to be added to the extractor's `features`.
        """
        crops, inner = self.crop(vision.normalise(images), boxes)
        if masks is not None:
            masks = masks.flatten(0, 1).unsqueeze(1)
        features = regions.features(vision.levels(crops), inner, masks).squeeze(1)
        return self.join(features.unflatten(0, boxes.shape[:2]))


def build_focal_crop(config: ModelConfig, regions: RegionExtractor) -> FocalCrop | None:
    """Make the focal crop that the config asks for beside a region extractor; None where it asks for none."""
    return FocalCrop(config.focal, config.preprocess, regions.feature_width) if config.focal else None
