"""What evaluations on rendered scenes have in common: who is asked, what came of it, figures, and the command.

All questions are asked for themselves, without the questions before them (but "why" with the question it refers to,
answered truly). Answers are greedy, by the pipeline that the perception node runs.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from ros_gpt4roi.model.config import PointConfig
from ros_gpt4roi.model.preprocess import normalise_boxes
from ros_gpt4roi.model.region_shapes import RegionShape, box_region, mask_region, point_region
from ros_gpt4roi.runtime.language_stage import Rounds
from ros_gpt4roi.runtime.pipeline import Pipeline
from ros_gpt4roi.sim.rendering import RenderedScene
from ros_gpt4roi.sim.text_rounds import Expected, TextRound, chance_level

from .errors import EvaluationError
from .model import add_arguments as add_model_arguments
from .model import answers, describe_pipeline, open_conversation

#: Questions of each task a scene, for the tasks that are not asked of every region.
QUESTIONS = 4
#: How an object is shown to the model.
REGIONS: tuple[str, ...] = ("boxes", "masks", "points")
_CONFUSIONS = 8  # the commonest, which are told
_PACKAGES = ("torch", "transformers", "numpy", "mujoco", "opencv-python-headless")

Turns = tuple[TextRound, ...]


@dataclass(frozen=True)
class Examinee:
    """Who is asked.

    Attributes:
        answer: (uint8 RGB [H, W, 3], its regions, conversations with the last answer open) → the answers, regions as
            "region3".
        image_size: Side of the picture that it sees, pixels, in which sizes of boxes are told.
        points: How it sees points.
    """

    answer: Callable[[np.ndarray, Sequence[RegionShape], Sequence[Rounds]], Sequence[str]]
    image_size: int
    points: PointConfig

    @staticmethod
    def of(pipeline: Pipeline, zero_regions: bool = False) -> Examinee:
        """A model as the node runs it, which may not be shown what regions look like."""
        config = pipeline.model_config
        return Examinee(partial(answers, pipeline, zero_regions=zero_regions), config.preprocess.typical_frame[0],
                        config.points)


@dataclass(frozen=True)
class Asked:
    """A question with what came of it.

    Attributes:
        turn: The question.
        said: The answer.
        right: Whether it is right.
        scene: The scene's number.
        held_out: Whether the object it is about is of those that training leaves out (per-region tasks only).
        side: Square root of that object's box's area, pixels of the network's input (likewise).
    """

    turn: TextRound
    said: str
    right: bool
    scene: int
    held_out: bool = False
    side: float = 0.0


def different(ask: Callable[[], Turns | None], tries: int) -> list[Turns]:
    """The different questions that so many tries find."""
    found: dict[str, Turns] = {}
    for _ in range(tries):
        turns = ask()
        if turns:
            found.setdefault(" ".join(turn.question for turn in turns), turns)
    return list(found.values())


def region_shapes(scene: RenderedScene[Any], kind: str, rng: np.random.Generator,
                  points: PointConfig) -> list[RegionShape]:
    """Show the objects of a scene to a model.

    Args:
        scene: With its pixels where they are not shown by their boxes.
        kind: A name in REGIONS: the whole boxes, the masks of the visible pixels, or one visible pixel each.
        rng: Draws the points.
        points: Of the model.

    Returns:
        A region an object.
    """
    if kind == "boxes":
        return [box_region(*box) for box in scene.boxes().tolist()]
    masks = [scene.owner == item.object_index for item in scene.objects]
    if kind == "masks":
        return [mask_region(mask) for mask in masks]
    pixels = [np.argwhere(mask)[rng.integers(mask.sum())] + 0.5 for mask in masks]
    return [point_region(x, y, scene.width, scene.height, points) for y, x in pixels]


def put(examinee: Examinee, scene: RenderedScene[Any], asked: Sequence[Turns], shapes: Sequence[RegionShape],
        score: Callable[[Expected, str], bool], about_one: Callable[[TextRound], bool],
        held_out: Callable[[Any], bool]) -> list[Asked]:
    """Put questions about one scene and score the answers.

    Args:
        examinee: Who is asked.
        scene: With its pixels.
        asked: The questions, each with the rounds before it.
        shapes: The regions as they are shown.
        score: The world's rule.
        about_one: Whether a question is one that every region is asked.
        held_out: Whether training leaves out such an object.
    """
    said = examinee.answer(scene.image, shapes, list(map(open_conversation, asked)))
    boxes = normalise_boxes(scene.boxes(), scene.width, scene.height)
    sides = np.sqrt(np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)) * examinee.image_size
    results = []
    for turns, text in zip(asked, said, strict=True):
        turn = turns[-1]
        result = Asked(turn, text, score(turn.expected, text), scene.index)
        if about_one(turn):
            place = turn.regions[0] - 1
            result = replace(result, held_out=held_out(scene.objects[place]), side=float(sides[place]))
        results.append(result)
    return results


# ---------------------------------------------------------------------------------------------- figures

def fraction(asked: Iterable[Asked]) -> float | None:
    """The fraction that is right, rounded to 4 digits; None of none."""
    right = [a.right for a in asked]
    return round(sum(right) / len(right), 4) if right else None


def cell(group: Sequence[Asked]) -> dict[str, Any]:
    """The fraction that is right, and of how many."""
    return {"fraction": fraction(group), "count": len(group)}


def _chance(group: Sequence[Asked]) -> float | None:
    return round(chance_level(a.turn for a in group), 4) if group else None


def image_prior(asked: Sequence[Asked], task: str) -> float | None:
    """What somebody scores who sees the picture but not which region is meant: the scene's most common value."""
    scenes: dict[int, Counter[str]] = defaultdict(Counter)
    for a in asked:
        if a.turn.task == task and a.turn.expected.values:
            scenes[a.scene][a.turn.expected.values[0]] += 1
    total = sum(sum(values.values()) for values in scenes.values())
    return round(sum(values.most_common(1)[0][1] for values in scenes.values()) / total, 4) if total else None


