"""The configurations that come with the code name things that exist."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from accelerate import init_empty_weights
from peft import LoraConfig, get_peft_model
from transformers import TrainingArguments

from ros_gpt4roi.configuration import build, check_arguments
from ros_gpt4roi.model.checkpoint import load_checkpoint, read_config
from ros_gpt4roi.model.config import LanguageConfig, ModelConfig, preset
from ros_gpt4roi.model.gpt4roi import GPT4RoI
from ros_gpt4roi.paths import find_model
from ros_gpt4roi.runtime.pipeline import Pipeline, PipelineConfig
from ros_gpt4roi.runtime.types import Frame, Region, Status
from ros_gpt4roi.sim.household.layout import MAX_OBJECTS
from training.changes import changed_model
from training.data import check_section
from training.data.mixture import SOURCES
from training.data.record import Round
from training.data.sample import Sample
from training.data.source import parse_options
from training.evaluation.registry import BENCHMARKS
from training.recipe import RecipeError, read_recipe
from training.train import check_start, train
from training.trainer import DEFAULTS, freeze

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "training" / "configs"


@pytest.mark.parametrize("name", ["stage1", "stage2", "stage2_lora"])
def test_the_stages_name_existing_sources_and_options(name, tmp_path):
    recipe = read_recipe(CONFIGS / f"{name}.yaml")
    for section in (recipe.train, recipe.validation):
        for values in section["sources"]:
            kind = SOURCES[values["type"]]
            options = {key: value for key, value in values.items() if key not in ("type", "ratio")}
            parse_options(kind.options_type, options, name)
    assert 0 < recipe.train["points"] < 1 and "points" not in recipe.validation, "clicks are trained, too"
    (stage,) = recipe.stages
    arguments = TrainingArguments(str(tmp_path), use_cpu=True, **{**DEFAULTS, **stage.arguments})
    # Adapters take a larger step than weights.
    assert (arguments.num_train_epochs, arguments.learning_rate) == (2, 2e-4 if stage.lora else 2e-5)
    assert arguments.lr_scheduler_type == "cosine" and arguments.weight_decay == 0 and arguments.bf16


def test_the_embedded_model_is_what_its_recipe_describes():
    model = read_config(find_model("tabletop"))
    described = read_recipe(CONFIGS / "tabletop.yaml").model
    language = {**described.language.model, **{name: model.language.model[name] for name in (
        "vocab_size", "pad_token_id", "bos_token_id", "eos_token_id")}}
    assert dataclasses.replace(described, language=LanguageConfig(language)) == model
    assert (CONFIGS / "tabletop.yaml").read_text() == (ROOT / "models" / "tabletop" / "recipe.yaml").read_text()


CHANGED = ("tabletop_focal", "tabletop_deformable", "tabletop_embeddings")


@pytest.mark.parametrize("name", CHANGED)
def test_recipes_that_change_the_embedded_model_can_start_and_learn_what_they_name(name):
    recipe = dataclasses.replace(read_recipe(CONFIGS / f"{name}.yaml"), model=str(find_model("tabletop")))
    config, untrained = check_start(recipe)
    assert (untrained == {"regions"}) == (name == "tabletop_deformable") and config != read_config(recipe.model)
    model = changed_model(load_checkpoint(recipe.model), config).model
    for stage in recipe.stages:
        freeze(model, stage.trainable)
        assert any(value.requires_grad for value in model.parameters())
    assert not untrained - recipe.stages[-1].learns


@pytest.mark.slow
@pytest.mark.parametrize("name", CHANGED)
def test_recipes_that_change_the_embedded_model_train_to_their_end(name, tmp_path):
    facts = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
    facts["model"] = str(find_model("tabletop"))
    facts["train"]["scenes"] = facts["validation"]["scenes"] = 4
    for stage in facts["stages"]:
        stage["arguments"] |= {"max_steps": 1, "per_device_train_batch_size": 2, "bf16": False, "report_to": "none"}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(facts))
    final = train(read_recipe(tmp_path / "recipe.yaml"), tmp_path)
    frame = Frame(np.zeros((240, 320, 3), np.uint8), (Region("1", (20.0, 30.0, 90.0, 80.0)),), 0, "camera")
    assert Pipeline(load_checkpoint(final), PipelineConfig()).describe(frame).status is Status.OK


@pytest.mark.parametrize("name", ["stage1", "stage2", "stage2_lora", "tabletop", *CHANGED])
def test_the_last_stage_is_trained_on_prompts_as_the_robot_writes_them(name):
    recipe = read_recipe(CONFIGS / f"{name}.yaml")
    model = load_checkpoint(find_model("tabletop"))
    collator = recipe.stages[-1].objective.collator(model.prompts)
    sample = Sample(np.zeros((4, 4, 3), np.uint8), np.tile(np.float32([0, 0, 1, 1]), (3, 1)),
                    (Round("What is <region2>?", "A mug."),))
    asked = model.prompts.encode([("What is <region2>?", None)], 3, list_regions=True)
    assert collator.encode(sample).input_ids[:len(asked.input_ids)] == asked.input_ids
    assert {0, 1, 2} <= set(asked.region_index)


def test_stage_one_trains_the_region_extractor_only_and_stage_two_all_but_the_encoder():
    (one,), (two,) = (read_recipe(CONFIGS / f"{name}.yaml").stages for name in ("stage1", "stage2"))
    assert one.trainable == ("regions",) and set(two.trainable) == {"regions", "projector", "language"}


def test_stage_two_is_shared_out_among_cards_and_fits_one_by_adapters(tmp_path):
    many, one = (read_recipe(CONFIGS / f"{name}.yaml") for name in ("stage2", "stage2_lora"))
    assert (many.train, many.model) == (one.train, one.model)
    arguments = TrainingArguments(str(tmp_path), use_cpu=True, **{**DEFAULTS, **many.stages[0].arguments})
    assert arguments.fsdp_plugin_args["fsdp_version"] == 2 and arguments.fsdp_plugin_args["activation_checkpointing"]
    assert LoraConfig(**one.stages[0].lora).r == 128 and "fsdp" not in one.stages[0].arguments


def test_the_household_s_stages_leave_the_base_as_it_is_and_fit_what_may_ship(tmp_path):
    recipe = read_recipe(CONFIGS / "household.yaml")
    described = json.loads((CONFIGS / "household_model.json").read_text())
    config = build(ModelConfig, {**preset("gpt4roi-7b").to_dict(), **described})
    assert config.prompt.max_regions >= MAX_OBJECTS
    *see, one, two = recipe.stages
    assert not one.lora
    assert one.trainable == two.trainable == ("regions.project", "regions.place", "projector", "numbers")
    assert all(not stage.lora and {name.partition(".")[0] for name in stage.trainable} == {"vision", "regions"}
               for stage in see)
    untrained = frozenset({"projector", "regions"})  # of what `assemble` makes
    for stage in recipe.stages:
        stage.check_untrained(untrained)
        untrained -= stage.learns
        TrainingArguments(str(tmp_path), use_cpu=True, **{**DEFAULTS, **recipe.arguments, **stage.arguments})
        check_section({**recipe.train, **stage.data})
    with pytest.raises(RecipeError, match="stage1: the projector .* random"):
        dataclasses.replace(one, trainable=("regions", "numbers")).check_untrained(frozenset({"projector", "regions"}))
    assert (one.data["texts"], recipe.train["split"], recipe.validation["split"]) == ("captions", "train", "validation")
    vision = dataclasses.replace(config.vision, encoder={"model_type": "efficientnet_lite", "variant": 2})
    fields = {"model_type": "llama", "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
              "num_attention_heads": 9, "num_key_value_heads": 3, "vocab_size": 49157, "tie_word_embeddings": True}
    with init_empty_weights():
        model = GPT4RoI(dataclasses.replace(config, vision=vision, language=LanguageConfig(fields)), 0)
        get_peft_model(model.language, LoraConfig(**two.lora))
    shipped = sum(value.numel() for name, value in model.named_parameters()
                  if not name.startswith("language.") or "lora_" in name)
    assert 2 * shipped < 40e6, "bytes in half precision"


@pytest.mark.parametrize("name", ["evaluation", "evaluation_tabletop"])
def test_the_evaluations_name_existing_benchmarks_and_arguments(name):
    config = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
    assert config["list_regions"], "as the robot asks"
    for values in config["benchmarks"]:
        arguments = {key: value for key, value in values.items() if key != "type"}
        check_arguments(BENCHMARKS[values["type"]], arguments)
