"""The objectives of the curriculum, as the recipe names them (see training/objective.py)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from torch.utils.data import Dataset
from typing_extensions import override

from ros_gpt4roi.configuration import setting
from ros_gpt4roi.model.checkpoint import unshared
from ros_gpt4roi.model.gpt4roi import GPT4RoI
from ros_gpt4roi.model.prompt import PromptBuilder
from ros_gpt4roi.sim.tabletop.scoring import ATTRIBUTES
from training.errors import RecipeError
from training.objective import Collator, Objective

from .augmentation import Counterfactual, RandomChannelPermutation, RandomFlip
from .collate import AttributeCollator, SupervisedConversationCollator
from .losses import (
    AttributeClassifier,
    AttributeEmbeddings,
    FeatureAlignmentLoss,
    OracleConversationLoss,
    SupervisedConversationLoss,
)
from .muon import MuonAdamW

EMBEDDINGS_FILE = "attribute_embeddings.safetensors"
_PREFIX = "embeddings."  # of the attribute embeddings' weights in a module


def _classes(samples: Dataset) -> tuple[int, ...]:
    """Number of classes of each attribute. Raises RecipeError where the data set knows no attributes."""
    if not hasattr(samples, "classes"):
        raise RecipeError("objectives of from_scratch need training data that know attributes: tabletop, or to "
                          "classify them household")
    return samples.classes


def _read_embeddings(model: GPT4RoI, samples: Dataset, run: Path, stage: str) -> AttributeEmbeddings:
    """The attribute embeddings, as an earlier stage has learned them if one is named. Raises RecipeError."""
    embeddings = AttributeEmbeddings(model, _classes(samples))
    if stage:
        path = run / stage / EMBEDDINGS_FILE
        try:
            embeddings.load_state_dict(load_file(path))
        except (OSError, SafetensorError, RuntimeError) as error:
            raise RecipeError(f"{path}: {error}, expected what a stage of objective oracle_conversation "
                              "wrote") from error
    return embeddings


@dataclass(frozen=True)
class AttributeClassification(Objective):
    """Classify every region's attributes: teaches an encoder, pretrained or not, and a region extractor to see.

    No language model is run, which makes it by far the cheapest way to that. What an encoder learns from small images
    costs less still, and most of it holds for large ones.
    """

    kind: str = setting("attribute_classification", "Which objective.", choices=("attribute_classification",))
    image_size: int = setting(0, "Side that images are resized to; 0: as the model takes them.", at_least=0,
                              unit="pixels")
    permute_channels: bool = setting(True, "Permute the colour channels of half of the images, so that no kind is "
                                           "guessed from its colour; not where labels and prints tell kinds apart.")

    @property
    @override
    def reads(self) -> frozenset[str]:
        return frozenset({"vision", "regions"})

    @override
    def wrap(self, samples: Dataset, seed: int) -> Dataset:
        flipped = RandomFlip(samples, seed)
        names = getattr(samples, "attribute_names", ())
        permuted = self.permute_channels and "colour" in names
        return RandomChannelPermutation(flipped, seed, names.index("colour")) if permuted else flipped

    @override
    def collator(self, prompts: PromptBuilder) -> Collator:
        return AttributeCollator(self.image_size)

    @override
    def module(self, model: GPT4RoI, samples: Dataset, run: Path) -> nn.Module:
        return AttributeClassifier(model, _classes(samples))


@dataclass(frozen=True)
class FeatureAlignment(Objective):
    """Draw regions' vectors to their oracle features: the extractor learns to write what the language model reads."""

    attribute_embeddings: str = setting(dataclasses.MISSING, "The earlier stage whose oracle features are used.")
    kind: str = setting("feature_alignment", "Which objective.", choices=("feature_alignment",))

    @override
    def wrap(self, samples: Dataset, seed: int) -> Dataset:
        return RandomFlip(samples, seed)

    @override
    def collator(self, prompts: PromptBuilder) -> Collator:
        return AttributeCollator()

    @override
    def module(self, model: GPT4RoI, samples: Dataset, run: Path) -> nn.Module:
        return FeatureAlignmentLoss(model, _read_embeddings(model, samples, run, self.attribute_embeddings))


@dataclass(frozen=True)
class _SupervisedConversation(Objective):
    """What both objectives with supervised attention share."""

    attribute_embeddings: str = setting("", "The earlier stage whose oracle features are used; empty: none.")
    counterfactual: float = setting(0.0, "Share of the images about which one attribute is asked while all others are "
                                         "replaced at random.", at_least=0, at_most=1)
    adamw_lr: float = setting(0.0, "The layers' matrices learn by Muon with the learning rate of the arguments, all "
                                   "else by AdamW with this one; 0: AdamW learns everything.", at_least=0)

    @property
    @override
    def needs_whole_matrices(self) -> str:
        return "adamw_lr" if self.adamw_lr else "supervised attention"

    @override
    def wrap(self, samples: Dataset, seed: int) -> Dataset:
        _classes(samples)
        if getattr(samples, "attribute_names", ()) != tuple(ATTRIBUTES):
            raise RecipeError(f"objective {self.kind} speaks of the tabletop's attributes, expected training data of "
                              "kind tabletop")
        return Counterfactual(samples, seed, self.counterfactual) if self.counterfactual else samples

    @override
    def collator(self, prompts: PromptBuilder) -> Collator:
        return SupervisedConversationCollator(prompts)

    @override
    def optimizer(self, named: Sequence[tuple[str, nn.Parameter]],
                  learning_rate: float) -> torch.optim.Optimizer | None:
        return MuonAdamW(named, learning_rate, self.adamw_lr) if self.adamw_lr else None


@dataclass(frozen=True)
class OracleConversation(_SupervisedConversation):
    """Next token over oracle features: teaches a language model without pretrained weights to speak of regions.

    The image is blank, and a region's vector is made of embeddings of its true attributes, which are learned as well.
    """

    kind: str = setting("oracle_conversation", "Which objective.", choices=("oracle_conversation",))

    @override
    def module(self, model: GPT4RoI, samples: Dataset, run: Path) -> nn.Module:
        return OracleConversationLoss(model, _read_embeddings(model, samples, run, self.attribute_embeddings))

    @override
    def save(self, weights: Mapping[str, torch.Tensor], folder: Path) -> None:
        learned = {key.removeprefix(_PREFIX): value for key, value in weights.items() if key.startswith(_PREFIX)}
        save_file(unshared(learned), folder / EMBEDDINGS_FILE)


@dataclass(frozen=True)
class SupervisedConversation(_SupervisedConversation):
    """Next token over what the model sees, with supervised attention, as in the stages before it."""

    kind: str = setting("supervised_conversation", "Which objective.", choices=("supervised_conversation",))

    def __post_init__(self) -> None:
        super().__post_init__()
        if bool(self.attribute_embeddings) != bool(self.counterfactual):
            raise RecipeError(f"attribute_embeddings {self.attribute_embeddings!r} and counterfactual "
                              f"{self.counterfactual}, expected both or none")

    @override
    def module(self, model: GPT4RoI, samples: Dataset, run: Path) -> nn.Module:
        if not self.attribute_embeddings:
            return SupervisedConversationLoss(model, None)
        return SupervisedConversationLoss(model, _read_embeddings(model, samples, run, self.attribute_embeddings))
