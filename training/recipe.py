"""Recipes: YAML files that say which stages a model is trained in, on what, and with which settings."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ros_gpt4roi.configuration import ConfigError, Configuration, read_yaml, setting
from ros_gpt4roi.model.config import ModelConfig

from .data import DataError, check_section
from .errors import RecipeError
from .from_scratch.objectives import (
    AttributeClassification,
    FeatureAlignment,
    OracleConversation,
    SupervisedConversation,
)
from .objective import Conversation

AnyObjective = (
    Conversation | AttributeClassification | OracleConversation | FeatureAlignment | SupervisedConversation)


@dataclass(frozen=True)
class Stage(Configuration):
    """One stage."""

    name: str = setting(dataclasses.MISSING, "Name, and that of its folder.")
    objective: AnyObjective = setting(dataclasses.MISSING, "What is optimised, with the objective's own options.")
    trainable: tuple[str, ...] = setting(
        dataclasses.MISSING, "Parts of the model that learn (vision, projector, regions, regions.position, language, "
                             "…); all else is frozen.")
    data: dict[str, Any] = setting({}, "Options of this stage's data sets, over those of train and validation.")
    arguments: dict[str, Any] = setting({}, "transformers' TrainingArguments, over those of the recipe.")
    lora: dict[str, Any] = setting({}, "peft's LoraConfig; the language model then learns by low-rank adapters, which "
                                       "become part of the result.")

    patience: int = setting(0, "So many validations one after the other without a better one end the stage, whose "
                               "result is then that of the best; 0: it runs to its end.", at_least=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.lora and any(name.partition(".")[0] == "language" for name in self.trainable):
            raise RecipeError(f"stage {self.name}: language is trainable and has lora, expected one of them")

    @property
    def learns(self) -> frozenset[str]:
        """The parts of the model that learn as a whole or in part, such as "language"."""
        return frozenset(name.partition(".")[0] for name in self.trainable) | ({"language"} if self.lora else set())

    def check_untrained(self, parts: frozenset[str]) -> None:
        """Raises RecipeError where the stage would learn against a part that is random and stays so.

        Args:
            parts: Those whose weights are random when the stage begins.
        """
        for part in sorted(parts & self.objective.reads - self.learns):
            # A projector alone may learn before there is a region extractor: images need none.
            if part == "projector" or self.learns != {"projector"}:
                advice = "`assemble --projector`, or " if part == "projector" else ""
                raise RecipeError(f"stage {self.name}: the {part} of the model it begins with has random weights, and "
                                  f"the stage leaves them so, expected {advice}{part} among trainable")


@dataclass(frozen=True)
class Recipe(Configuration):
    """A whole training."""

    model: str | ModelConfig = setting(
        dataclasses.MISSING, "A checkpoint folder to go on from, or the description of a model to train from nothing.")
    stages: tuple[Stage, ...] = setting(dataclasses.MISSING, "In the order in which they are run.")
    train: dict[str, Any] = setting(
        dataclasses.MISSING, "The training data: its `kind` (tabletop, household, mixture, shards), and its fields.")
    validation: dict[str, Any] = setting(dataclasses.MISSING, "The data that are validated on, likewise.")
    seed: int = setting(0, "Of everything random.", at_least=0)
    changes: dict[str, Any] = setting({}, "Fields of the checkpoint's config.json that are changed before the first "
                                          "stage, by section (regions, focal, …); weights that no longer fit are drawn "
                                          "anew.")
    arguments: dict[str, Any] = setting({}, "TrainingArguments of all stages; a stage's own go over them.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.stages:
            raise RecipeError("stages is empty, expected one or more")
        if self.changes and isinstance(self.model, ModelConfig):
            raise RecipeError("changes are of a checkpoint, but model describes one to train from nothing, expected "
                              "the fields there")
        if self.validation.get("kind") == "shards":
            raise RecipeError("validation: shards are a stream without an end, expected tabletop or mixture")
        if isinstance(self.model, ModelConfig) and self.train.get("kind") == "shards":
            raise RecipeError("model is to be trained from nothing and train is shards, expected tabletop or mixture: "
                              "the tokenizer is learned from data that have an end")
        # Now, and not when hours later the stage begins.
        for stage in self.stages:
            if {**self.arguments, **stage.arguments}.get("fsdp"):
                if needs := stage.objective.needs_whole_matrices:
                    raise RecipeError(f"stage {stage.name}: {needs} and fsdp, expected one of them: fsdp leaves no "
                                      "matrix whole")
                if stage.lora:
                    raise RecipeError(f"stage {stage.name}: lora and fsdp, expected one of them: lora is for a model "
                                      "that fits one card")
            for section in (self.train, self.validation):
                try:
                    check_section({**section, **stage.data})
                except DataError as error:
                    raise RecipeError(f"stage {stage.name}: {error}") from error


def read_recipe(path: str | Path) -> Recipe:
    """Reads a recipe. Raises RecipeError for unknown, missing or wrong fields."""
    try:
        return read_yaml(Recipe, path)
    except ConfigError as error:
        raise RecipeError(str(error)) from error
