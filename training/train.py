"""Train a model by a recipe.

    python -m training.train RECIPE.yaml --out FOLDER

Every stage's result lies in FOLDER/<stage>/final. What is done is not done again: an interrupted run goes on from its
last checkpoint when the same command is given again.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from transformers import set_seed

from ros_gpt4roi.model.checkpoint import (
    CheckpointError,
    LoadedModel,
    LoadedQwen3VL,
    load_any,
    load_tokenizer,
    read_any_config,
    untrained_parts,
)
from ros_gpt4roi.model.config import ConfigError, ModelConfig
from ros_gpt4roi.model.qwen3_vl import Qwen3VLConfig

from .changes import changed_config, changed_model, random_parts
from .data import DataError, open_dataset
from .errors import tells_errors
from .from_scratch.start import random_model
from .recipe import Recipe, RecipeError, read_recipe
from .trainer import FINAL_FOLDER, run_stage

logger = logging.getLogger(__name__)


def check_start(recipe: Recipe) -> tuple[ModelConfig | Qwen3VLConfig, frozenset[str]]:
    """Looks at what a recipe starts from before anything is done.

    Returns:
        The model's config, and its parts whose weights are random though others are not.

    Raises:
        RecipeError: there is nothing to start from, or a stage would learn against a part that stays random.
        CheckpointError: the checkpoint cannot be used.
        ConfigError: it cannot be changed so.
    """
    if isinstance(recipe.model, ModelConfig):
        return recipe.model, frozenset()
    if not Path(recipe.model).is_dir():
        raise RecipeError(f"model is {recipe.model!r}, which is no folder, expected a checkpoint "
                          "(`python -m ros_gpt4roi.model assemble` makes one of pretrained parts), or the description "
                          "of a model to train from nothing")
    config = read_any_config(recipe.model)
    if isinstance(config, Qwen3VLConfig):
        if recipe.changes:
            raise RecipeError("changes are of a checkpoint of this package, but model is a Qwen3-VL, expected none; "
                              "`python -m ros_gpt4roi.model assemble --from` sets how its regions are shown")
        return config, frozenset()  # what is not pretrained begins as nothing, not at random
    untrained = untrained_parts(recipe.model)
    if recipe.changes:
        before, config = config, changed_config(config, recipe.changes)
        untrained |= random_parts(before, config, load_tokenizer(recipe.model))
    left = untrained
    for stage in recipe.stages:
        stage.check_untrained(left)
        left -= stage.learns
    return config, untrained


def start_model(recipe: Recipe, config: ModelConfig | Qwen3VLConfig, out: Path) -> LoadedModel | LoadedQwen3VL:
    """The model before its first stage: the checkpoint that the recipe names, or what it describes, untrained.

    Args:
        recipe: Of both stages.
        config: As `check_start` returns it.
        out: The run's folder.
    """
    if isinstance(recipe.model, ModelConfig):
        # The words of all stages, whichever texts the first one has.
        return random_model(recipe.model, open_dataset(recipe.train, out, recipe.seed, recipe.model))
    loaded = load_any(recipe.model)
    if isinstance(loaded, LoadedModel) and isinstance(config, ModelConfig) and recipe.changes:
        return changed_model(loaded, config)
    return loaded


def train(recipe: Recipe, out: Path) -> Path:
    """Runs the stages of a recipe that are not done yet. Returns the last result's folder."""
    config, untrained = check_start(recipe)
    result: Path | None = None
    for stage in recipe.stages:
        previous, result = result, out / stage.name / FINAL_FOLDER
        untrained -= stage.learns
        if result.is_dir():
            logger.info("stage %s is done: %s", stage.name, result)
            continue
        set_seed(recipe.seed)
        samples, validation = (open_dataset({**section, **stage.data}, out, recipe.seed, config)
                               for section in (recipe.train, recipe.validation))
        # From the file also where the model is still there: an uninterrupted run then does what a resumed one does.
        loaded = load_any(previous) if previous else start_model(recipe, config, out)
        run_stage(stage, loaded, samples, validation, result.parent, recipe.arguments, recipe.seed, sorted(untrained))
    assert result is not None  # a recipe has a stage
    return result


@tells_errors(RecipeError, DataError, CheckpointError, ConfigError, OSError,
              interrupted="interrupted; the same command goes on where it was")
def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; see the module's text."""
    parser = argparse.ArgumentParser(prog="python -m training.train", description=__doc__.partition("\n")[0])
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="folder of the run; give it again to go on")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    print(train(read_recipe(options.recipe), options.out))
    return 0


if __name__ == "__main__":
    sys.exit(main())
