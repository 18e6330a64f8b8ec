"""How well a model answers questions about tabletop scenes of the test split, which no training ever sees.

Every region is asked its kind, colour, size, material and both descriptions; of every other task each scene gets
QUESTIONS questions, where it allows so many. All are asked for themselves, without the questions before them (but "why"
with the question it refers to, answered truly). Answers are greedy, by the
pipeline that the perception node runs, and scored by ros_gpt4roi.sim.tabletop.scoring.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ros_gpt4roi.model.config import PointConfig
from ros_gpt4roi.model.preprocess import normalise_boxes
from ros_gpt4roi.model.region_shapes import RegionShape, box_region, mask_region, point_region
from ros_gpt4roi.runtime.pipeline import Pipeline
from ros_gpt4roi.sim.conversations import permuted
from ros_gpt4roi.sim.tabletop.conversations import SCORED_TASKS, ask
from ros_gpt4roi.sim.tabletop.renderer import TabletopRenderer
from ros_gpt4roi.sim.tabletop.scene import HELD_OUT, Scene
from ros_gpt4roi.sim.tabletop.scoring import ATTRIBUTES, meaning, score
from ros_gpt4roi.sim.text_rounds import TextRound, chance_level

from .errors import EvaluationError
from .model import add_arguments as add_model_arguments
from .model import answers, describe_pipeline, open_conversation, open_pipeline

#: Questions of each task a scene, for the tasks that are not asked of every region.
QUESTIONS = 4
PER_REGION: tuple[str, ...] = (*ATTRIBUTES, "short", "describe")
#: How an object is shown to the model.
REGIONS: tuple[str, ...] = ("boxes", "masks", "points")
#: Sides of boxes (square root of the area, pixels of the network's input) at which small, middling and large divide.
BOX_SIDES: tuple[float, float] = (16.0, 34.0)
_CONFUSIONS = 8  # the commonest, which are told
_PACKAGES = ("torch", "transformers", "numpy", "mujoco", "opencv-python-headless")


@dataclass(frozen=True)
class Asked:
    """A question with what came of it. held_out, side: of the object it is about (per-region tasks only)."""

    turn: TextRound
    said: str
    right: bool
    scene: int
    held_out: bool = False
    side: float = 0.0


def ask_about_region(scene: Scene, task: str, place: int, rng: np.random.Generator) -> tuple[TextRound, ...]:
    """A question about one region, by its name alone. place: the region's in the scene, from 0."""
    others = frozenset(range(len(scene.objects))) - {place}
    turns = ask(scene, task, rng, regions_only=True, described=others)
    assert turns is not None  # every object can be asked about by itself
    return turns


def ask_about_scene(scene: Scene, task: str, rng: np.random.Generator, tries: int) -> list[tuple[TextRound, ...]]:
    """The different questions of a task that so many tries find."""
    found: dict[str, tuple[TextRound, ...]] = {}
    for _ in range(tries):
        turns = ask(scene, task, rng)
        if turns:
            found.setdefault(" ".join(turn.question for turn in turns), turns)
    return list(found.values())


def questions(scene: Scene, rng: np.random.Generator) -> list[tuple[TextRound, ...]]:
    """The questions put about one scene; the last round of each is the question, those before it its history."""
    found = [ask_about_region(scene, task, place, rng) for place in range(len(scene.objects)) for task in PER_REGION]
    for task in SCORED_TASKS:
        if task not in PER_REGION:
            found += ask_about_scene(scene, task, rng, 4 * QUESTIONS)[:QUESTIONS]
    return found