def confusions(asked: Sequence[Asked], task: str, read: Callable[[str], Iterable[str]]) -> list[list[Any]]:
    """The commonest wrong answers: [expected, said, how often]; said is "?" where it is not one word of the task.

    Args:
        asked: All answers.
        task: The task.
        read: The task's words in a text.
    """
    pairs: Counter[tuple[str, str]] = Counter()
    for a in asked:
        if a.turn.task == task and not a.right and a.turn.expected.values:
            said = set(read(a.said))
            pairs[a.turn.expected.values[0], said.pop() if len(said) == 1 else "?"] += 1
    return [[expected, said, count] for (expected, said), count in pairs.most_common(_CONFUSIONS)]


def summarise(asked: Sequence[Asked], tasks: Sequence[str], box_sides: tuple[float, float],
              attributes: Mapping[str, Callable[[str], Iterable[str]]]) -> dict[str, Any]:
    """Figures that every world has, as they go into the JSON file. Fractions 0..1, None where nothing was asked.

    Args:
        asked: All answers.
        tasks: What is scored.
        box_sides: Sides of boxes (square root of the area, pixels of the network's input) at which small, middling and
            large divide.
        attributes: The tasks that are asked of every region for one word → those words in a text.
    """
    by_task = {task: [a for a in asked if a.turn.task == task] for task in tasks}
    low, high = box_sides
    bands = {f"under_{low:.0f}_px": (0.0, low), f"{low:.0f}_to_{high:.0f}_px": (low, high),
             f"over_{high:.0f}_px": (high, float("inf"))}
    figures: dict[str, Any] = {task: fraction(group) for task, group in by_task.items()}
    figures["counts"] = {**{task: len(group) for task, group in by_task.items()},
                         "held_out": sum(a.held_out for a in by_task["kind"])}
    figures["chance"] = {task: _chance(group) for task, group in by_task.items()}
    figures["image_prior"] = {task: image_prior(asked, task) for task in attributes}
    for task in attributes:
        figures[f"held_out_{task}"] = fraction(a for a in by_task[task] if a.held_out)
    figures["by_box"] = {
        task: {band: cell([a for a in by_task[task] if least <= a.side < most])
               for band, (least, most) in bands.items()} for task in attributes}
    # Where a question names no region, words and image tokens can be enough, also when the regions are hidden.
    figures["by_reference"] = {
        task: {"regions": fraction(a for a in group if "<region" in a.turn.question),
               "words": fraction(a for a in group if "<region" not in a.turn.question)}
        for task, group in by_task.items()}
    figures["forms"] = {}
    for task, group in by_task.items():
        forms = {form: [a for a in group if a.turn.form == form] for form in sorted({a.turn.form for a in group})}
        if forms:
            figures["forms"][task] = {form: {**cell(of), "chance": _chance(of)} for form, of in forms.items()}
    figures["confusions"] = {task: confusions(asked, task, read) for task, read in attributes.items()}
    return figures


