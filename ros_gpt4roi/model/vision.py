"""Image encoder: frames → image tokens and feature maps at several levels.

Either a vision transformer (CLIP, SigLIP: levels are hidden states, all of one stride) or a hierarchical backbone
through transformers' AutoBackbone (levels are stages, strides 4, 8, 16, …).
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import nn
from transformers import AutoBackbone, AutoModel

from .architecture import architecture
from .config import ConfigError, PreprocessConfig, VisionConfig

# SigLIP 2 comes in both layouts: fixed sizes are "siglip_vision_model", NaFlex is "siglip2_vision_model".
_VIT_TYPES = ("clip_vision_model", "siglip_vision_model", "siglip2_vision_model")


class VisionEncoder(nn.Module):
    """Encoder of any size.

    Args:
        config: The encoder's architecture and which of its maps are used.
        preprocess: Image size, mean and standard deviation.

    Attributes:
        width: Channels of an image token.
        token_count: Image tokens a frame.
        level_channels: Channels of each level, finest first.

    Raises:
        ConfigError: The encoder has no such levels, or is made for another image size.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, config: VisionConfig, preprocess: PreprocessConfig):
        super().__init__()
        self.config, self.image_size = config, preprocess.image_size
        self.model_type = config.encoder.get("model_type")
        self.is_vit = self.model_type in _VIT_TYPES
        names = sorted({*config.levels, config.tokens}, key=str)
        if self.is_vit:
            self.model = AutoModel.from_config(architecture("vision.encoder", config.encoder))
        else:
            self.model = AutoBackbone.from_config(architecture("vision.encoder", config.encoder, out_features=names))
        # One value a channel, over whole planes: along the innermost axis of three, engines are ten times slower.
        self.register_buffer("mean", (torch.tensor(preprocess.mean) * 255).view(3, 1, 1), persistent=False)
        self.register_buffer("std", (torch.tensor(preprocess.std) * 255).view(3, 1, 1), persistent=False)
        self._check_names(names)
        self.width, self.token_count, self.level_channels = self._shapes()

    def _check_names(self, names: list[int | str]) -> None:
        if self.is_vit:
            count = self.model.config.num_hidden_layers + 1
            known: list[int | str] = [n for n in names if isinstance(n, int) and -count <= n < count]
        else:
            known = [n for n in names if n in self.model.stage_names]
        if len(known) != len(names):
            expected = f"-{count}..{count - 1}" if self.is_vit else self.model.stage_names
            raise ConfigError(f"vision.levels or vision.tokens name {set(names) - set(known)}, expected {expected}")
        own = getattr(self.model.config, "image_size", None) if self.is_vit else None
        if own is not None and own != self.image_size and not self.config.interpolate_positions:
            raise ConfigError(f"preprocess.image_size is {self.image_size} and the encoder's is {own}, "
                              "expected the same or vision.interpolate_positions")

    def _shapes(self) -> tuple[int, int, tuple[int, ...]]:
        config = self.model.config
        if self.is_vit:
            width, side = config.hidden_size, self.image_size // config.patch_size
            channels = (width,) * len(self.config.levels)
        else:
            by_stage = dict(zip(self.model.out_features, self.model.channels))
            width, channels = by_stage[self.config.tokens], tuple(by_stage[n] for n in self.config.levels)
            # Strides of a backbone are not in its configuration: ask a copy that has shapes but no numbers.
            empty = torch.zeros(1, 3, self.image_size, self.image_size, device="meta")
            shadow = copy.deepcopy(self.model).to("meta").eval()
            side = dict(zip(shadow.out_features, shadow(empty).feature_maps))[self.config.tokens].shape[-1]
        grid = self.config.token_grid or side
        return width, grid * grid, channels

    def _maps(self, pixels: torch.Tensor) -> dict[int | str, torch.Tensor]:
        """pixels: normalised [B, 3, S, S] → every named level as [B, C, h, w]."""
        names = {*self.config.levels, self.config.tokens}
        if not self.is_vit:
            maps = dict(zip(self.model.out_features, self.model(pixels).feature_maps))
            return {name: maps[name] for name in names}
        side = pixels.shape[-1] // self.model.config.patch_size
        states = self._hidden_states(pixels, side)

        def as_map(state: torch.Tensor) -> torch.Tensor:
            # CLIP puts a class token in front of the patches, SigLIP none.
            patches = state[:, state.shape[1] - side * side:]
            return patches.transpose(1, 2).unflatten(2, (side, side))

        return {name: as_map(states[int(name)]) for name in names}

    def _hidden_states(self, pixels: torch.Tensor, side: int) -> tuple[torch.Tensor, ...]:
        if self.model_type != "siglip2_vision_model":
            return self.model(pixel_values=pixels, output_hidden_states=True,
                              interpolate_pos_encoding=self.config.interpolate_positions).hidden_states
        # NaFlex takes patches, channels last, and the shape of their grid.
        patch, batch = self.model.config.patch_size, pixels.shape[0]
        patches = pixels[..., :side * patch, :side * patch].unflatten(3, (side, patch)).unflatten(2, (side, patch))
        patches = patches.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)
        return self.model(pixel_values=patches, output_hidden_states=True,
                          pixel_attention_mask=torch.ones(patches.shape[:2], dtype=torch.long, device=pixels.device),
                          spatial_shapes=torch.tensor([[side, side]] * batch, device=pixels.device)).hidden_states

    def normalise(self, images: torch.Tensor) -> torch.Tensor:
        """Turn uint8 RGB images [B, S, S, 3] into the encoder's input [B, 3, S, S], in its number format."""
        dtype = next(self.model.parameters()).dtype
        return ((images.to(self.mean.dtype).permute(0, 3, 1, 2) - self.mean) / self.std).to(dtype)

    def levels(self, pixels: torch.Tensor) -> list[torch.Tensor]:
        """Compute feature levels alone.

        Args:
            pixels: Normalised [B, 3, s, s], of a size that the encoder takes.

        Returns:
            The levels, finest first, each [B, C, h, w].
        """
        maps = self._maps(pixels)
        return [maps[name] for name in self.config.levels]

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Encode images.

        Args:
            images: uint8 RGB [B, S, S, 3].

        Returns:
            Image tokens [B, token_count, width], row by row from the top left, and the levels, each [B, C, h, w].
        """
        maps = self._maps(self.normalise(images))
        tokens = maps[self.config.tokens]
        if self.config.token_grid is not None:
            tokens = F.adaptive_avg_pool2d(tokens, self.config.token_grid)
        return tokens.flatten(2).transpose(1, 2), [maps[name] for name in self.config.levels]
