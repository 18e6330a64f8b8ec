"""Texts about a scene, from ground truth only: descriptions, and conversations of questions and true answers.

Regions are written ``<regionK>``, K the 1-based place in ``scene.objects``. That place must say nothing about the
object, so shuffle the objects first (`permuted`). A scene and a random generator fix every text.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from ros_gpt4roi.sim.conversations import ask_why, compose
from ros_gpt4roi.sim.region_sampler import sentence
from ros_gpt4roi.sim.spatial_relations import RELATIONS, SpatialRelations
from ros_gpt4roi.sim.tabletop import question_templates, yes_no_templates
from ros_gpt4roi.sim.tabletop.question_sampler import ORDER, QuestionSampler, short_text
from ros_gpt4roi.sim.tabletop.question_templates import TASKS
from ros_gpt4roi.sim.tabletop.scene import Scene
from ros_gpt4roi.sim.tabletop.scoring import ATTRIBUTES, meaning
from ros_gpt4roi.sim.text_rounds import Expected, TextRound

#: How often each task is drawn as the next independent question of a conversation. Relations, which_region and yes_no
#: have many forms, so they need the most practice; colour is learnt in no time.
WEIGHTS: dict[str, float] = {
    "kind": 1.5, "colour": 1.0, "size": 1.5, "material": 1.0, "short": 1.0, "describe": 1.5, "relations": 3.0,
    "counting": 2.0, "comparing": 2.0, "which_region": 3.0, "yes_no": 3.0,
}
#: The tasks that `ask` knows, and that scores are given for.
SCORED_TASKS: tuple[str, ...] = (*WEIGHTS, "why")

_ATTEMPTS = 6
_ABOUT_IT: tuple[Callable[[QuestionSampler], TextRound | None], ...] = (
    *(form for name in ("kind", "colour", "size", "material") for form in TASKS[name]),
    question_templates.pair_relation, question_templates.pair_relation, question_templates.closest,
    question_templates.which_stands, yes_no_templates.is_it, yes_no_templates.stands, yes_no_templates.exists_there,
)


def short_rounds(scene: Scene) -> list[TextRound]:
    """One short description a region: the texts of training stage 1.

    Args:
        scene: The scene.

    Returns:
        A round an object, in the order of `scene.objects`.
    """
    rounds = []
    for i, obj in enumerate(scene.objects):
        values = tuple(getattr(obj, name) for name in ORDER)
        expected = Expected("attributes", values, question_templates.COMBINATIONS)
        rounds.append(TextRound(f"What is <region{i + 1}>?", sentence(short_text(obj)), "short", "named", expected,
                                (i + 1,), i, frozenset({i})))
    return rounds


def recall_rounds(scene: Scene, rng: np.random.Generator, rounds: int) -> list[TextRound]:
    """Terse look-ups in random order, an exercise in associative recall (arXiv 2312.04927).

    The forms are "<region3>?" → "red mug.", "red mug?" → "<region3>.", "<region3>, <region2>?" → "From <region2>,
    <region3> is left." and "Closest to <region3>?" → "<region2>.". To find a region by its name, its looks or its
    place, and to hold two places against each other, is what a language model without any training learns last, and
    what most questions need; asked so tersely and often it is learned in minutes.

    Args:
        scene: the scene; its objects are asked about again and again.
        rng: draws objects and forms.
        rounds: how many look-ups.

    Returns:
        The look-ups, each a question and its answer.
    """
    sampler = QuestionSampler(scene, rng)
    found = []
    for _ in range(rounds):
        i = sampler.target()
        if sampler.coin(0.25):
            turn = _recall_pair(sampler, i)
        elif sampler.coin(0.2):
            turn = _recall_nearest(sampler, i)
        elif sampler.coin():
            turn = _recall_phrase(sampler, i)
        else:
            turn = None
        found.append(turn or _recall_region(sampler, i))
    return found


def _recall_pair(sampler: QuestionSampler, i: int) -> TextRound | None:
    for j in sampler.partners(i):
        relations = sorted(sampler.relations.clear_relations(i, j), key=RELATIONS.index)
        if relations:
            answer = sentence(sampler.seen_from(j, i, relations))
            return TextRound(f"{sampler.number(i)}, {sampler.number(j)}?", answer, "relations", "recall",
                             Expected("relation", meaning(" ".join(relations)), 4), (i + 1, j + 1), i)
    return None


def _recall_nearest(sampler: QuestionSampler, i: int) -> TextRound | None:
    nearest = sampler.relations.nearest(i)
    return None if nearest is None else TextRound(
        f"Closest to {sampler.number(i)}?", f"{sampler.number(nearest)}.", "relations", "recall",
        Expected("region", (f"region{nearest + 1}",), sampler.count - 1), (i + 1, nearest + 1), nearest)


def _recall_phrase(sampler: QuestionSampler, i: int) -> TextRound | None:
    phrase = sampler.phrase(i)
    if phrase is None:
        return None
    return TextRound(f"{phrase}?", f"{sampler.number(i)}.", "which_region", "recall",
                     Expected("region", (f"region{i + 1}",), sampler.count), (i + 1,), i)


def _recall_region(sampler: QuestionSampler, i: int) -> TextRound:
    names = [name for name in ORDER if name in ("colour", "kind") or sampler.coin(0.25)]
    values = tuple(getattr(sampler.objects[i], name) for name in names)
    return TextRound(f"{sampler.number(i)}?", " ".join(values) + ".", "short", "recall",
                     Expected("attributes", values, int(np.prod([len(ATTRIBUTES[name]) for name in names]))),
                     (i + 1,), i)


def why(parent: TextRound, rng: np.random.Generator) -> TextRound | None:
    """The question "Why?" after ``parent``; see `ask_why`."""
    return ask_why(parent, rng, meaning)


def ask(
    scene: Scene, task: str, rng: np.random.Generator, *, regions_only: bool = False,
    described: frozenset[int] = frozenset(), relations: SpatialRelations | None = None,
) -> tuple[TextRound, ...] | None:
    """One question of ``task`` (one of SCORED_TASKS, else KeyError) with the rounds it needs before it.

    Args:
        scene: The scene.
        task: What is asked.
        rng: Draws the question.
        regions_only: Refer to objects by their regions and never by what they look like.
        described: 0-based objects not to ask about where others are left.
        relations: Of that scene, where they are at hand.

    Returns:
        The rounds; the last is the question, those before it are its history. None where the scene allows no such
        question.
    """
    if not scene.objects:
        return None
    if task == "why":
        for _ in range(_ATTEMPTS):
            parents = ask(scene, ("relations", "yes_no", "which_region", "comparing")[int(rng.integers(4))], rng,
                          regions_only=regions_only, described=described, relations=relations)
            if parents and (turn := why(parents[-1], rng)):
                return (*parents, turn)
        return None
    sampler = QuestionSampler(scene, rng, regions_only=regions_only, described=described, relations=relations)
    turn = sampler.first(TASKS[task])
    return None if turn is None else (turn,)


def about_it(scene: Scene, parent: TextRound, rng: np.random.Generator,
             relations: SpatialRelations | None = None) -> TextRound | None:
    """A question that calls the subject of ``parent`` "it" ("And what colour is it?"), or None where none fits.

    Args:
        scene: The scene.
        parent: The round before it.
        rng: Draws the question.
        relations: Of that scene, where they are at hand.
    """
    if parent.subject is None:
        return None
    sampler = QuestionSampler(scene, rng, it=parent.subject, relations=relations)
    described = parent.subject in parent.reveals
    for form in sampler.shuffled(_ABOUT_IT)[:_ATTEMPTS]:
        turn = form(sampler)
        if turn is None or turn.task == parent.task and turn.form == parent.form:
            continue
        if described and turn.task in ATTRIBUTES and not sampler.coin(0.25):
            continue  # the answer only has to be copied: rarely worth a round
        question = turn.question
        if turn.task in ATTRIBUTES and sampler.coin(0.3):
            question = sampler.pick((f"And its {turn.task}?", f"What about its {turn.task}?"))
        elif sampler.coin():
            question = "And " + question[0].lower() + question[1:]
        return replace(turn, question=question, follow_up=True)
    return None


def conversation(scene: Scene, rng: np.random.Generator, max_rounds: int = 8) -> list[TextRound]:
    """A conversation about one scene, in which no question comes twice (see `compose`).

    Args:
        scene: The scene.
        rng: Draws the questions.
        max_rounds: Most rounds.

    Returns:
        The rounds; none where nothing can be asked.
    """
    relations = SpatialRelations(scene)
    return compose(WEIGHTS, lambda task, described: ask(scene, task, rng, described=described, relations=relations),
                   lambda parent: why(parent, rng), lambda parent: about_it(scene, parent, rng, relations), rng,
                   max_rounds)
