"""transformers' Trainer for one stage: freezing, LoRA, shares of a stream, atomic checkpoints and results, resume."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import shutil
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import init_empty_weights
from safetensors.torch import save_file
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset
from transformers import EarlyStoppingCallback, PreTrainedModel, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, get_last_checkpoint, rotate_checkpoints
from transformers.utils import SAFE_WEIGHTS_NAME
from typing_extensions import override

from ros_gpt4roi.model.checkpoint import (
    CheckpointError,
    LoadedModel,
    LoadedQwen3VL,
    build_model,
    save_checkpoint,
    unshared,
)
from ros_gpt4roi.model.gpt4roi import GPT4RoI
from ros_gpt4roi.model.qwen3_vl import Decoder, Qwen3VL

from .collate import ConversationCollator
from .data.sample import CheckedSamples
from .errors import RecipeError, training_packages
from .objective import Conversation, Objective
from .recipe import Stage
from .resume import set_damaged_aside

with training_packages():
    from peft import LoraConfig, PeftModel, get_peft_model

CURVE_FILE, FINAL_FOLDER, ADAPTER_FOLDER = "curve.json", "final", "adapter"
_UNFINISHED = "checkpoint.partial"  # a name that get_last_checkpoint takes for no checkpoint
# What every stage is run with unless its recipe says otherwise.
DEFAULTS: dict[str, Any] = dict(
    bf16=True, lr_scheduler_type="cosine", warmup_steps=0.05, weight_decay=0.05, max_grad_norm=1.0, logging_steps=25,
    save_strategy="steps", save_steps=500, save_total_limit=2, eval_strategy="steps", eval_steps=500,
    report_to="tensorboard", remove_unused_columns=False, prediction_loss_only=True, label_names=["labels"])


class EpochSetter(TrainerCallback):
    """Tells a data set which epoch begins; accelerate does so in one process, but not in several."""

    def __init__(self, dataset: Any):
        self._dataset = dataset

    @override
    def on_epoch_begin(self, args, state, control, **kwargs) -> None:
        self._dataset.set_epoch(int(state.epoch))


class StageTrainer(Trainer):
    """transformers' Trainer that says more, and whose checkpoints hold what is learned and appear when they are whole.

    Logged are what an objective reports beside its loss, samples a second (of all processes) and `data_wait`, the share
    of the time in which this process waited for data.
    """

    optimizer: torch.optim.Optimizer | None

    def __init__(self, *args, objective: Objective, **kwargs):
        super().__init__(*args, **kwargs)
        self._objective = objective
        self._reported: dict[str, list[float]] = defaultdict(list)
        self._begun: float | None = None  # when the first batch since the last log was asked for
        self._waited, self._samples = 0.0, 0

    @override
    def create_accelerator_and_postprocess(self) -> None:
        super().create_accelerator_and_postprocess()
        if self.is_fsdp_enabled and self.accelerator.state.fsdp_plugin.mixed_precision_policy is not None:
            # As it comes it would round box coordinates and the loss to half precision, and sum gradients in it.
            plugin = self.accelerator.state.fsdp_plugin
            plugin.mixed_precision_policy = dataclasses.replace(
                plugin.mixed_precision_policy, reduce_dtype=torch.float32, output_dtype=None, cast_forward_inputs=False)

    @override
    def get_train_dataloader(self) -> DataLoader:
        if not isinstance(self.train_dataset, IterableDataset):
            return super().get_train_dataloader()
        # A stream shares itself out among processes; accelerate would read all of it in each of them.
        args = self.args
        return DataLoader(self.train_dataset, self._train_batch_size, collate_fn=self.data_collator,
                          num_workers=args.dataloader_num_workers, pin_memory=args.dataloader_pin_memory,
                          prefetch_factor=args.dataloader_prefetch_factor)

    @override
    def create_optimizer(self, *args) -> torch.optim.Optimizer:
        if self.optimizer is None:
            named = [(name, value) for name, value in self.model.named_parameters() if value.requires_grad]
            self.optimizer = self._objective.optimizer(named, self.args.learning_rate)
        return self.optimizer or super().create_optimizer(*args)

    @override
    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> tuple[list, Any]:
        asked = time.perf_counter()
        self._begun = self._begun or asked
        found = super().get_batch_samples(epoch_iterator, num_batches, device)
        self._waited += time.perf_counter() - asked
        self._samples += sum(len(batch["images"]) for batch in found[0])
        return found

    @override
    def compute_loss(self, model: nn.Module, inputs: dict, return_outputs: bool = False, num_items_in_batch=None):
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        for i, value in enumerate(outputs.get("accuracy", ())):
            if not value.isnan():  # a batch may have nothing of which that is known
                self._reported[f"accuracy_{i}"].append(value.item())
        return (loss, outputs) if return_outputs else loss

    @override
    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        logs |= {name: sum(values) / len(values) for name, values in self._reported.items()}
        self._reported.clear()
        if "loss" in logs and self._begun is not None:
            taken = time.perf_counter() - self._begun
            samples = self._samples * self.args.world_size
            logs |= {"data_wait": self._waited / taken, "samples_per_second": samples / taken}
            if torch.cuda.is_available():
                logs["gpu_memory_gib"] = torch.cuda.max_memory_allocated() / 2**30
            self._begun, self._waited, self._samples = None, 0.0, 0
        super().log(logs, start_time)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        # Under another name until every process has written its part: a killed run goes on from a whole one.
        folder, name = Path(self.args.output_dir), f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        if self.is_world_process_zero():
            shutil.rmtree(folder / _UNFINISHED, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        self.args.output_dir = str(folder / _UNFINISHED)
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self.args.output_dir = str(folder)
        self.accelerator.wait_for_everyone()
        best = folder / f"{PREFIX_CHECKPOINT_DIR}-{self.state.best_global_step}"
        self.state.best_model_checkpoint = str(best) if best.name == name or best.is_dir() else None
        if self.is_world_process_zero():
            self.state.save_to_json(str(folder / _UNFINISHED / name / TRAINER_STATE_NAME))  # as it will be found
            os.replace(folder / _UNFINISHED / name, folder / name)
            shutil.rmtree(folder / _UNFINISHED)
            rotate_checkpoints(str(folder), self.args.save_total_limit, self.state.best_model_checkpoint)

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        # The model is no PreTrainedModel, and plain safetensors refuse its tied embeddings. What is frozen is in the
        # checkpoint that the stage began with.
        if not self.args.should_save:
            return
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        named = self.model.named_parameters(remove_duplicate=False)
        frozen = {name for name, value in named if not value.requires_grad}
        state = self.model.state_dict() if state_dict is None else state_dict
        save_file(unshared({k: v for k, v in state.items() if k not in frozen}), folder / SAFE_WEIGHTS_NAME)

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        learned = {name for name, value in self.model.named_parameters() if value.requires_grad}
        wrong = [*load_result.unexpected_keys, *learned.intersection(load_result.missing_keys)]
        if wrong:
            raise CheckpointError(f"{self.args.output_dir}: the last checkpoint is of another recipe, missing or "
                                  f"surplus: {wrong}; name another folder, or remove it")


def freeze(model: nn.Module, trainable: tuple[str, ...]) -> None:
    """Lets only the named parts of the model learn ("language", "regions.position", …).

    Raises RecipeError for an unknown part.
    """
    unknown = [name for name in trainable if name not in dict(model.named_modules())]
    if unknown:
        raise RecipeError(f"trainable names {unknown}, expected parts of the model, "
                          "such as language or regions.position")
    model.requires_grad_(False)
    for name in trainable:
        model.get_submodule(name).requires_grad_(True)


def add_lora(language: PreTrainedModel | Decoder, stage: Stage, half: bool) -> PeftModel:
    """Puts low-rank adapters into a language model, in place; they alone of it learn, in float32.

    Args:
        language: The language model.
        stage: Whose `lora` holds the arguments of peft's LoraConfig.
        half: Keep what is frozen in bfloat16, half the memory.

    Raises:
        RecipeError: peft refuses the arguments.
    """
    if half:
        language.to(torch.bfloat16)
    try:
        return get_peft_model(cast(PreTrainedModel, language), LoraConfig(**stage.lora))
    except (TypeError, ValueError) as error:
        raise RecipeError(f"stage {stage.name}: lora: {error}") from error


def save_adapter(adapted: PeftModel, folder: Path) -> None:
    """Writes what a language model has learned by low-rank adapters as peft's folder, which appears when it is whole.

    Args:
        adapted: As `add_lora` makes it.
        folder: The folder to write.
    """
    partial = folder.with_name(folder.name + ".partial")
    adapted.save_pretrained(str(partial), save_embedding_layers=False)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(partial, folder)


def read_settings(stage: Stage, folder: Path, arguments: dict[str, Any], stream: bool, seed: int) -> TrainingArguments:
    """TrainingArguments of a stage. stream: its training data have no end. Raises RecipeError."""
    try:
        settings = TrainingArguments(
            output_dir=str(folder), run_name=stage.name, seed=seed, use_cpu=not torch.cuda.is_available(),
            load_best_model_at_end=bool(stage.patience), restore_callback_states_from_checkpoint=bool(stage.patience),
            **{**DEFAULTS, **arguments, **stage.arguments})
    except (TypeError, ValueError) as error:
        raise RecipeError(f"stage {stage.name}: arguments: {error}") from error
    if stream and settings.max_steps <= 0:
        raise RecipeError(f"stage {stage.name}: shards are a stream without an end, "
                          "expected max_steps among the arguments")
    if settings.fsdp and settings.world_size == 1:
        raise RecipeError(f"stage {stage.name}: fsdp shares a model out among processes, expected `accelerate launch "
                          "--num_processes N` with more than one, or a recipe without fsdp")
    return settings


def run_stage(stage: Stage, loaded: LoadedModel | LoadedQwen3VL, train: Dataset, validation: Dataset, folder: Path,
              arguments: dict[str, Any], seed: int, untrained: Sequence[str] = ()) -> None:
    """Trains a model in place and writes folder/final when it is whole; goes on from folder/checkpoint-* if any.

    Args:
        stage: What is done.
        loaded: The model.
        train: The training data.
        validation: The data that are validated on.
        folder: The stage's, in the run's.
        arguments: TrainingArguments of all stages.
        seed: Of everything random.
        untrained: Parts of the model whose weights are random still when the stage is done.

    Raises:
        RecipeError: the stage cannot be run so.
        CheckpointError: the folder's checkpoint is of another recipe.
    """
    stream = isinstance(train, IterableDataset)
    settings = read_settings(stage, folder, arguments, stream, seed)
    model = loaded.model
    if isinstance(model, Qwen3VL) and not isinstance(stage.objective, Conversation):
        raise RecipeError(f"stage {stage.name}: objective {stage.objective.kind} is for a model of this package, "
                          "expected conversation for a Qwen3-VL")
    freeze(model, stage.trainable)
    if settings.fsdp and settings.bf16 and any(isinstance(part, nn.BatchNorm2d) for part in model.modules()):
        raise RecipeError(f"stage {stage.name}: fsdp with bf16 casts weights but not the statistics of batch "
                          "normalisation, expected bf16: false, or another encoder")
    adapted = add_lora(model.language, stage, settings.bf16) if stage.lora else None
    frozen = [part for part in model.children() if not any(p.requires_grad for p in part.parameters())]
    # FSDP takes no weights of that layout, and a Qwen3-VL has no convolution over images.
    if isinstance(model, GPT4RoI) and not settings.fsdp:
        model.to(memory_format=torch.channels_last)  # convolutions on a CPU run about twice as fast so
    objective: Objective = stage.objective
    module = objective.module(model, train, folder.parent)
    module._no_split_modules = model.language._no_split_modules  # FSDP gathers a layer of these at a time
    # Statistics of normalisation layers in a frozen encoder must not move either.
    for part in frozen:
        part.eval()
        part.train = functools.partial(_as_it_is, part)  # type: ignore[method-assign]
    collator = objective.collator(loaded.prompts)
    for samples in (train, validation):
        if isinstance(samples, CheckedSamples) and isinstance(collator, ConversationCollator):
            samples.check = collator.encode  # a conversation that the model cannot read costs only itself
    wrapped = objective.wrap(train, seed)
    callbacks: list[TrainerCallback] = [] if stream else [EpochSetter(wrapped)]
    if stage.patience:
        callbacks.append(EarlyStoppingCallback(stage.patience))
    trainer = StageTrainer(model=module, args=settings, train_dataset=wrapped, eval_dataset=validation,
                           data_collator=collator, objective=objective,
                           callbacks=callbacks)
    if trainer.is_world_process_zero():
        set_damaged_aside(folder)
    trainer.accelerator.wait_for_everyone()
    trainer.train(resume_from_checkpoint=get_last_checkpoint(str(folder)) if folder.is_dir() else None)
    for part in frozen:
        del part.train
    # All processes take part: where the model is sharded, each has a piece of every weight.
    learned = trainer.accelerator.get_state_dict(trainer.model)
    if trainer.is_world_process_zero():
        curve = folder / CURVE_FILE
        curve.write_text(json.dumps(trainer.state.log_history, indent=1) + "\n", encoding="utf-8")
        objective.save(learned, folder)
        if trainer.is_fsdp_enabled:
            prefix = "model."
            model = whole_model(loaded, {k.removeprefix(prefix): v for k, v in learned.items() if k.startswith(prefix)})
        if adapted is not None:
            save_adapter(adapted, folder / ADAPTER_FOLDER)
            adapted.merge_and_unload()
        partial = folder / (FINAL_FOLDER + ".partial")
        save_checkpoint(model, loaded.tokenizer, partial, untrained=untrained)
        os.replace(partial, folder / FINAL_FOLDER)
    trainer.accelerator.wait_for_everyone()


def whole_model(loaded: LoadedModel | LoadedQwen3VL, weights: dict[str, torch.Tensor]) -> GPT4RoI | Qwen3VL:
    """A model like the one loaded, which is left in shards, of gathered weights."""
    model: GPT4RoI | Qwen3VL
    with init_empty_weights(include_buffers=False):
        if isinstance(loaded, LoadedQwen3VL):
            model = Qwen3VL(loaded.config)
        else:
            model = build_model(loaded.config, loaded.tokenizer).model
    model.load_state_dict(weights, assign=True)
    model.language.tie_weights()
    return model


def _as_it_is(part: nn.Module, mode: bool = True) -> nn.Module:
    return part
