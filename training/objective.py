"""What a stage optimises: an objective says what becomes of the data set, how batches are made and what their loss is.

The two stages that GPT4RoI was published with both learn conversations. A recipe may name other objectives; each is a
class with the same few methods, whose fields are its options in the recipe (see from_scratch/objectives.py).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset
from typing_extensions import override

from ros_gpt4roi.configuration import Configuration, setting
from ros_gpt4roi.model.config import IGNORED
from ros_gpt4roi.model.gpt4roi import GPT4RoI
from ros_gpt4roi.model.prompt import ChatPrompts
from ros_gpt4roi.model.qwen3_vl import Qwen3VL

from .collate import AttentionCollator, ConversationCollator
from .data.sample import Sample
from .errors import RecipeError
from .region_attention import best_head_loss

Collator = Callable[[Sequence[Sample]], dict[str, Any]]
_OF_TOKENS = ("input_ids", "attention_mask", "labels", "region_index", "attention_targets")  # by the last dimension


class Objective(Configuration, ABC):
    """Base of the objectives; a subclass's fields are its options in a recipe, where `kind` names it."""

    kind: str

    @property
    def needs_whole_matrices(self) -> str:
        """What of it needs every matrix in one piece, which FSDP does not leave; empty: nothing."""
        return ""

    @property
    def reads(self) -> frozenset[str]:
        """The parts of a model that its loss goes through."""
        return frozenset({"vision", "projector", "regions", "focal", "numbers", "language"})

    def wrap(self, samples: Dataset, seed: int) -> Dataset:
        """The training data set as this objective wants it."""
        return samples

    @abstractmethod
    def collator(self, prompts: Any) -> Collator:
        """Makes the batches that the module takes. prompts: of the model that is trained."""

    @abstractmethod
    def module(self, model: Any, samples: Dataset, run: Path) -> nn.Module:
        """The module that takes a batch's tensors by name and returns {"loss": …} and perhaps {"accuracy": [A]}.

        Args:
            model: What is trained; the module's attribute `model`.
            samples: The training data set, not wrapped.
            run: Folder of the run, where results of earlier stages lie.
        """

    def optimizer(self, named: Sequence[tuple[str, nn.Parameter]],
                  learning_rate: float) -> torch.optim.Optimizer | None:
        """An optimiser of the objective's own, or None for the one that TrainingArguments name."""
        return None

    def save(self, weights: Mapping[str, torch.Tensor], folder: Path) -> None:  # noqa: B027, few have something to save
        """Stores in the stage's folder what was learned beside the model. weights: those of the module."""


class ConversationLoss(nn.Module):
    """Next-token loss of a conversation with image tokens and region embeddings in place.

    Args:
        model: Which learns.
        rows: Conversations that go through it together; 0: all of a batch.
        attention: Weight of the supervised attention (training/region_attention.py) of batches that have its targets.
        layers: Of the language model, from 0, whose attention is supervised.
    """

    def __init__(self, model: GPT4RoI | Qwen3VL, rows: int = 0, attention: float = 0.0, layers: Sequence[int] = ()):
        super().__init__()
        self.model, self.rows, self.attention, self.layers = model, rows, attention, tuple(layers)

    def forward(self, num_items_in_batch: torch.Tensor | int | None = None, **batch: Any) -> dict[str, torch.Tensor]:
        """The loss.

        Args:
            num_items_in_batch: Learned tokens that the sum of all losses is divided by; None: those of this batch.
            batch: As the model's `forward` takes it, with `attention_targets` [B, K, L] where attention is supervised.
        """
        if not self.training:  # what is validated on is the conversation alone
            batch.pop("attention_targets", None)
        if num_items_in_batch is None:
            num_items_in_batch = _learned(batch)
        if not self.rows:
            return {"loss": self._loss(batch, num_items_in_batch)}
        by_length = batch["attention_mask"].sum(1).argsort(descending=True)
        losses = [self._loss(_part(batch, rows), num_items_in_batch) for rows in by_length.split(self.rows)]
        return {"loss": torch.stack(losses).sum()}

    def _loss(self, batch: dict[str, Any], num_items_in_batch: torch.Tensor | int) -> torch.Tensor:
        targets = batch.pop("attention_targets", None)
        if isinstance(self.model, GPT4RoI):
            # Padding is on the right, where no token that is learned sees it: without a mask attention is faster.
            batch = {name: values for name, values in batch.items() if name != "attention_mask"}
        if targets is None:
            return self.model(**batch, num_items_in_batch=num_items_in_batch).loss
        out = self.model(**batch, num_items_in_batch=num_items_in_batch, output_hidden_states=True)
        missed = best_head_loss(self.model.language, out.hidden_states, targets, self.layers)
        # It weighs as the tokens do that are learned, however a batch is cut.
        return out.loss + self.attention * missed * _learned(batch) / num_items_in_batch

    def activation_checkpointing_enable(self, **settings: Any) -> None:
        """Recomputes the language model's activations in the backward pass, as TrainingArguments may ask for."""
        self.model.language.activation_checkpointing_enable(**settings)


def _learned(batch: Mapping[str, Any]) -> torch.Tensor:
    """How many tokens of a batch are learned."""
    return (batch["labels"][:, 1:] != IGNORED).sum()


def _part(batch: dict[str, Any], rows: torch.Tensor) -> dict[str, Any]:
    """Some rows of a batch of conversations, padded to the longest of them."""
    length = int(batch["attention_mask"][rows].sum(1).max())
    found = {}
    for name, values in batch.items():
        if isinstance(values, list):
            found[name] = [values[row] for row in rows.tolist()]
        else:
            found[name] = values[rows][..., :length] if name in _OF_TOKENS else values[rows]
    return found


@dataclass(frozen=True)
class Conversation(Objective):
    """Next token of conversations about images and their regions, as published."""

    kind: str = setting("conversation", "Which objective.", choices=("conversation",))
    list_regions: bool = setting(True, "Every conversation introduces all regions of its image, as the robot's prompts "
                                       "do; else only those that it speaks of, as in the published training.")
    rows: int = setting(0, "Conversations that go through the model together, the longest with the longest, of each "
                           "batch; 0: all of it. With few less is padded, which pays on a CPU.", at_least=0)
    attention: float = setting(0.0, "Weight of supervised attention, which teaches a small language model to look "
                                    "regions up (training/region_attention.py); 0: none.", at_least=0)
    attention_layers: tuple[int, ...] = setting((), "The language model's layers, from 0, that it supervises.",
                                                at_least=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if bool(self.attention) != bool(self.attention_layers):
            raise RecipeError(f"attention {self.attention} and attention_layers {list(self.attention_layers)}, "
                              "expected both or none")
        if self.attention and not self.list_regions:
            raise RecipeError("attention without list_regions, expected prompts in which regions can be looked up")

    @property
    @override
    def needs_whole_matrices(self) -> str:
        return "attention" if self.attention else ""

    @override
    def collator(self, prompts: ChatPrompts) -> Collator:
        return AttentionCollator(prompts) if self.attention else ConversationCollator(prompts, self.list_regions)

    @override
    def module(self, model: GPT4RoI | Qwen3VL, samples: Dataset, run: Path) -> nn.Module:
        if self.attention:
            config = model.language.config
            if config.model_type != "llama":
                raise RecipeError(f"attention of a language model of type {config.model_type}, expected llama")
            if max(self.attention_layers) >= config.num_hidden_layers:
                raise RecipeError(f"attention_layers {list(self.attention_layers)}, expected layers from 0 to "
                                  f"{config.num_hidden_layers - 1}")
        return ConversationLoss(model, self.rows, self.attention, self.attention_layers)
