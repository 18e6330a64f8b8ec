"""The simulated worlds, each described by the model of its name."""

from __future__ import annotations

from collections.abc import Mapping

from .household.renderer import HouseholdRenderer
from .household.scene import HouseholdObject
from .tabletop.renderer import TabletopRenderer
from .tabletop.scene import SceneObject

HOUSEHOLD, TABLETOP = "household", "tabletop"
#: World → what renders its scenes, made with the width and height of the images in pixels.
RENDERERS: Mapping[str, type[TabletopRenderer] | type[HouseholdRenderer]] = {
    TABLETOP: TabletopRenderer, HOUSEHOLD: HouseholdRenderer}


def region_id(item: SceneObject | HouseholdObject) -> str:
    """The id of an object's region: its own number, so that it is the same in every view, as a tracker's would be."""
    return str(item.object_index + 1)
