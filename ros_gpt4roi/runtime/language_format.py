"""Number formats of the language model: converting, saving, loading.

    python -m ros_gpt4roi.runtime.language_format MODEL_FOLDER FORMAT

writes `language-FORMAT.safetensors` into the folder; loading then never has the float weights in memory.
"""
from __future__ import annotations

import argparse
import hashlib
import json
import logging
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from ..model.checkpoint import (
    CheckpointError,
    LoadedModel,
    LoadedQwen3VL,
    build_empty,
    load_any,
    read_weights,
    weight_files,
)
from .quantised_linear import Int4Linear, Int8DynamicLinear, Int8Linear, QuantisedLinear

logger = logging.getLogger(__name__)
_VERSION = "2"
_INT4_GROUPS = (64, 32)  # inputs that share a scale; the first that divides the layer's
_KEPT = torch.bfloat16  # what embeddings and norms are rounded to and stored in

FLOAT_FORMATS = {"fp32": torch.float32, "bf16": torch.bfloat16}
_QUANTISED: dict[str, Any] = {"int8": Int8Linear, "int8-dynamic": Int8DynamicLinear, "int4": Int4Linear}
FORMATS = (*FLOAT_FORMATS, *_QUANTISED)


def load_model(folder: str | Path, number_format: str, device: str = "cpu") -> LoadedModel | LoadedQwen3VL:
    """A model with its language model in a number format of FORMATS; the vision stage stays in fp32.

    The folder is one that `build_empty` takes. A saved quantised language model is used where it has one, else the
    float one is converted now.
    Raises ValueError for an unknown format, CheckpointError for files that do not fit.
    """
    if number_format not in FORMATS:
        raise ValueError(f"language format {number_format!r}, expected one of {', '.join(FORMATS)}")
    folder = Path(folder)
    if number_format in _QUANTISED and quantised_file(folder, number_format).exists():
        return _load_quantised(folder, number_format, device)
    loaded = load_any(folder, "cpu", torch.float32)
    if number_format in FLOAT_FORMATS:
        loaded.model.language.to(FLOAT_FORMATS[number_format])
    else:
        logger.info("%s has no stored %s language model: it is converted now", folder, number_format)
        quantise_language(loaded.model.language, number_format, device)
    loaded.model.to(device)
    return loaded


def quantise_language(language: nn.Module, number_format: str, device: str = "cpu") -> None:
    """Convert every linear layer of a language model in place, for a device; embeddings and norms become bfloat16.

    On a CPU these, and the activations, are computed with in float32: its attention is slower in half precision.
    """
    # One by one, so that the device never holds more float weights than a layer's. The head may share its weight with
    # the embedding: replaced first, what stays is the embedding's alone.
    for name, layer in _linear_layers(language).items():
        converted = _from_float(layer.to(device), number_format)
        if converted is not None:
            language.set_submodule(name, converted)
    for module in language.modules():
        if not isinstance(module, tuple(_QUANTISED.values())):
            for parameter in module.parameters(recurse=False):
                parameter.data = parameter.data.to(_KEPT).to(_computed_in(device))


def _computed_in(device: str) -> torch.dtype:
    return torch.float32 if torch.device(device).type == "cpu" else _KEPT


def quantised_file(folder: Path, number_format: str) -> Path:
    """Name the file beside a checkpoint that holds its language model in a format of few bits."""
    return folder / f"language-{number_format}.safetensors"


def save_quantised(language: nn.Module, number_format: str, folder: str | Path) -> Path:
    """Write a converted language model beside its checkpoint; the file appears when it is whole."""
    tensors: dict[str, torch.Tensor] = {}
    for name, layer in language.named_modules():
        if isinstance(layer, QuantisedLinear):
            tensors |= {f"{name}.{key}": value for key, value in layer.stored().items()}
    tensors |= {name: value.to(_KEPT) for name, value in language.named_parameters()}
    path = quantised_file(Path(folder), number_format)
    partly = path.with_suffix(".partial")
    save_file({name: value.detach().contiguous().cpu() for name, value in tensors.items()}, partly,
              metadata={"version": _VERSION, "number_format": number_format, "architecture": _architecture(language)})
    os.replace(partly, path)
    return path


