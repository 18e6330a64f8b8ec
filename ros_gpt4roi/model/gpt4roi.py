"""The whole network: image and region embeddings take the place of placeholder tokens in the language model's prompt.

GPT4RoI: Instruction Tuning Large Language Model on Region-of-Interest, arXiv 2307.03601.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn
from transformers import AutoModelForCausalLM
from transformers.modeling_outputs import CausalLMOutputWithPast

from .architecture import architecture
from .config import IGNORED, ModelConfig
from .focal import build_focal_crop
from .regions import build_region_extractor
from .vision import VisionEncoder


class VisionOutput(NamedTuple):
    """What the vision stage hands to the language stage.

    Attributes:
        image_tokens: [B, T, D].
        region_embeddings: [B, N, K, D], K embeddings a region.
    """

    image_tokens: torch.Tensor
    region_embeddings: torch.Tensor

    def to(self, device: torch.device, dtype: torch.dtype) -> VisionOutput:
        """The same on another device, in another number format."""
        return VisionOutput(self.image_tokens.to(device, dtype), self.region_embeddings.to(device, dtype))

    def first(self, count: int) -> VisionOutput:
        """The same with no more than the first regions."""
        return self._replace(region_embeddings=self.region_embeddings[:, :count])

    def joined(self, more: VisionOutput) -> VisionOutput:
        """The same with another output's regions behind its own."""
        return self._replace(region_embeddings=torch.cat([self.region_embeddings, more.region_embeddings], 1))


class GPT4RoI(nn.Module):
    """Encoder, projector, region extractor and language model.

    Args:
        config: The whole model's.
        image_token_id: Id of the placeholder that image tokens replace; a prompt has none or all T of them.
    """

    def __init__(self, config: ModelConfig, image_token_id: int):
        super().__init__()
        self.config, self.image_token_id = config, image_token_id
        self.language = AutoModelForCausalLM.from_config(architecture("language.model", config.language.model))
        self.vision = VisionEncoder(config.vision, config.preprocess)
        width = self.language.get_input_embeddings().embedding_dim
        self.projector = nn.Linear(self.vision.width, width)
        self.regions = build_region_extractor(config.regions, self.vision.level_channels, width)
        self.focal = build_focal_crop(config, self.regions)
        self.numbers = nn.Embedding(config.prompt.max_regions, width) if config.prompt.number_regions else None

    @staticmethod
    def weight_name(stored: str) -> str:
        """The name here of a weight that a checkpoint stores: the same."""
        return stored

    @staticmethod
    def stored_name(key: str) -> str:
        """The name under which a checkpoint stores a weight: the same."""
        return key

    @property
    def dtype(self) -> torch.dtype:
        """The number format of what is spliced into prompts."""
        return self.projector.weight.dtype

    @property
    def device(self) -> torch.device:
        """Where the vision stage lies."""
        return self.projector.weight.device

    def encode(self, images: torch.Tensor, boxes: torch.Tensor, masks: torch.Tensor | None = None,
               extra: torch.Tensor | None = None) -> VisionOutput:
        """Run the vision stage.

        Args:
            images: uint8 RGB [B, S, S, 3].
            boxes: [B, N, 4], x1 y1 x2 y2 in units of the image.
            masks: Weights of a region's RoI bins [B, N, P, P] in 0..1, or None for whole boxes.
            extra: Added to what the region extractor sees before it is projected, [B, N, feature_width].

        Returns:
            Image tokens and region embeddings.
        """
        tokens, levels = self.vision(images)
        if self.focal is not None:
            seen = self.focal(images, boxes, masks, self.vision, self.regions)
            extra = seen if extra is None else seen + extra
        return VisionOutput(self.projector(tokens), self.regions(levels, boxes, masks, extra))

    def embed(self, input_ids: torch.Tensor, vision: VisionOutput, region_index: torch.Tensor) -> torch.Tensor:
        """Embed tokens, with image tokens and region embeddings spliced in.

        Args:
            input_ids: [B, L].
            vision: Of the B images.
            region_index: [B, L], which of the image's N·K region embeddings (flattened) takes the token's place, −1 for
                none.

        Returns:
            [B, L, D].
        """
        text = self.language.get_input_embeddings()(input_ids)
        is_image, is_region = input_ids == self.image_token_id, region_index >= 0

        def gather(source: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
            index = index.clamp(min=0, max=source.shape[1] - 1).unsqueeze(-1).expand(-1, -1, source.shape[-1])
            return source.gather(1, index).to(text.dtype)

        text = torch.where(is_image.unsqueeze(-1), gather(vision.image_tokens, is_image.long().cumsum(1) - 1), text)
        regions = self._numbered(vision.region_embeddings).flatten(1, 2)
        if regions.shape[1] == 0:
            return text
        return torch.where(is_region.unsqueeze(-1), gather(regions, region_index), text)

    def _numbered(self, regions: torch.Tensor) -> torch.Tensor:
        """Region embeddings [B, N, K, D] with the vectors of their numbers added; a prompt lists no more than those."""
        if self.numbers is None:
            return regions
        numbers = self.numbers.weight[:regions.shape[1]]
        missing = regions.shape[1] - len(numbers)
        return regions + F.pad(numbers, (0, 0, 0, missing)).unsqueeze(1).to(regions.dtype)

    def forward(self, input_ids: torch.Tensor, images: torch.Tensor, boxes: torch.Tensor, region_index: torch.Tensor,
                attention_mask: torch.Tensor | None = None, labels: torch.Tensor | None = None,
                masks: torch.Tensor | None = None, **loss_arguments: Any) -> CausalLMOutputWithPast:
        """Compute the logits of every next token, or where labels are given of those to be learned, and their loss.

        Args:
            input_ids: [B, L].
            images: uint8 RGB [B, S, S, 3].
            boxes: [B, N, 4], x1 y1 x2 y2 in units of the image.
            region_index: [B, L], as `embed` takes it.
            attention_mask: [B, L], 0 where padded.
            labels: [B, L], −100 where nothing is to be learned.
            masks: As `encode` takes them.
            loss_arguments: For transformers' loss.

        Returns:
            Logits [B, L, vocabulary]; with labels, the loss, and logits [learned, vocabulary] of the tokens before
            those that have one, row by row.
        """
        embeddings = self.embed(input_ids, self.encode(images, boxes, masks), region_index)
        if labels is not None:  # an answer is a quarter of a prompt, and the vocabulary the widest layer there is
            learned = labels[:, 1:] != IGNORED
            loss_arguments |= {"labels": labels, "shift_labels": labels[:, 1:][learned],
                               "logits_to_keep": F.pad(learned, (0, 1))}
        return self.language(inputs_embeds=embeddings, attention_mask=attention_mask, use_cache=False, **loss_arguments)
