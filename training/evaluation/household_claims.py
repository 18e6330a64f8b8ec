"""What a free description of an object in the household states, and which of it is true."""

from __future__ import annotations

import re
from collections.abc import Iterator

from ros_gpt4roi.sim.household.relations import HouseholdRelations
from ros_gpt4roi.sim.household.sampler import posture
from ros_gpt4roi.sim.household.scene import HouseholdScene
from ros_gpt4roi.sim.household.scoring import (
    regions,
    said_colours,
    said_kinds,
    said_materials,
    said_place,
    said_states,
)
from ros_gpt4roi.sim.spatial_relations import OPPOSITE, RELATIONS

_REGION = r"<?region\s*(\d+)>?"
_RELATION = re.compile(rf"\b({'|'.join(RELATIONS)}|next to) {_REGION}", re.IGNORECASE)
_FROM_IT = re.compile(rf"{_REGION}(?:, the [a-z' -]+,)? is ({'|'.join(RELATIONS)}) it\b", re.IGNORECASE)
_NAMED = re.compile(rf"{_REGION},? (?:the|\(the) ([a-z' -]+)", re.IGNORECASE)
_PART = re.compile(r"\b(top drawer|middle drawer|bottom drawer|door) is (half open|open|closed)", re.IGNORECASE)
_LEANS = re.compile(rf"\blean(?:s|ing) on {_REGION}", re.IGNORECASE)
_INSIDE = re.compile(r"\b(?:is|are) (?:in|on) it\b", re.IGNORECASE)
_POSTURES = frozenset({"standing", "lying", "leaning", "upside down"})


def claims(scene: HouseholdScene, place: int, text: str, relations: HouseholdRelations | None = None) -> list[bool]:
    """Each attribute and each relation that a description of one object states: whether it is true.

    What the object is for is none of both, and what people could dispute (which of two things is nearer, where that is
    close) is left out.

    Args:
        scene: The scene.
        place: The object's, 0-based in `scene.objects`.
        text: The description; regions are written ``region3`` or ``<region3>``.
        relations: Of that scene, where they are at hand.

    Returns:
        A truth value for every statement, in order.
    """
    relations = relations or HouseholdRelations(scene)
    found: list[bool] = []
    for number, part in enumerate(re.split(r"(?<=[.!])\s+", text.strip())):
        if number == 0:
            found += _looks(scene, place, part)
        else:
            found += _stands(scene, place, part, relations)
    return found


def _looks(scene: HouseholdScene, place: int, said: str) -> Iterator[bool]:
    """"A white and red ceramic mug.": the kind, its colours, its material, its size."""
    item = scene.objects[place]
    named = said_kinds(said)
    if named:
        yield named[0] == item.kind
    for colour in said_colours(said):
        yield colour in item.colours
    for material in said_materials(said):
        yield material == item.facts.material
    if re.search(r"\blarge\b", said, re.IGNORECASE):
        yield item.size == "large"


def _stands(scene: HouseholdScene, place: int, said: str, relations: HouseholdRelations) -> Iterator[bool]:
    """Where it stands, in which state, what is in it, and what the regions beside it are called."""
    item, given = scene.objects[place], said
    if _INSIDE.search(said):  # before the regions that are in it are taken for its own place
        inside = {f"region{j + 1}" for j, o in enumerate(scene.objects) if o.object_index in item.state.holds}
        for region in sorted(regions(said)):
            yield region in inside
        return
    if leans := _LEANS.search(said):
        yield relations.leans_on(place) == int(leans[1]) - 1
        said = _LEANS.sub("", said)
    where = said_place(said)
    if where:
        support = relations.support(place)
        target = None if support is None else "table" if support.other is None else f"region{support.other + 1}"
        yield support is not None and where == (support.word, target, *filter(None, (support.part,)))
    beside = [(relation.lower(), int(number) - 1) for relation, number in _RELATION.findall(said)]
    beside += [(OPPOSITE[relation.lower()], int(number) - 1) for number, relation in _FROM_IT.findall(said)]
    for relation, other in beside:
        if not 0 <= other < relations.count or other == place:
            yield False
        else:
            truth = (relations.next_to(place, other) if relation == "next to"
                     else relations.holds(relation, place, other))
            if truth is not None:
                yield truth
    parts = _PART.findall(said)
    for name, how in parts:
        yield item.state.openings.get(name.lower()) == how.lower()
    if not parts:
        for state in said_states(said):
            if state in _POSTURES:
                yield posture(item) == state
    for number, name in _NAMED.findall(given):
        called = said_kinds(name)
        if called and 1 <= int(number) <= len(scene.objects):
            yield called[0] == scene.objects[int(number) - 1].kind
