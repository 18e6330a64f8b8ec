"""How a model is retrained: the recipe, and what it will cost."""

from __future__ import annotations

import resource
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from ros_gpt4roi.model.checkpoint import CheckpointError, LoadedModel, build_empty, load_checkpoint
from training.data import open_dataset
from training.recipe import Recipe, Stage
from training.trainer import add_lora, freeze

STAGE = "retrain"
WHOLE = 50_000_000  # parameters of a language model, up to which it learns as a whole; else by low-rank adapters
SMALL = 200_000_000  # and up to which a whole model is the result; else the adapter alone
_LORA = {"r": 16, "lora_alpha": 32, "lora_dropout": 0.05, "target_modules": "all-linear"}
_VALIDATIONS = 8  # of a training that runs to its end
_PATIENCE = 3  # validations
_VISITS, _MOST_EPOCHS, _LEAST_EPOCHS = 4000, 80, 5  # of all corrected pictures together, and of each one
_TIMED = 3  # steps, after one that is not timed
_GIB = 2**30


@dataclass(frozen=True)
class Effort:
    """How much a model is trained.

    Attributes:
        epochs: How often each corrected picture is seen, at most; None: by how many there are.
        replay: Visits of replay for each visit of a corrected picture.
        batch: Samples a step.
        learning_rate: The highest.
    """

    epochs: float | None
    replay: float
    batch: int
    learning_rate: float

    def visits(self, pictures: int) -> float:
        """How often corrected pictures are visited in all, at most: many need not be seen as often as a few.

        Args:
            pictures: How many there are.
        """
        epochs = self.epochs or min(_MOST_EPOCHS, max(_LEAST_EPOCHS, _VISITS / pictures))
        return pictures * epochs


