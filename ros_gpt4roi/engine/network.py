"""The part of a model that becomes an engine: all but the language model."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import torch
from accelerate import init_empty_weights
from safetensors.torch import load_file, save_file
from torch import nn

from ..configuration import build
from ..model.config import ModelConfig
from ..model.focal import build_focal_crop
from ..model.gpt4roi import GPT4RoI
from ..model.regions import build_region_extractor
from ..model.vision import VisionEncoder


# Files of model/ that the network is made of. The others may change without its graph being exported again.
SOURCES = ("architecture.py", "config.py", "deformable.py", "focal.py", "layers.py", "regions.py", "roi_align.py",
           "vision.py")


class VisionNetwork(nn.Module):
    """uint8 frames and normalised boxes → image tokens and region embeddings.

    It shares its weights with the model it is made of.
    """

    def __init__(self, config: ModelConfig, vision: nn.Module, projector: nn.Linear, regions: nn.Module,
                 focal: nn.Module | None = None):
        super().__init__()
        self.config, self.vision, self.projector, self.regions, self.focal = config, vision, projector, regions, focal

    @classmethod
    def of(cls, model: GPT4RoI) -> VisionNetwork:
        return cls(model.config, model.vision, model.projector, model.regions, model.focal).eval()

    @classmethod
    def build(cls, config: ModelConfig, width: int) -> VisionNetwork:
        """Random weights. width: D, the language model's width."""
        vision = VisionEncoder(config.vision, config.preprocess)
        regions = build_region_extractor(config.regions, vision.level_channels, width)
        return cls(config, vision, nn.Linear(vision.width, width), regions,
                   build_focal_crop(config, regions)).eval()

    @property
    def output_shapes(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """(T, D) of the image tokens and (K, D) of a region's embeddings."""
        width = self.projector.out_features
        return (self.vision.token_count, width), (self.config.regions.embeddings, width)

    @property
    def mask_side(self) -> int:
        """P: bins a side of a region's mask."""
        return self.config.regions.roi_size

    def forward(self, images: torch.Tensor, boxes: torch.Tensor,
                masks: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """images: uint8 RGB [B, S, S, 3]. boxes: float32 [B, N, 4] in units of the image. masks: float32
        [B, N, P, P] in 0..1, weights of the regions' bins, or None; the exported graph takes ones for that.

        Returns image tokens [B, T, D] and region embeddings [B, N, K, D].
        """
        tokens, levels = self.vision(images)
        extra = None if self.focal is None else self.focal(images, boxes, masks, self.vision, self.regions)
        return self.projector(tokens), self.regions(levels, boxes, masks, extra)


def fingerprint(network: VisionNetwork) -> str:
    """SHA-256 (hex) of everything that decides what the exported graph computes: config, weights, code, exporter."""
    digest = hashlib.sha256()
    here = Path(__file__).resolve().parent
    for path in (*(here.parent / "model" / name for name in SOURCES), here / "export.py", here / "graph.py",
                 here / "network.py"):
        digest.update(path.read_bytes())
    digest.update(json.dumps([torch.__version__, network.config.to_dict()], sort_keys=True).encode())
    for name, value in network.state_dict().items():
        # In float32, as they are exported: a model stored in half precision is the same however it was loaded.
        value = value.detach().cpu()
        value = (value.float() if value.is_floating_point() else value).contiguous()
        digest.update(f"{name} {tuple(value.shape)}".encode())
        digest.update(value.view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def save_network(network: VisionNetwork, folder: Path) -> None:
    """Writes what `load_network` reads, for another process."""
    (folder / "config.json").write_text(
        json.dumps({"model": network.config.to_dict(), "width": network.projector.out_features}), encoding="utf-8")
    # Clones: an encoder may share a tensor between two names, which the format refuses.
    save_file({k: v.detach().cpu().clone().contiguous() for k, v in network.state_dict().items()},
              folder / "weights.safetensors")


def load_network(folder: Path) -> VisionNetwork:
    """The network in float32 on the CPU."""
    facts = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    with init_empty_weights(include_buffers=False):
        network = VisionNetwork.build(build(ModelConfig, facts["model"]), facts["width"])
    weights = load_file(folder / "weights.safetensors")
    network.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in weights.items()}, assign=True)
    return network.eval()
