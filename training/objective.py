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
from ros_gpt4roi.model.gpt4roi import GPT4RoI
from ros_gpt4roi.model.prompt import ChatPrompts
from ros_gpt4roi.model.qwen3_vl import Qwen3VL

from .collate import ConversationCollator
from .data.sample import Sample

Collator = Callable[[Sequence[Sample]], dict[str, Any]]


class Objective(Configuration, ABC):
    """Base of the objectives; a subclass's fields are its options in a recipe, where `kind` names it."""

    kind: str

    @property
    def whole_matrices(self) -> bool:
        """Whether its optimiser needs every matrix in one piece, which FSDP does not leave."""
        return False

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
    """Next-token loss of a conversation with image tokens and region embeddings in place."""

    def __init__(self, model: GPT4RoI | Qwen3VL):
        super().__init__()
        self.model = model

    def forward(self, **batch: Any) -> dict[str, torch.Tensor]:
        """The batch as the model's `forward` takes it."""
        return {"loss": self.model(**batch).loss}

    def activation_checkpointing_enable(self, **settings: Any) -> None:
        """Recomputes the language model's activations in the backward pass, as TrainingArguments may ask for."""
        self.model.language.activation_checkpointing_enable(**settings)


@dataclass(frozen=True)
class Conversation(Objective):
    """Next token of conversations about images and their regions, as published."""

    kind: str = setting("conversation", "Which objective.", choices=("conversation",))
    list_regions: bool = setting(True, "Every conversation introduces all regions of its image, as the robot's prompts "
                                       "do; else only those that it speaks of, as in the published training.")

    @override
    def collator(self, prompts: ChatPrompts) -> Collator:
        return ConversationCollator(prompts, self.list_regions)

    @override
    def module(self, model: GPT4RoI | Qwen3VL, samples: Dataset, run: Path) -> nn.Module:
        return ConversationLoss(model)
