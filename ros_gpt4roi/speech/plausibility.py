"""Which of the texts that a recogniser holds possible was said: one of words that people ask about a scene in."""
from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from .meaning import asks

# How much less likely a text is, as logarithms of probabilities: for each word that is not expected, where it does not
# begin as a question, for a sentence that is said twice, and for a word replaced by one of its sound. The first may be
# halved or doubled, and the second be anything from 0 to 6, without a change on the espeak-ng voices of
# benchmarks/speech.py; with more than 3, "You can sit" becomes "Can you sit".
_UNEXPECTED, _NO_QUESTION, _REPEATED, _REPLACED = 4.0, 2.0, 9.0, 1.0
_GUESS = 0.5  # times the surest text's confidence: a text below was not said, whatever its words
_SHORTEST_SOUND = 3  # consonants, for a word to be replaced: shorter ones sound like too many others
# Consonants that are made at one place of the mouth are heard for each other. Vowels, and h, w and y, differ most
# between accents, and are left out.
_PLACES = str.maketrans("pmvdgqczj", "bbftkkkss")
_EXPECTED = frozenset("""
what what's which who whose where where's when why how is are was were do does did can could would will should has have
had be been isn't aren't a an the this that these those it its it's they them their there here one ones i you me my your
we us any anything some something all every everything each other another others both none no not same different more
most less least many much few only else first second third last two three four five six seven eight nine ten eleven
twelve region regions number object objects thing things item items kind kinds sort type shape size color colors colour
colours material surface finish name place position picture image scene view table floor wall shelf ground camera robot
side corner edge middle center top bottom front back end part piece group
left right of to in on at from with by for and or than as off out up down into onto behind next beside near nearer
nearest close closer closest far farther farthest further furthest above below under over between inside outside
leftmost rightmost around against across away toward together
red green blue yellow white black brown gray grey orange purple pink cyan gold silver light dark bright
small smaller smallest large larger largest big bigger biggest little tall taller tallest short shorter long longer wide
narrow thick thin round flat square metal wood wooden plastic glass rubber shiny matte smooth rough soft hard empty full
open closed clean dirty heavy hot cold old new broken whole
see sees look looks looking describe tell show shows find name count compare point list explain identify locate detect
search say know think give pick take get hold holds holding stand stands standing lie lies lying sit sits sitting move
moves moved moving change changed fit roll touch touching hide hides hidden use used using drink eat put reach made make
makes called mean like need want wear wearing contain contains cover covered
please now then so well okay just still before again too also very partly sure really common difference differ relative
about person people man woman child hand handle
ball box boxes cube block cylinder cone bottle bowl cup mug plate can jar bag book pen knife fork spoon chair lamp phone
key tool screw valve pipe cable wheel door window
""".split())


@dataclass(frozen=True)
class Hypothesis:
    """A text that may have been said.

    Attributes:
        text: Its words.
        confidence: How sure the recogniser is of a word of it, on average, 0..1.
        log_probability: Of the whole text.
    """

    text: str
    confidence: float
    log_probability: float


def unexpected_words(text: str, scene: Iterable[str]) -> list[str]:
    """The words of a text that neither belong to a scene nor are common in questions about one.

    Args:
        text: In English.
        scene: Words of the scene, such as "a red mug".
    """
    return _unexpected(text, _words_of(scene))


def most_plausible(hypotheses: Sequence[Hypothesis], scene: Iterable[str]) -> Hypothesis:
    """The text that was likely said, of those that are not far less sure than the surest.

    A word that is not expected may be replaced by one of the scene that sounds like it.

    Args:
        hypotheses: At least one, of one utterance.
        scene: As of `unexpected_words`.
    """
    known, surest = _words_of(scene), max(item.confidence for item in hypotheses)
    likely = [item for item in hypotheses if item.confidence >= _GUESS * surest]
    return max((variant for item in likely for variant in (item, *_of_like_sound(item, known))),
               key=lambda item: _plausibility(item, known))


def _plausibility(item: Hypothesis, known: frozenset[str]) -> float:
    sentences = [sentence.strip(" ?!.,").lower() for sentence in re.split(r"[?!.] ", item.text)]
    return (item.log_probability - _UNEXPECTED * len(_unexpected(item.text, known))
            - _NO_QUESTION * (not asks(item.text)) - _REPEATED * (len(set(sentences)) < len(sentences)))


def _of_like_sound(item: Hypothesis, known: frozenset[str]) -> Iterator[Hypothesis]:
    for word in _unexpected(item.text, known):
        sound = _sound(word)
        for other in sorted(known):
            if len(sound) >= _SHORTEST_SOUND and _sound(other) == sound:
                text = re.sub(rf"\b{re.escape(word)}\b", other, item.text, flags=re.IGNORECASE)
                yield replace(item, text=text, log_probability=item.log_probability - _REPLACED)


def _unexpected(text: str, known: frozenset[str]) -> list[str]:
    return [word for word in _words(text)
            if word not in _EXPECTED and word not in known and word.removesuffix("s") not in _EXPECTED]


def _words_of(scene: Iterable[str]) -> frozenset[str]:
    words = {word for text in scene for word in _words(text)}
    return frozenset(words | {f"{word}s" for word in words})


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z][a-z']*", text.lower().replace("’", "'"))


def _sound(word: str) -> str:
    """What is left of a word that is not heard clearly."""
    return re.sub(r"(.)\1+", r"\1", re.sub(r"[^bftksnlrx]", "", word.translate(_PLACES)))
