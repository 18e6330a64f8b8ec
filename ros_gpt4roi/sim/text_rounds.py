"""Questions about a scene of a simulated world, with their true answers and what a right answer must say."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Expected:
    """What a right answer says.

    Attributes:
        what: The rule of the world's `scoring.score` by which it is judged.
        values: The words, numbers or region numbers that must be found, and no other of their sort.
        options: How many answers are open to somebody who knows the question and what was said before, but sees
            nothing.
    """

    what: str
    values: tuple[str, ...]
    options: int


@dataclass(frozen=True)
class TextRound:
    """One question about a scene with its true answer. ``<regionK>``: K is the 1-based place in ``scene.objects``.

    Attributes:
        question: The question.
        answer: Its true answer.
        task: The name it is scored under.
        form: The shape of the question within the task ("left_or_right").
        expected: What a right answer says.
        regions: The numbers K the question is about, then those the answer speaks of.
        subject: 0-based object that "it" means in a question that follows, if there is one.
        reveals: 0-based objects whose looks the answer tells.
        reason: The answer to "Why?" ("" where it is not asked); the answer before it has told all it takes.
        follow_up: The question is only understood after the round before it.
    """

    question: str
    answer: str
    task: str
    form: str
    expected: Expected
    regions: tuple[int, ...] = ()
    subject: int | None = None
    reveals: frozenset[int] = field(default_factory=frozenset)
    reason: str = ""
    follow_up: bool = False


def chance_level(rounds: Iterable[TextRound]) -> float:
    """The fraction somebody gets right who knows every question and its form, but sees neither image nor regions.

    Such a person picks at random among the open answers (1 / options) or always says what is right most often for the
    form, whichever is better for that form.

    Args:
        rounds: The questions that were asked.

    Returns:
        0 to 1; NaN without rounds.
    """
    by_form: dict[tuple[str, str], list[Expected]] = defaultdict(list)
    for turn in rounds:
        by_form[turn.task, turn.form].append(turn.expected)
    total = sum(len(group) for group in by_form.values())
    right = 0.0
    for group in by_form.values():
        guess = sum(1 / expected.options for expected in group)
        constant = Counter(expected.values for expected in group).most_common(1)[0][1]
        right += max(guess, constant) if len(group) > 1 else guess
    return right / total if total else float("nan")