def _load_quantised(folder: Path, number_format: str, device: str) -> LoadedModel | LoadedQwen3VL:
    loaded = build_empty(folder)
    language = loaded.model.language
    path = quantised_file(folder, number_format)
    try:
        with safe_open(path, framework="pt", device=device) as archive:
            _check_header(path, archive.metadata() or {}, number_format, language)
            # Copies: the kernels read whole cache lines and crash on the file's alignment of 8 bytes.
            tensors = {name: archive.get_tensor(name).clone() for name in archive.keys()}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: truncated or not a safetensors file ({error})") from error
    read_weights(loaded.model, weight_files(folder), device, torch.float32, language=False)
    for name in _linear_layers(language):
        parts = {key.removeprefix(name + "."): tensors.pop(key) for key in list(tensors)
                 if key.rpartition(".")[0] == name}
        if "weight" in parts and parts["weight"].is_floating_point():  # a layer that was left in float
            tensors |= {f"{name}.{key}": value for key, value in parts.items()}
        else:
            try:
                language.set_submodule(name, _QUANTISED[number_format](**parts))
            except TypeError as error:
                raise CheckpointError(f"{path}: layer {name} has tensors {sorted(parts)} ({error})") from error
    tensors = {name: value.to(_computed_in(device)) for name, value in tensors.items()}
    expected = {name: value for name, value in language.state_dict().items() if value.is_meta}
    wrong = [name for name, value in expected.items() if name not in tensors or tensors[name].shape != value.shape]
    if wrong:
        raise CheckpointError(f"{path}: does not fit the checkpoint beside it, missing or misshapen: {wrong}")
    language.load_state_dict(tensors, strict=False, assign=True)
    loaded.model.to(device).eval()
    return loaded


def _check_header(path: Path, header: dict[str, str], number_format: str, language: nn.Module) -> None:
    expected = {"version": _VERSION, "number_format": number_format, "architecture": _architecture(language)}
    for name, value in expected.items():
        if header.get(name) != value:
            raise CheckpointError(f"{path}: {name} is {header.get(name)!r}, expected {value!r}: "
                                  "quantise the checkpoint again")


def _architecture(language: nn.Module) -> str:
    """What the weights' shapes and meaning depend on, short enough for a message."""
    config = language.config
    fields = {name: getattr(config, name, None) for name in
             ("model_type", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
              "num_key_value_heads", "vocab_size")}
    digest = hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:12]
    return f"{fields['model_type']} {fields['num_hidden_layers']}×{fields['hidden_size']} {digest}"


def _linear_layers(language: nn.Module) -> dict[str, nn.Linear]:
    return {name: module for name, module in language.named_modules() if isinstance(module, nn.Linear)}


def int4_group(inputs: int) -> int | None:
    """How many inputs of a layer of so many share a scale; None where int4 cannot hold it."""
    return next((group for group in _INT4_GROUPS if inputs % group == 0), None)


def _from_float(layer: nn.Linear, number_format: str) -> nn.Module | None:
    """The converted layer, or None where the format cannot hold it."""
    if number_format != "int4":
        return _QUANTISED[number_format].from_float(layer)
    group = int4_group(layer.in_features)
    return None if group is None else Int4Linear.from_float(layer, group)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Convert a checkpoint's language model to few bits, once.")
    parser.add_argument("folder", type=Path, help="checkpoint folder; the result is written into it")
    parser.add_argument("format", choices=list(_QUANTISED))
    arguments = parser.parse_args()
    loaded = load_any(arguments.folder)
    quantise_language(loaded.model.language, arguments.format)
    path = save_quantised(loaded.model.language, arguments.format, arguments.folder)
    print(f"{path}: {path.stat().st_size / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