def region_shapes(scene: Scene, kind: str, rng: np.random.Generator, points: PointConfig) -> list[RegionShape]:
    """Show the objects of a scene in another way than by their boxes.

    Args:
        scene: With its pixels.
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


def examine(pipeline: Pipeline, scene: Scene, rng: np.random.Generator, zero_regions: bool = False,
            regions: str = "boxes", tasks: Collection[str] = SCORED_TASKS) -> list[Asked]:
    """Put questions about one scene to the model and score the answers.

    Args:
        pipeline: The model.
        scene: With its pixels.
        rng: Draws the questions, and the points where there are some.
        zero_regions: Hide the regions.
        regions: How the regions are shown, a name in REGIONS.
        tasks: What is asked.

    Returns:
        The questions, which are the same however the regions are shown, and what came of each.
    """
    scene = permuted(scene, rng)
    asked = [turns for turns in questions(scene, rng) if turns[-1].task in tasks]
    shapes = region_shapes(scene, regions, rng, pipeline.model_config.points)
    said = answers(pipeline, scene.image, shapes, list(map(open_conversation, asked)), zero_regions=zero_regions)
    boxes = normalise_boxes(scene.boxes(), scene.width, scene.height)
    sides = np.sqrt(np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)) * pipeline.model_config.preprocess.typical_frame[0]
    results = []
    for turns, text in zip(asked, said):
        turn = turns[-1]
        about: dict[str, Any] = {}
        if turn.task in PER_REGION:
            obj = scene.objects[turn.regions[0] - 1]
            about = {"held_out": (obj.kind, obj.colour) in HELD_OUT, "side": float(sides[turn.regions[0] - 1])}
        results.append(Asked(turn, text, score(turn.expected, text), scene.index, **about))
    return results


def ask_scenes(pipeline: Pipeline, scenes: int, seed: int, zero_regions: bool = False,
               regions: str = "boxes", tasks: Collection[str] = SCORED_TASKS) -> list[Asked]:
    """`examine` the first scenes of the test split's `seed`. Raises RendererError."""
    asked: list[Asked] = []
    with TabletopRenderer() as renderer:
        for index in tqdm(range(scenes), unit=" scenes", desc="asking"):
            rng = np.random.default_rng(np.random.SeedSequence([seed, index]))
            scene = renderer.render("test", seed, index)
            if scene.objects:
                asked += examine(pipeline, scene, rng, zero_regions, regions, tasks)
    return asked


# ---------------------------------------------------------------------------------------------- figures

def fraction(asked: Iterable[Asked]) -> float | None:
    """The fraction that is right, rounded to 4 digits; None of none."""
    right = [a.right for a in asked]
    return round(sum(right) / len(right), 4) if right else None


def image_prior(asked: Sequence[Asked], task: str) -> float | None:
    """What somebody scores who sees the picture but not which region is meant: the scene's most common value."""
    scenes: dict[int, Counter[str]] = defaultdict(Counter)
    for a in asked:
        if a.turn.task == task:
            scenes[a.scene][a.turn.expected.values[0]] += 1
    total = sum(sum(values.values()) for values in scenes.values())
    return round(sum(values.most_common(1)[0][1] for values in scenes.values()) / total, 4) if total else None


def confusions(asked: Sequence[Asked], task: str) -> list[list[Any]]:
    """The commonest wrong answers: [expected, said, how often]; said is "?" where it is not one word of the task."""
    pairs: Counter[tuple[str, str]] = Counter()
    for a in asked:
        if a.turn.task == task and not a.right:
            said = set(meaning(a.said)) & set(ATTRIBUTES[task])
            pairs[a.turn.expected.values[0], said.pop() if len(said) == 1 else "?"] += 1
    return [[expected, said, count] for (expected, said), count in pairs.most_common(_CONFUSIONS)]


def summary(asked: Sequence[Asked]) -> dict[str, Any]:
    """All figures of a set of answers, as they go into the JSON file. Fractions 0..1, None where nothing was asked."""
    by_task = {task: [a for a in asked if a.turn.task == task] for task in SCORED_TASKS}
    low, high = BOX_SIDES
    bands = {f"under_{low:.0f}_px": (0.0, low), f"{low:.0f}_to_{high:.0f}_px": (low, high),
             f"over_{high:.0f}_px": (high, float("inf"))}
    figures: dict[str, Any] = {task: fraction(group) for task, group in by_task.items()}
    figures["counts"] = {**{task: len(group) for task, group in by_task.items()},
                         "held_out": sum(a.held_out for a in by_task["kind"])}
    figures["chance"] = {task: _chance(group) for task, group in by_task.items()}
    figures["image_prior"] = {task: image_prior(asked, task) for task in ATTRIBUTES}
    for task in ATTRIBUTES:
        figures[f"held_out_{task}"] = fraction(a for a in by_task[task] if a.held_out)
    figures["by_box"] = {
        task: {band: _cell([a for a in by_task[task] if least <= a.side < most])
               for band, (least, most) in bands.items()} for task in ATTRIBUTES}
    # Where a question names no region, words and image tokens can be enough, also when the regions are hidden.
    figures["by_reference"] = {
        task: {"regions": fraction(a for a in group if "<region" in a.turn.question),
               "words": fraction(a for a in group if "<region" not in a.turn.question)}
        for task, group in by_task.items()}
    figures["forms"] = {}
    for task, group in by_task.items():
        forms = {form: [a for a in group if a.turn.form == form] for form in sorted({a.turn.form for a in group})}
        if forms:
            figures["forms"][task] = {form: {**_cell(of), "chance": _chance(of)} for form, of in forms.items()}
    figures["confusions"] = {task: confusions(asked, task) for task in ATTRIBUTES}
    return figures


