"""Trains a model by a recipe:  python -m training.train RECIPE.yaml --out FOLDER

Every stage's result lies in FOLDER/<stage>/final. What is done is not done again: an interrupted run goes on from its
last checkpoint when the same command is given again.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
import sys
from pathlib import Path

import torch
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase, set_seed

from ros_gpt4roi.model.checkpoint import CheckpointError, LoadedModel, build_model, load_checkpoint, read_config
from ros_gpt4roi.model.config import ConfigError, LanguageConfig, ModelConfig, preset
from ros_gpt4roi.model.layers import BoxPosition

from .data import DataError, open_dataset
from .recipe import Recipe, RecipeError, read_recipe
from .tokenizer import train_tokenizer
from .trainer import FINAL_FOLDER, run_stage

# Conversations the tokenizer is learned from: more of them no longer change a vocabulary this small.
TOKENIZER_SAMPLES = 3000
# Brings PyTorch's initial linear layers to about the size of a language model's initial token embeddings.
SPLICED_SCALE = 0.05

logger = logging.getLogger(__name__)


def model_config(recipe: Recipe) -> ModelConfig:
    """The description of the model that a recipe trains."""
    return read_config(recipe.model) if Path(recipe.model).is_dir() else preset(recipe.model)


def start_model(recipe: Recipe, train: Dataset) -> LoadedModel:
    """The model before its first stage: a checkpoint, or a preset with random weights and a tokenizer learned on `train`."""
    if Path(recipe.model).is_dir():
        return load_checkpoint(recipe.model)
    config = model_config(recipe)
    texts = (text for i in range(min(TOKENIZER_SAMPLES, len(train))) for r in train[i].rounds
             for text in (r.question, r.answer))
    # References become names before the tokenizer ever sees them.
    texts = (text.replace("<region", "region").replace(">", "") for text in texts)
    tokenizer = train_tokenizer(texts, recipe.vocabulary, config.prompt.template)
    loaded = build_model(with_vocabulary(config, tokenizer), tokenizer)
    # What is spliced in must not be louder than the words around it: a normalised residual stream that is full of it
    # takes long to learn which name belongs to which region.
    with torch.no_grad():
        for layer in (loaded.model.regions.project, loaded.model.projector):
            layer.weight.mul_(SPLICED_SCALE)
            layer.bias.zero_()
        spread_positions(loaded.model.regions.position)
    return loaded


def spread_positions(position: BoxPosition) -> None:
    """Starts a box's position with features of mean 0 and standard deviation 1 over boxes of all places.

    Otherwise they differ little from box to box (after drills, which need no places, a twentieth of what tells kinds
    apart), and what stands left of what is never learned.
    """
    centre, half = torch.rand(1000, 2), 0.02 + 0.1 * torch.rand(1000, 2)
    features = position(torch.cat([centre - half, centre + half], dim=1))
    norm, gain = position.layers[-1], 1 / features.std(0).mean()
    norm.weight.mul_(gain)
    norm.bias.sub_(features.mean(0)).mul_(gain)


def with_vocabulary(config: ModelConfig, tokenizer: PreTrainedTokenizerBase) -> ModelConfig:
    """The description with a language model of the tokenizer's size."""
    facts = {**config.language.model, "vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id,
             "bos_token_id": None, "eos_token_id": None}
    return dataclasses.replace(config, language=LanguageConfig(facts))


def train(recipe: Recipe, out: Path) -> Path:
    """Runs the stages of a recipe that are not done yet. Returns the last result's folder."""
    result = None
    for stage in recipe.stages:
        previous, result = result, out / stage.name / FINAL_FOLDER
        if result.is_dir():
            logger.info("stage %s is done: %s", stage.name, result)
            continue
        set_seed(recipe.seed)
        preprocess = model_config(recipe).preprocess
        sources = [open_dataset(facts, out, recipe.seed, stage.texts, preprocess)
                   for facts in (recipe.train, recipe.validation)]
        # From the file also where the model is still there: an uninterrupted run then does what a resumed one does.
        if previous:
            loaded = load_checkpoint(previous)
        else:
            # The words of all stages, whichever texts the first one has.
            loaded = start_model(recipe, open_dataset(recipe.train, out, recipe.seed, "long", preprocess))
        run_stage(stage, loaded, *sources, result.parent, recipe.arguments, getattr(sources[0], "classes", ()), recipe.seed)
    return result


def main() -> int:
    """Command line; see the module's text."""
    parser = argparse.ArgumentParser(prog="python -m training.train", description=__doc__.partition("\n")[0])
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="folder of the run; give it again to go on")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        print(train(read_recipe(options.recipe), options.out))
    except (RecipeError, DataError, CheckpointError, ConfigError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from the last checkpoint", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
