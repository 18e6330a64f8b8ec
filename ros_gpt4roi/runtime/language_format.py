"""Number formats of the language model: converting, saving, loading.

    python -m ros_gpt4roi.runtime.language_format MODEL_FOLDER FORMAT

writes `language-FORMAT.safetensors` into the folder; loading then reads no float weights of the language model.
"""
from __future__ import annotations

import argparse
import errno
import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from ..model.checkpoint import (
    CheckpointError,
    LoadedModel,
    LoadedQwen3VL,
    build_empty,
    find_weights,
    put_weight,
    read_weights,
    weight_files,
)
from ..model.checkpoint_files import StoredTensor, WeightsFile
from ..model.shard_writer import byte_count, header_bytes, write_shard
from .quantised_linear import Int4Linear, Int8DynamicLinear, Int8Linear, QuantisedLinear

logger = logging.getLogger(__name__)
_VERSION = "2"
_PREFIX = "language."  # of the language model's keys in a whole model
_INT4_GROUPS = (64, 32)  # inputs that share a scale; the first that divides the layer's
_KEPT = torch.bfloat16  # what embeddings and norms are rounded to and stored in
_SPARE = 256 << 20  # bytes that stay free on the disk

FLOAT_FORMATS = {"fp32": torch.float32, "bf16": torch.bfloat16}
QUANTISED: dict[str, Any] = {"int8": Int8Linear, "int8-dynamic": Int8DynamicLinear, "int4": Int4Linear}
FORMATS = (*FLOAT_FORMATS, *QUANTISED)


def load_model(folder: str | Path, number_format: str, device: str = "cpu") -> LoadedModel | LoadedQwen3VL:
    """A model with its language model in a number format of FORMATS; the vision stage stays in fp32.

    A quantised language model that lies beside the weights is used. Else the float weights are read one by one, each
    converted before the next is read: what is loaded and one float weight are the most that is in memory.

    Args:
        folder: One that `build_empty` takes.
        number_format: Of FORMATS.
        device: Where the model goes.

    Raises:
        ValueError: The format is unknown, or weights to quantise are not finite.
        CheckpointError: Files do not fit.
    """
    if number_format not in FORMATS:
        raise ValueError(f"language format {number_format!r}, expected one of {', '.join(FORMATS)}")
    folder = Path(folder)
    if number_format in QUANTISED and (path := quantised_file(folder, number_format)).exists():
        return load_quantised(folder, path, number_format, device)
    return _load_float(folder, number_format, device)


def _load_float(folder: Path, number_format: str, device: str) -> LoadedModel | LoadedQwen3VL:
    """As `load_model`, from the float weights."""
    loaded = build_empty(folder)
    model, language = loaded.model, loaded.model.language
    weights = find_weights(model, weight_files(folder))
    of_language = {key: weights.pop(key) for key in list(weights) if key.startswith(_PREFIX)}
    read_weights(model, weights, device, torch.float32)
    if number_format in FLOAT_FORMATS:
        read_weights(model, of_language, device, FLOAT_FORMATS[number_format])
        language.tie_weights()
        language.to(FLOAT_FORMATS[number_format])  # its buffers
    else:
        logger.info("%s has no stored %s language model: it is converted now", folder, number_format)
        _read_quantised(language, of_language, number_format, device)
    model.to(device).eval()
    return loaded


def _read_quantised(language: nn.Module, weights: dict[str, StoredTensor], number_format: str, device: str) -> None:
    """Fill a language model on the meta device with float weights that are quantised layer by layer."""
    parts = {name: [part for part, _ in layer.named_parameters()] for name, layer in _linear_layers(language).items()}
    weights = {key.removeprefix(_PREFIX): stored for key, stored in weights.items()}
    read_weights(language, {key: stored for key, stored in weights.items() if key.rpartition(".")[0] not in parts},
                 device, None)
    tied = getattr(language, "all_tied_weights_keys", {})

    def read_layer(name: str) -> None:
        for key in (f"{name}.{part}" for part in parts[name]):
            put_weight(language, key, weights[tied.get(key, key)].read())

    quantise_language(language, number_format, device, read_layer)


def quantise_language(language: nn.Module, number_format: str, device: str = "cpu",
                      read_layer: Callable[[str], None] = lambda name: None) -> None:
    """Convert every linear layer of a language model in place; embeddings and norms become bfloat16.

    On a CPU these, and the activations, are computed with in float32: its attention is slower in half precision.

    Args:
        language: The model.
        number_format: One of few bits.
        device: Where the converted model is to be.
        read_layer: Called with the name of each linear layer before it is converted, to give it its weights.

    Raises:
        ValueError: Weights are not finite.
    """
    # One by one, so that the device never holds more float weights than a layer's. The head may share its weight with
    # the embedding: replaced first, what stays is the embedding's alone.
    for name in [*_linear_layers(language)]:  # not the layers: each goes as soon as it is replaced
        read_layer(name)
        converted = _from_float(cast(nn.Linear, language.get_submodule(name).to(device)), number_format)
        if converted is not None:
            language.set_submodule(name, converted)
    for module in language.modules():
        if not isinstance(module, QuantisedLinear):
            for parameter in module.parameters(recurse=False):
                parameter.data = parameter.data.to(_KEPT).to(_computed_in(device))


