"""The household as a data set (see rendered.py).

    python -m training.data.household render --scenes 32000 --split train --seed 1 --model runs/household/start \
        --out runs/household/scenes/train-1 --workers 2

Of each scene everything is kept that its texts need: the objects with their states, and where the camera stood.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from typing_extensions import override

from ros_gpt4roi.configuration import setting
from ros_gpt4roi.model.config import IGNORED
from ros_gpt4roi.sim.household.attributes import ATTRIBUTES, attributes
from ros_gpt4roi.sim.household.common_things import common_rounds
from ros_gpt4roi.sim.household.conversations import conversation, short_rounds
from ros_gpt4roi.sim.household.recall import recall_rounds
from ros_gpt4roi.sim.household.renderer import HouseholdRenderer
from ros_gpt4roi.sim.household.scene import SPLITS, HouseholdObject, HouseholdScene, State
from ros_gpt4roi.sim.text_rounds import TextRound

from .rendered import LOOK_UPS, ROUNDS, RenderedDataset, RenderedOptions, some_of
from .scene_files import World, render_command

TEXTS = ("conversations", "captions", "recall", "mixed")
_FEWER = 0.3  # of the scenes with look-ups are asked them about some of their regions
_MIXED = 0.5  # of the scenes, where texts are "mixed", are asked look-ups
_COMMON = 2  # questions about common things at the beginning or the end of a conversation


def _pack(scene: HouseholdScene) -> list[Any]:
    return [scene.camera_position, *map(dataclasses.astuple, scene.objects)] if scene.objects else []


def _unpack(values: list[Any]) -> tuple[tuple[HouseholdObject, ...], tuple[float, float, float]]:
    (x, y, z), *objects = values
    return tuple(map(_unpack_object, objects)), (x, y, z)


def _unpack_object(values: list[Any]) -> HouseholdObject:
    kind, colours, size, box, visible, position, extent, distance, identity, state = values
    posture, openings, on, inside, under, leaning_on, holds = state
    return HouseholdObject(
        kind, tuple(colours), size, tuple(box), visible, tuple(position), tuple(extent), distance, identity,
        State(posture, openings, tuple(on), None if inside is None else (inside[0], inside[1]), tuple(under),
              tuple(leaning_on), tuple(holds)))


HOUSEHOLD = World("household", tuple(SPLITS), 640, 480, HouseholdRenderer, HouseholdScene, _pack, _unpack)


@dataclass(frozen=True)
class HouseholdOptions(RenderedOptions):
    """A data section of kind household."""

    split: str = setting(dataclasses.MISSING, "Which scenes; those of different splits never meet.", choices=SPLITS)
    texts: str = setting("conversations", "conversations of several rounds, captions (a short description a "
                                          "region), recall (terse look-ups among some of the regions), or mixed "
                                          "(conversations and look-ups).", choices=TEXTS)


class HouseholdDataset(RenderedDataset[HouseholdScene]):
    """Rendered scenes with attributes and conversations; see `RenderedDataset`.

    Texts are "conversations" of at most 14 rounds, two of them about things that are not there, "captions" (a short
    description a region), "recall" (terse look-ups among some of the regions) or "mixed", conversations of most scenes
    and look-ups of the others.
    """

    world, kinds_of_texts, attribute_values = HOUSEHOLD, TEXTS, ATTRIBUTES

    @override
    def attributes(self, scene: HouseholdScene) -> np.ndarray:
        known = [attributes(scene, item) for item in scene.objects]
        return np.array([[IGNORED if has[name] is None else values.index(str(has[name]))
                          for name, values in ATTRIBUTES.items()] for has in known], np.int64)

    @override
    def talk(self, scene: HouseholdScene, rng: np.random.Generator) -> tuple[HouseholdScene, Sequence[TextRound]]:
        if self.texts == "recall" or self.texts == "mixed" and rng.random() < _MIXED:
            fewer = some_of(scene, rng) if rng.random() < _FEWER else scene
            if rounds := recall_rounds(fewer, rng, LOOK_UPS):
                return fewer, rounds
        rounds = [] if self.texts == "captions" else conversation(scene, rng, ROUNDS)
        if not rounds:  # where too little is seen to ask anything, the short texts say so
            return scene, short_rounds(scene, rng)
        common = common_rounds(rng, _COMMON)
        return scene, [*common, *rounds] if rng.random() < 0.5 else [*rounds, *common]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    return render_command(HOUSEHOLD, arguments)


if __name__ == "__main__":
    sys.exit(main())
