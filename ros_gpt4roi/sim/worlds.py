"""The simulated worlds, each described by the model of its name."""

from __future__ import annotations

from collections.abc import Mapping

from .household.renderer import HouseholdRenderer
from .tabletop.renderer import TabletopRenderer

HOUSEHOLD, TABLETOP = "household", "tabletop"
#: World → what renders its scenes, made with the width and height of the images in pixels.
RENDERERS: Mapping[str, type[TabletopRenderer] | type[HouseholdRenderer]] = {
    TABLETOP: TabletopRenderer, HOUSEHOLD: HouseholdRenderer}
