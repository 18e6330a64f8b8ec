"""Writes probes of the simulated table: frames and questions with known answers, for `load_model` to compare models by.

    python -m training.evaluation.tabletop_probes --out models/tabletop/probes

Kind and colour of every object, in scenes that neither training nor `python -m training.evaluate tabletop` sees.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from ros_gpt4roi.runtime.probes import PROBES_FILE
from ros_gpt4roi.sim.tabletop.renderer import TabletopRenderer
from training.evaluation.tabletop import ask_about_region

_SEED = 4711  # of the test split; evaluations use small ones
_QUALITY = 92


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m training.evaluation.tabletop_probes", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="made where it is missing")
    parser.add_argument("--scenes", type=int, default=8, metavar="N", help="pictures (default %(default)s)")
    options = parser.parse_args(arguments)
    write_probes(options.out, options.scenes)
    return 0


def write_probes(folder: Path, scenes: int) -> None:
    """Write `probes.json` and the pictures.

    Args:
        folder: Made where it is missing.
        scenes: How many pictures; one without an object is left out.

    Raises:
        RendererError: Nothing can be rendered here.
    """
    folder.mkdir(parents=True, exist_ok=True)
    probes = []
    with TabletopRenderer() as renderer:
        for index in range(scenes):
            scene, rng = renderer.render("test", _SEED, index), np.random.default_rng([_SEED, index])
            if not scene.objects:
                continue
            name = f"{index}.jpg"
            Image.fromarray(scene.image).save(folder / name, quality=_QUALITY)
            turns = [ask_about_region(scene, task, place, rng)[-1]
                     for place in range(len(scene.objects)) for task in ("kind", "colour")]
            probes.append({"image": name, "boxes": np.round(scene.boxes(), 1).tolist(),
                           "questions": [{"text": turn.question.replace("<region", "region ").replace(">", ""),
                                          "answers": list(turn.expected.values)} for turn in turns]})
    (folder / PROBES_FILE.name).write_text(json.dumps({"probes": probes}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
