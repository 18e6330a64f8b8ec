"""transformers' Trainer for one stage: freezing, atomic stage results, resume."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from torch.utils.data import Dataset
from transformers import Trainer, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint
from transformers.utils import SAFE_WEIGHTS_NAME

from ros_gpt4roi.model.checkpoint import LoadedModel, save_checkpoint, unshared

from .collate import AttributeCollator, ConversationCollator, Mirrored
from .objectives import AlignObjective, AttributeObjective, ConversationObjective, Facts, FactsObjective
from .recipe import RecipeError, Stage

CURVE_FILE, FACTS_FILE, FINAL_FOLDER = "curve.json", "facts.safetensors", "final"
# What every stage is run with unless its recipe says otherwise.
DEFAULTS: dict[str, Any] = dict(
    bf16=True, lr_scheduler_type="cosine", warmup_steps=0.05, weight_decay=0.05, max_grad_norm=1.0, logging_steps=25,
    save_strategy="steps", save_steps=500, save_total_limit=2, eval_strategy="steps", eval_steps=500, report_to="tensorboard",
    remove_unused_columns=False, prediction_loss_only=True, label_names=["labels"])


class StageTrainer(Trainer):
    """Adds to the log what an objective reports beside its loss."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._reported: dict[str, list[float]] = defaultdict(list)

    def compute_loss(self, model: nn.Module, inputs: dict, return_outputs: bool = False, num_items_in_batch=None):
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        for i, value in enumerate(outputs.get("accuracy", ())):
            self._reported[f"accuracy_{i}"].append(value.item())
        return (loss, outputs) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        logs |= {name: sum(values) / len(values) for name, values in self._reported.items()}
        self._reported.clear()
        super().log(logs, start_time)

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        # The model is no PreTrainedModel, and plain safetensors refuse its tied embeddings.
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        save_file(unshared(state_dict or self.model.state_dict()), folder / SAFE_WEIGHTS_NAME)


def freeze(model: nn.Module, trainable: tuple[str, ...]) -> list[nn.Module]:
    """Lets only the named parts of the model learn ("language", "regions.position", …); returns the largest frozen ones.

    Raises RecipeError for an unknown part.
    """
    unknown = [name for name in trainable if name not in dict(model.named_modules())]
    if unknown:
        raise RecipeError(f"trainable names {unknown}, expected parts of the model, such as language or regions.position")
    model.requires_grad_(False)
    for name in trainable:
        model.get_submodule(name).requires_grad_(True)
    return [part for part in model.children() if not any(p.requires_grad for p in part.parameters())]


def read_facts(facts: Facts, folder: Path) -> None:
    """Fills the tables with those that the stage of that folder has learned. Raises RecipeError."""
    try:
        facts.load_state_dict(load_file(folder / FACTS_FILE))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise RecipeError(f"{folder / FACTS_FILE}: {error}, expected what a stage of objective facts wrote") from error


def run_stage(stage: Stage, loaded: LoadedModel, train: Dataset, validation: Dataset, folder: Path,
              arguments: dict[str, Any], classes: tuple[int, ...], seed: int) -> None:
    """Trains `loaded.model` in place and writes folder/final when it is whole; goes on from folder/checkpoint-* if any.

    classes: number of classes of each attribute, for the objectives that know attributes.
    """
    model = loaded.model
    frozen = freeze(model, stage.trainable)
    model.to(memory_format=torch.channels_last)  # convolutions on a CPU run about twice as fast so
    facts = Facts(model, classes)
    if stage.facts:
        read_facts(facts, folder.parent / stage.facts)
    if stage.objective in ("attributes", "align"):
        objective: nn.Module = AttributeObjective(model, classes) if stage.objective == "attributes" \
            else AlignObjective(model, facts)
        collator: Any = AttributeCollator()
        train = Mirrored(train, seed)
    else:
        told = stage.objective == "facts"
        objective = FactsObjective(model, facts) if told else ConversationObjective(model)
        collator = ConversationCollator(loaded.prompts, stage.list_regions, attributes=told)
    # Statistics of normalisation layers in a frozen encoder must not move either.
    for part in frozen:
        part.eval()
        part.train = lambda mode=True, part=part: part
    settings = TrainingArguments(
        output_dir=str(folder), run_name=stage.name, seed=seed, use_cpu=not torch.cuda.is_available(),
        **{**DEFAULTS, **arguments, **stage.arguments})
    trainer = StageTrainer(model=objective, args=settings, train_dataset=train, eval_dataset=validation,
                           data_collator=collator)
    trainer.train(resume_from_checkpoint=get_last_checkpoint(str(folder)) if folder.is_dir() else None)
    for part in frozen:
        del part.train
    if trainer.is_world_process_zero():
        curve = folder / CURVE_FILE
        curve.write_text(json.dumps(trainer.state.log_history, indent=1) + "\n", encoding="utf-8")
        if stage.objective == "facts":
            save_file(unshared(facts.state_dict()), folder / FACTS_FILE)
        partial = folder / (FINAL_FOLDER + ".partial")
        save_checkpoint(model, loaded.tokenizer, partial)
        os.replace(partial, folder / FINAL_FOLDER)
    trainer.accelerator.wait_for_everyone()
