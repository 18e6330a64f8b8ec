"""Adapters on disk: folders of LoRA weights as peft saves them, `adapter_config.json` and `adapter_model.safetensors`.

Only what can be computed beside a linear layer of a language model, quantised or not, is taken; of everything else that
peft can train, the error names the field.
"""
from __future__ import annotations

import hashlib
import logging
import math
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from ..model.checkpoint_files import (
    ADAPTER_CONFIG_FILE,
    CheckpointError,
    StoredTensor,
    WeightsFile,
    check_regular,
    read_object,
)
from ..regular_file import file_digest
from .device import free_memory
from .quantised_linear import QuantisedLinear

logger = logging.getLogger(__name__)
WEIGHTS_FILE = "adapter_model.safetensors"
_PICKLED = "adapter_model.bin"
# Fields that say how an adapter was made or trained, and nothing of how it is used.
_OF_TRAINING = frozenset({
    "auto_mapping", "base_model_name_or_path", "inference_mode", "loftq_config", "lora_dropout", "megatron_core",
    "peft_version", "qalora_group_size", "revision", "task_type"})
# Fields that say which layers it has, which its weights show, and those that `_read_config` reads.
_READ = frozenset({"alpha_pattern", "bias", "exclude_modules", "init_lora_weights", "layers_pattern",
                   "layers_to_transform", "lora_alpha", "peft_type", "r", "rank_pattern", "target_modules",
                   "use_rslora"})
# Where adapters begin that leave the base model's weights as they are.
_PLAIN_STARTS = True, False, "gaussian", "orthogonal", "eva"
_KEY = re.compile(r"(?:base_model\.model\.)?(?P<layer>.+)\.lora_(?P<side>[AB])\.weight")
# What may stand before a decoder layer's name: it depends on the class that the adapter was trained in.
_OUTER = ("model.", "base_model.", "language.model.", "language.base_model.", "model.language_model.",
          "language_model.model.", "language_model.")
_NAMED = 4  # layers that an error names
_MIB = 1 << 20


class LoraWeights(NamedTuple):
    """What an adapter adds to a layer's output: `up @ (down @ x)`.

    Attributes:
        down: [rank, in].
        up: [out, rank], with the adapter's scale.
    """

    down: torch.Tensor
    up: torch.Tensor


@dataclass(frozen=True, eq=False)
class Adapter:
    """Low-rank changes of a language model's linear layers.

    Attributes:
        folder: Where it was read from.
        name: The name of its folder.
        version: NAME@DIGITS, twelve hexadecimal digits of the SHA-256 of its files.
        rank: That of all its layers; where some have a lower one, zeros stand for the rest.
        weights: Of its layers, by their names in the decoder, such as "layers.0.self_attn.q_proj".
    """

    folder: Path
    name: str
    version: str
    rank: int
    weights: Mapping[str, LoraWeights]


def is_adapter(folder: Path) -> bool:
    """Whether a folder is one of an adapter."""
    return (folder / ADAPTER_CONFIG_FILE).is_file()


def linear_layers(body: nn.Module) -> dict[str, nn.Linear | QuantisedLinear]:
    """The layers of a decoder that adapters can change, by their names."""
    return {name: layer for name, layer in body.named_modules() if isinstance(layer, (nn.Linear, QuantisedLinear))}


