"""EfficientNet-Lite as a backbone of transformers, which has none: small, without squeeze-and-excitation, all ReLU6.

EfficientNet (arXiv 1905.11946), in the variant that Google made for small devices; sizes as in TensorFlow's
`efficientnet_lite_builder.py`, and padding too: "SAME", which puts the odd pixel on the right and at the bottom. Stages
1 to 7 have strides 2, 4, 8, 16, 16, 32 and 32. The classifier and the 1×1 convolution before it are left out.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from huggingface_hub.dataclasses import strict
from torch import nn
from transformers import AutoBackbone, AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers.backbone_utils import BackboneConfigMixin, BackboneMixin
from transformers.modeling_outputs import BackboneOutput

MODEL_TYPE = "efficientnet_lite"
#: Variant → factors of width and depth, and the image size that it was trained at.
VARIANTS: dict[int, tuple[float, float, int]] = {0: (1.0, 1.0, 224), 1: (1.0, 1.1, 240), 2: (1.1, 1.2, 260),
                                                 3: (1.2, 1.4, 280), 4: (1.4, 1.8, 300)}
_STEM = 32
# Of each stage at factors of 1: kernel, stride, expansion, channels, blocks.
_STAGES = ((3, 1, 1, 16, 1), (3, 2, 6, 24, 2), (5, 2, 6, 40, 2), (3, 2, 6, 80, 3), (5, 1, 6, 112, 3),
           (5, 2, 6, 192, 4), (3, 1, 6, 320, 1))
_EPSILON, _MOMENTUM = 1e-3, 0.01  # of batch normalisation, TensorFlow's
_STAGE_NAMES = tuple(f"stage{number}" for number in range(1, len(_STAGES) + 1))


@strict
class EfficientNetLiteConfig(BackboneConfigMixin, PreTrainedConfig):  # type: ignore[misc]
    """Which EfficientNet-Lite it is.

    Attributes:
        variant: A key of `VARIANTS`.
    """

    model_type = MODEL_TYPE

    variant: int = 0

    def __post_init__(self, **fields: Any) -> None:
        if self.variant not in VARIANTS:
            raise ValueError(f"variant is {self.variant}, expected one of {', '.join(map(str, VARIANTS))}")
        self.stage_names = list(_STAGE_NAMES)
        self.set_output_features_output_indices(out_indices=fields.pop("out_indices", None),
                                                out_features=fields.pop("out_features", None))
        super().__post_init__(**fields)

    def stages(self) -> list[tuple[int, int, int, int, int]]:
        """Of each stage kernel, stride, expansion, channels and blocks."""
        width, depth, _ = VARIANTS[self.variant]
        # Lite keeps the number of blocks of the first and the last stage.
        return [(kernel, stride, expansion, _multiple_of_8(channels * width),
                 blocks if number in (0, len(_STAGES) - 1) else math.ceil(blocks * depth))
                for number, (kernel, stride, expansion, channels, blocks) in enumerate(_STAGES)]


def _multiple_of_8(channels: float) -> int:
    """The multiple of 8 that is nearest, but not less than 90 % of the number."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


class _Convolution(nn.Sequential):
    """Convolution as TensorFlow pads it, batch normalisation, and ReLU6 where it is asked for."""

    def __init__(self, inside: int, outside: int, kernel: int, stride: int = 1, groups: int = 1,
                 bounded: bool = True) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride
        self.conv = nn.Conv2d(inside, outside, kernel, stride, kernel // 2 if stride == 1 else 0, groups=groups,
                              bias=False)
        self.norm = nn.BatchNorm2d(outside, _EPSILON, _MOMENTUM)
        self.bound = nn.ReLU6() if bounded else nn.Identity()

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        if self.stride > 1:  # else both sides get the same, which the convolution does itself
            (top, bottom), (left, right) = map(self._padding, features.shape[-2:])
            features = F.pad(features, (left, right, top, bottom))
        found: torch.Tensor = self.bound(self.norm(self.conv(features)))
        return found

    def _padding(self, side: int) -> tuple[int, int]:
        """Rows or columns of zeros before and behind a side."""
        missing = max((math.ceil(side / self.stride) - 1) * self.stride + self.kernel - side, 0)
        return missing // 2, missing - missing // 2


class _Block(nn.Module):
    """Inverted bottleneck (MobileNetV2, arXiv 1801.04381)."""

    def __init__(self, inside: int, outside: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inside * expansion
        self.adds = stride == 1 and inside == outside
        self.layers = nn.Sequential()
        if expansion > 1:
            self.layers.add_module("expand", _Convolution(inside, hidden, 1))
        self.layers.add_module("depthwise", _Convolution(hidden, hidden, kernel, stride, hidden))
        self.layers.add_module("project", _Convolution(hidden, outside, 1, bounded=False))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.layers(features)
        return features + found if self.adds else found


class EfficientNetLiteBackbone(BackboneMixin, PreTrainedModel):  # type: ignore[misc]
    """Feature maps of the stages that its config names."""

    config_class = EfficientNetLiteConfig
    base_model_prefix = MODEL_TYPE
    main_input_name = "pixel_values"
    has_attentions = False

    def __init__(self, config: EfficientNetLiteConfig) -> None:
        super().__init__(config)
        self.stem = _Convolution(3, _STEM, 3, 2)
        self.stages = nn.ModuleList()
        inside = _STEM
        for kernel, stride, expansion, outside, blocks in config.stages():
            self.stages.append(nn.Sequential(*(
                _Block(outside if number else inside, outside, kernel, 1 if number else stride, expansion)
                for number in range(blocks))))
            inside = outside
        self.num_features = [channels for _, _, _, channels, _ in config.stages()]
        self.post_init()

    def forward(self, pixel_values: torch.Tensor, **_: Any) -> BackboneOutput:
        """Compute the maps.

        Args:
            pixel_values: [B, 3, H, W], (value − 127) / 128 of the values 0..255.

        Returns:
            `feature_maps`, of each stage of `out_features` [B, C, H / stride, W / stride], rounded up.
        """
        features, maps = self.stem(pixel_values), {}
        for name, stage in zip(_STAGE_NAMES, self.stages):
            features = stage(features)
            maps[name] = features
        return BackboneOutput(feature_maps=tuple(maps[name] for name in self.out_features))


AutoConfig.register(MODEL_TYPE, EfficientNetLiteConfig)
AutoBackbone.register(EfficientNetLiteConfig, EfficientNetLiteBackbone)
