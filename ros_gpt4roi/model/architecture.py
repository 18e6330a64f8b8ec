"""Architectures of transformers from dictionaries in a model's config."""

from __future__ import annotations

from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, PretrainedConfig

from .config import ConfigError


def architecture(field: str, facts: dict[str, Any], **more: Any) -> PretrainedConfig:
    """Make the transformers configuration that a dictionary with `model_type` describes.

    Args:
        field: The config's field that holds it, for messages.
        facts: The dictionary.
        more: Entries that go over the dictionary's.

    Returns:
        The configuration, with transformers' defaults for what the dictionary leaves out.

    Raises:
        ConfigError: The dictionary describes no architecture of transformers.
    """
    facts = {**facts, **more}
    kind = facts.pop("model_type", None)
    if kind is None:
        raise ConfigError(f"{field} has no model_type, expected transformers' name of an architecture")
    try:
        return AutoConfig.for_model(kind, **facts)
    except (StrictDataclassError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{field} describes no {kind} model: {error}") from error