def read_adapter(folder: Path, body: Any, dtype: torch.dtype, device: torch.device) -> Adapter:
    """Read an adapter for a language model.

    Args:
        folder: As peft's `save_pretrained` writes it.
        body: The decoder.
        dtype: Number format of the weights.
        device: Where they go.

    Raises:
        CheckpointError: The folder holds no adapter, a damaged one, one of another language model or one that changes
            more than linear layers of the decoder, or there is no memory for it.
    """
    check_regular(folder)
    config = _read_config(folder / ADAPTER_CONFIG_FILE)
    path = folder / WEIGHTS_FILE
    if not path.is_file() and (folder / _PICKLED).is_file():
        raise CheckpointError(f"{folder / _PICKLED}: pickled, which may run code when it is read; expected "
                              f"{WEIGHTS_FILE} (peft: save_pretrained(…, safe_serialization=True))")
    pairs = _pairs(path, linear_layers(body))
    _check_rank_and_depth(path, config, pairs, body.config.num_hidden_layers)
    rank = max(pair.down.shape[0] for pair in pairs.values())
    size = torch.empty((), dtype=dtype).element_size()
    needed = sum(rank * (pair.down.shape[1] + pair.up.shape[0]) for pair in pairs.values()) * size
    if needed > (free := free_memory(device)):
        raise CheckpointError(f"{path}: of rank {rank} its weights take {needed // _MIB} MiB, and {free // _MIB} MiB "
                              "are free")
    weights = {name: _read(pair, config, rank, dtype, device) for name, pair in pairs.items()}
    digest = hashlib.sha256((file_digest(folder / ADAPTER_CONFIG_FILE) + file_digest(path)).encode()).hexdigest()
    name = folder.resolve().name
    logger.info("adapter %s: rank %d on %d layers, made of %s", name, rank, len(weights), config.base)
    return Adapter(folder, name, f"{name}@{digest[:12]}", rank, weights)


class _Config(NamedTuple):
    """What an adapter's configuration says of its use."""

    rank: int
    ranks_differ: bool
    alpha: float
    alphas: dict[str, float]
    root: bool  # the scale is alpha / √rank
    all_layers: bool
    base: str

    def scale(self, stored: str, rank: int) -> float:
        """What the product of a layer's weights is multiplied by, as peft finds it."""
        alpha = next((value for name, value in self.alphas.items()
                      if stored == name or stored.endswith("." + name)), self.alpha)
        return alpha / (math.sqrt(rank) if self.root else rank)


class _Pair(NamedTuple):
    """Where the weights of a layer lie."""

    stored: str  # the layer's name in the file
    down: StoredTensor
    up: StoredTensor


def _read_config(path: Path) -> _Config:
    fields = read_object(path)

    def refuse(name: str, expected: str) -> CheckpointError:
        return CheckpointError(f"{path}: {name} is {fields.get(name)!r:.80}, expected {expected}")

    if fields.get("peft_type") != "LORA":
        raise refuse("peft_type", "'LORA'")
    if fields.get("bias", "none") != "none":
        raise refuse("bias", "'none': an adapter changes no biases here")
    if (start := fields.get("init_lora_weights", True)) not in _PLAIN_STARTS:
        raise refuse("init_lora_weights", "a start that leaves the base model as it is, such as true; what "
                     f"{start!r:.40} trains has to be converted by peft's path_initial_model_for_weight_conversion")
    for name in fields.keys() - _OF_TRAINING - _READ:
        if fields[name] not in (None, False, {}, []):
            raise refuse(name, "none: only plain LoRA and rsLoRA on linear layers are taken here")
    rank, alpha = fields.get("r"), fields.get("lora_alpha")
    if type(rank) is not int or rank < 1:
        raise refuse("r", "a whole number, at least 1")
    if not _is_number(alpha):
        raise refuse("lora_alpha", "a number")
    if type(fields.get("use_rslora", False)) is not bool:
        raise refuse("use_rslora", "true or false")
    patterns: dict[str, Any] = {}
    for name in ("rank_pattern", "alpha_pattern"):
        patterns[name] = fields.get(name) or {}
        # peft takes regular expressions, but a foreign one may run for ever.
        if not isinstance(patterns[name], dict) or not all(
                re.fullmatch(r"[\w.]+", key) and _is_number(value) for key, value in patterns[name].items()):
            raise refuse(name, "numbers by names of layers")
    targets = fields.get("target_modules")
    somewhere = fields.get("layers_to_transform") is not None or fields.get("exclude_modules") or not (
        targets == "all-linear" or isinstance(targets, list) and not any(re.search(r"\d", str(t)) for t in targets))
    return _Config(rank, bool(patterns["rank_pattern"]), float(alpha or 0), patterns["alpha_pattern"],
                   bool(fields.get("use_rslora")), not somewhere, str(fields.get("base_model_name_or_path"))[:200])


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) <= sys.float_info.max


