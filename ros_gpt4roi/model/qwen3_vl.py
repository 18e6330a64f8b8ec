"""Qwen3-VL: transformers' vision encoder and decoder, called as the parts of this package's pipeline.

The encoder takes pictures of any aspect. Its patches are merged into image tokens that stand in the prompt, and
features of some of its layers (DeepStack) are added behind the decoder's first layers, at the image tokens' places.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from transformers.modeling_outputs import CausalLMOutputWithPast

from ..configuration import Configuration, setting
from .architecture import architecture
from .config import PointConfig, PromptConfig
from .gpt4roi import VisionOutput
from .picture import AXES, Picture, Pictures
from .preprocess import check_frame
from .region_replay import RegionReplay, Replay
from .roi_align import roi_align

MODEL_TYPE = "qwen3_vl"
MAX_PIXELS = 786432  # of a picture, unless a deployment says otherwise: 768 image tokens
# What a region looks like, for telling whether it has changed: bins a side of RoIAlign over the image tokens.
_LOOKS, _SAMPLES = 2, 2
# What names of weights begin with: transformers' and ours.
_NAMES = (("model.visual.", "vision."), ("model.language_model.", "language.base_model."),
          ("lm_head.", "language.lm_head."))


@dataclass(frozen=True)
class RegionWords(Configuration):
    """Regions as words: a region is its box in the prompt's text, and the network has no part that is for regions."""

    kind: str = setting("text", "Boxes in words.", choices=("text",))


@dataclass(frozen=True)
class PixelBudget(Configuration):
    """How a frame becomes the encoder's input: its sides become multiples of an image token's, its aspect stays."""

    patch: int = setting(16, "Side of a patch.", at_least=1, at_most=256, unit="pixels")
    merge: int = setting(2, "Patches a side that become one image token.", at_least=1, at_most=16)
    frames: int = setting(2, "Frames of a video that a patch spans; a picture is repeated.", at_least=1, at_most=16)
    least: int = setting(65536, "A smaller frame is enlarged to this.", at_least=1, at_most=2**26, unit="pixels")
    most: int = setting(16777216, "A larger frame is reduced to this.", at_least=1, at_most=2**26, unit="pixels")
    mean: tuple[float, float, float] = setting((0.5, 0.5, 0.5), "Mean of each RGB channel, of values in 0..1.")
    std: tuple[float, float, float] = setting((0.5, 0.5, 0.5), "Standard deviation of each RGB channel.",
                                              more_than=0)

    @property
    def token_side(self) -> int:
        """Pixels of the input that an image token stands for, each way."""
        return self.patch * self.merge

    @property
    def typical_frame(self) -> tuple[int, int]:
        """Height and width of a frame to warm up with: a camera's usual ones."""
        return 480, 640


@dataclass(frozen=True)
class Qwen3VLConfig(Configuration):
    """A model of a folder that transformers has written."""

    network: dict[str, Any] = setting({}, "Fields of transformers' configuration.")
    regions: RegionWords | RegionReplay = RegionWords()
    points: PointConfig = PointConfig()
    prompt: PromptConfig = PromptConfig()
    preprocess: PixelBudget = PixelBudget()

    def within(self, pixels: int) -> Qwen3VLConfig:
        """The same with pictures of at most so many pixels."""
        sizes = self.preprocess
        most = max(sizes.token_side**2, min(sizes.most, pixels))
        return replace(self, preprocess=replace(sizes, least=min(sizes.least, most), most=most))


def fitted_size(height: int, width: int, budget: PixelBudget) -> tuple[int, int]:
    """The size that a frame gets for the encoder.

    Args:
        height: Of the frame.
        width: Of the frame.
        budget: Sizes.

    Returns:
        Height and width.

    Raises:
        ValueError: One side is more than 200 times the other.
    """
    from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

    fitted: tuple[int, int] = smart_resize(height, width, factor=budget.token_side, min_pixels=budget.least,
                                           max_pixels=budget.most)
    return fitted


