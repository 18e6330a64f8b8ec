"""Changes of a checkpoint's model before it is trained: another region extractor, a focal crop, more embeddings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from accelerate import init_empty_weights
from torch import nn
from transformers import PreTrainedTokenizerBase

from ros_gpt4roi.configuration import build, fields_of
from ros_gpt4roi.model.checkpoint import LoadedModel, build_model
from ros_gpt4roi.model.config import DeformableConfig, ModelConfig, RoIAlignConfig, RoIAlignLiteConfig

_EXTRACTORS = {"roi_align": RoIAlignConfig, "roi_align_lite": RoIAlignLiteConfig, "deformable": DeformableConfig}


def changed_config(config: ModelConfig, changes: Mapping[str, Any]) -> ModelConfig:
    """Change some fields of a model's config.

    Args:
        config: The model.
        changes: Section → field → value, as in config.json. What is not named stays; a region extractor of another kind
            keeps the values of the fields that both kinds have.

    Returns:
        The changed config.

    Raises:
        ConfigError: A section, field or value is wrong.
    """
    sections = config.to_dict()
    for name, values in changes.items():
        known = sections.get(name)
        if not (isinstance(values, Mapping) and isinstance(known, Mapping)):
            sections[name] = values
            continue
        if name == "regions" and values.get("kind", known["kind"]) != known["kind"]:
            shared = {item.name for item in fields_of(_EXTRACTORS.get(values["kind"], RoIAlignConfig))}
            known = {field: value for field, value in known.items() if field in shared}
        sections[name] = {**known, **values}
    return build(ModelConfig, sections)


def changed_model(loaded: LoadedModel, config: ModelConfig) -> LoadedModel:
    """Make a model of another config that keeps every weight which fits there by name and shape.

    What a focal crop adds starts as nothing, so that the model begins with all that it knows; and where a region gets
    more embeddings than before, each of them begins as a copy of the first.

    Args:
        loaded: The model whose weights are taken.
        config: Of the new one.

    Returns:
        The new model; weights that do not fit are random.
    """
    changed = build_model(config, loaded.tokenizer)
    changed.model.load_state_dict(_fitting(loaded.model, changed.model), strict=False)
    return changed


def random_parts(config: ModelConfig, changed: ModelConfig, tokenizer: PreTrainedTokenizerBase) -> frozenset[str]:
    """Return the parts of a changed model, such as "regions", that have weights which `changed_model` draws anew."""
    with init_empty_weights(include_buffers=False):
        before, after = (build_model(c, tokenizer).model for c in (config, changed))
    return frozenset(key.partition(".")[0] for key in after.state_dict().keys() - _fitting(before, after))


def _fitting(before: nn.Module, after: nn.Module) -> dict[str, torch.Tensor]:
    """The weights of a model that another one can take over."""
    known, wanted = before.state_dict(), after.state_dict()
    for key in ("regions.project.weight", "regions.project.bias"):
        copies = wanted[key].shape[0] // known[key].shape[0]
        known[key] = known[key].repeat(copies, *[1] * (known[key].ndim - 1))
    return {key: value for key, value in known.items() if key in wanted and value.shape == wanted[key].shape}
