"""Writes probes of the household, as tabletop_probes.py does of the table.

    python -m training.evaluation.household_probes --out runs/household/model/probes

Kind and colour of every object that is clearly seen, in scenes that neither training nor evaluation sees.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from ros_gpt4roi.sim.household import questions
from ros_gpt4roi.sim.household.relations import HouseholdRelations
from ros_gpt4roi.sim.household.renderer import HouseholdRenderer
from ros_gpt4roi.sim.household.sampler import HouseholdSampler
from training.evaluation import probes

_SEED = 4711  # of the test split; evaluations use small ones


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line. Returns the exit status."""
    return probes.command("household", write_probes, arguments)


def write_probes(folder: Path, scenes: int) -> None:
    """Write `probes.json` and the pictures, in place of those that are there.

    Args:
        folder: The model's `probes`.
        scenes: How many pictures; one without an object that is clearly seen is left out.

    Raises:
        AssetsError: The models are not installed.
        RendererError: Nothing can be rendered here.
    """
    probes.write_probes(folder, _pictures(scenes))


def _pictures(scenes: int) -> Iterator[probes.Picture]:
    with HouseholdRenderer() as renderer:
        for index in range(scenes):
            scene, rng = renderer.render("test", _SEED, index), np.random.default_rng([_SEED, index])
            relations, found = HouseholdRelations(scene), list[probes.Question]()
            for place, item in enumerate(scene.objects):
                sampler = HouseholdSampler(scene, rng, relations, regions_only=True, among=[place])
                if place in sampler.clear:
                    found.append((probes.spoken(questions.kind(sampler).question),
                                  (item.facts.name, *item.facts.synonyms)))
                    found.append((probes.spoken(questions.colour(sampler).question), item.colours[:1]))
            yield scene.image, scene.boxes().tolist(), found


if __name__ == "__main__":
    sys.exit(main())
