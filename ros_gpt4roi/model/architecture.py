"""Architectures of transformers from dictionaries in a model's config."""

from __future__ import annotations

import re
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, PretrainedConfig

from .config import ConfigError

# Fields by which transformers fetches weights or code, or takes other implementations than its own.
_CODE = frozenset((
    "attn_implementation", "auto_map", "backbone", "custom_pipelines", "experts_implementation", "kernel_config",
    "quantization_config", "trust_remote_code", "use_kernels", "use_pretrained_backbone", "use_timm_backbone"))
_COUNT = re.compile(r"(^|_)(depth|layer|block|expert|stage)s?$")
_MOST_PARTS, _MOST, _LONGEST, _DEEPEST = 1024, 1 << 24, 4096, 8


def without_code(fields: dict[str, Any]) -> dict[str, Any]:
    """A transformers configuration without the fields by which code would be fetched, at any depth."""
    return {key: without_code(value) if isinstance(value, dict) else value
            for key, value in fields.items() if not (key in _CODE or key.startswith("_"))}


def _check(field: str, value: Any, parts: bool = False, depth: int = 0) -> None:
    """Raise ConfigError for fields that fetch code, and sizes of no network: nothing may be built of them."""
    if isinstance(value, dict) and depth < _DEEPEST:
        for key, inner in value.items():
            if key in _CODE or str(key).startswith("_"):
                raise ConfigError(f"{field}.{key} is {inner!r}: a checkpoint must not choose the code that runs; leave "
                                  "it out")
            _check(f"{field}.{key}", inner, bool(_COUNT.search(str(key))), depth + 1)
    elif isinstance(value, (list, tuple)) and depth < _DEEPEST:
        if len(value) > _LONGEST:
            raise ConfigError(f"{field} has {len(value)} entries, expected at most {_LONGEST}")
        for inner in value:
            _check(field, inner, parts, depth + 1)
        if parts and all(isinstance(inner, int) for inner in value) and sum(value) > _MOST_PARTS:
            raise ConfigError(f"{field} is {list(value)}, expected at most {_MOST_PARTS} in all")
    elif isinstance(value, (dict, list, tuple)):
        raise ConfigError(f"{field} is nested more than {_DEEPEST} deep")
    elif isinstance(value, int) and not -_MOST <= value <= (most := _MOST_PARTS if parts else _MOST):
        raise ConfigError(f"{field} is {value}, expected at most {most}")


def architecture(field: str, fields: dict[str, Any], **more: Any) -> PretrainedConfig:
    """Make the transformers configuration that a dictionary with `model_type` describes.

    Args:
        field: The config's field that holds it, for messages.
        fields: The dictionary.
        more: Entries that go over the dictionary's.

    Returns:
        The configuration, with transformers' defaults for what the dictionary leaves out.

    Raises:
        ConfigError: The dictionary describes no architecture of transformers.
    """
    _check(field, fields)
    fields = {**fields, **more}
    kind = fields.pop("model_type", None)
    if kind is None:
        raise ConfigError(f"{field} has no model_type, expected transformers' name of an architecture")
    if str(kind).startswith("timm"):
        raise ConfigError(f"{field} describes a {kind} model, which may be fetched from elsewhere, expected another")
    if kind == "efficientnet_lite":
        # Importing it makes it one of transformers' architectures. It brings what those need who build models, which
        # takes seconds.
        from . import efficientnet_lite  # noqa: F401
    try:
        return AutoConfig.for_model(kind, **fields)
    except (StrictDataclassError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{field} describes no {kind} model: {error}") from error
