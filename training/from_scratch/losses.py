"""The modules that the curriculum's objectives optimise: around a model, each takes a batch and returns a loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ros_gpt4roi.model.config import IGNORED
from ros_gpt4roi.model.gpt4roi import GPT4RoI, VisionOutput

from .attention import attention_loss


class AttributeEmbeddings(nn.Module):
    """Oracle features of a region: an embedding a class, summed over attributes, plus its box's position.

    Args:
        model: Whose region extractor's feature vectors they stand for.
        classes: Number of classes of each attribute.
    """

    def __init__(self, model: GPT4RoI, classes: Sequence[int]):
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(n, model.config.regions.hidden) for n in classes)

    def forward(self, model: GPT4RoI, attributes: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
        """Feature vectors [B, N, hidden] of attributes [B, N, A] (−100 for no region) and boxes [B, N, 4]."""
        return self.without_position(attributes) + model.regions.position(boxes)

    def without_position(self, attributes: torch.Tensor) -> torch.Tensor:
        """The same without the box's position."""
        return sum(table(attributes[..., i].clamp(min=0)) for i, table in enumerate(self.tables))


class AttributeClassifier(nn.Module):
    """One linear head an attribute on the region extractor's vector; the heads are thrown away after the stage.

    Args:
        model: Whose encoder and region extractor learn.
        classes: Number of classes of each attribute.
    """

    def __init__(self, model: GPT4RoI, classes: Sequence[int]):
        super().__init__()
        self.model = model
        self.heads = nn.ModuleList(nn.Linear(model.config.regions.hidden, n) for n in classes)

    def forward(self, images: torch.Tensor, boxes: torch.Tensor, labels: torch.Tensor,
                masks: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        """Loss, the sum over attributes, and accuracy [A].

        Args:
            images: uint8 RGB [B, S, S, 3].
            boxes: [B, N, 4] in units of the image.
            labels: [B, N, A], −100 where there is no region or the attribute is not known.
            masks: As `GPT4RoI.encode` takes them.
        """
        _, levels = self.model.vision(images)
        vectors = self.model.regions.features(levels, boxes, masks)
        loss, right = vectors.new_zeros(()), []
        known = labels[..., 0] != IGNORED
        for attribute, head in enumerate(self.heads):
            logits, wanted = head(vectors[known]).float(), labels[..., attribute][known]
            named = wanted != IGNORED
            total = F.cross_entropy(logits, wanted, ignore_index=IGNORED, reduction="sum")
            loss = loss + total / named.sum().clamp(min=1)
            right.append((logits.argmax(-1) == wanted)[named].float().mean())
        return {"loss": loss, "accuracy": torch.stack(right)}


class FeatureAlignmentLoss(nn.Module):
    """Mean squared distance of the region extractor's vectors to the oracle features."""

    def __init__(self, model: GPT4RoI, embeddings: AttributeEmbeddings):
        super().__init__()
        self.model, self.embeddings = model, embeddings.requires_grad_(False)

    def forward(self, images: torch.Tensor, boxes: torch.Tensor, labels: torch.Tensor,
                masks: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        """The loss. labels: the regions' attributes [B, N, A], −100 where there is no region."""
        _, levels = self.model.vision(images)
        known = labels[..., 0] != IGNORED
        seen, oracle = self.model.regions.features(levels, boxes, masks), self.embeddings(self.model, labels, boxes)
        return {"loss": F.mse_loss(seen[known].float(), oracle[known].float())}


class OracleConversationLoss(nn.Module):
    """Next-token loss of a conversation whose image is blank and whose regions are oracle features.

    These pass through the extractor's own position layers and projection: what the language model learns to read there
    is what the extractor learns to write in the stages after it. Attention is supervised (attention.py).
    """

    def __init__(self, model: GPT4RoI, embeddings: AttributeEmbeddings):
        super().__init__()
        self.model, self.embeddings = model, embeddings

    def forward(self, input_ids: torch.Tensor, images: torch.Tensor, boxes: torch.Tensor, counterfactual: torch.Tensor,
                region_index: torch.Tensor, labels: torch.Tensor, attention_targets: torch.Tensor,
                **_: Any) -> dict[str, torch.Tensor]:
        """The loss of a batch of `SupervisedConversationCollator`."""
        model = self.model
        vectors = model.regions.project(self.embeddings(model, counterfactual, boxes))
        regions = vectors.unflatten(-1, (model.config.regions.embeddings, -1))
        blank = boxes.new_zeros(len(images), model.vision.token_count, regions.shape[-1])
        embedded = model.embed(input_ids, VisionOutput(blank, regions), region_index)
        return {"loss": supervised_loss(model.language, embedded, labels, attention_targets)}


class SupervisedConversationLoss(nn.Module):
    """Next-token loss of a conversation over what the model sees, with supervised attention (attention.py).

    Args:
        model: Which learns.
        embeddings: What the extractor was aligned with, where conversations speak of other attributes than a region
            has: its vector is moved by the difference.
    """

    def __init__(self, model: GPT4RoI, embeddings: AttributeEmbeddings | None):
        super().__init__()
        self.model, self.embeddings = model, None if embeddings is None else embeddings.requires_grad_(False)

    def forward(self, input_ids: torch.Tensor, images: torch.Tensor, boxes: torch.Tensor, attributes: torch.Tensor,
                counterfactual: torch.Tensor, region_index: torch.Tensor, labels: torch.Tensor,
                attention_targets: torch.Tensor, masks: torch.Tensor | None = None,
                **_: Any) -> dict[str, torch.Tensor]:
        """The loss of a batch of `SupervisedConversationCollator`."""
        moved = None
        if self.embeddings is not None:
            moved = self.embeddings.without_position(counterfactual) - self.embeddings.without_position(attributes)
        embedded = self.model.embed(input_ids, self.model.encode(images, boxes, masks, moved), region_index)
        return {"loss": supervised_loss(self.model.language, embedded, labels, attention_targets)}


def supervised_loss(language: Any, embeddings: torch.Tensor, labels: torch.Tensor,
                    targets: torch.Tensor) -> torch.Tensor:
    """`answer_loss` and `attention_loss` of prompts padded on the right.

    Args:
        language: A Llama.
        embeddings: Of the prompts, [B, L, D].
        labels: [B, L], −100 where nothing is learned.
        targets: Of the attention, [B, HEADS, L].
    """
    # No token that is learned can see the padding: without a mask attention is faster.
    out = language.base_model(inputs_embeds=embeddings, use_cache=False, output_hidden_states=True)
    loss = answer_loss(language.get_output_embeddings(), out.last_hidden_state, labels)
    return loss + attention_loss(language, out.hidden_states, targets)


def answer_loss(head: nn.Module, hidden: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Next-token loss in which an answer weighs as the square root of its length.

    So "No." is not drowned by a description.

    Args:
        head: Hidden states → logits.
        hidden: [B, L, D].
        labels: [B, L], −100 where nothing is learned; answers are runs of learned tokens.
    """
    learned = labels[:, 1:] != IGNORED
    begins = learned & ~F.pad(learned, (1, 0))[:, :-1]
    answer = begins.flatten().cumsum(0)[learned.flatten()] - 1
    weights = answer.bincount()[answer].to(torch.float32) ** -0.5
    losses = F.cross_entropy(head(hidden[:, :-1][learned]).float(), labels[:, 1:][learned], reduction="none")
    return (losses * weights).sum() / weights.sum()
