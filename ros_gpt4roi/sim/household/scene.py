"""Ground truth of the household: what stands in a rendered scene, in which state, and how it stands to the rest.

The table frame follows REP-103, as the tabletop's: origin at the centre of the table top, x forward along its longer
side, y to the left, z up, metres. Boxes are pixel edges (x1, y1, x2, y2), x2 and y2 exclusive.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ros_gpt4roi.sim.rendering import RenderedScene

from .catalogue import Kind, kinds

#: Split name → first word of the seed sequence: the same seed and index never give the same scene in two splits.
#: Kinds, textures and cameras that are held out occur in "unseen" only, and in each of its scenes.
SPLITS: dict[str, int] = {"train": 1, "validation": 2, "test": 3, "unseen": 4}
#: Those that models are trained on or chosen by.
TRAINING_SPLITS = ("train", "validation")

POSTURES = ("upright", "lying", "upside down", "tilted")
OPENINGS = ("closed", "half open", "open")

#: What an object stands on where that is the table.
TABLE = -1


@dataclass(frozen=True)
class State:
    """How an object has come to rest, read from the physics; other objects are named by their object_index.

    Attributes:
        posture: A name in POSTURES.
        openings: Its doors and drawers by name ("door", "top drawer") → a name in OPENINGS.
        on: What carries it from below, `TABLE` or objects; empty where it is carried by what it is in.
        inside: The object that it is in, and in which part ("top drawer"; empty where it has but one).
        under: Objects that it stands under.
        leaning_on: Objects that it leans on.
        holds: Objects that are in it, be they seen or not.
    """

    posture: str
    openings: Mapping[str, str] = field(default_factory=dict)
    on: tuple[int, ...] = ()
    inside: tuple[int, str] | None = None
    under: tuple[int, ...] = ()
    leaning_on: tuple[int, ...] = ()
    holds: tuple[int, ...] = ()


@dataclass(frozen=True)
class HouseholdObject:
    """One object that is visible enough to be a region.

    Attributes:
        kind: Its identifier in `catalogue.kinds()`.
        colours: What it looks like, the most of its surface first.
        size: "usual" or "large" among its kind.
        box: Tight over its visible pixels, (x1, y1, x2, y2), pixel edges, x2 and y2 exclusive.
        visible: Visible pixels / pixels that it would have alone in an unbounded image, 0..1.
        position: Centre of its extent (x, y, z), metres, table frame.
        extent: Sides of the upright box around it in the table frame (x, y, z), metres.
        distance: From the camera to that centre, metres.
        object_index: Its identity within the scene, the same in every view of it; not a region number.
        state: How it has come to rest.
    """

    kind: str
    colours: tuple[str, ...]
    size: str
    box: tuple[int, int, int, int]
    visible: float
    position: tuple[float, float, float]
    extent: tuple[float, float, float]
    distance: float
    object_index: int
    state: State

    @property
    def facts(self) -> Kind:
        """What is known of its kind."""
        return kinds()[self.kind]


@dataclass(frozen=True)
class HouseholdScene(RenderedScene[HouseholdObject]):
    """A rendered view of a household scene with its ground truth."""
