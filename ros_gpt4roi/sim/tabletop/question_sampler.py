"""What questions are drawn from: one scene, its relations, a random generator, and how objects are referred to."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np

from ros_gpt4roi.sim.region_sampler import RegionSampler, join, regions_of, sentence, with_article
from ros_gpt4roi.sim.spatial_relations import SAID, SpatialRelations
from ros_gpt4roi.sim.tabletop.scene import HELD_OUT, Scene, SceneObject
from ros_gpt4roi.sim.text_rounds import Expected, TextRound

#: The order in which attributes are named: "a small shiny red mug".
ORDER: tuple[str, ...] = ("size", "material", "colour", "kind")


def short_text(obj: SceneObject) -> str:
    """The short description of one object: "a small shiny red mug"."""
    return with_article(" ".join(getattr(obj, name) for name in ORDER))


class QuestionSampler(RegionSampler):
    """One scene, its relations and a random generator: what the question templates draw from.

    Its methods take objects (i, j) by their 0-based places in ``scene.objects``, and attributes by names of ORDER.

    Args:
        scene: The scene.
        rng: Draws objects and wordings.
        regions_only: Refer to objects by ``<regionK>`` and never by what they look like.
        it: 0-based object that "it" means at this point of the conversation, and that the question is to be about.
        described: 0-based objects whose looks an answer has told already, not asked about if there are others.
        relations: Of that scene, where they are at hand.
    """

    def __init__(self, scene: Scene, rng: np.random.Generator, *, regions_only: bool = False, it: int | None = None,
                 described: frozenset[int] = frozenset(), relations: SpatialRelations | None = None) -> None:
        super().__init__(rng, len(scene.objects), it, described)
        self.scene, self.objects = scene, scene.objects
        self.relations = SpatialRelations(scene) if relations is None else relations
        self._regions_only = regions_only

    def name(self, i: int, hide: tuple[str, ...] = ()) -> str:
        """A reference to object i: "it", its region, or a phrase only it fits that does not tell ``hide``."""
        if i == self.it:
            return "it"
        phrase = None if self._regions_only or self.coin(0.65) else self.phrase(i, hide)
        return f"the {phrase}" if phrase else self.number(i)

    def phrase(self, i: int, hide: tuple[str, ...] = ()) -> str | None:
        """A phrase that fits object i and no other ("small red mug", "blue thing"), or None where there is none."""
        usable = [name for name in ORDER if name not in hide]
        unique = []
        for size in range(1, len(usable) + 1):
            unique += [names for names in combinations(usable, size)
                       if sum(self.agree(i, j, names) for j in range(self.count)) == 1]
            if len(unique) >= 2:
                break
        return self.describe(self.objects[i], self.pick(unique)) if unique else None

    def describe(self, obj: SceneObject, names: Sequence[str]) -> str:
        """The attributes ``names`` of ``obj`` as a phrase without an article; "thing" where the kind is not told."""
        words = [getattr(obj, name) for name in ORDER if name in names]
        return " ".join(words if "kind" in names else [*words, self.pick(("thing", "object"))])

    def agree(self, i: int, j: int, names: Sequence[str]) -> bool:
        """Whether objects i and j have the same values of the attributes ``names``."""
        return all(getattr(self.objects[i], name) == getattr(self.objects[j], name) for name in names)

    def seen_from(self, j: int, i: int, relations: Sequence[str]) -> str:
        """"from <region2>, <region3> is left": both objects are named before it is said how i stands to j.

        A small model finds one object at a word; what compares two comes after both.
        """
        return f"from {self.number(j)}, {self.number(i)} is {join([SAID[r] for r in relations])}"

    def answer_for(self, i: int) -> str:
        """Object i as an answer: "<region3>, a small shiny red mug"."""
        return f"{self.number(i)}, {short_text(self.objects[i])}"

    def may_deny(self, kind: str, colour: str) -> bool:
        """Whether a text may say that there is no such thing.

        Of the held-out pairs training scenes have none; to say so would teach that they do not exist.
        """
        return self.scene.split == "test" or (kind, colour) not in HELD_OUT

    def has(self, **wanted: str) -> list[int]:
        """The objects that have all the attributes ``wanted``."""
        return [i for i, o in enumerate(self.objects) if all(getattr(o, n) == v for n, v in wanted.items())]

def region_round(sampler: QuestionSampler, question: str, task: str, form: str, answer: int, about: tuple[int, ...],
                 options: int, reason: str, evidence: str = "") -> TextRound:
    """A question whose answer is one region, after the evidence for it where there is some.

    Args:
        sampler: Of the scene.
        question: The question.
        task: The name it is scored under.
        form: Its shape within the task.
        answer: 0-based object that is the answer.
        about: 0-based objects that the question is about.
        options: How many answers are open to somebody who sees nothing.
        reason: The answer to "Why?"; empty where it is not asked.
        evidence: What the answer says first.
    """
    expected = Expected("region", (f"region{answer + 1}",), options)
    said = sentence(f"{evidence}, so {sampler.answer_for(answer)}" if evidence else sampler.answer_for(answer))
    return TextRound(question, said, task, form, expected,
                     regions_of(*about, answer), answer, frozenset({answer}), reason)


def long_text(scene: Scene, i: int, neighbours: int = 1, relations: SpatialRelations | None = None) -> str:
    """What object i is and where it stands: "A large matte blue bowl. <region2>, a small red mug, is right of it.".

    Args:
        scene: The scene.
        i: 0-based place of the object in `scene.objects`.
        neighbours: To how many others, the nearest first.
        relations: Of that scene, where they are at hand.
    """
    relations = SpatialRelations(scene) if relations is None else relations
    sentences = [sentence(short_text(scene.objects[i]))]
    for j in relations.neighbours(i):
        clear = relations.clear_relations(j, i)
        if clear and len(sentences) <= neighbours:
            sentences.append(f"<region{j + 1}>, {short_text(scene.objects[j])}, is {clear[0]} it.")
    return " ".join(sentences)
