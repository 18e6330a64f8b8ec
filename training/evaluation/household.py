"""How well a model answers questions about household scenes that no training ever sees.

Every region is asked what it is, its colour and material, and to be described (or, where too little of it is seen, what
it is), and the scene as a whole is described; of every other task each scene gets QUESTIONS questions, where it allows
so many (see scenes.py). Scenes are of the split "test", or of "unseen": kinds of things, textures and cameras that no
training has.
"""

from __future__ import annotations

import argparse
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from ros_gpt4roi.model.region_shapes import box_region
from ros_gpt4roi.paths import find_model
from ros_gpt4roi.runtime.pipeline import Pipeline
from ros_gpt4roi.sim.conversations import permuted
from ros_gpt4roi.sim.household import questions
from ros_gpt4roi.sim.household.catalogue import kinds
from ros_gpt4roi.sim.household.conversations import SCORED_TASKS, ask
from ros_gpt4roi.sim.household.relations import HouseholdRelations
from ros_gpt4roi.sim.household.renderer import HouseholdRenderer
from ros_gpt4roi.sim.household.sampler import HouseholdSampler
from ros_gpt4roi.sim.household.scene import SPLITS, TRAINING_SPLITS, HouseholdScene
from ros_gpt4roi.sim.household.scoring import said_colours, said_kinds, said_materials, score
from ros_gpt4roi.sim.household.wordings import UNKNOWN
from training.data.augmentation import moved_edges

from . import scenes
from .errors import EvaluationError
from .household_claims import claims
from .model import config_of, open_pipeline
from .scenes import QUESTIONS, Asked, Examinee, Turns, cell, check_options, different, put, region_shapes, write

#: What is asked of every region of which enough is seen, by the forms of question.
PER_REGION: dict[str, questions.Form] = {"kind": questions.kind, "colour": questions.colour,
                                         "material": questions.material, "describe": questions.describe}
#: Sides of boxes (square root of the area, pixels of the network's input) at which small, middling and large divide.
BOX_SIDES: tuple[float, float] = (24.0, 48.0)
TEST_SPLITS: tuple[str, ...] = tuple(split for split in SPLITS if split not in TRAINING_SPLITS)
_READERS: dict[str, Callable[[str], Iterable[str]]] = {"kind": said_kinds, "colour": said_colours,
                                                       "material": said_materials}
_JITTER = 1  # random stream, beside that of the questions
_UNKNOWN = re.compile(rf"{UNKNOWN}|don't know|do not know|not sure", re.IGNORECASE)


@dataclass(frozen=True)
class Examined:
    """What came of one or more scenes.

    Attributes:
        asked: The questions.
        claims: Of everything that free descriptions stated, whether it is true.
    """

    asked: list[Asked]
    claims: list[bool]


def region_questions(scene: HouseholdScene, relations: HouseholdRelations, rng: np.random.Generator) -> list[Turns]:
    """The questions about each region, by its number alone."""
    found: list[Turns] = []
    for place in range(len(scene.objects)):
        sampler = HouseholdSampler(scene, rng, relations, regions_only=True, among=[place])
        if place not in sampler.clear:
            asked = questions.question(sampler, "kind", sampler.number(place))
            found.append((questions.named(sampler, place, asked),))
            continue
        for form in PER_REGION.values():
            turn = form(sampler)
            assert turn is not None  # every object that is seen can be asked about by itself
            found.append((turn,))
    return found


def scene_questions(scene: HouseholdScene, relations: HouseholdRelations, rng: np.random.Generator) -> list[Turns]:
    """All questions put about one scene."""
    found = region_questions(scene, relations, rng)
    sampler = HouseholdSampler(scene, rng, relations)
    if sampler.clear and (whole := questions.scene(sampler)):
        found.append((whole,))
    for task in SCORED_TASKS:
        if task not in PER_REGION:
            found += different(lambda task=task: ask(scene, task, rng, relations=relations),  # type: ignore[misc]
                               4 * QUESTIONS)[:QUESTIONS]
    return found


def examine(examinee: Examinee, scene: HouseholdScene, rng: np.random.Generator, regions: str = "boxes",
            jitter: float = 0.0) -> Examined:
    """Put questions about one scene and score the answers.

    Args:
        examinee: Who is asked.
        scene: With its pixels.
        rng: Draws the questions, and the points where there are some.
        regions: How the regions are shown, a name in `scenes.REGIONS`.
        jitter: Part of its width or height by which each edge of a box is moved at most.

    Returns:
        The questions, which are the same however the regions are shown, and what came of each.
    """
    scene = permuted(scene, rng)
    relations = HouseholdRelations(scene)
    asked = scene_questions(scene, relations, rng)
    shapes = region_shapes(scene, regions, rng, examinee.points)
    if jitter and regions == "boxes":
        moved = moved_edges(scene.boxes(), jitter, scene.width, scene.height,
                            np.random.default_rng([scene.seed, scene.index, _JITTER]))
        shapes = [box_region(*box) for box in moved.tolist()]
    results = put(examinee, scene, asked, shapes, score,
                  lambda turn: turn.task in PER_REGION and turn.form != "scene", lambda item: item.facts.held_out)
    stated = [truth for a in results if (a.turn.task, a.turn.form) == ("describe", "region")
              for truth in claims(scene, a.turn.regions[0] - 1, a.said, relations)]
    return Examined(results, stated)


