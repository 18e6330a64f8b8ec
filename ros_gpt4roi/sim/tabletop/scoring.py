"""When is a generated answer right? One rule a kind of answer, used by training and evaluation alike.

An answer is read for the words that carry meaning (kinds, colours, sizes, materials, relations, numbers, yes and no,
region numbers); the rest is ignored. An answer that names two colours where one is asked is wrong.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from ros_gpt4roi.sim.tabletop.scene import COLOURS, KINDS, MATERIALS, SIZES

#: The closed vocabularies, by the name of the attribute.
ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "kind": tuple(KINDS), "colour": tuple(COLOURS), "size": tuple(SIZES), "material": tuple(MATERIALS),
}
NUMBERS: tuple[str, ...] = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_RELATION_WORDS = ("left", "right", "front", "behind", "closer", "further", "between")
_OTHER_WORDS = ("nothing", "none", "no", "yes", "both", "only")
_REGION = re.compile(r"<?region\s*(\d+)>?")


def plural(kind: str) -> str:
    """The plural of a kind ("boxes", "mugs")."""
    return kind + ("es" if kind.endswith("x") else "s")


_SINGULAR = {plural(kind): kind for kind in KINDS}
_MEANINGFUL = {word for words in ATTRIBUTES.values() for word in words} | set(_RELATION_WORDS) | set(_OTHER_WORDS)


@dataclass(frozen=True)
class Expected:
    """What a right answer says.

    Attributes:
        what: An attribute's name, "attributes" (all four, in the first clause), "relation", "region" (no values: that
            there is none), "number", "yes_no" or "statement" (the same meaningful words and regions in the same order).
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


def meaning(text: str) -> tuple[str, ...]:
    """The words of a text that carry meaning and its region numbers, in order.

    Args:
        text: A question or an answer; regions are written ``region3`` or ``<region3>``.

    Returns:
        Words in the singular, numbers as digits, regions as "region3".
    """
    found = []
    for token in re.findall(r"region\d+|[a-z]+|\d+", _REGION.sub(r"region\1", text.lower())):
        token = _SINGULAR.get(token, token)
        if token in _MEANINGFUL or token.isdecimal() or token.startswith("region") and token[6:].isdecimal():
            found.append(token)
        elif token in NUMBERS:
            found.append(str(NUMBERS.index(token)))
    return tuple(found)


def _first_clause(text: str) -> str:
    return re.split(r"[,.;]|<?region\s*\d", text.strip().lower(), maxsplit=1)[0]


def score(expected: Expected, answer: str) -> bool:
    """Whether an answer says what is expected.

    Args:
        expected: What the question asks for, and its right values.
        answer: Generated text; regions are written ``region3`` or ``<region3>``.
    """
    found = meaning(answer)
    values = set(expected.values)
    if expected.what in ATTRIBUTES:
        return set(found) & set(ATTRIBUTES[expected.what]) == values
    if expected.what == "attributes":
        everything = {word for words in ATTRIBUTES.values() for word in words}
        return set(meaning(_first_clause(answer))) & everything == values
    if expected.what == "relation":
        return set(found) & set(_RELATION_WORDS) == values
    if expected.what == "region":
        found = meaning(answer.rpartition(", so ")[2])  # what is named before it is evidence
        named = {word for word in found if word.startswith("region")}
        return named == values and (bool(values) or bool(set(found) & {"no", "none"}))
    if expected.what == "number":
        return {word for word in found if word.isdecimal()} == values
    if expected.what == "yes_no":
        return set(found) & {"yes", "no"} == values
    if expected.what == "statement":
        return found == expected.values
    raise ValueError(f"unknown kind of expected answer: {expected.what!r}")


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
