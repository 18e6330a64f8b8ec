"""Whether a delta and the model that it is to be added to belong together, as far as their files tell.

A sum with another model of the same shapes looks like any checkpoint, and talks nonsense.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from .checkpoint import CheckpointError, load_tokenizer
from .weights_io import WeightSource

# Fields of a Llama's config that fine-tuning leaves alone.
_SHARED_FIELDS = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
                  "max_position_embeddings", "rms_norm_eps", "hidden_act", "rope_theta", "rope_scaling",
                  "rope_parameters")
_NORM = "model.norm.weight"
# The last normalisation's weights are near 1 in a Llama, and move by thousandths in fine-tuning.
_LEAST_OF_WHOLE = 0.1
# Tokens of the base that may have another id: a padding token, say, that either side added.
_STRAY_TOKENS = 0.01


def check_delta(source: WeightSource, base: WeightSource | None, words: PreTrainedTokenizerBase,
                described: Callable[[Path], Mapping[str, Any]]) -> None:
    """Compares what both folders say of the model: last normalisation, config, rotary buffers, vocabulary.

    Args:
        source: The weights to convert.
        base: What they are to be added to; None: they are whole.
        words: The source's tokenizer.
        described: A folder's config, empty where it has none.

    Raises:
        CheckpointError: A delta without a base, a whole model with one, or another base than the delta's.
    """
    if problem := _weights_problem(source, base):
        raise CheckpointError(problem)
    if base is None:
        return
    problem = _config_problem(described(source.folder), described(base.folder))
    if not problem and any((base.folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model")):
        problem = _vocabulary_problem(words.get_vocab(), load_tokenizer(base.folder).get_vocab())
    if problem:
        raise CheckpointError(f"{base.folder}: another base than the delta's: {problem}")


def _weights_problem(source: WeightSource, base: WeightSource | None) -> str:
    """Why weights are no delta although a base is named, or are one although none is; empty where all is well."""
    size = _mean(source)
    if base is None:
        return "" if size is None or size >= _LEAST_OF_WHOLE else (
            f"{source.folder}: a delta, as its {_NORM} averages {size:.3g} and a whole model's about 1; expected "
            "--base, the folder of the Llama that it is added to")
    if size is not None and size >= _LEAST_OF_WHOLE:
        return (f"{source.folder}: a whole model and no delta, as its {_NORM} averages {size:.3g}; expected no --base "
                f"({base.folder})")
    if any(key.startswith(("model.spi_module.", "model.mm_projector.")) for key in base.entries):
        return f"{base.folder}: has a projector or region extractor, expected the Llama that the delta was made from"
    size = _mean(base)
    if size is not None and size < _LEAST_OF_WHOLE:
        return f"{base.folder}: a delta itself, as its {_NORM} averages {size:.3g}; expected a whole Llama as the base"
    for key in source.entries:
        if "rotary_emb" in key and key in base.entries and source.entries[key].shape != base.entries[key].shape:
            return (f"{base.folder}: {key} is {list(base.entries[key].shape)}, the delta's is "
                    f"{list(source.entries[key].shape)}: another base")
    return ""


def _config_problem(source: Mapping[str, Any], base: Mapping[str, Any]) -> str:
    """Why two models' configs are not of a delta and its base; empty where all fields agree that both have."""
    different = [f"{name} {base[name]!r}, the delta's {source[name]!r}" for name in _SHARED_FIELDS
                 if source.get(name) is not None and base.get(name) is not None and source[name] != base[name]]
    return "; ".join(different)


def _vocabulary_problem(source: Mapping[str, int], base: Mapping[str, int]) -> str:
    """Why two vocabularies, token → id, are not of a delta and its base; empty where they agree."""
    different = [token for token, number in base.items() if source.get(token) != number]
    if len(different) <= _STRAY_TOKENS * len(base):
        return ""
    first = min(different, key=lambda token: base[token])
    return (f"{len(different)} of {len(base)} tokens have other ids, such as {first!r}, "
            f"{base[first]}, the delta's {source.get(first)}")


def _mean(source: WeightSource) -> float | None:
    entry = source.entries.get(_NORM)
    if entry is None or len(entry.shape) != 1:
        return None
    return float(source.read(_NORM).to(torch.float32).abs().mean())
