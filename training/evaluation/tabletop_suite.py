"""Every kind of benchmark on rendered tabletop scenes, so that all of them run for real, without any download.

Scenes are of the test split. Where a public benchmark needs four written choices, the tabletop's own rule for right
answers (ros_gpt4roi.sim.tabletop.scoring) takes their place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from typing_extensions import override

from ros_gpt4roi.sim.conversations import permuted
from ros_gpt4roi.sim.tabletop.renderer import TabletopRenderer
from ros_gpt4roi.sim.tabletop.scene import KINDS, Scene
from ros_gpt4roi.sim.tabletop.scoring import meaning, score
from ros_gpt4roi.sim.text_rounds import TextRound
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


@dataclass(frozen=True)
class Suite:
    """What is asked of the scenes, and how it is counted.

    Attributes:
        task: Of `ros_gpt4roi.sim.tabletop.conversations.SCORED_TASKS`.
        protocol: In words.
        score: (items, texts, which of them the tabletop's own rule calls right, 0 or 1) → scores.
        every_region: One question for every region, not several for every scene that allows them.
        ask_before: The round before the question is an item of its own.
    """

    task: str
    protocol: str
    score: Callable[[Sequence[Item], Sequence[str], np.ndarray], Scores]
    every_region: bool = True
    ask_before: bool = False


def _captioning(items: Sequence[Item], texts: Sequence[str], right: np.ndarray) -> Scores:
    metrics, each = caption_scores([item.references for item in items], texts)
    return {**metrics, "right": per_cent(right)}, each / 10


def _classification(items: Sequence[Item], texts: Sequence[str], _: np.ndarray) -> Scores:
    return class_scores([item.truth.values[0] for item in items], [named(text, tuple(KINDS)) for text in texts])


def _naming(items: Sequence[Item], texts: Sequence[str], _: np.ndarray) -> Scores:
    return semantic_scores([item.references[0] for item in items], texts, None)


def _yes_no(items: Sequence[Item], texts: Sequence[str], _: np.ndarray) -> Scores:
    words = [set(meaning(text)) & {"yes", "no"} for text in texts]
    said = [("yes" in found) if len(found) == 1 else None for found in words]
    return yes_no_scores(["yes" in item.truth.values for item in items], said)


SUITES: dict[str, Suite] = {
    "tabletop_captioning": Suite(
        "describe", "tabletop test scenes, every region described, the true description as reference; × 100",
        _captioning),
    "tabletop_classification": Suite(
        "kind", "tabletop test scenes, the kind of every region; right where the answer names exactly it, per cent",
        _classification),
    "tabletop_naming": Suite(
        "short", "tabletop test scenes, a short description of every region; IoU of words with the true one, × 100",
        _naming),
    "tabletop_yes_no": Suite(
        "yes_no", "tabletop test scenes, yes/no questions about what is and is not there or so; per cent, as POPE "
        "counts", _yes_no, every_region=False),
    "tabletop_grounding": Suite(
        "which_region", "tabletop test scenes, which region is meant; right by the tabletop's rule, per cent",
        lambda _, texts, right: region_scores(right, texts), every_region=False),
    "tabletop_reasoning": Suite(
        "why", "tabletop test scenes; Q→A: a question that has a reason; QA→R: why, given the right answer; Q→AR: both "
        "right by the tabletop's rule, per cent", lambda _, __, right: pair_scores(right), every_region=False,
        ask_before=True),
}


class Tabletop(Benchmark):
    """A suite on rendered scenes.

    Args:
        name: Of `SUITES`.
        scenes: How many.
        seed: Of scenes and questions.
    """

    def __init__(self, name: str, scenes: int = 50, seed: int = 0):
        self.name, self.suite, self.scenes, self.seed = name, SUITES[name], scenes, seed
        self.protocol = self.suite.protocol

    @override
    def items(self) -> Iterator[Item]:
        with TabletopRenderer() as renderer:
            for index in range(self.scenes):
                rng = np.random.default_rng(np.random.SeedSequence([self.seed, index]))
                scene = permuted(renderer.render("test", self.seed, index), rng)
                for turns in self._ask(scene, rng):
                    for end in (len(turns) - 1, len(turns)) if self.suite.ask_before else (len(turns),):
                        rounds = tuple(Round(turn.question, turn.answer, turn.task) for turn in turns[:end])
                        record = Record(scene.image, scene.boxes(), rounds, f"{self.name} {index}")
                        yield Item(record, (turns[end - 1].answer,), turns[end - 1].expected)

    def _ask(self, scene: Scene, rng: np.random.Generator) -> list[tuple[TextRound, ...]]:
        """The questions about one scene, each with the rounds before it."""
        if self.suite.every_region:
            return [ask_about_region(scene, self.suite.task, place, rng) for place in range(len(scene.objects))]
        return ask_about_scene(scene, self.suite.task, rng, _TRIES)

    @override
    def score(self, items: Sequence[Item], texts: Sequence[str]) -> Scores:
        right = np.asarray([score(item.truth, text) for item, text in zip(items, texts)], float)
        return self.suite.score(items, texts, right)
