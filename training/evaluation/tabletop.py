"""How well a model answers questions about tabletop scenes of the test split, which no training ever sees.

Every region is asked its kind, colour, size, material and both descriptions; of every other task each scene gets
QUESTIONS questions, where it allows so many (see scenes.py).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial
from typing import Any

import numpy as np
from tqdm import tqdm

from ros_gpt4roi.runtime.pipeline import Pipeline
from ros_gpt4roi.sim.conversations import permuted
from ros_gpt4roi.sim.tabletop.conversations import SCORED_TASKS, ask
from ros_gpt4roi.sim.tabletop.renderer import TabletopRenderer
from ros_gpt4roi.sim.tabletop.scene import HELD_OUT, Scene
from ros_gpt4roi.sim.tabletop.scoring import ATTRIBUTES, meaning, score

from . import scenes
from .model import open_pipeline
from .scenes import (
    QUESTIONS,
    Asked,
    Examinee,
    Turns,
    check_options,
    different,
    put,
    region_shapes,
    summarise,
    write,
)

#: What is asked of every region.
PER_REGION: tuple[str, ...] = (*ATTRIBUTES, "short", "describe")
#: Sides of boxes (square root of the area, pixels of the network's input) at which small, middling and large divide.
BOX_SIDES: tuple[float, float] = (16.0, 34.0)


def _words(task: str, text: str) -> Iterable[str]:
    """What of an attribute's words a text says."""
    return set(meaning(text)) & set(ATTRIBUTES[task])


_READERS: dict[str, Callable[[str], Iterable[str]]] = {task: partial(_words, task) for task in ATTRIBUTES}


def ask_about_region(scene: Scene, task: str, place: int, rng: np.random.Generator) -> Turns:
    """A question about one region, by its name alone. place: the region's in the scene, from 0."""
    others = frozenset(range(len(scene.objects))) - {place}
    turns = ask(scene, task, rng, regions_only=True, described=others)
    assert turns is not None  # every object can be asked about by itself
    return turns


def ask_about_scene(scene: Scene, task: str, rng: np.random.Generator, tries: int) -> list[Turns]:
    """The different questions of a task that so many tries find."""
    return different(lambda: ask(scene, task, rng), tries)


def questions(scene: Scene, rng: np.random.Generator) -> list[Turns]:
    """The questions put about one scene; the last round of each is the question, those before it its history."""
    found = [ask_about_region(scene, task, place, rng) for place in range(len(scene.objects)) for task in PER_REGION]
    for task in SCORED_TASKS:
        if task not in PER_REGION:
            found += ask_about_scene(scene, task, rng, 4 * QUESTIONS)[:QUESTIONS]
    return found


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
    return put(Examinee.of(pipeline, zero_regions), scene, asked, shapes, score, lambda turn: turn.task in PER_REGION,
               lambda item: (item.kind, item.colour) in HELD_OUT)


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


def summary(asked: Sequence[Asked]) -> dict[str, Any]:
    """All figures of a set of answers, as they go into the JSON file. Fractions 0..1, None where nothing was asked."""
    return summarise(asked, SCORED_TASKS, BOX_SIDES, _READERS)


def table(figures: dict[str, Any]) -> str:
    """The main figures for a person to read, in per cent."""
    held_out = figures["counts"]["held_out"]
    return scenes.table(figures, SCORED_TASKS, [("held-out kind", figures["held_out_kind"], held_out),
                                                ("held-out colour", figures["held_out_colour"], held_out)])


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `python -m training.evaluate tabletop`."""
    scenes.add_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Renders, asks, scores, prints a table. Raises EvaluationError, CheckpointError or RendererError."""
    check_options(options)
    pipeline = open_pipeline(options)
    asked = ask_scenes(pipeline, options.scenes, options.seed, options.zero_regions, options.regions)
    figures = summary(asked)
    print(table(figures))
    write(options, pipeline, asked, figures, split="test")
    return 0