def _cell(group: Sequence[Asked]) -> dict[str, Any]:
    return {"fraction": fraction(group), "count": len(group)}


def _chance(group: Sequence[Asked]) -> float | None:
    return round(chance_level(a.turn for a in group), 4) if group else None


def table(figures: dict[str, Any]) -> str:
    """The main figures for a person to read, in per cent."""
    def percent(value: float | None) -> str:
        return "–" if value is None else f"{100 * value:.1f}"

    rows = [("task", "right %", "chance %", "questions")]
    rows += [(task, percent(figures[task]), percent(figures["chance"][task]), str(figures["counts"][task]))
             for task in SCORED_TASKS]
    rows += [("held-out kind", percent(figures["held_out_kind"]), "", str(figures["counts"]["held_out"])),
             ("held-out colour", percent(figures["held_out_colour"]), "", str(figures["counts"]["held_out"]))]
    rows += [(f"kind, box {band.replace('_', ' ')}", percent(cell["fraction"]), "", str(cell["count"]))
             for band, cell in figures["by_box"]["kind"].items()]
    return "\n".join(f"{name:<24}{right:>9}{chance:>10}{count:>11}" for name, right, chance, count in rows)


# ---------------------------------------------------------------------------------------------- command

def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `python -m training.evaluate tabletop`."""
    add_model_arguments(parser)
    parser.add_argument("--scenes", type=int, default=300, metavar="N", help="scenes (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, metavar="S",
                        help="of scenes and questions; no seed meets training or validation (default %(default)s)")
    parser.add_argument("--zero-regions", action="store_true", help="hide the region embeddings, as a control")
    parser.add_argument("--regions", choices=REGIONS, default="boxes",
                        help="show objects by their boxes, masks of their visible pixels, or one of these pixels each")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures here")
    parser.add_argument("--answers", type=Path, metavar="FILE", help="write every question and answer here, JSON lines")


def run(options: argparse.Namespace) -> int:
    """Renders, asks, scores, prints a table. Raises EvaluationError, CheckpointError or RendererError."""
    if options.scenes < 1 or options.seed < 0:
        raise EvaluationError(f"--scenes {options.scenes} --seed {options.seed}: expected at least 1 and at least 0")
    for path in (options.json, options.answers):
        if path is not None and not os.access(path.parent, os.W_OK):
            raise EvaluationError(f"{path}: the folder {path.parent} does not exist or cannot be written")
    pipeline = open_pipeline(options)
    asked = ask_scenes(pipeline, options.scenes, options.seed, options.zero_regions, options.regions)
    figures = summary(asked)
    print(table(figures))
    if options.answers is not None:
        options.answers.write_text("".join(json.dumps(_answer_line(a), ensure_ascii=False) + "\n" for a in asked),
                                   encoding="utf-8")
    if options.json is not None:
        metadata = {
            "command": "python -m training.evaluate " + " ".join(sys.argv[1:]), "scenes": options.scenes,
            "split": "test", "seed": options.seed, "zero_regions": options.zero_regions, "regions": options.regions,
            "model": describe_pipeline(options.model, pipeline),
            "versions": {name: version(name) for name in _PACKAGES}, **figures}
        options.json.write_text(json.dumps(metadata, indent=1) + "\n", encoding="utf-8")
    return 0


def _answer_line(a: Asked) -> dict[str, Any]:
    return {"scene": a.scene, "task": a.turn.task, "form": a.turn.form, "question": a.turn.question,
            "expected": a.turn.answer, "said": a.said, "right": a.right}