def per_cent(value: float | None) -> str:
    """A fraction as a person reads it."""
    return "–" if value is None else f"{100 * value:.1f}"


def table(figures: dict[str, Any], tasks: Sequence[str], more: Sequence[tuple[str, float | None, int]]) -> str:
    """The main figures for a person to read, in per cent.

    Args:
        figures: As `summarise` makes them.
        tasks: What is told first, beside what guessing gives.
        more: (name, fraction, of how many) of other rows.
    """
    rows = [("task", "right %", "chance %", "questions")]
    rows += [(task, per_cent(figures[task]), per_cent(figures["chance"][task]), str(figures["counts"][task]))
             for task in tasks]
    rows += [(name, per_cent(value), "", str(count)) for name, value, count in more]
    rows += [(f"kind, box {band.replace('_', ' ')}", per_cent(of["fraction"]), "", str(of["count"]))
             for band, of in figures["by_box"]["kind"].items()]
    return "\n".join(f"{name:<26}{right:>9}{chance:>10}{count:>11}" for name, right, chance, count in rows)


# ---------------------------------------------------------------------------------------------- command

def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that every world's evaluation has."""
    add_model_arguments(parser)
    parser.add_argument("--scenes", type=int, default=300, metavar="N", help="scenes (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, metavar="S",
                        help="of scenes and questions; no seed meets training or validation (default %(default)s)")
    parser.add_argument("--zero-regions", action="store_true", help="hide the region embeddings, as a control")
    parser.add_argument("--regions", choices=REGIONS, default="boxes",
                        help="show objects by their boxes, masks of their visible pixels, or one of these pixels each")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures here")
    parser.add_argument("--answers", type=Path, metavar="FILE", help="write every question and answer here, JSON lines")


def check_options(options: argparse.Namespace) -> None:
    """Raise EvaluationError where the options of `add_arguments` cannot be met, before anything is done."""
    if options.scenes < 1 or options.seed < 0:
        raise EvaluationError(f"--scenes {options.scenes} --seed {options.seed}: expected at least 1 and at least 0")
    for path in (options.json, options.answers):
        if path is not None and not os.access(path.parent, os.W_OK):
            raise EvaluationError(f"{path}: the folder {path.parent} does not exist or cannot be written")
        if path is not None and path.exists() and (path.is_dir() or not os.access(path, os.W_OK)):
            raise EvaluationError(f"{path}: no file that can be written")


def write(options: argparse.Namespace, pipeline: Pipeline, asked: Sequence[Asked], figures: dict[str, Any],
          **facts: Any) -> None:
    """Write the files that the options of `add_arguments` name.

    Args:
        options: The command's.
        pipeline: The model.
        asked: All answers.
        figures: What came of them.
        facts: What was done beside what the options of every world say, for the figures' file.
    """
    if options.answers is not None:
        options.answers.write_text("".join(json.dumps(_answer_line(a), ensure_ascii=False) + "\n" for a in asked),
                                   encoding="utf-8")
    if options.json is not None:
        metadata = {
            "command": "python -m training.evaluate " + " ".join(sys.argv[1:]), "scenes": options.scenes,
            "seed": options.seed, "zero_regions": options.zero_regions, "regions": options.regions, **facts,
            "model": describe_pipeline(options.model, pipeline),
            "versions": {name: version(name) for name in _PACKAGES}, **figures}
        options.json.write_text(json.dumps(metadata, indent=1) + "\n", encoding="utf-8")


def _answer_line(a: Asked) -> dict[str, Any]:
    return {"scene": a.scene, "task": a.turn.task, "form": a.turn.form, "question": a.turn.question,
            "expected": a.turn.answer, "said": a.said, "right": a.right}
