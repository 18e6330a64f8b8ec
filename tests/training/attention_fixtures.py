"""A Llama without training, and the attention that it really has."""

from __future__ import annotations

from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from ros_gpt4roi.model.checkpoint import LoadedModel, build_model, read_config
from ros_gpt4roi.paths import find_model
from training.from_scratch.start import with_vocabulary


def untrained(tokenizer: PreTrainedTokenizerBase) -> LoadedModel:
    """A model as the tabletop's, with random weights."""
    return build_model(with_vocabulary(read_config(find_model("tabletop")), tokenizer), tokenizer)


def attending(loaded: LoadedModel) -> Any:
    """Hidden states and attentions of two texts of nine random embeddings."""
    language = loaded.model.language
    language.set_attn_implementation("eager")
    try:
        embeddings = torch.randn(2, 9, loaded.model.projector.out_features, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            return language.base_model(inputs_embeds=embeddings, use_cache=False, output_hidden_states=True,
                                       output_attentions=True)
    finally:
        language.set_attn_implementation("sdpa")
