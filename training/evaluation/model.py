"""The model that is evaluated: by default as the perception node runs it, with the node's own defaults."""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ros_gpt4roi.explain import blank
from ros_gpt4roi.model.prompt import PromptError
from ros_gpt4roi.model.region_shapes import RegionShape
from ros_gpt4roi.paths import find_model
from ros_gpt4roi.runtime.frame_encoder import network_inputs
from ros_gpt4roi.runtime.language_stage import Rounds
from ros_gpt4roi.runtime.pipeline import Pipeline, PipelineConfig
from ros_gpt4roi.runtime.threads import fit_threads
from ros_gpt4roi.runtime.vision_stage import VisionOptions
from ros_gpt4roi.sim.text_rounds import TextRound
from training.data.record import Round

from .errors import EvaluationError

_REHEARSED_REGIONS = 8  # of a frame by which the number of threads is measured, as the node does


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that say which model is evaluated, and how it is run."""
    parser.add_argument("--model", type=Path, required=True, metavar="DIR",
                        help="checkpoint folder, or name of an installed model")
    parser.add_argument("--adapter", type=Path, metavar="DIR", help="LoRA folder that is used with the model")
    parser.add_argument("--reference", action="store_true",
                        help="run it in float32 and PyTorch alone, not in the number format and on the backends that a "
                             "robot uses")
    parser.add_argument("--device", default="auto", help="such as cpu or cuda (default: the GPU, where there is one)")


def config_of(options: argparse.Namespace) -> PipelineConfig:
    """How the options of `add_arguments` have the model run."""
    config = PipelineConfig(device=options.device)
    if options.reference:
        config = dataclasses.replace(config, language_format="fp32", vision=VisionOptions(backend="torch"),
                                     decoding=dataclasses.replace(config.decoding, onnxruntime=False))
    if options.adapter is not None:
        config = dataclasses.replace(config, adapters=(options.adapter,), adapter=options.adapter.resolve().name)
    return config


def open_pipeline(options: argparse.Namespace) -> Pipeline:
    """Open the model for the options of `add_arguments`.

    Raises:
        CheckpointError: The folder holds no whole checkpoint, or that of the adapter none of one for it.
        ConfigError: There is no such model, or the device does not work here.
    """
    folder = find_model(str(options.model))  # of one that came without its language model, the whole one
    if not options.model.is_dir():
        options.model = folder  # it was named, not its folder
    return open_fitted(folder, config_of(options))


def open_fitted(folder: Path, config: PipelineConfig) -> Pipeline:
    """Open a model with as many threads as the node would run it with.

    Args:
        folder: The checkpoint.
        config: How it is run.

    Raises:
        CheckpointError: The folder holds no whole checkpoint.
        ConfigError: The device does not work here.
    """
    pipeline = Pipeline.open(folder, config)
    if pipeline.device.name == "cpu":
        fit_threads(lambda: pipeline.rehearse(_REHEARSED_REGIONS))
        pipeline.reset()
    return pipeline


def describe_pipeline(folder: Path, pipeline: Pipeline) -> dict[str, Any]:
    """Return what the figures depend on: the model's hash, adapter, number format, backend and device."""
    serving = pipeline.adapters.serving
    return {"folder": str(folder), "sha256": model_hash(folder), "adapter": serving.version if serving else "",
            "language_format": pipeline.config.language_format,
            "vision_backend": pipeline.encoder.vision.backend, "device": pipeline.device.name}


def open_conversation(turns: Sequence[Round | TextRound]) -> Rounds:
    """Return (question, answer) of every round, without the last one's answer: it is to be written."""
    return [*((turn.question, turn.answer) for turn in turns[:-1]), (turns[-1].question, None)]


def answers(pipeline: Pipeline, image: np.ndarray, regions: Sequence[RegionShape], conversations: Sequence[Rounds], *,
            max_new_tokens: int | None = None, list_regions: bool = True, zero_regions: bool = False) -> list[str]:
    """Answer conversations about one image greedily, all of them together.

    Args:
        pipeline: The model.
        image: uint8 RGB [H, W, 3].
        regions: In pixels of the image.
        conversations: Each with its last answer open, regions as `<regionK>`.
        max_new_tokens: Most tokens of an answer; None: as many as the node allows.
        list_regions: Whether all regions are introduced before the first question, as the node does.
        zero_regions: Hide the regions: their embeddings, or their boxes in words, become zeros.

    Returns:
        The answers in the model's words, regions as ``region3``.

    Raises:
        EvaluationError: The image, a region or a conversation is no good.
    """
    try:
        picture, inputs = network_inputs(image, regions, pipeline.model_config)
        masks = None if inputs.masks is None else inputs.masks[None]
        vision, boxes = pipeline.encoder.vision.encode(picture[None], inputs.boxes[None], masks), inputs.boxes
        if zero_regions:
            vision, boxes = blank(vision, "regions"), np.zeros_like(boxes)
        return pipeline.language.answers(conversations, vision, max_new_tokens or pipeline.config.answer_tokens,
                                         adapter=pipeline.adapters.serving, boxes=boxes, points=inputs.points,
                                         list_regions=list_regions)
    except (ValueError, PromptError) as error:
        raise EvaluationError(str(error)) from error


def model_hash(folder: Path) -> str:
    """Return the SHA-256 over the config and weights of a checkpoint folder, hex."""
    digest = hashlib.sha256()
    for path in [folder / "config.json", *sorted(folder.glob("*.safetensors"))]:
        digest.update(path.read_bytes())
    return digest.hexdigest()
