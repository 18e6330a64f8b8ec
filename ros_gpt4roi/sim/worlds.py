"""The simulated worlds, each described by the embedded model of its name."""

from __future__ import annotations

from ros_gpt4roi.configuration import ConfigError
from ros_gpt4roi.paths import find_model

from .household.catalogue import AssetsError, find_assets

HOUSEHOLD, TABLETOP = "household", "tabletop"
WORLDS = (HOUSEHOLD, TABLETOP)


def default_world() -> tuple[str, str]:
    """The world that is shown where none is named.

    Returns:
        The household where its things and the whole of its model are on this machine, else the tabletop, which needs
        nothing more; and why it is not the household, or nothing.
    """
    try:
        find_model(HOUSEHOLD)
        find_assets()
    except (ConfigError, AssetsError) as error:
        return TABLETOP, str(error)
    return HOUSEHOLD, ""
