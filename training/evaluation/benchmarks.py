"""The benchmarks of a YAML file, asked and scored, with a report: ``python -m training.evaluate benchmarks``.

The file: ``benchmarks``, a list of {"type", …} (see registry.py), and ``list_regions``, whether the model was trained
to have all regions of an image introduced before the first question.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
import yaml
from tqdm import tqdm

from ros_gpt4roi.image_file import read_image
from ros_gpt4roi.model.checkpoint import LoadedModel, load_checkpoint
from ros_gpt4roi.model.preprocess import normalise_boxes, preprocess_frame
from ros_gpt4roi.model.prompt import PromptError
from training.data.record import Record, RecordError
from training.evaluation.benchmark import Answer, run as run_benchmark
from training.evaluation.errors import EvaluationError
from training.evaluation.generate import answer
from training.evaluation.registry import open_benchmark
from training.evaluation.report import write_report
from training.evaluation.tabletop import model_hash

_PACKAGES = ("torch", "transformers", "numpy", "pycocoevalcap")


def model_answers(loaded: LoadedModel, list_regions: bool, max_new_tokens: int) -> Answer:
    """Greedy answers; neighbouring records of the same image and boxes are encoded and decoded together."""

    def answers(records: Sequence[Record]) -> list[str]:
        texts: list[str] = []
        begin = 0
        while begin < len(records):
            end = begin + 1
            while end < len(records) and _same_picture(records[begin], records[end]):
                end += 1
            texts += _about_one(loaded, records[begin:end], list_regions, max_new_tokens)
            begin = end
        return texts

    return answers


def _same_picture(a: Record, b: Record) -> bool:
    if isinstance(a.image, np.ndarray) or isinstance(b.image, np.ndarray):
        return a.image is b.image and np.array_equal(a.boxes, b.boxes)
    return str(a.image) == str(b.image) and np.array_equal(a.boxes, b.boxes)


def _about_one(loaded: LoadedModel, records: Sequence[Record], list_regions: bool, max_new_tokens: int) -> list[str]:
    first, device = records[0], loaded.model.device
    pixels = first.image if isinstance(first.image, np.ndarray) else read_image(first.image)
    image = torch.from_numpy(preprocess_frame(pixels, loaded.config.preprocess))[None].to(device)
    boxes = torch.zeros(1, max(1, len(first.boxes)), 4)  # at least one row, as in training
    if len(first.boxes):
        boxes = torch.from_numpy(normalise_boxes(first.boxes, pixels.shape[1], pixels.shape[0]))[None]
    prompts = []
    for record in records:
        rounds = [*((turn.question, turn.answer) for turn in record.rounds[:-1]), (record.rounds[-1].question, None)]
        try:
            prompts.append(loaded.prompts.encode(rounds, len(record.boxes), list_regions=list_regions))
        except PromptError as error:
            raise EvaluationError(f"{record.source}: {error}") from error
    with torch.inference_mode():
        vision = loaded.model.encode(image, boxes.to(device))
    return answer(loaded, vision, prompts, max_new_tokens)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `python -m training.evaluate benchmarks`."""
    parser.add_argument("--model", type=Path, required=True, metavar="DIR", help="checkpoint folder")
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="which benchmarks (YAML)")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the report goes")
    parser.add_argument("--limit", type=int, metavar="N", help="ask only the first N questions of each")
    parser.add_argument("--worst", type=int, default=12, metavar="N", help="cases shown (default %(default)s)")
    parser.add_argument("--max-new-tokens", type=int, default=64, metavar="N", help="(default %(default)s)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")


def run(options: argparse.Namespace) -> int:
    """Asks, scores, writes the report. Raises EvaluationError, CheckpointError or RendererError."""
    try:
        config = yaml.safe_load(options.config.read_text(encoding="utf-8"))
        listed, list_regions = config["benchmarks"], config.get("list_regions", False)
    except (OSError, yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        raise EvaluationError(f"{options.config}: {type(error).__name__}: {error}, expected benchmarks") from error
    loaded = load_checkpoint(options.model, options.device)
    answers = model_answers(loaded, list_regions, options.max_new_tokens)
    results = []
    for number, values in enumerate(tqdm(listed, unit=" benchmarks")):
        try:
            benchmark = open_benchmark(values, f"{options.config}: benchmarks[{number}]")
            results.append(run_benchmark(benchmark, answers, options.limit))
        except (RecordError, ValueError) as error:
            raise EvaluationError(f"{values.get('type')}: {error}") from error
    facts = {
        "command": "python -m training.evaluate " + " ".join(sys.argv[1:]), "model": str(options.model),
        "sha256": model_hash(options.model), "limit": options.limit,
        "versions": ", ".join(f"{name} {version(name)}" for name in _PACKAGES),
    }
    print(write_report(results, options.out, facts, options.worst))
    return 0
