"""Ground truth of the tabletop: what a rendered scene contains, and the closed vocabulary it is drawn from.

The table frame follows REP-103: origin at the centre of the table top, x forward along its longer side, y to the left,
z up, metres; the camera may stand on any side of the table. Images are uint8 RGB [H, W, 3]; boxes are pixel edges
(x1, y1, x2, y2) with x2 and y2 exclusive, so that a box's width is x2 - x1.
"""

from __future__ import annotations

from dataclasses import dataclass

from ros_gpt4roi.sim.rendering import RenderedScene

#: The shapes, each a set of MuJoCo geoms (see meshes.py).
KINDS: tuple[str, ...] = ("box", "ball", "cylinder", "capsule", "cone", "mug", "bowl", "bottle")

#: Shapes that only the split "workshop" has.
WORKSHOP_KINDS: tuple[str, ...] = ("ring", "star")

#: Colour name → (lowest, highest) surface colour, RGB 0..1, drawn channel by channel.
#: The ranges keep the hues apart under every light the renderer uses.
COLOURS: dict[str, tuple[tuple[float, float, float], tuple[float, float, float]]] = {
    "red": ((0.72, 0.02, 0.02), (0.88, 0.08, 0.08)),
    "orange": ((0.92, 0.40, 0.00), (1.00, 0.47, 0.04)),
    "yellow": ((0.90, 0.82, 0.02), (0.98, 0.90, 0.12)),
    "green": ((0.03, 0.48, 0.06), (0.14, 0.64, 0.18)),
    "cyan": ((0.10, 0.84, 0.88), (0.24, 0.94, 0.98)),
    "blue": ((0.04, 0.14, 0.74), (0.12, 0.26, 0.92)),
    "purple": ((0.45, 0.05, 0.55), (0.55, 0.13, 0.66)),
    "pink": ((0.96, 0.46, 0.66), (1.00, 0.58, 0.76)),
    "white": ((0.90, 0.90, 0.90), (0.97, 0.97, 0.97)),
    "black": ((0.05, 0.05, 0.05), (0.09, 0.09, 0.09)),
}

#: Size name → (smallest, largest) scale of a kind's nominal shape; the gap between the two is a factor of 1.6.
SIZES: dict[str, tuple[float, float]] = {"small": (0.56, 0.62), "large": (1.00, 1.10)}

MATERIALS: tuple[str, ...] = ("matte", "shiny")

#: Split name → first word of the seed sequence: the same seed and index never give the same scene in two splits.
SPLITS: dict[str, int] = {"train": 1, "validation": 2, "test": 3}

#: The splits, and one of scenes in another room, under other lights, where half of the things are of kinds that no
#: model of the tabletop has seen: something to be taught by corrections.
ALL_SPLITS: dict[str, int] = {**SPLITS, "workshop": 4}

#: (kind, colour) pairs that occur in the test split only, to see whether a model composes what it has learnt.
#: Each kind once and no colour twice, so that every kind and every colour is well represented in training.
HELD_OUT: frozenset[tuple[str, str]] = frozenset({
    ("box", "purple"), ("ball", "green"), ("cylinder", "yellow"), ("capsule", "red"),
    ("cone", "cyan"), ("mug", "blue"), ("bowl", "orange"), ("bottle", "pink"),
})


@dataclass(frozen=True)
class SceneObject:
    """One object that is visible enough to be a region.

    Attributes:
        kind: A name in KINDS or WORKSHOP_KINDS.
        colour: A name in COLOURS.
        size: A name in SIZES.
        material: A name in MATERIALS.
        box: Tight over the object's visible pixels, (x1, y1, x2, y2), pixel edges, x2 and y2 exclusive.
        visible: Visible pixels / pixels the object would have alone in an unbounded image, 0..1.
        position: Centre of the object (x, y, z), metres, table frame (REP-103).
        distance: From the camera to that centre, metres.
        object_index: The object's identity within the scene, the same in every view of it; not a region number.
    """

    kind: str
    colour: str
    size: str
    material: str
    box: tuple[int, int, int, int]
    visible: float
    position: tuple[float, float, float]
    distance: float
    object_index: int


@dataclass(frozen=True)
class Scene(RenderedScene[SceneObject]):
    """A rendered view of a tabletop scene with its ground truth."""
