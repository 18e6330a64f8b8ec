"""The configurations that come with the code name things that exist."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from transformers import TrainingArguments

from training.data.mixture import SOURCES
from training.data.source import parse_options
from training.evaluation.registry import BENCHMARKS, check_arguments
from training.recipe import read_recipe
from training.trainer import DEFAULTS

CONFIGS = Path(__file__).parents[2] / "training" / "configs"


@pytest.mark.parametrize("name", ["stage1", "stage2"])
def test_the_stages_name_existing_sources_and_options(name, tmp_path):
    recipe = read_recipe(CONFIGS / f"{name}.yaml")
    for section in (recipe.train, recipe.validation):
        for values in section["sources"]:
            kind = SOURCES[values["type"]]
            options = {key: value for key, value in values.items() if key not in ("type", "ratio")}
            parse_options(kind.options_type, options, name)
    (stage,) = recipe.stages
    arguments = TrainingArguments(str(tmp_path), use_cpu=True, **{**DEFAULTS, **stage.arguments})
    assert (arguments.num_train_epochs, arguments.learning_rate) == (2, 2e-5)
    assert arguments.lr_scheduler_type == "cosine" and arguments.weight_decay == 0


def test_stage_one_trains_the_region_extractor_only_and_stage_two_all_but_the_encoder():
    (one,), (two,) = (read_recipe(CONFIGS / f"{name}.yaml").stages for name in ("stage1", "stage2"))
    assert one.trainable == ("regions",) and set(two.trainable) == {"regions", "projector", "language"}


@pytest.mark.parametrize("name", ["evaluation", "evaluation_tabletop"])
def test_the_evaluations_name_existing_benchmarks_and_arguments(name):
    listed = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())["benchmarks"]
    for values in listed:
        arguments = {key: value for key, value in values.items() if key != "type"}
        check_arguments(BENCHMARKS[values["type"]], arguments, f"{name} ({values['type']})")