def _computed_in(device: str) -> torch.dtype:
    return torch.float32 if torch.device(device).type == "cpu" else _KEPT


def quantised_file(folder: Path, number_format: str) -> Path:
    """Name the file beside a checkpoint that holds its language model in a format of few bits."""
    return folder / f"language-{number_format}.safetensors"


def save_quantised(language: nn.Module, number_format: str, folder: str | Path) -> Path:
    """Write a converted language model beside its checkpoint; the file appears when it is whole."""
    path = quantised_file(Path(folder), number_format)
    write_quantised(language, number_format, path)
    return path


def write_quantised(language: nn.Module, number_format: str, path: Path, notes: dict[str, str] | None = None) -> str:
    """Write a converted language model tensor by tensor.

    Args:
        language: The model.
        number_format: Its format.
        path: The file, which appears when it is whole.
        notes: Go into its header besides what `load_quantised` checks.

    Returns:
        SHA-256 of the file, hex.

    Raises:
        OSError: It cannot be written; also where the disk would be full afterwards.
    """
    entries = [(name, tuple(value.shape), value.dtype) for name, value in _stored(language)]
    size = sum(byte_count(shape, dtype) for _, shape, dtype in entries)
    if (free := shutil.disk_usage(path.parent).free) < size + _SPARE:
        raise OSError(errno.ENOSPC, f"{size / 1e9:.2f} GB to write, {free / 1e9:.2f} GB free, expected "
                                    f"{_SPARE / 1e9:.2f} GB more than what is written", str(path))
    header = header_bytes(entries, {**_identity(language, number_format), **(notes or {})})
    return write_shard(path, header, (value.cpu() for _, value in _stored(language)))


def _stored(language: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """What a file holds, made one after the other."""
    for name, layer in language.named_modules():
        if isinstance(layer, QuantisedLinear):
            yield from ((f"{name}.{key}", value) for key, value in layer.stored().items())
    yield from ((name, value.detach().to(_KEPT)) for name, value in language.named_parameters())


def load_quantised(folder: Path, path: Path, number_format: str, device: str) -> LoadedModel | LoadedQwen3VL:
    """A model whose language model was converted before.

    Args:
        folder: The checkpoint, of which all but the language model is read.
        path: The file that holds that.
        number_format: Its format.
        device: Where the model goes.

    Raises:
        CheckpointError: A file is damaged, or they do not fit each other.
    """
    loaded = build_empty(folder)
    language = loaded.model.language
    file = WeightsFile.open(path)
    for name, value in _identity(language, number_format).items():
        if file.metadata.get(name) != value:
            raise CheckpointError(f"{path}: {name} is {file.metadata.get(name)!r}, expected {value!r}: "
                                  "quantise the checkpoint again")
    tensors = {name: stored.read().to(device) for name, stored in file.tensors.items()}
    read_weights(loaded.model, find_weights(loaded.model, weight_files(folder), language=False), device, torch.float32)
    for name in _linear_layers(language):
        parts = {key.removeprefix(name + "."): tensors.pop(key) for key in list(tensors)
                 if key.rpartition(".")[0] == name}
        if "weight" in parts and parts["weight"].is_floating_point():  # a layer that was left in float
            tensors |= {f"{name}.{key}": value for key, value in parts.items()}
        else:
            try:
                language.set_submodule(name, QUANTISED[number_format](**parts))
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


def _identity(language: nn.Module, number_format: str) -> dict[str, str]:
    """What a file has to say of itself in its header."""
    return {"version": _VERSION, "number_format": number_format, "architecture": _architecture(language)}


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
        return QUANTISED[number_format].from_float(layer)
    group = int4_group(layer.in_features)
    return None if group is None else Int4Linear.from_float(layer, group)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Convert a checkpoint's language model to few bits, once.")
    parser.add_argument("folder", type=Path, help="checkpoint folder; the result is written into it")
    parser.add_argument("format", choices=list(QUANTISED))
    arguments = parser.parse_args()
    loaded = _load_float(arguments.folder, arguments.format, "cpu")
    path = save_quantised(loaded.model.language, arguments.format, arguments.folder)
    print(f"{path}: {path.stat().st_size / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
