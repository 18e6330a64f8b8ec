"""Terse look-ups about a household scene, an exercise in associative recall (arXiv 2312.04927).

To find a region by its name, and to hold the places of two against each other, is what a language model learns last of
the regions, and what most questions need; asked so tersely and often it is learned sooner.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ros_gpt4roi.sim.region_sampler import regions_of
from ros_gpt4roi.sim.text_rounds import Expected, TextRound

from .catalogue import kinds
from .questions import contents, counted, how_it_stands, named, opening, pair, standing, where
from .relations import HouseholdRelations
from .sampler import HouseholdSampler, found, look, missing_name
from .scene import HouseholdScene
from .wordings import UNKNOWN


def recall_rounds(scene: HouseholdScene, rng: np.random.Generator, rounds: int) -> list[TextRound]:
    """Look-ups in random order.

    The forms are "red mug?" → "<region3>.", "<region3>?" → "red ceramic mug.", "<region3>, <region2>?" →
    "From <region2>, <region3> is left.", "Closest to <region3>?" → "<region2>.", "mugs?" → "<region3> and <region5>,
    so 2.", "next to <region3>?" → "<region2>.", "In <region2>?" → "<region3>.", "Where, <region3>?" →
    "It is in <region2>." and "State, <region3>?" → "It lies on its side."; what is hardly seen is asked about as well:
    "<region4>?" → "I can't tell.", and so is what is not there: "moka pot?" → "None.".

    Args:
        scene: The scene. What an object is, or which object is called so, is asked once of each: a second time it would
            be read in a round before, and not seen; no other answer says it either.
        rng: Draws objects and forms.
        rounds: Most look-ups.

    Returns:
        The look-ups; none of an empty scene.
    """
    relations = HouseholdRelations(scene)
    sampler = HouseholdSampler(scene, rng, relations, regions_only=True, named=False)
    turns: list[TextRound | None] = []
    for i in sampler.clear:
        name = (_phrase, _phrase, _region)[int(rng.integers(3))]
        turns.append(name(HouseholdSampler(scene, rng, relations, among=[i])))
        turns.append(sampler.first(_OTHERS))
    turns += [_hidden(sampler, i) for i in range(sampler.count) if i not in sampler.clear]
    allowed = [replace(turn, form="recall") for turn in turns if turn is not None]
    return [allowed[place] for place in rng.permutation(len(allowed))[:rounds]]


def _phrase(sampler: HouseholdSampler) -> TextRound | None:
    if missing := missing_name(sampler, _ABSENT):
        return found(sampler, f"{missing}?", "which_region", "recall", (), (), sampler.count + 1, nothing="None.")
    i = sampler.target()
    phrase = sampler.phrase(i)
    return None if phrase is None else _answered_by_region(sampler, f"{phrase}?", i, sampler.count, ())


def _answered_by_region(sampler: HouseholdSampler, question: str, i: int, options: int,
                        about: tuple[int, ...]) -> TextRound:
    return TextRound(question, f"{sampler.number(i)}.", "which_region", "recall",
                     Expected("region", (f"region{i + 1}",), options), regions_of(*about, i), i)


def _region(sampler: HouseholdSampler) -> TextRound:
    i = sampler.target()
    return TextRound(f"{sampler.number(i)}?", f"{look(sampler.objects[i])}.", "kind", "recall",
                     Expected("kind", (sampler.objects[i].kind,), len(kinds())), regions_of(i), i)


def _hidden(sampler: HouseholdSampler, i: int) -> TextRound:
    return replace(named(sampler, i, f"{sampler.number(i)}?"), answer=f"{UNKNOWN}.", subject=i)


def _pair(sampler: HouseholdSampler) -> TextRound | None:
    turn = pair(sampler)
    return None if turn is None else replace(
        turn, question=", ".join(f"<region{number}>" for number in turn.regions) + "?")


def _nearest(sampler: HouseholdSampler) -> TextRound | None:
    i = sampler.target()
    winner = sampler.relations.nearest(i)
    if winner is None or winner not in sampler.clear:
        return None
    return _answered_by_region(sampler, f"Closest to {sampler.number(i)}?", winner, sampler.count - 1, (i,))


def _group(sampler: HouseholdSampler) -> TextRound | None:
    return counted(sampler, "{}?")


def _standing(sampler: HouseholdSampler) -> TextRound | None:
    return standing(sampler, "{1} {0}?")


def _contents(sampler: HouseholdSampler) -> TextRound | None:
    turn = contents(sampler)
    return None if turn is None else _about(turn, sampler.in_word(turn.regions[0] - 1).capitalize())


def _where(sampler: HouseholdSampler) -> TextRound | None:
    turn = where(sampler)
    return None if turn is None else _about(turn, "Where,")


def _state(sampler: HouseholdSampler) -> TextRound | None:
    turn = sampler.first((how_it_stands, opening))
    return None if turn is None else _about(turn, "State,")


def _about(turn: TextRound, words: str) -> TextRound:
    return replace(turn, question=f"{words} <region{turn.regions[0]}>?")


_OTHERS = (_pair, _pair, _pair, _nearest, _group, _group, _standing, _standing, _contents, _contents, _where, _state)
_ABSENT = 0.15  # of the names that are asked for, where all things are clear, are of nothing in the scene