def fit_frame(frame: np.ndarray, budget: PixelBudget) -> np.ndarray:
    """Resize a frame as transformers' image processor of Qwen3-VL does.

    Args:
        frame: uint8 RGB [H, W, 3], or an array-like of it.
        budget: Sizes.

    Returns:
        uint8 RGB [H', W', 3], sides multiples of `budget.token_side`.

    Raises:
        ValueError: The frame is not such an array, or one side is more than 200 times the other.
    """
    # Half of what a program of this package would import, and only these models need it.
    from torchvision.transforms.v2 import InterpolationMode
    from torchvision.transforms.v2.functional import resize

    frame = check_frame(frame)
    size = fitted_size(frame.shape[0], frame.shape[1], budget)
    if frame.shape[:2] == size:
        return np.array(frame, order="C")
    planes = torch.tensor(frame).permute(2, 0, 1)
    resized = resize(planes, list(size), interpolation=InterpolationMode.BICUBIC, antialias=True)
    return np.ascontiguousarray(resized.permute(1, 2, 0).numpy())


class PictureOutput(NamedTuple):
    """What the vision stage hands to the language stage, of one picture of any aspect.

    Attributes:
        image_tokens: [1, T, D], row by row from the top left.
        region_embeddings: [1, N, K, D], what each region looks like; they stand in no prompt.
        deepstack: [layers, T, D], added at the image tokens' places behind the language model's first layers; None
            where the model has no such features.
        grid: Rows and columns of the image tokens, which have a position on each of these axes.
        replay: [1 + layers, N, K, D], the vectors that stand in the prompt for regions, and their features of
            DeepStack (`region_replay.py`); None where regions are words.
    """

    image_tokens: torch.Tensor
    region_embeddings: torch.Tensor
    deepstack: torch.Tensor | None
    grid: tuple[int, int]
    replay: torch.Tensor | None = None

    def to(self, device: torch.device, dtype: torch.dtype) -> PictureOutput:
        """The same on another device, in another number format."""
        return PictureOutput(self.image_tokens.to(device, dtype), self.region_embeddings.to(device, dtype),
                             None if self.deepstack is None else self.deepstack.to(device, dtype), self.grid,
                             None if self.replay is None else self.replay.to(device, dtype))

    def first(self, count: int) -> PictureOutput:
        """The same with no more than the first regions."""
        return self._replace(region_embeddings=self.region_embeddings[:, :count],
                             replay=None if self.replay is None else self.replay[:, :count])

    def joined(self, more: PictureOutput) -> PictureOutput:
        """The same with another output's regions behind its own."""
        replay = None if self.replay is None or more.replay is None else torch.cat([self.replay, more.replay], 1)
        return self._replace(region_embeddings=torch.cat([self.region_embeddings, more.region_embeddings], 1),
                             replay=replay)

    def pictures(self, image: np.ndarray, region_index: np.ndarray) -> Pictures:
        """Where this picture, and what is replayed of it, stand in a prompt.

        Args:
            image: Which tokens are image tokens, bool [L].
            region_index: int64 [L], which of the N·K vectors of regions takes a token's place, −1 for none.
        """
        found = [Picture(int(image.argmax()), *self.grid, self.deepstack)]
        if self.replay is not None:
            each = self.replay.shape[2]
            side = math.isqrt(each)
            # Of a region all vectors stand together.
            found += [Picture(int(place), side, side, self.replay[1:, region_index[place] // each])
                      for place in np.flatnonzero((region_index >= 0) & (region_index % each == 0))]
        return Pictures(sorted(found, key=lambda picture: picture.first))


AnyVisionOutput = VisionOutput | PictureOutput


def joined(seen: AnyVisionOutput, more: AnyVisionOutput) -> AnyVisionOutput:
    """An output of the vision stage with another's regions behind its own; both of one model."""
    if isinstance(seen, PictureOutput) and isinstance(more, PictureOutput):
        return seen.joined(more)
    assert isinstance(seen, VisionOutput) and isinstance(more, VisionOutput)
    return seen.joined(more)


class Decoder(nn.Module):
    """A decoder and its output layer, called as transformers' causal language models are.

    Args:
        body: The decoder.
        head: The output layer.
        tied: Whether the head's weights are those of the decoder's embedding.
    """

    def __init__(self, body: nn.Module, head: nn.Module, tied: bool):
        super().__init__()
        self.config: Any = body.config
        self.base_model, self.lm_head = body, head
        #: Weights that a file may lack, and those that they are.
        self.all_tied_weights_keys = {"lm_head.weight": "base_model.embed_tokens.weight"} if tied else {}

    @property
    def _no_split_modules(self) -> Any:
        """Layers that FSDP gathers one at a time, as transformers names them."""
        return self.base_model._no_split_modules

    def activation_checkpointing_enable(self, **settings: Any) -> None:
        """Recompute the layers' activations in the backward pass."""
        enable: Any = self.base_model.activation_checkpointing_enable
        enable(**settings)

    def get_input_embeddings(self) -> Any:
        """The embedding of tokens."""
        return self.base_model.get_submodule("embed_tokens")

    def get_output_embeddings(self) -> nn.Module:
        """The output layer."""
        return self.lm_head

    def tie_weights(self) -> None:
        """Let the head have the embedding's weights, where the model wants it."""
        if self.all_tied_weights_keys:
            self.lm_head.weight = self.get_input_embeddings().weight


class Qwen3VL(nn.Module):
    """Vision encoder and decoder.

    Args:
        config: The whole model's.

    Raises:
        ConfigError: The configuration describes no such model.
    """

    def __init__(self, config: Qwen3VLConfig):
        super().__init__()
        self.config = config
        from transformers import AutoModelForImageTextToText

        network: Any = AutoModelForImageTextToText.from_config(architecture("config.json", config.network))
        self.vision = network.model.visual
        self.language = Decoder(network.model.language_model, network.lm_head, bool(network.all_tied_weights_keys))
        self.image_token_id: int = network.config.image_token_id
        width = network.config.text_config.hidden_size
        self.regions = Replay(config.regions, width) if isinstance(config.regions, RegionReplay) else None

    @staticmethod
    def weight_name(stored: str) -> str:
        """The name here of a weight that transformers stores."""
        found = (ours + stored.removeprefix(theirs) for theirs, ours in _NAMES if stored.startswith(theirs))
        return next(found, stored)

    @staticmethod
    def stored_name(key: str) -> str:
        """The name under which transformers stores a weight."""
        return next((theirs + key.removeprefix(ours) for theirs, ours in _NAMES if key.startswith(ours)), key)

    @property
    def dtype(self) -> torch.dtype:
        """The number format of the vision stage."""
        return next(self.vision.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """Where the vision stage lies."""
        return next(self.vision.parameters()).device

    def encode(self, images: torch.Tensor, boxes: torch.Tensor, masks: torch.Tensor | None = None) -> PictureOutput:
        """Run the vision stage.

        Args:
            images: uint8 RGB [1, H, W, 3], from `fit_frame`.
            boxes: [1, N, 4], x1 y1 x2 y2 in units of the image.
            masks: Weights of a region's vectors [1, N, P, P], or None; words say a box only.

        Returns:
            What is seen of the picture and of each region.
        """
        sizes = self.config.preprocess
        _, height, width, _ = images.shape
        rows, columns = height // sizes.token_side, width // sizes.token_side
        mean, std = (torch.tensor(values, device=images.device) * 255 for values in (sizes.mean, sizes.std))
        pixels = ((images[0].float() - mean) / std).to(self.dtype)
        # The patches of one image token stand together; within a patch channels come first, then frames.
        patches = pixels.reshape(rows, sizes.merge, sizes.patch, columns, sizes.merge, sizes.patch, 3)
        patches = patches.permute(0, 3, 1, 4, 6, 2, 5).unsqueeze(5)
        patches = patches.expand(-1, -1, -1, -1, -1, sizes.frames, -1, -1).reshape(rows * columns * sizes.merge**2, -1)
        grid = torch.tensor([[1, rows * sizes.merge, columns * sizes.merge]], device=images.device)
        found = self.vision(patches, grid_thw=grid)
        features = torch.stack(found.deepstack_features) if found.deepstack_features else None
        return self.picture(found.pooler_output.unsqueeze(0), features, (rows, columns), boxes, masks)

    def picture(self, image_tokens: torch.Tensor, deepstack: torch.Tensor | None, grid: tuple[int, int],
                boxes: torch.Tensor, masks: torch.Tensor | None = None) -> PictureOutput:
        """What the encoder has made of a picture, with its regions.

        Args:
            image_tokens: [1, T, D], row by row.
            deepstack: [layers, T, D], or None.
            grid: Rows and columns of the image tokens.
            boxes: [1, N, 4], x1 y1 x2 y2 in units of the image.
            masks: As `encode` takes them.
        """
        return PictureOutput(image_tokens, region_looks(image_tokens, grid, boxes), deepstack, grid,
                             None if self.regions is None
                             else self.regions(image_tokens, deepstack, grid, boxes, masks))

    def embed(self, input_ids: torch.Tensor, vision: PictureOutput, region_index: torch.Tensor) -> torch.Tensor:
        """Embed tokens, with image tokens and what is replayed of regions spliced in.

        Args:
            input_ids: [1, L].
            vision: Of the image.
            region_index: [1, L], which of the image's N·K vectors of regions takes the token's place, −1 for none.

        Returns:
            [1, L, D].
        """
        text: torch.Tensor = self.language.get_input_embeddings()(input_ids)
        places = (input_ids == self.image_token_id).unsqueeze(-1)
        text = text.masked_scatter(places, vision.image_tokens.to(text.dtype)) if bool(places.any()) else text
        is_region = region_index[0] >= 0
        if vision.replay is None or not bool(is_region.any()):
            return text
        replayed = vision.replay[0].flatten(0, 1)[region_index[0][is_region]].to(text.dtype)
        return text.masked_scatter(is_region.unsqueeze(-1), replayed)

    def forward(self, input_ids: torch.Tensor, images: Sequence[torch.Tensor], boxes: torch.Tensor,
                region_index: torch.Tensor, attention_mask: torch.Tensor | None = None,
                labels: torch.Tensor | None = None, masks: torch.Tensor | None = None,
                **loss_arguments: Any) -> CausalLMOutputWithPast:
        """Compute the logits of every next token, and the loss where labels are given.

        Args:
            input_ids: [B, L].
            images: uint8 RGB [H, W, 3] each, of any size that `fit_frame` gives.
            boxes: [B, N, 4], x1 y1 x2 y2 in units of the image.
            region_index: [B, L], as `embed` takes it.
            attention_mask: [B, L], 0 where padded.
            labels: [B, L], −100 where nothing is to be learned.
            masks: Weights of the regions' vectors [B, N, P, P], or None.
            loss_arguments: For transformers' loss.

        Returns:
            Logits [B, L, vocabulary], and the loss.
        """
        length, embeddings, positions, features = input_ids.shape[1], [], [], []
        is_image = input_ids == self.image_token_id
        for row, image in enumerate(images):
            one = slice(row, row + 1)
            vision = self.encode(image.unsqueeze(0), boxes[one], None if masks is None else masks[one])
            embeddings.append(self.embed(input_ids[one], vision, region_index[one]))
            pictures = vision.pictures(is_image[row].cpu().numpy(), region_index[row].cpu().numpy())
            positions.append(np.broadcast_to(pictures.positions(0, length), (AXES, length)))
            features += [found for _, found in pictures.features(0, length)]
        hidden = self.language.base_model(
            inputs_embeds=torch.cat(embeddings), attention_mask=attention_mask, use_cache=False,
            position_ids=torch.from_numpy(np.stack(positions, 1)).to(input_ids.device),
            visual_pos_masks=is_image | (region_index >= 0) if features else None,
            deepstack_visual_embeds=list(torch.cat(features, 1)) if features else None).last_hidden_state
        logits = self.language.lm_head(hidden)
        loss = None
        if labels is not None:
            from transformers.loss.loss_utils import ForCausalLMLoss  # it brings what takes seconds to import

            loss = ForCausalLMLoss(logits, labels, logits.shape[-1], **loss_arguments)
        return CausalLMOutputWithPast(loss=loss, logits=logits)


def region_looks(image_tokens: torch.Tensor, grid: tuple[int, int], boxes: torch.Tensor) -> torch.Tensor:
    """What regions look like, for telling whether they have changed.

    Args:
        image_tokens: [1, T, D], row by row.
        grid: Their rows and columns.
        boxes: [1, N, 4], x1 y1 x2 y2 in units of the image.

    Returns:
        [1, N, K, D], K places of each region.
    """
    maps = image_tokens.transpose(1, 2).unflatten(2, grid)
    return roi_align(maps, boxes, _LOOKS, _SAMPLES).flatten(2).transpose(1, 2).unsqueeze(0)
