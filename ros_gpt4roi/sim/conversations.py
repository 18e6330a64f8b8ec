"""How questions about one scene become a conversation, in every world."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np

from .rendering import RenderedScene
from .text_rounds import Expected, TextRound

#: How often "Why?" follows a question that has a reason, and a question about "it" one that has a subject.
WHY_RATE = 0.2
FOLLOW_UP_RATE = 0.3
#: How often a question is typed carelessly: no capital, no question mark.
CARELESS_RATE = 0.15
_WHY = ("Why?", "Why is that?", "How do you know?", "Why do you say that?")

SceneType = TypeVar("SceneType", bound=RenderedScene[Any])


def permuted(scene: SceneType, rng: np.random.Generator) -> SceneType:
    """The same scene with its objects in random order, so that region numbers carry no information.

    Args:
        scene: The scene.
        rng: Draws the order.
    """
    return replace(scene, objects=tuple(scene.objects[int(i)] for i in rng.permutation(len(scene.objects))))


def ask_why(parent: TextRound, rng: np.random.Generator, meaning: Callable[[str], tuple[str, ...]]) -> TextRound | None:
    """The question "Why?" after ``parent``, or None where it has no reason to give.

    Args:
        parent: The round before it.
        rng: Draws the wording.
        meaning: What of a text is scored.
    """
    if not parent.reason:
        return None
    return TextRound(_WHY[int(rng.integers(len(_WHY)))], parent.reason, "why", f"{parent.task} {parent.form}",
                     Expected("statement", meaning(parent.reason), 1), parent.regions,
                     parent.subject, parent.reveals, follow_up=True)


def compose(
    weights: Mapping[str, float],
    ask: Callable[[str, frozenset[int]], tuple[TextRound, ...] | None],
    why: Callable[[TextRound], TextRound | None],
    about_it: Callable[[TextRound], TextRound | None],
    rng: np.random.Generator, max_rounds: int,
) -> list[TextRound]:
    """A conversation about one scene, in which no question comes twice.

    Each round stands for itself except for follow-ups, which come right after the round they refer to.

    Args:
        weights: How often each task is drawn as the next independent question.
        ask: A question of a task, about others than some objects (0-based places) where there are any; its last round
            is taken.
        why: The question "Why?" after a round; None where that has no reason.
        about_it: A question that calls the subject of a round "it"; None where none fits.
        rng: Draws tasks and follow-ups.
        max_rounds: Most rounds.

    Returns:
        The rounds; none where nothing can be asked.
    """
    tasks = list(weights)
    shares = np.array(list(weights.values())) / sum(weights.values())
    rounds: list[TextRound] = []
    described: frozenset[int] = frozenset()
    asked: set[str] = set()
    for _ in range(3 * max_rounds):
        if len(rounds) >= max_rounds:
            break
        turns = ask(tasks[int(rng.choice(len(tasks), p=shares))], described)
        turn = turns[-1] if turns else None
        while turn is not None and len(rounds) < max_rounds and (turn.follow_up or turn.question not in asked):
            asked.add(turn.question)
            rounds.append(replace(turn, question=_typed(turn.question, rng)))
            described = described | turn.reveals
            parent, turn = turn, None
            if rng.random() < WHY_RATE:
                turn = why(parent)
            elif rng.random() < FOLLOW_UP_RATE:
                turn = about_it(parent)
    return rounds


def _typed(question: str, rng: np.random.Generator) -> str:
    if rng.random() >= CARELESS_RATE:
        return question
    return (question[0].lower() + question[1:]).rstrip("?.")
