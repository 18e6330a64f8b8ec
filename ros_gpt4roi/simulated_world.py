"""Which world the simulated robot stands in where none is named: the household, or what takes its place here.

    ros2 run ros_gpt4roi simulated_world    # prints the world's name, and below it why it is not the household

The launch file runs this: its own Python may be another than that of the nodes, which sees what is installed for them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from .configuration import ConfigError
from .paths import find_model
from .sim.household.catalogue import AssetsError, find_assets
from .sim.worlds import HOUSEHOLD, TABLETOP


def simulated_world(model: str = HOUSEHOLD) -> tuple[str, str]:
    """The world that can be shown and described on this machine.

    Args:
        model: Name or folder of the model that is to describe it.

    Returns:
        The world's name; and why it is not the household, empty where it is.
    """
    try:
        find_assets()
        find_model(model)
    except (AssetsError, ConfigError) as error:
        return TABLETOP, str(error)
    return HOUSEHOLD, ""


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="simulated_world", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=HOUSEHOLD, help="name or folder of the model that is to describe it "
                                                           "(%(default)s)")
    print(*simulated_world(parser.parse_args(arguments).model), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
