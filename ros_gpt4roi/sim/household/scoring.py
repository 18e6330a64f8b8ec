"""When is an answer about the household right? One rule a kind of answer, for free sentences.

An answer is read for the names of kinds (and synonyms), colours, materials, states, relations, numbers, yes and no, and
region numbers; the rest is ignored, but for what something is used for.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping

from ros_gpt4roi.sim.text_rounds import Expected

from .catalogue import COLOURS, MATERIALS, kinds
from .wordings import UNKNOWN

NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
_STATES = {"half open": "half open", "open": "open", "closed": "closed", "shut": "closed", "empty": "empty",
           "upside down": "upside down", "upright": "standing", "standing": "standing", "on its side": "lying",
           "lying": "lying", "leans": "leaning", "leaning": "leaning"}
_MATERIALS = {**{name: name for name in MATERIALS}, "wooden": "wood"}
_RELATIONS = {"left": "left", "right": "right", "behind": "behind", "further away": "behind", "in front": "front",
              "nearer to the camera": "front", "next to": "next to", "between": "between"}
_STOP = frozenset("a an and are as at be by food for from he her his hold holds i in into is it its kept of on one or "
                  "people so something such that the their them they thing things this to use used which with without "
                  "you your".split())
_STEMS = {"drunk": "drink", "eaten": "eat", "drinks": "drink", "ate": "eat", "brewing": "brew", "brews": "brew"}


def regions(text: str) -> set[str]:
    """The regions that a text names, as "region3"."""
    return {f"region{number}" for number in re.findall(r"<?region\s*(\d+)>?", text.lower())}


@functools.cache
def _names() -> Mapping[str, str]:
    """Name or synonym, in the singular and with a plural s → identifier of the kind."""
    return {name.lower(): key for key, kind in kinds().items() for name in (kind.name, *kind.synonyms)}


def _said(text: str, words: Mapping[str, str]) -> tuple[list[str], str]:
    """What of some words a text says, in order, the longest first, and the text without it."""
    pattern = _pattern(tuple(words))
    return [words[word] for word in pattern.findall(text.lower())], pattern.sub(" ", text.lower())


@functools.cache
def _pattern(words: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile(r"\b(" + "|".join(sorted(map(re.escape, words), key=len, reverse=True)) + r")(?:e?s)?\b")


def said_kinds(text: str) -> list[str]:
    """The kinds that a text names, in order."""
    return _said(text, _names())[0]


def said_colours(text: str) -> list[str]:
    """The colours that a text names, those in names of things left out ("orange juice")."""
    return _said(_said(text, _names())[1], {c: c for c in COLOURS} | {"gray": "grey"})[0]


def said_materials(text: str) -> list[str]:
    """The materials that a text names, those in names of things left out ("wooden tray")."""
    return _said(_said(text, _names())[1], _MATERIALS)[0]


def said_states(text: str) -> list[str]:
    """The states that a text names, each with the drawer it is said of ("top drawer open")."""
    drawers = re.findall(r"(top|middle|bottom) drawer is (half open|open|closed)", text.lower())
    return [f"{part} drawer {state}" for part, state in drawers] or _said(text, _STATES)[0]


def said_place(text: str) -> tuple[str, ...]:
    """The first place that a text names: ("on", "table"), ("in", "region2"), ("in", "region2", "top drawer")."""
    place = re.search(r"\b(on|in|under) (?:the (top drawer|middle drawer|bottom drawer) of )?(?:the )?"
                      r"(?:(table)|<?region\s*(\d+))", text.lower())
    if place is None:
        return ()
    return (place[1], place[3] or f"region{place[4]}", *filter(None, (place[2],)))


def said_relations(text: str) -> list[str]:
    """The relations that a text names: left, right, front, behind, next to, between."""
    return _said(text, _RELATIONS)[0]


def meaning(text: str) -> tuple[str, ...]:
    """All that a text names, each once, in alphabetical order."""
    readers = (said_kinds, said_colours, said_materials, said_states, said_relations)
    return tuple(sorted({word for reader in readers for word in reader(text)} | regions(text)))


def use_words(kind: str) -> set[str]:
    """The words that tell what a kind is for, in their stems, but for those of its own name."""
    known = kinds()[kind]
    own = _stems(" ".join((known.name, *known.synonyms, known.material)))
    return _stems(f"{known.use} {known.used_to}") - own


def _stems(text: str) -> set[str]:
    words = {_STEMS.get(word, word) for word in re.findall("[a-z]+", text.lower())} - _STOP
    return {re.sub("(ied|ies|ing|ed|es|s|e|y)$", "", word) if len(word) > 4 else word for word in words}


def score(expected: Expected, answer: str) -> bool:
    """Whether an answer says what is expected.

    Args:
        expected: What the question asks for. Its `what` is "kind" (its identifier), "colour" (the first must be said,
            and none but these), "material", "state" (all of them), "relation", "place" (as `said_place`), "region" (all
            of them, after the evidence if there is any; none: that there is none), "number", "yes_no", "use" (of which
            kinds any is known), "describe" (a kind, a material and colours: the kind first, and of the others none that
            is wrong), "scene" (the kinds), "statement" (as `meaning`) or "unknown" (that it can't be told).
        answer: Generated text; regions are written ``region3`` or ``<region3>``.
    """
    values, what, lower = expected.values, expected.what, answer.lower()
    if what == "unknown" or UNKNOWN.lower() in lower:
        return what == "unknown" and UNKNOWN.lower() in lower
    if what == "kind":
        return set(said_kinds(answer)) == set(values)
    if what == "colour":
        colours = said_colours(answer)
        return values[0] in colours and set(colours) <= set(values)
    if what == "material":
        return set(said_materials(answer)) == set(values)
    if what == "state":
        return set(said_states(answer)) == set(values)
    if what == "relation":
        return set(said_relations(answer)) == set(values)
    if what == "place":
        return said_place(answer) == values
    if what == "region":
        named = regions(answer.rpartition(", so ")[2])
        return named == set(values) and (bool(values) or bool(re.search(r"\b(no|none|nothing|empty)\b", lower)))
    if what == "number":
        counted = re.findall(rf"\b(\d+|{'|'.join(NUMBERS)}|none)\b", re.sub(r"<?region\s*\d+>?", "", lower))
        return bool(counted) and _digits(counted[0]) == values[0]
    if what == "yes_no":
        return re.findall(r"\b(yes|no)\b", lower)[:1] == list(values)
    if what == "use":
        return any(_stems(answer) & use_words(kind) for kind in values)
    if what == "describe":
        first = answer.split(". ")[0]
        return (said_kinds(first)[:1] == [values[0]] and set(said_materials(first)) <= {values[1]}
                and set(said_colours(first)) <= set(values[2:]))
    if what == "statement":
        return meaning(answer) == values
    if what == "scene":
        return set(said_kinds(answer)) == set(values)
    raise ValueError(f"unknown kind of expected answer: {what!r}")


def _digits(number: str) -> str:
    return number if number.isdecimal() else "0" if number == "none" else str(NUMBERS.index(number))
