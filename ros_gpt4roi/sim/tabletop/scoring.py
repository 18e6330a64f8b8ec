"""When is a generated answer right? One rule a kind of answer, used by training and evaluation alike.

An answer is read for the words that carry meaning (kinds, colours, sizes, materials, relations, numbers, yes and no,
region numbers); the rest is ignored. An answer that names two colours where one is asked is wrong.
"""

from __future__ import annotations

import re

from ros_gpt4roi.sim.tabletop.scene import COLOURS, KINDS, MATERIALS, SIZES
from ros_gpt4roi.sim.text_rounds import Expected

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
        expected: What the question asks for, and its right values. Its `what` is an attribute's name, "attributes" (all
            four, in the first clause), "relation", "region" (no values: that there is none), "number", "yes_no" or
            "statement" (the same meaningful words and regions in the same order).
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
