"""The encoder of a model that takes pictures of any aspect, as a network that becomes an engine.

Its graph has no fixed size: ONNX Runtime runs it on any picture, and a TensorRT engine is built for a few sizes of it.
What regions look like is computed of its image tokens, outside of it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from ..configuration import build
from ..model.qwen3_vl import PictureOutput, PixelBudget, Qwen3VL, Qwen3VLConfig, fitted_size
from .graph import INPUTS
from .precision.calibration import StoredFrame, load_pictures
from .profiles import EngineProfile

TOKENS, DEEPSTACK = "image_tokens", "deepstack"


class PictureNetwork(nn.Module):
    """uint8 picture → image tokens and DeepStack features, in operators of the ONNX standard.

    It computes what transformers' encoder computes, with that one's parts and weights. transformers' own way through
    them reads numbers of the grid back as it goes, which no graph of a dynamic size can hold.

    Args:
        model: Whose encoder it is.
        budget: The sizes that pictures get; None: those of the model's own configuration.
    """

    keep_unquantised = ("vision.merger", "vision.deepstack_merger_list")  # the language model reads what they write
    inputs = INPUTS[:1]
    #: Of no region: nothing of it has a mask.
    mask_side = None
    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, model: Qwen3VL, budget: PixelBudget | None = None):
        super().__init__()
        self.config, self.vision = model.config, model.vision
        self._see = model.picture
        self.budget = sizes = budget or model.config.preprocess
        kernel = self.vision.patch_embed.proj
        # A patch of a picture is the same in every frame, so that one product with the sum of their weights is enough.
        self.patches = nn.Linear(kernel.in_channels * sizes.patch**2, kernel.out_channels)
        self.patches.weight = nn.Parameter(kernel.weight.detach().float().sum(2).flatten(1).to(kernel.weight.dtype))
        self.patches.bias = kernel.bias
        device = self.vision.rotary_pos_emb.inv_freq.device
        for name, values in (("mean", sizes.mean), ("std", sizes.std)):
            scaled = (torch.tensor(values, device=device) * 255).view(3, 1, 1)
            self.register_buffer(name, scaled, persistent=False)

    @classmethod
    def of(cls, model: Qwen3VL, budget: PixelBudget | None = None) -> PictureNetwork:
        """As the class itself, for inference."""
        return cls(model, budget).eval()

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of what the graph computes."""
        return (TOKENS, DEEPSTACK) if len(self.vision.deepstack_merger_list) else (TOKENS,)

    @property
    def compared(self) -> tuple[str, ...]:
        """What an engine is compared with PyTorch by."""
        return self.outputs

    def output_shapes(self, height: int, width: int) -> tuple[tuple[int, ...], ...]:
        """Shapes of the outputs for a picture of that size."""
        tokens = height * width // self.budget.token_side**2, self.vision.config.out_hidden_size
        return ((1, *tokens), (len(self.vision.deepstack_merger_list), *tokens))[:len(self.outputs)]

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Encodes a picture.

        Args:
            images: uint8 RGB [1, H, W, 3], sides multiples of an image token's.

        Returns:
            Image tokens [1, T, D], row by row, and where the model has them DeepStack features [layers, T, D].
        """
        sizes, vision = self.budget, self.vision
        rows, columns = images.shape[1] // sizes.token_side, images.shape[2] // sizes.token_side
        merge, patch = sizes.merge, sizes.patch
        pixels = images.to(self.mean.dtype)[0].reshape(rows, merge, patch, columns, merge, patch, 3)
        # The patches of one image token stand together, channels first within a patch.
        pixels = (pixels.permute(0, 3, 1, 4, 6, 2, 5) - self.mean) / self.std
        x = self.patches(pixels.reshape(rows * columns * merge**2, -1).to(self.patches.weight.dtype))
        down, across = (torch.arange(count * merge, device=images.device, dtype=torch.float32).unsqueeze(-1)
                        for count in (rows, columns))
        x = x + self._merged(self._places(down, across), rows, columns).to(x.dtype)
        angles = [place * vision.rotary_pos_emb.inv_freq for place in (down, across)]
        height, width = rows * merge, columns * merge
        both = [angles[0].unsqueeze(1).expand(height, width, -1), angles[1].unsqueeze(0).expand(height, width, -1)]
        turns = self._merged(torch.cat(both * 2, -1), rows, columns).unsqueeze(1)
        cosine, sine, features = turns.cos(), turns.sin(), []
        for number, block in enumerate(vision.blocks):
            x = x + self._attend(block.attn, block.norm1(x), cosine, sine)
            x = x + block.mlp(block.norm2(x))
            if number in vision.deepstack_visual_indexes:
                place = vision.deepstack_visual_indexes.index(number)
                features.append(vision.deepstack_merger_list[place](x))
        tokens = vision.merger(x).unsqueeze(0)
        return (tokens, torch.stack(features)) if features else (tokens,)

    def _places(self, down: torch.Tensor, across: torch.Tensor) -> torch.Tensor:
        """The learned grid of positions, resampled to rows [h, 1] and columns [w, 1] of patches: [h, w, C].

        Bilinear resampling is separable: two small matrices. Corners lie on corners.
        """
        side = self.vision.num_grid_per_side
        cells = torch.arange(side, device=down.device, dtype=torch.float32)
        scaled = (places * ((side - 1) / torch.sym_max(places.shape[0] - 1, 1)) for places in (down, across))
        rows, columns = ((1 - (places - cells).abs()).clamp(min=0) for places in scaled)
        grid = self.vision.pos_embed.weight.float()
        by_row = (rows @ grid.reshape(side, -1)).reshape(down.shape[0], side, -1)
        return torch.matmul(columns, by_row)

    def _merged(self, values: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
        """Values of patches [h, w, C] in the order of patches [h · w, C], those of an image token together."""
        merge = self.budget.merge
        return values.reshape(rows, merge, columns, merge, -1).transpose(1, 2).reshape(rows * columns * merge**2, -1)

    @staticmethod
    def _attend(attention: Any, x: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor) -> torch.Tensor:
        heads = attention.num_heads
        q, k, v = attention.qkv(x).unflatten(-1, (3, heads, -1)).unbind(1)
        turned = torch.cat([q, k], 1).float()
        half = turned.shape[-1] // 2
        turned = turned * cosine + torch.cat([-turned[..., half:], turned[..., :half]], -1) * sine
        q, k = turned[:, :heads].to(x.dtype), turned[:, heads:].to(x.dtype)
        q, k, v = (part.transpose(0, 1).unsqueeze(0) for part in (q, k, v))
        found = F.scaled_dot_product_attention(q, k, v)
        return attention.proj(found[0].transpose(0, 1).flatten(1))

    def picture(self, outputs: Sequence[torch.Tensor], images: np.ndarray, boxes: np.ndarray,
                masks: np.ndarray | None = None) -> PictureOutput:
        """What the vision stage gives of a picture.

        Args:
            outputs: Of the network or of an engine of it.
            images: The picture [1, H, W, 3].
            boxes: float32 [1, N, 4], x1 y1 x2 y2 in units of the image.
            masks: As `Qwen3VL.encode` takes them.
        """
        tokens, *features = outputs
        grid = images.shape[1] // self.budget.token_side, images.shape[2] // self.budget.token_side
        return self._see(tokens, features[0] if features else None, grid, torch.from_numpy(boxes).to(tokens.device),
                         None if masks is None else torch.from_numpy(masks).to(tokens.device))

    # --- as an engine ----------------------------------------------------------------------------------------------

    def example(self) -> tuple[tuple[torch.Tensor, ...], tuple[dict[int, Any], ...]]:
        """Inputs to trace the network with, and which of their sizes are dynamic."""
        side = self.budget.token_side
        rows, columns = (torch.export.Dim(name, min=1) for name in ("rows", "columns"))
        # Unlike sides, and no side of one token, which would be taken for a constant.
        return (torch.zeros(1, 3 * side, 5 * side, 3, dtype=torch.uint8),), ({1: side * rows, 2: side * columns},)

    def record(self) -> dict[str, Any]:
        """What `restore` makes a network of, for another process."""
        return {"picture": dataclasses.asdict(self.config)}

    @classmethod
    def restore(cls, record: dict[str, Any]) -> PictureNetwork:
        """A network of random weights."""
        return cls.of(Qwen3VL(build(Qwen3VLConfig, record["picture"])))

    def sizes(self, profile: EngineProfile) -> list[tuple[int, int]]:
        """Heights and widths of pictures that an engine is built for: what camera frames become."""
        return sorted({fitted_size(height, width, self.budget) for height, width in profile.picture_sizes})

    def plan_shapes(self, profile: EngineProfile) -> list[dict[str, list[list[int]]]]:
        """Least, usual and largest shape of every input, of each optimisation profile of a plan."""
        return [{self.inputs[0]: [[1, *size, 3]] * 3} for size in self.sizes(profile)]

    def shapes_text(self, profile: EngineProfile) -> str:
        """What of a profile is built into a plan, as text."""
        sizes = " ".join(f"{width}x{height}" for height, width in self.sizes(profile))
        return f"pictures {sizes} workspace {profile.workspace_mib} MiB"

    def frames_record(self, profile: EngineProfile) -> dict[str, Any]:
        """What another process gives `load_stored` to calibrate on the pictures of `frames`."""
        return {"sizes": self.sizes(profile)}

    def frames(self, folder: Path, profile: EngineProfile) -> list[StoredFrame]:
        """The stored frames of a folder in the sizes of a profile, each size and each frame at least once."""
        return load_pictures(folder, self.sizes(profile))
