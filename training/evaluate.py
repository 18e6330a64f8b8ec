"""Measure trained models.

    python -m training.evaluate WHAT …

WHAT is one of COMMANDS, each a module of training.evaluation with `add_arguments(parser)` and `run(options)`, which
returns the exit status and raises EvaluationError where it cannot be done.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from importlib import import_module

from ros_gpt4roi.configuration import ConfigError
from ros_gpt4roi.model.checkpoint import CheckpointError
from ros_gpt4roi.sim.household.catalogue import AssetsError
from ros_gpt4roi.sim.studio import RendererError

from .errors import tells_errors
from .evaluation.errors import EvaluationError

#: Command → (module, what it measures).
COMMANDS: dict[str, tuple[str, str]] = {
    "tabletop": ("training.evaluation.tabletop", "questions about rendered scenes that the model has not seen"),
    "household": ("training.evaluation.household", "questions about rendered household scenes, likewise"),
    "benchmarks": ("training.evaluation.public", "the benchmarks of a YAML file, with a report of the worst cases"),
}


@tells_errors(EvaluationError, ConfigError, CheckpointError, AssetsError, RendererError)
def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m training.evaluate", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    modules = {}
    for name, (module, help_text) in COMMANDS.items():
        modules[name] = import_module(module)
        modules[name].add_arguments(commands.add_parser(name, help=help_text))
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    return modules[options.command].run(options)


if __name__ == "__main__":
    sys.exit(main())
