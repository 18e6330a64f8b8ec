"""Every kind of benchmark on rendered tabletop scenes, so that all of them run for real, without any download.

Scenes are of the test split. Where a public benchmark needs four written choices, the tabletop's own rule for right
answers (ros_gpt4roi.sim.tabletop.scoring) takes their place.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from typing_extensions import override

from ros_gpt4roi.sim.tabletop.conversations import permuted
from ros_gpt4roi.sim.tabletop.renderer import TabletopRenderer
from ros_gpt4roi.sim.tabletop.scene import KINDS, Scene
from ros_gpt4roi.sim.tabletop.scoring import TextRound, meaning, score
from training.data.record import Record, Round
from training.evaluation.base import Benchmark, Item, Scores, per_cent
from training.evaluation.captioning import caption_scores
from training.evaluation.choice import pair_scores
from training.evaluation.detection import class_scores, named
from training.evaluation.grounding import region_scores
from training.evaluation.hallucination import yes_no_scores
from training.evaluation.semantic import semantic_scores
from training.evaluation.tabletop import ask_about_region, ask_about_scene

_TRIES = 4


class _Tabletop(Benchmark):
    """One question of ``task`` for every region (``every_region``), or several for every scene that allows them."""

    task: str
    every_region = True

    def __init__(self, scenes: int = 50, seed: int = 0):
        self.scenes, self.seed = scenes, seed

    @override
    def items(self) -> Iterator[Item]:
        with TabletopRenderer() as renderer:
            for index in range(self.scenes):
                rng = np.random.default_rng(np.random.SeedSequence([self.seed, index]))
                scene = permuted(renderer.render("test", self.seed, index), rng)
                for turns in self.ask(scene, rng):
                    yield from self.put(scene, turns, index)

    def put(self, scene: Scene, turns: Sequence[TextRound], index: int) -> Iterator[Item]:
        """The items that a question with its history makes: here, one."""
        rounds = tuple(Round(turn.question, turn.answer, turn.task) for turn in turns)
        record = Record(scene.image, scene.boxes(), rounds, f"{self.name} {index}")
        yield Item(record, (turns[-1].answer,), turns[-1].expected)

    def ask(self, scene: Scene, rng: np.random.Generator) -> list[tuple[TextRound, ...]]:
        """The questions about one scene, each with the rounds before it."""
        if self.every_region:
            return [ask_about_region(scene, self.task, place, rng) for place in range(len(scene.objects))]
        return ask_about_scene(scene, self.task, rng, _TRIES)

    def right(self, items: Sequence[Item], texts: Sequence[str]) -> np.ndarray:
        """Which answers the tabletop's own rule calls right, 0 or 1."""
        return np.asarray([score(item.truth, text) for item, text in zip(items, texts)], float)


class TabletopCaptioning(_Tabletop):
    """Descriptions of regions against the true one."""

    name = "tabletop_captioning"
    task = "describe"
    protocol = "tabletop test scenes, every region described, the true description as reference; × 100"

    @override
    def score(self, items: Sequence[Item], texts: Sequence[str]) -> Scores:
        metrics, each = caption_scores([item.references for item in items], texts)
        return {**metrics, "right": per_cent(self.right(items, texts))}, each / 10


class TabletopClassification(_Tabletop):
    """Kinds of things as classes."""

    name = "tabletop_classification"
    task = "kind"
    protocol = "tabletop test scenes, the kind of every region; right where the answer names exactly it, per cent"

    @override
    def score(self, items: Sequence[Item], texts: Sequence[str]) -> Scores:
        said = [named(text, tuple(KINDS)) for text in texts]
        return class_scores([item.truth.values[0] for item in items], said)


class TabletopNaming(_Tabletop):
    """Short descriptions as open-vocabulary names."""

    name = "tabletop_naming"
    task = "short"
    protocol = "tabletop test scenes, a short description of every region; IoU of words with the true one, × 100"

    @override
    def score(self, items: Sequence[Item], texts: Sequence[str]) -> Scores:
        return semantic_scores([item.references[0] for item in items], texts, None)


class TabletopYesNo(_Tabletop):
    """Questions about what is and what is not so."""

    name = "tabletop_yes_no"
    task = "yes_no"
    every_region = False
    protocol = "tabletop test scenes, yes/no questions about what is and is not there or so; per cent, as POPE counts"

    @override
    def score(self, items: Sequence[Item], texts: Sequence[str]) -> Scores:
        words = [set(meaning(text)) & {"yes", "no"} for text in texts]
        said = [("yes" in found) if len(found) == 1 else None for found in words]
        return yes_no_scores(["yes" in item.truth.values for item in items], said)


class TabletopGrounding(_Tabletop):
    """Which region is meant, among all of the scene."""

    name = "tabletop_grounding"
    task = "which_region"
    every_region = False
    protocol = "tabletop test scenes, which region is meant; right by the tabletop's rule, per cent"

    @override
    def score(self, items: Sequence[Item], texts: Sequence[str]) -> Scores:
        return region_scores(self.right(items, texts), texts)


class TabletopReasoning(_Tabletop):
    """VCR's three figures: a question, then why, given the true answer. Items alternate."""

    name = "tabletop_reasoning"
    task = "why"
    every_region = False
    protocol = ("tabletop test scenes; Q→A: a question that has a reason; QA→R: why, given the right answer; Q→AR: "
                "both right by the tabletop's rule, per cent")

    @override
    def put(self, scene: Scene, turns: Sequence[TextRound], index: int) -> Iterator[Item]:
        for end in (len(turns) - 1, len(turns)):
            yield from super().put(scene, turns[:end], index)

    @override
    def score(self, items: Sequence[Item], texts: Sequence[str]) -> Scores:
        return pair_scores(self.right(items, texts))
