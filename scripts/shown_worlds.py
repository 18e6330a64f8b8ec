"""The simulated worlds as the demonstration shows them: how fast, and what is asked."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ros_gpt4roi.sim.household.wordings import UNKNOWN
from ros_gpt4roi.sim.worlds import HOUSEHOLD, TABLETOP
from ros_gpt4roi.simulated_world import simulated_world

if TYPE_CHECKING:
    from ros_gpt4roi_interfaces.msg import RegionDescription

WHY = "Why?"


@dataclass(frozen=True)
class Show:
    """How a world is shown.

    rate_hz: frames a second, so many that two cores without a GPU describe all of them.
    views: of the camera's way round the scene; few, so that the same objects stay in sight.
    questions: with titles. {first} and {last} stand for the leftmost and the rightmost region, {looks} for what one
        looks like; WHY is about the answer before it.
    """

    rate_hz: float
    views: int
    questions: tuple[tuple[str, str], ...]


SHOWS = {
    HOUSEHOLD: Show(0.5, 10, (
        ("About one region", "What kind of thing is region {first}?"),
        ("What it is for", "What is region {first} used for?"),
        ("To be answered with a region", "Which region is the {looks}?"),
        ("About two", "Is region {first} left or right of region {last}?"),
        ("And on, in the same conversation", WHY))),
    TABLETOP: Show(10.0, 20, (
        ("About one region", "What kind of object is region {first}?"),
        ("About two", "Is region {first} left or right of region {last}?"),
        ("To be answered with a region", "Which region is the {looks}?"),
        ("And on, in the same conversation", WHY))),
}


def world_to_show(wanted: str, model: Path | None) -> str:
    """The world that was asked for, or what takes its place, which is said with the reason."""
    if wanted == TABLETOP:
        return TABLETOP
    world, why = simulated_world(str(model or HOUSEHOLD))
    if why:
        print(f"The tabletop takes the household's place: {why}", flush=True)
    return world


def questions_about(descriptions: Sequence[RegionDescription], world: str) -> list[tuple[str, str]]:
    """A world's questions with their titles, about regions that were described."""
    told = [item for item in descriptions if not item.text.startswith(UNKNOWN)]
    # The leftmost and the rightmost: which is left of which can't be disputed.
    ordered = sorted(told if len(told) > 1 else descriptions, key=lambda item: item.region.bbox.center.position.x)
    names = {"first": ordered[0].region.id, "last": ordered[-1].region.id, "looks": _looks(ordered)}
    return [(title, question.format(**names)) for title, question in SHOWS[world].questions]


def _looks(descriptions: Sequence[RegionDescription]) -> str:
    """What a region looks like that no other looks like, if there is one: the first clause of its description."""
    phrases = [re.sub("^an? ", "", re.split("[.,;]", item.text.lower())[0].strip()) for item in descriptions]
    return min(phrases, key=phrases.count)
