"""Which number format a language model is run in where none is asked for: by its size, the device and its memory."""
from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from ..model.checkpoint import LoadedModel, LoadedQwen3VL, build_empty, read_any_config, weight_files
from ..model.checkpoint_files import WeightsFile
from ..models.catalogue import Parameters
from .device import free_memory
from .language_format import QUANTISED, quantised_file
from .quantised_linear import multiplies_bytes

logger = logging.getLogger(__name__)

AUTO = "auto"
# benchmarks/results/language_stage.json: up to here ONNX Runtime takes the steps on a CPU, and int8 is the fastest.
_SMALL = 1 << 26
_ON_A_GPU = ("bf16", "int8", "int4")  # from the most exact; none was measured there, so memory alone decides
_MARGIN = 1_500_000_000  # bytes: CUDA and its kernels, activations, CUDA graphs, an engine of the vision stage
_FOR_CACHES = 8  # part of the free memory that caches of frames and conversations may take


class FormatChoice(NamedTuple):
    """A number format, and why it was taken, in words for people."""

    name: str
    reason: str


def choose_format(folder: Path, device: str, free: int | None = None, vnni: bool | None = None) -> FormatChoice:
    """Choose the number format of a folder's language model; no weights are read.

    Args:
        folder: A checkpoint.
        device: PyTorch's name of the one that it goes to.
        free: Bytes that are free there; None: asks.
        vnni: Whether the CPU multiplies bytes without saturating; None: asks.

    Raises:
        CheckpointError: The folder is no checkpoint.
    """
    read_any_config(folder)  # first: what is no checkpoint is told by that
    brought = [name for name in QUANTISED if quantised_file(folder, name).is_file()]
    if len(brought) == 1:
        return FormatChoice(brought[0], f"auto: the folder brings {quantised_file(folder, brought[0]).name}")
    stored = sum(tensor.shape.numel() for path in weight_files(folder) for tensor in
                 WeightsFile.open(path).tensors.values())
    on_gpu = torch.device(device).type == "cuda"
    if not on_gpu and stored <= _SMALL:
        return FormatChoice("int8", "auto: the fastest of a small model on a CPU, as measured")
    parameters = count_parameters(build_empty(folder))
    free = free_memory(torch.device(device)) if free is None else free
    if on_gpu:
        return _by_memory(folder, parameters, free)
    vnni = multiplies_bytes() if vnni is None else vnni
    number_format = "int8-dynamic" if vnni else "int8"
    needed = parameters.loading("int8", gpu=False)
    if needed > free:
        logger.warning("%s needs %s in %s, and %s is free; expected a smaller model", folder, _gigabytes(needed),
                       number_format, _gigabytes(free))
    why = ("the fastest of a larger model on a CPU with VNNI, as measured" if vnni else
           "half as much to read as bf16; this CPU has no VNNI, on which int8-dynamic is faster")
    return FormatChoice(number_format, f"auto: {why}; it needs {_gigabytes(needed)}, computed, of "
                                       f"{_gigabytes(free)} free")


def count_parameters(loaded: LoadedModel | LoadedQwen3VL) -> Parameters:
    """Count a model's parameters by what a number format makes of them; its weights may lie on the meta device."""
    language: Any = loaded.model.language
    head, embedding = language.get_output_embeddings(), language.get_input_embeddings().weight.numel()
    tied = bool(getattr(language.config, "tie_word_embeddings", False))
    linear = sum(parameter.numel() for layer in language.modules() if isinstance(layer, nn.Linear) and layer is not head
                 for parameter in layer.parameters(recurse=False))
    within = sum(parameter.numel() for parameter in language.base_model.parameters())
    whole = sum(parameter.numel() for parameter in loaded.model.parameters())
    of_language = sum(parameter.numel() for parameter in language.parameters())
    return Parameters(vision=whole - of_language, linear=linear, norms=within - linear - embedding,
                      embedding=embedding, tied=tied)


def _by_memory(folder: Path, parameters: Parameters, free: int) -> FormatChoice:
    usable = free - free // _FOR_CACHES
    needed = {name: parameters.loading(name, gpu=True) + _MARGIN for name in _ON_A_GPU}
    name = next((name for name in _ON_A_GPU if needed[name] <= usable), min(needed, key=lambda item: needed[item]))
    facts = (f"it needs {_gigabytes(needed[name])} with all that goes with it, computed, of {_gigabytes(usable)}: "
             f"what is free, {_gigabytes(free)}, less an eighth for caches")
    if needed[name] > usable:
        logger.warning("%s may not fit: in %s %s; expected a smaller model or more free memory", folder, name, facts)
        return FormatChoice(name, f"auto: the smallest, though {facts}")
    larger = [other for other in _ON_A_GPU[:_ON_A_GPU.index(name)]]
    why = (f"{' and '.join(larger)} would need {' and '.join(_gigabytes(needed[other]) for other in larger)}"
           if larger else "the most exact that fits")
    return FormatChoice(name, f"auto: {why}; {facts}")


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:.1f} GB"