def make_recipe(model: Path, run: Path, seed: int, effort: Effort, pictures: int,
                train: list[dict[str, Any]], replay: list[dict[str, Any]], validation: list[dict[str, Any]],
                adapter: bool) -> dict[str, Any]:
    """Make the recipe of a retraining, as a YAML file holds it.

    Args:
        model: Folder of the model it begins with.
        run: Folder of the run.
        seed: Of everything random.
        effort: How much it is trained.
        pictures: How many are corrected and learned from.
        train: The sources of corrections.
        replay: The sources of replay, each with a ratio that makes them `effort.replay` visits for one of `train`.
        validation: The sources that are validated on.
        adapter: Whether low-rank adapters of the language model are all that learns.
    """
    steps = max(1, round(effort.visits(pictures) * (1 + effort.replay) / effort.batch))
    every = max(1, steps // _VALIDATIONS)
    whole = not adapter and language_parameters(model) <= WHOLE
    learns: dict[str, Any] = {"trainable": ["language", "regions"]} if whole else {
        "trainable": [] if adapter else ["regions"], "lora": _LORA}
    # One conversation after the other leaves no padding; a small model, and a GPU, are faster with all at once.
    rows = 0 if whole or torch.cuda.is_available() else 1
    mixture = {"kind": "mixture", "cache": str(run / "index")}
    return {
        "model": str(model), "seed": seed,
        "train": {**mixture, "sources": [*train, *replay]}, "validation": {**mixture, "sources": validation},
        "stages": [{
            "name": STAGE, "objective": {"kind": "conversation", "rows": rows}, **learns, "patience": _PATIENCE,
            "arguments": {
                "max_steps": steps, "learning_rate": effort.learning_rate, "warmup_steps": 0.1, "logging_steps": every,
                "eval_steps": every, "save_steps": every, "save_total_limit": 2, "report_to": "none",
                "per_device_train_batch_size": effort.batch, "per_device_eval_batch_size": effort.batch,
                "weight_decay": 0.01, "bf16": has_fast_bf16()}}]}


def language_parameters(folder: Path) -> int:
    """How many parameters a model's language model has. No weights are read.

    Raises CheckpointError where the folder is no model of this package.
    """
    loaded = build_empty(folder)
    if not isinstance(loaded, LoadedModel):
        raise CheckpointError(f"{folder}: a model of transformers, expected one of this package")
    return sum(p.numel() for p in loaded.model.language.parameters())


def has_fast_bf16() -> bool:
    """Whether bfloat16 is faster here than float32: CPUs without instructions for it take many times as long."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported()
    taken = []
    for kind in (torch.float32, torch.bfloat16):
        matrix = torch.ones(512, 512, dtype=kind)
        matrix @ matrix
        began = time.perf_counter()
        for _ in range(4):
            matrix @ matrix
        taken.append(time.perf_counter() - began)
    return taken[1] < taken[0]


@dataclass(frozen=True)
class Cost:
    """What a training will take at most.

    Attributes:
        steps: Optimiser's steps; early stopping may make them fewer.
        seconds: Of training and validating.
        memory: Bytes of this process at its peak; of the GPU where there is one.
        disk: Bytes that are written.
        free: Bytes that are free on that disk.
    """

    steps: int
    seconds: float
    memory: int
    disk: int
    free: int

    def __str__(self) -> str:
        return (f"at most {self.steps} steps, {self.seconds / 60:.1f} min; {self.memory / _GIB:.1f} GiB of memory; "
                f"{self.disk / _GIB:.2f} GiB of disk, of which {self.free / _GIB:.0f} GiB are free")


def estimate(recipe: Recipe, run: Path) -> Cost:
    """Time a few steps of a recipe's only stage, on a model that is thrown away.

    Args:
        recipe: As `make_recipe` makes it.
        run: Folder of the run, where the data are indexed.
    """
    stage = recipe.stages[0]
    loaded = load_checkpoint(str(recipe.model))
    samples = open_dataset(recipe.train, run, recipe.seed, loaded.config)
    validation = open_dataset(recipe.validation, run, recipe.seed, loaded.config)
    step = _seconds_a_step(stage, loaded, samples, run)
    steps, batch = stage.arguments["max_steps"], stage.arguments["per_device_train_batch_size"]
    validations = steps // stage.arguments["eval_steps"] * -(-len(validation) // batch)  # type: ignore[arg-type]
    trainable = sum(p.numel() for p in loaded.model.parameters() if p.requires_grad)
    everything = sum(p.numel() for p in loaded.model.parameters())
    moments = 8 * trainable  # bytes of AdamW's two, which do not exist yet
    if torch.cuda.is_available():
        memory = torch.cuda.max_memory_allocated() + moments
    else:
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 + moments
    # Checkpoints hold what learns with its moments, the newest and the best one; then the result, whole and deployed.
    disk = 3 * 12 * trainable + 4 * everything + 3 * everything
    return Cost(steps, step * steps + step / 3 * validations, memory, disk, shutil.disk_usage(run).free)


def _seconds_a_step(stage: Stage, loaded: LoadedModel, samples: Any, run: Path) -> float:
    model = loaded.model
    device = "cuda" if torch.cuda.is_available() else "cpu"
    freeze(model, stage.trainable)
    if stage.lora:
        add_lora(model.language, stage, half=stage.arguments["bf16"])
    model.to(device).to(memory_format=torch.channels_last).train()
    module = stage.objective.module(model, samples, run)
    batches = iter(DataLoader(samples, stage.arguments["per_device_train_batch_size"], shuffle=False,
                              collate_fn=stage.objective.collator(loaded.prompts)))
    began = taken = 0.0
    timed = 0
    for batch in batches:
        with torch.autocast(device, torch.bfloat16, enabled=stage.arguments["bf16"]):
            loss = module(**{name: value.to(device) for name, value in batch.items()})["loss"]
        loss.backward()
        module.zero_grad()
        if began:
            timed += 1
            taken = time.perf_counter() - began
        else:
            began = time.perf_counter()
        if timed == _TIMED:
            break
    return taken / timed if timed else time.perf_counter() - began
