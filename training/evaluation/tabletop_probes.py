"""Writes probes of the simulated table: frames and questions with known answers, for `load_model` to compare models by.

    python -m training.evaluation.tabletop_probes --out models/tabletop/probes

Kind and colour of every object, in scenes that neither training nor `python -m training.evaluate tabletop` sees.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from ros_gpt4roi.sim.tabletop.renderer import TabletopRenderer
from training.evaluation import probes
from training.evaluation.tabletop import ask_about_region

_SEED = 4711  # of the test split; evaluations use small ones


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line. Returns the exit status."""
    return probes.command("tabletop", write_probes, arguments)


def write_probes(folder: Path, scenes: int) -> None:
    """Write `probes.json` and the pictures, in place of those that are there.

    Args:
        folder: The model's `probes`.
        scenes: How many pictures; one without an object is left out.

    Raises:
        RendererError: Nothing can be rendered here.
    """
    probes.write_probes(folder, _pictures(scenes))


def _pictures(scenes: int) -> Iterator[probes.Picture]:
    with TabletopRenderer() as renderer:
        for index in range(scenes):
            scene, rng = renderer.render("test", _SEED, index), np.random.default_rng([_SEED, index])
            turns = [ask_about_region(scene, task, place, rng)[-1]
                     for place in range(len(scene.objects)) for task in ("kind", "colour")]
            yield scene.image, scene.boxes().tolist(), [(probes.spoken(turn.question), turn.expected.values)
                                                        for turn in turns]


if __name__ == "__main__":
    sys.exit(main())