def ask_scenes(examinee: Examinee, indexes: Sequence[int], seed: int, split: str = "test", regions: str = "boxes",
               jitter: float = 0.0) -> Examined:
    """`examine` some scenes of a split's seed. Raises AssetsError or RendererError."""
    together = Examined([], [])
    with HouseholdRenderer() as renderer:
        for index in tqdm(indexes, unit=" scenes", desc="asking"):
            rng = np.random.default_rng(np.random.SeedSequence([seed, index]))
            scene = renderer.render(split, seed, index)
            if scene.objects:
                found = examine(examinee, scene, rng, regions, jitter)
                together.asked.extend(found.asked)
                together.claims.extend(found.claims)
    return together


def _ask(options: argparse.Namespace, pipeline: Pipeline, indexes: Sequence[int]) -> Examined:
    return ask_scenes(Examinee.of(pipeline, options.zero_regions), indexes, options.seed, options.split,
                      options.regions, options.jitter)


def _ask_by_worker(options: argparse.Namespace, worker: int) -> Examined:
    """What one of several processes asks: every so manieth scene, on one thread."""
    torch.set_num_threads(1)
    pipeline = Pipeline.open(find_model(str(options.model)), config_of(options))
    return _ask(options, pipeline, range(worker, options.scenes, options.workers))


def new_kinds(asked: Sequence[Asked]) -> dict[str, Any]:
    """What things of kinds that no training has seen are called, as fractions of all answers about them.

    Returns:
        `named`: by their own name; `related`: by one that people might give them (`related` in kinds.yaml); `unknown`:
        that it can't be told, or no kind at all; `another`: confidently by another; and `count`.
    """
    counts: Counter[str] = Counter()
    about = [a for a in asked if a.held_out and (a.turn.task, a.turn.form) == ("kind", "kind")]
    for a in about:
        kind, said = a.turn.expected.values[0], said_kinds(a.said)
        if _UNKNOWN.search(a.said) or not said:
            counts["unknown"] += 1
        else:
            counts["named" if said[0] == kind else "related" if said[0] in kinds()[kind].related else "another"] += 1
    figures: dict[str, Any] = {name: round(counts[name] / len(about), 4) if about else None
                               for name in ("named", "related", "unknown", "another")}
    return {**figures, "count": len(about)}


def summary(found: Examined) -> dict[str, Any]:
    """All figures of a set of answers, as they go into the JSON file. Fractions 0..1, None where nothing was asked."""
    figures = scenes.summarise(found.asked, SCORED_TASKS, BOX_SIDES, _READERS)
    yes_no = [a for a in found.asked if a.turn.expected.what == "yes_no"]
    figures["yes_no_by_truth"] = {truth: cell([a for a in yes_no if a.turn.expected.values == (truth,)])
                                  for truth in ("yes", "no")}
    # Saying that it can't be told must neither be left out nor be a way out.
    hidden = [a.turn.form == "hidden" for a in found.asked if a.turn.task == "kind" and _UNKNOWN.search(a.said)]
    figures["cant_tell"] = {"said": len(hidden), "rightly": round(sum(hidden) / len(hidden), 4) if hidden else None}
    figures["claims"] = {"true": round(sum(found.claims) / len(found.claims), 4) if found.claims else None,
                         "count": len(found.claims)}
    figures["new_kinds"] = new_kinds(found.asked)
    return figures


def table(figures: dict[str, Any]) -> str:
    """The main figures for a person to read, in per cent."""
    truths = [(f"yes/no, truth is {truth}", of["fraction"], of["count"])
              for truth, of in figures["yes_no_by_truth"].items()]
    fresh = [(f"new kinds: {name}", figures["new_kinds"][name], figures["new_kinds"]["count"])
             for name in ("named", "related", "unknown", "another") if figures["new_kinds"]["count"]]
    return scenes.table(figures, SCORED_TASKS, [
        *truths, ("claims of descriptions", figures["claims"]["true"], figures["claims"]["count"]), *fresh])


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `python -m training.evaluate household`."""
    scenes.add_arguments(parser)
    parser.add_argument("--split", choices=TEST_SPLITS, default="test",
                        help="unseen: kinds, textures and cameras that no training has (default %(default)s)")
    parser.add_argument("--jitter", type=float, default=0.0, metavar="PART",
                        help="move each edge of a box by up to that part of its width or height, as a detector might")
    parser.add_argument("--workers", type=int, default=1, metavar="N",
                        help="processes, each with the model and on one thread (default: this one, with as many "
                             "threads as pay)")


def run(options: argparse.Namespace) -> int:
    """Renders, asks, scores, prints a table. Raises EvaluationError, CheckpointError, AssetsError or RendererError."""
    check_options(options)
    if options.workers < 1:
        raise EvaluationError(f"--workers {options.workers}: expected at least 1")
    if not 0 <= options.jitter <= 0.4:
        raise EvaluationError(f"--jitter {options.jitter}: expected 0 to 0.4")
    if options.jitter and options.regions != "boxes":
        raise EvaluationError(f"--jitter {options.jitter} moves boxes, expected --regions boxes and not "
                              f"{options.regions}")
    options.workers = min(options.workers, options.scenes)  # each opens the model
    pipeline = open_pipeline(options)
    if options.workers == 1:
        found = _ask(options, pipeline, range(options.scenes))
    else:
        try:
            with ProcessPoolExecutor(options.workers, get_context("spawn")) as pool:
                parts = list(pool.map(partial(_ask_by_worker, options), range(options.workers)))
        except BrokenProcessPool as error:
            raise EvaluationError(f"--workers {options.workers}: a process died (out of memory? each opens the model "
                                  "and the world)") from error
        found = Examined([asked for part in parts for asked in part.asked],
                         [claim for part in parts for claim in part.claims])
        found.asked.sort(key=lambda a: a.scene)
    figures = summary(found)
    print(table(figures))
    write(options, pipeline, found.asked, figures, split=options.split, jitter=options.jitter)
    return 0
