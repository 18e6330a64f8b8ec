"""The benchmarks of a YAML file, asked and scored, with a report: ``python -m training.evaluate benchmarks``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import MISSING, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ros_gpt4roi.configuration import Configuration, read_yaml, setting
from ros_gpt4roi.image_file import read_image
from ros_gpt4roi.model.region_shapes import box_region
from ros_gpt4roi.runtime.pipeline import Pipeline
from training.data.record import Record, RecordError
from training.evaluation.base import Answer
from training.evaluation.base import run as run_benchmark
from training.evaluation.errors import EvaluationError
from training.evaluation.model import add_arguments as add_model_arguments
from training.evaluation.model import answers, describe_pipeline, open_conversation, open_pipeline
from training.evaluation.registry import open_benchmark
from training.evaluation.report import write_report

_PACKAGES = ("torch", "transformers", "numpy", "pycocoevalcap")


@dataclass(frozen=True)
class EvaluationConfig(Configuration):
    """What the YAML file holds."""

    benchmarks: tuple[dict[str, Any], ...] = setting(MISSING, "Each with its `type` and the fields of that type.")
    list_regions: bool = setting(True, "Introduce all regions of an image before the first question, as the robot "
                                       "does; false for a model that was not trained so.")
    malformed_limit: int = setting(100, "Items and pictures of each benchmark that may be unreadable; they are named, "
                                        "counted and left out.", at_least=0)


def model_answers(pipeline: Pipeline, list_regions: bool, max_new_tokens: int | None) -> Answer:
    """Greedy answers; the image is encoded once, and its questions are decoded together."""

    def answer(records: Sequence[Record]) -> list[str]:
        first = records[0]
        pixels = first.image if isinstance(first.image, np.ndarray) else read_image(first.image)
        regions = [box_region(*box) for box in first.boxes.tolist()]
        conversations = [open_conversation(record.rounds) for record in records]
        try:
            return answers(pipeline, pixels, regions, conversations, max_new_tokens=max_new_tokens,
                           list_regions=list_regions)
        except EvaluationError as error:
            raise EvaluationError(f"{first.source}: {error}") from error

    return answer


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `python -m training.evaluate benchmarks`."""
    add_model_arguments(parser)
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="which benchmarks (YAML)")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the report goes")
    parser.add_argument("--limit", type=int, metavar="N", help="ask only the first N questions of each")
    parser.add_argument("--worst", type=int, default=12, metavar="N", help="cases shown (default %(default)s)")
    parser.add_argument("--max-new-tokens", type=int, metavar="N", help="of an answer (default: as the node allows)")


def run(options: argparse.Namespace) -> int:
    """Asks, scores, writes the report. Raises EvaluationError, ConfigError, CheckpointError or RendererError."""
    config = read_yaml(EvaluationConfig, options.config)
    pipeline = open_pipeline(options)
    answer = model_answers(pipeline, config.list_regions, options.max_new_tokens)
    results = []
    for number, values in enumerate(tqdm(config.benchmarks, unit=" benchmarks")):
        try:
            benchmark = open_benchmark(values, f"{options.config}: benchmarks[{number}]")
            results.append(run_benchmark(benchmark, answer, options.limit,
                                         malformed_limit=config.malformed_limit))
        except (RecordError, ValueError) as error:
            raise EvaluationError(f"{values.get('type')}: {error}") from error
    metadata = {
        "command": "python -m training.evaluate " + " ".join(sys.argv[1:]),
        **describe_pipeline(options.model, pipeline), "limit": options.limit,
        "versions": ", ".join(f"{name} {version(name)}" for name in _PACKAGES),
    }
    print(write_report(results, options.out, metadata, options.worst))
    return 0