def _pairs(path: Path, layers: Mapping[str, nn.Linear | QuantisedLinear]) -> dict[str, _Pair]:
    """Where the weights of each layer lie, after all names and shapes have been checked."""
    found: dict[str, dict[str, StoredTensor]] = {}
    names: dict[str, str] = {}
    unknown, misshapen = [], []
    for key, tensor in WeightsFile.open(path).tensors.items():
        match = _KEY.fullmatch(key)
        name = _layer_name(match["layer"], layers) if match else None
        if match is None or name is None:
            unknown.append(key)
        elif len(tensor.shape) != 2:
            misshapen.append(f"{key}: {list(tensor.shape)}, expected two dimensions")
        elif names.setdefault(name, match["layer"]) != match["layer"]:
            unknown.append(key)  # the same layer under two names
        else:
            found.setdefault(name, {})[match["side"]] = tensor
    if unknown:
        raise CheckpointError(f"{path}: {len(unknown)} of its tensors belong to no linear layer of this language "
                              f"model's decoder, such as {', '.join(unknown[:_NAMED])}; expected names such as "
                              f"base_model.model.model.{next(iter(layers))}.lora_A.weight")
    if not found:
        raise CheckpointError(f"{path}: empty, expected tensors such as lora_A.weight")
    for name, sides in found.items():
        layer = layers[name]
        if missing := {"A", "B"} - sides.keys():
            misshapen.append(f"{names[name]}: lora_{missing.pop()}.weight is missing")
            continue
        rank = sides["A"].shape[0]
        expected = [rank, layer.in_features], [layer.out_features, rank]
        if (given := ([*sides["A"].shape], [*sides["B"].shape])) != expected or not rank:
            misshapen.append(f"{names[name]}: {given[0]} and {given[1]}, expected {expected[0]} and {expected[1]}")
    if misshapen:
        raise CheckpointError(f"{path}: made for another language model:\n  " + "\n  ".join(misshapen[:_NAMED]))
    return {name: _Pair(names[name], sides["A"], sides["B"]) for name, sides in found.items()}


def _layer_name(stored: str, layers: Mapping[str, Any]) -> str | None:
    """The name in the decoder of a layer of the file; None where there is none."""
    return next((name for name in (stored, *(stored.removeprefix(outer) for outer in _OUTER)) if name in layers), None)


def _check_rank_and_depth(path: Path, config: _Config, pairs: Mapping[str, _Pair], depth: int) -> None:
    """Refuse weights of another rank than configured, and those for all layers of a model with more or fewer."""
    present = {number for name in pairs for number in re.findall(r"\.(\d+)\.", name)}
    if config.all_layers and len(present) != depth:
        raise CheckpointError(f"{path}: made for another language model: of {len(present)} layers, expected {depth}")
    ranks = {pair.down.shape[0] for pair in pairs.values()}
    if not config.ranks_differ and ranks != {config.rank}:
        raise CheckpointError(f"{path}: weights of rank {sorted(ranks)}, expected the {config.rank} that r is")


def _read(pair: _Pair, config: _Config, rank: int, dtype: torch.dtype, device: torch.device) -> LoraWeights:
    """A layer's weights, with zeros up to the rank."""
    down, up = (tensor.read().float() for tensor in (pair.down, pair.up))
    own = len(down)
    scaled = up * config.scale(pair.stored, own)
    if not (down.isfinite().all() and scaled.isfinite().all()):
        raise CheckpointError(f"{pair.down.path}: the weights of {pair.stored} are not finite")
    padded = nn.functional.pad(down, (0, 0, 0, rank - own)), nn.functional.pad(scaled, (0, rank - own))
    return LoraWeights(*(part.to(device, dtype, copy=True).contiguous() for part in padded))
