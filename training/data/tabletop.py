"""The tabletop as a data set (see rendered.py).

    python -m training.data.tabletop render --scenes 32000 --split train --seed 1 --out runs/scenes/train --workers 2

The objects are kept; where the camera stood is not, for no text needs it.
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
from ros_gpt4roi.sim.tabletop.conversations import conversation, recall_rounds, short_rounds
from ros_gpt4roi.sim.tabletop.renderer import TabletopRenderer
from ros_gpt4roi.sim.tabletop.scene import SPLITS, Scene, SceneObject
from ros_gpt4roi.sim.tabletop.scoring import ATTRIBUTES
from ros_gpt4roi.sim.text_rounds import TextRound

from .rendered import LOOK_UPS, ROUNDS, RenderedDataset, RenderedOptions, some_of
from .scene_files import World, render_command

TEXTS = ("conversations", "captions", "recall")


def _pack(scene: Scene) -> list[Any]:
    return [dataclasses.astuple(o) for o in scene.objects]


def _unpack(objects: list[Any]) -> tuple[tuple[SceneObject, ...], tuple[float, float, float]]:
    return tuple(SceneObject(kind, colour, size, material, tuple(box), visible, tuple(place), distance, identity)
                 for kind, colour, size, material, box, visible, place, distance, identity in objects), (0.0, 0.0, 0.0)


TABLETOP = World("tabletop", tuple(SPLITS), 320, 240, TabletopRenderer, Scene, _pack, _unpack)


@dataclass(frozen=True)
class TabletopOptions(RenderedOptions):
    """A data section of kind tabletop."""

    split: str = setting(dataclasses.MISSING, "Which scenes; those of different splits never meet.", choices=SPLITS)
    texts: str = setting("conversations", "conversations of several rounds, captions (a short description a region) or "
                                          "recall (terse look-ups among some of the regions).", choices=TEXTS)


class TabletopDataset(RenderedDataset[Scene]):
    """Rendered scenes with attributes and conversations; see `RenderedDataset`.

    Texts are "conversations" of at most 12 rounds, "captions" (a short description a region) or "recall" (terse
    look-ups among some of the regions).
    """

    world, kinds_of_texts, attribute_values = TABLETOP, TEXTS, ATTRIBUTES

    @override
    def talk(self, scene: Scene, rng: np.random.Generator) -> tuple[Scene, Sequence[TextRound]]:
        if self.texts == "recall":
            scene = some_of(scene, rng)
            return scene, recall_rounds(scene, rng, LOOK_UPS)
        return scene, short_rounds(scene) if self.texts == "captions" else conversation(scene, rng, ROUNDS)

    @override
    def attributes(self, scene: Scene) -> np.ndarray:
        return np.array([[values.index(getattr(o, name)) for name, values in ATTRIBUTES.items()]
                         for o in scene.objects], np.int64)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    return render_command(TABLETOP, arguments)


if __name__ == "__main__":
    sys.exit(main())
