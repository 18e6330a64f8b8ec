"""Recipes: YAML files that say which stages a model is trained in, on what, and with which settings."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

OBJECTIVES = ("attributes", "facts", "align", "conversation")
TEXTS = ("short", "regions", "drills", "long")


class RecipeError(ValueError):
    """A recipe that cannot be run; the message names the file, the field and what was expected."""


@dataclass(frozen=True)
class Stage:
    """One stage.

    objective: see objectives.py. trainable: parts of the model that learn ("vision", "projector", "regions",
    "regions.position", "language", …); all else is frozen. texts: which of the data set's texts, "short", "long" or (tabletop) "regions" and "drills".
    list_regions: conversations introduce all regions of their image.
    facts: the earlier stage whose facts this one goes on with (facts), is drawn to (align) or recombines (conversation).
    image_size: (attributes) side that pictures are resized to, pixels; 0: as the model takes them. What an encoder learns from
    small pictures costs less, and most of it holds for large ones.
    recombined: share of the images about which one attribute is asked, the others told at random (collate.Recombined).
    arguments: transformers' TrainingArguments.
    guided: (conversation) attention is guided as objective facts always does it, see pointers.py.
    adamw_lr: the layers' matrices learn by Muon with the learning rate of the arguments, all else by AdamW with this one; 0: AdamW
    learns everything.
    lora: peft's LoraConfig; the language model then learns by low-rank adapters, which become part of the result.
    """

    name: str
    objective: str
    trainable: tuple[str, ...]
    texts: str = "long"
    list_regions: bool = False
    facts: str = ""
    image_size: int = 0
    recombined: float = 0.0
    guided: bool = False
    adamw_lr: float = 0.0
    arguments: dict[str, Any] = field(default_factory=dict)
    lora: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.objective not in OBJECTIVES:
            raise RecipeError(f"stage {self.name}: objective {self.objective!r}, expected one of {OBJECTIVES}")
        if self.objective == "align" and not self.facts:
            raise RecipeError(f"stage {self.name}: objective align without facts, expected the name of an earlier stage")
        if self.image_size < 0 or self.image_size and self.objective != "attributes":
            raise RecipeError(f"stage {self.name}: image_size {self.image_size!r} of objective {self.objective}, expected pixels, "
                              "and objective attributes")
        if not 0 <= self.recombined <= 1:
            raise RecipeError(f"stage {self.name}: recombined {self.recombined!r}, expected a share from 0 to 1")
        if self.recombined and self.objective not in ("facts", "conversation"):
            raise RecipeError(f"stage {self.name}: recombined, expected objective facts or conversation")
        together = bool(self.facts), bool(self.recombined), self.guided
        if self.objective == "conversation" and any(together[:2]) and not all(together):
            raise RecipeError(f"stage {self.name}: facts of an earlier stage, recombined and guided, expected all three or none")
        if self.texts not in TEXTS:
            raise RecipeError(f"stage {self.name}: texts {self.texts!r}, expected one of {TEXTS}")
        if self.adamw_lr and self.arguments.get("fsdp"):
            raise RecipeError(f"stage {self.name}: adamw_lr and fsdp, expected one of them: Muon takes whole matrices")
        if self.lora and any(name.partition(".")[0] == "language" for name in self.trainable):
            raise RecipeError(f"stage {self.name}: language is trainable and has lora, expected one of them")
        if self.lora and self.arguments.get("fsdp"):
            raise RecipeError(f"stage {self.name}: lora and fsdp, expected one of them: lora is for a model that fits one card")


@dataclass(frozen=True)
class Recipe:
    """A whole training.

    model: a preset's name, or a checkpoint folder to go on from. seed: of everything random.
    vocabulary: size of the tokenizer that is learned where the model is a preset.
    train, validation: data sets, as training/data/__init__.py opens them.
    arguments: TrainingArguments of all stages; a stage's own go over them.
    """

    model: str
    stages: tuple[Stage, ...]
    train: dict[str, Any]
    validation: dict[str, Any]
    seed: int = 0
    vocabulary: int = 1024
    arguments: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.validation.get("kind") == "shards":
            raise RecipeError("validation: shards are a stream without an end, expected tabletop or mixture")


def read_recipe(path: str | Path) -> Recipe:
    """Reads a recipe. Raises RecipeError for unknown or missing fields."""
    try:
        facts = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise RecipeError(f"{path}: {error}") from error
    try:
        stages = tuple(_build(Stage, stage, "stage") for stage in facts.pop("stages"))
        return _build(Recipe, {**facts, "stages": stages}, "recipe")
    except (RecipeError, KeyError, TypeError, AttributeError) as error:
        raise RecipeError(f"{path}: {error!s}") from error


def _build(kind: type, facts: dict[str, Any], what: str) -> Any:
    known = {f.name for f in dataclasses.fields(kind)}
    unknown = sorted(set(facts) - known)
    if unknown:
        raise RecipeError(f"unknown {what} field {unknown}, expected some of {sorted(known)}")
    return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in facts.items()})
