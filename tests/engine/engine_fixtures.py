"""Configs of tiny models of every kind, and inputs for them."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "model"))
from model_fixtures import tiny_config  # noqa: E402

from ros_gpt4roi.model.config import (  # noqa: E402
    DeformableConfig,
    FocalConfig,
    ModelConfig,
    RoIAlignConfig,
    RoIAlignLiteConfig,
    VisionConfig,
)

RESNET = dict(model_type="resnet", embedding_size=8, hidden_sizes=[8, 16, 16, 24], depths=[1, 1, 1, 1],
              layer_type="basic", hidden_act="relu")
SIGLIP = dict(model_type="siglip_vision_model", hidden_size=16, intermediate_size=32, num_hidden_layers=4,
              num_attention_heads=2, image_size=32, patch_size=8)


def config_of(encoder: str, extractor: str, focal: float = 0.0) -> ModelConfig:
    """A tiny model of every kind of encoder and region extractor. focal: side of the focal crop, 0 for none."""
    config = tiny_config(64)
    if encoder == "resnet":
        config = dataclasses.replace(config, vision=VisionConfig(
            encoder=RESNET, levels=("stage1", "stage2", "stage3", "stage4"), tokens="stage2"))
    elif encoder == "siglip":
        config = dataclasses.replace(config, vision=dataclasses.replace(config.vision, encoder=SIGLIP, token_grid=2))
    pyramid = {"scales": (2, 2, 1, 1) if encoder == "clip" else None}
    kind, own = {"roi_align": (RoIAlignConfig, pyramid), "roi_align_lite": (RoIAlignLiteConfig, pyramid),
                 "deformable": (DeformableConfig, {"heads": 2, "layers": 2})}[extractor]
    return dataclasses.replace(config, regions=config.regions.converted(kind, embeddings=2, **own),
                               focal=FocalConfig(focal) if focal else None)


def random_masks(side: int, frames: int, regions: int, seed: int = 0) -> np.ndarray:
    """Weights of the regions' bins, some of them 0."""
    masks = np.random.default_rng(seed).uniform(-0.3, 1.0, (frames, regions, side, side))
    return masks.clip(min=0).astype(np.float32)


def inputs(size: int, frames: int, regions: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Noise and random boxes, some of which reach outside the image."""
    random = np.random.default_rng(seed)
    boxes = np.sort(random.uniform(-0.1, 1.1, (frames, regions, 2, 2)), axis=2).reshape(frames, regions, 4)
    return random.integers(0, 256, (frames, size, size, 3), np.uint8), boxes.astype(np.float32)
