"""Architectures of transformers from dictionaries in a model's config."""

from __future__ import annotations

from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, PretrainedConfig

from .config import ConfigError


def architecture(field: str, facts: dict[str, Any], **more: Any) -> PretrainedConfig:
    """The transformers configuration that a dictionary with `model_type` describes.

    field: the config's field that holds it, for messages. more: goes over the dictionary. Raises ConfigError.
    """
    facts = {**facts, **more}
    kind = facts.pop("model_type", None)
    if kind is None:
        raise ConfigError(f"{field} has no model_type, expected transformers' name of an architecture")
    try:
        return AutoConfig.for_model(kind, **facts)
    except (StrictDataclassError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{field} describes no {kind} model: {error}") from error
