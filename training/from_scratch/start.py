"""A model before any training: random weights, and a tokenizer learned from the training data's conversations."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from ros_gpt4roi.model.checkpoint import LoadedModel, build_model
from ros_gpt4roi.model.config import LanguageConfig, ModelConfig
from ros_gpt4roi.model.layers import BoxPosition
from training.errors import RecipeError

from .tokenizer import train_tokenizer

# Conversations the tokenizer is learned from: more of them no longer change a vocabulary this small.
TOKENIZER_SAMPLES = 3000
# Brings PyTorch's initial linear layers to about the size of a language model's initial token embeddings.
SPLICED_SCALE = 0.05


def random_model(config: ModelConfig, samples: Any) -> LoadedModel:
    """A model of random weights.

    Args:
        config: The model; its language model's `vocab_size` is the most tokens that its tokenizer may have.
        samples: Whose conversations the tokenizer is learned from.

    Raises:
        RecipeError: the config says nothing of the vocabulary.
    """
    texts = (text for i in range(min(TOKENIZER_SAMPLES, len(samples))) for r in samples[i].rounds
             for text in (r.question, r.answer))
    # References become names before the tokenizer ever sees them.
    texts = (text.replace("<region", "region").replace(">", "") for text in texts)
    if "vocab_size" not in config.language.model:
        raise RecipeError("language.model.vocab_size is missing, expected the most tokens that the tokenizer may learn")
    tokenizer = train_tokenizer(texts, config.language.model["vocab_size"], config.prompt.template)
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

    Otherwise they differ little from box to box (after look-ups, which need no places, a twentieth of what tells kinds
    apart), and what stands left of what is never learned.
    """
    centre, half = torch.rand(1000, 2), 0.02 + 0.1 * torch.rand(1000, 2)
    features = position(torch.cat([centre - half, centre + half], dim=1))
    norm, gain = position.layers[-1], 1 / features.std(0).mean()
    assert isinstance(norm, nn.LayerNorm)
    norm.weight.mul_(gain)
    norm.bias.sub_(features.mean(0)).mul_(gain)


def with_vocabulary(config: ModelConfig, tokenizer: PreTrainedTokenizerBase) -> ModelConfig:
    """The description with a language model of the tokenizer's size."""
    fields = {**config.language.model, "vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id,
             "bos_token_id": None, "eos_token_id": None}
    return dataclasses.replace(config, language=LanguageConfig(fields))
