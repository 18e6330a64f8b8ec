"""What a stage optimises: a module that takes a batch and returns a loss, around a GPT4RoI model.

`attributes`: classify every region's attributes from its vector, which teaches an encoder without pretrained weights to see.
`facts`: next token, with regions told instead of seen, which teaches a language model without pretrained weights to speak.
`align`: the region's vector is drawn to the one that was told, so that the extractor writes what the language model reads.
`conversation`: next token with everything in place.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from ros_gpt4roi.model.gpt4roi import GPT4RoI, VisionOutput
from ros_gpt4roi.model.prompt import IGNORED

from .pointers import pointer_loss


class AttributeObjective(nn.Module):
    """One linear head an attribute on the region extractor's vector; the heads are thrown away after the stage.

    classes: number of classes of each attribute.
    """

    def __init__(self, model: GPT4RoI, classes: Sequence[int]):
        super().__init__()
        self.model = model
        self.heads = nn.ModuleList(nn.Linear(model.config.regions.hidden, n) for n in classes)

    def forward(self, images: torch.Tensor, boxes: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        """labels: [B, N, A], −100 where there is no region or the attribute is not known.

        Returns loss (sum over attributes) and accuracy [A].
        """
        _, levels = self.model.vision(images)
        vectors = self.model.regions.features(levels, boxes)
        loss, right = 0.0, []
        known = labels[..., 0] != IGNORED
        for attribute, head in enumerate(self.heads):
            logits, wanted = head(vectors[known]).float(), labels[..., attribute][known]
            named = wanted != IGNORED
            total = F.cross_entropy(logits, wanted, ignore_index=IGNORED, reduction="sum")
            loss = loss + total / named.sum().clamp(min=1)
            right.append((logits.argmax(-1) == wanted)[named].float().mean())
        return {"loss": loss, "accuracy": torch.stack(right)}


class Facts(nn.Module):
    """What is told of a region instead of seeing it: an embedding a class, summed over attributes, plus the box's position.

    classes: number of classes of each attribute.
    """

    def __init__(self, model: GPT4RoI, classes: Sequence[int]):
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(n, model.config.regions.hidden) for n in classes)

    def forward(self, model: GPT4RoI, attributes: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
        """attributes: [B, N, A], −100 where there is no region. Returns vectors [B, N, hidden]."""
        return self.looks(attributes) + model.regions.position(boxes)

    def looks(self, attributes: torch.Tensor) -> torch.Tensor:
        """The same without the position."""
        return sum(table(attributes[..., i].clamp(min=0)) for i, table in enumerate(self.tables))


def answer_loss(head: nn.Module, hidden: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Next-token loss in which an answer weighs as the square root of its length: "No." is not drowned by a description.

    hidden: [B, L, D]. labels: [B, L], −100 where nothing is learned; answers are runs of learned tokens.
    """
    learned = labels[:, 1:] != IGNORED
    begins = learned & ~F.pad(learned, (1, 0))[:, :-1]
    answer = begins.flatten().cumsum(0)[learned.flatten()] - 1
    weights = answer.bincount()[answer].to(torch.float32) ** -0.5
    losses = F.cross_entropy(head(hidden[:, :-1][learned]).float(), labels[:, 1:][learned], reduction="none")
    return (losses * weights).sum() / weights.sum()


def guided_loss(language: nn.Module, embeddings: torch.Tensor, labels: torch.Tensor, pointers: torch.Tensor) -> torch.Tensor:
    """`answer_loss` and `pointer_loss` of prompts padded on the right.

    embeddings: [B, L, D]. labels: [B, L]. pointers: [B, HEADS, L].
    """
    # No token that is learned can see the padding: without a mask attention is faster.
    out = language.base_model(inputs_embeds=embeddings, use_cache=False, output_hidden_states=True)
    loss = answer_loss(language.get_output_embeddings(), out.last_hidden_state, labels)
    return loss + pointer_loss(language, out.hidden_states, pointers)


class FactsObjective(nn.Module):
    """Next-token loss of a conversation whose picture is blank and whose regions are told instead of seen.

    The facts pass through the extractor's own position layers and projection: what the language model learns to read
    there is what the extractor learns to write in the stages after it. Attention is guided (pointers.py).
    """

    def __init__(self, model: GPT4RoI, facts: Facts):
        super().__init__()
        self.model, self.facts = model, facts

    def forward(self, input_ids: torch.Tensor, images: torch.Tensor, boxes: torch.Tensor, told: torch.Tensor,
                region_index: torch.Tensor, attention_mask: torch.Tensor, labels: torch.Tensor, pointers: torch.Tensor,
                **_) -> dict[str, torch.Tensor]:
        """told: the regions' attributes [B, N, A], −100 where there is no region. pointers: [B, HEADS, L].

        The rest as GPT4RoI.forward takes it.
        """
        model = self.model
        vectors = model.regions.project(self.facts(model, told, boxes))
        embeddings = vectors.unflatten(-1, (model.config.regions.embeddings, -1))
        blank = boxes.new_zeros(len(images), model.vision.token_count, embeddings.shape[-1])
        embedded = model.embed(input_ids, VisionOutput(blank, embeddings), region_index)
        return {"loss": guided_loss(model.language, embedded, labels, pointers)}


class AlignObjective(nn.Module):
    """Mean squared distance of the extractor's vectors to those that the language model was told in `facts`."""

    def __init__(self, model: GPT4RoI, facts: Facts):
        super().__init__()
        self.model, self.facts = model, facts.requires_grad_(False)

    def forward(self, images: torch.Tensor, boxes: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        """labels: the regions' attributes [B, N, A], −100 where there is no region."""
        _, levels = self.model.vision(images)
        known = labels[..., 0] != IGNORED
        seen, told = self.model.regions.features(levels, boxes), self.facts(self.model, labels, boxes)
        return {"loss": F.mse_loss(seen[known].float(), told[known].float())}


class ConversationObjective(nn.Module):
    """Next-token loss of a conversation with image tokens and region embeddings in place; guided (pointers.py) where the batch
    says what points where.

    facts: what the extractor was aligned with, where batches tell of a region other attributes than it has: by so much its
    vector is moved.
    """

    def __init__(self, model: GPT4RoI, facts: Facts | None = None):
        super().__init__()
        self.model, self.facts = model, None if facts is None else facts.requires_grad_(False)

    def forward(self, pointers: torch.Tensor | None = None, **batch) -> dict[str, torch.Tensor]:
        """The batch as GPT4RoI.forward takes it; pointers: [B, HEADS, L]; attributes, told: [B, N, A], with facts."""
        if pointers is None:
            return {"loss": self.model(**batch).loss}
        moved = None if self.facts is None else self.facts.looks(batch["told"]) - self.facts.looks(batch["attributes"])
        vision = self.model.encode(batch["images"], batch["boxes"], extra=moved)
        embedded = self.model.embed(batch["input_ids"], vision, batch["region_index"])
        return {"loss": guided_loss(self.model.language, embedded, batch["labels"], pointers)}

    def activation_checkpointing_enable(self, **settings) -> None:
        """Recomputes the language model's activations in the backward pass (TrainingArguments.activation_checkpointing)."""
        self.model.language.activation_checkpointing_enable(**settings)
