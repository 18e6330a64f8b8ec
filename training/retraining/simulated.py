"""Corrections of a simulated person: what an operator would say about descriptions of a simulated world.

    python -m training.retraining.simulated --world tabletop --out FOLDER --corrections 200

makes a folder as `python -m training.data from_bag` would make it of a robot's recordings, without nodes and bags: for
measurements of retraining. scripts/retrain_demo.sh goes the whole way.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ros_gpt4roi.configuration import ConfigError
from ros_gpt4roi.engine import EngineError
from ros_gpt4roi.image_file import encode_image
from ros_gpt4roi.model.checkpoint import CheckpointError
from ros_gpt4roi.paths import find_model
from ros_gpt4roi.runtime.pipeline import Pipeline, PipelineConfig
from ros_gpt4roi.runtime.types import Frame, Region
from ros_gpt4roi.runtime.vision_stage import VisionOptions
from ros_gpt4roi.sim.household.catalogue import AssetsError
from ros_gpt4roi.sim.rendering import RenderedScene
from ros_gpt4roi.sim.studio import RendererError
from ros_gpt4roi.sim.worlds import TABLETOP, region_id
from training.data.bags.notes import Note
from training.data.bags.regions import FrameRegions
from training.data.record import RecordError
from training.data.record_file import Judgement, PictureRecord, RecordWriter
from training.data.report import Report
from training.errors import tells_errors
from training.evaluation.model import open_fitted

from .worlds import WORLDS, World

MISTAKES = 0.05  # of the corrections are wrong themselves
WHO = "simulated operator"
_LABEL = "object"  # of the simulated camera's detections
_MOST_CORRECTIONS = 1_000_000  # each takes a second or so
_PATIENCE = 100  # scenes in a row without a correction
_BEGAN = 1_764_000_000.0  # seconds since 1970: any will do


class Person:
    """Judges descriptions of things, knowing what they look like. Corrects those that are wrong, confirms the others.

    Args:
        world: Whose things.
        corrections: After so many the person is done.
        seed: Of the mistakes.
        mistakes: Share of the corrections that are wrong: they name another kind.

    Attributes:
        world: Whose things.
        corrected: Corrections so far.
        confirmed: Confirmations so far.
        mistaken: Corrections so far that are wrong.
    """

    def __init__(self, world: World, corrections: int, seed: int, mistakes: float = MISTAKES) -> None:
        self.world = world
        self._rng = np.random.default_rng([seed, corrections])
        self._mistakes = set(self._rng.choice(corrections, round(mistakes * corrections), replace=False).tolist())
        self._corrections = corrections
        self.corrected = self.confirmed = self.mistaken = 0

    @property
    def done(self) -> bool:
        """Whether all corrections are made."""
        return self.corrected >= self._corrections

    def judge(self, item: Any, said: str) -> Judgement:
        """Say whether a description is right, and what would be.

        Args:
            item: What is described.
            said: The description.
        """
        if self.world.is_right(item, said):
            self.confirmed += 1
            return Judgement(said, wrong=False, who=WHO)
        right = self.world.right_text(item)
        if self.corrected in self._mistakes:
            self.mistaken += 1
            other = str(self._rng.choice([kind for kind in self.world.kinds if kind != item.kind]))
            right = right.replace(self.world.word(item.kind), self.world.word(other))
        self.corrected += 1
        return Judgement(said, right, wrong=True, who=WHO)


def write_corrections(folder: Path, pipeline: Pipeline, person: Person, seed: int) -> int:
    """Write pictures of a person's world, with things of new kinds, with what a model says and a person of that.

    Args:
        folder: Where to, as a folder of one's own pictures.
        pipeline: The model.
        person: Who judges, until they are done.
        seed: Of the scenes.

    Returns:
        How many pictures.

    Raises:
        RecordError: The folder has records already, or there is nothing to correct.
        RendererError: Nothing can be rendered here.
        AssetsError: The world's things are not installed.
    """
    scenes, last, corrected = 0, 0, 0
    progress = tqdm(desc="correcting", unit=" scenes")
    with RecordWriter(folder) as writer, person.world.renderer() as renderer, progress:
        while not person.done:
            scene = renderer.render(person.world.split, seed, scenes)
            if scene.objects:
                writer.write(_judged(scene, pipeline, person, writer))
            scenes += 1
            progress.update()
            if person.corrected > corrected:
                last, corrected = scenes, person.corrected
            if scenes - last >= _PATIENCE:
                raise RecordError(f"{folder}: after {corrected} corrections the descriptions of {_PATIENCE} scenes "
                                  "needed none, expected a model that gets some things wrong and describes them")
    return scenes


def _judged(scene: RenderedScene, pipeline: Pipeline, person: Person, writer: RecordWriter) -> PictureRecord:
    frame = Frame(scene.image, tuple(Region(region_id(item), item.box) for item in scene.objects), 0, "")
    said = {found.region.id: found for found in pipeline.describe(frame).descriptions}
    pipeline.reset()
    boxes, descriptions, corrections = [], [], []
    for item in scene.objects:
        region: Note = {"id": region_id(item), "name": _LABEL, "score": 1.0, "box": list(map(float, item.box))}
        boxes.append(region)
        if found := said.get(region["id"]):
            descriptions.append({**region, "text": found.text, "confidence": found.confidence})
            if not person.done and person.world.can_tell(scene, item):
                judged = person.judge(item, found.text)
                corrections.append({"regions": [region], "said": judged.said, "right": judged.right,
                                    "wrong": judged.wrong, "who": judged.who,
                                    "time": _BEGAN + person.corrected + person.confirmed})
    regions = FrameRegions((scene.width, scene.height), f"scene {scene.index}", Report(0))
    regions.add_boxes({"source": "/detections", "regions": boxes})
    regions.add_descriptions({"regions": descriptions})
    regions.judge(corrections)
    file = writer.add_picture(f"{scene.index:06d}.jpg", encode_image(scene.image))
    return PictureRecord(file, scene.width, scene.height, tuple(regions.regions.values()),
                         origin={"scene": f"{scene.split} {scene.seed} {scene.index}"})


@tells_errors(RecordError, CheckpointError, ConfigError, EngineError, RendererError, AssetsError, OSError)
def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; see the module's text."""
    parser = argparse.ArgumentParser(prog="python -m training.retraining.simulated", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world", choices=WORLDS, default=TABLETOP, help="default %(default)s")
    parser.add_argument("--model", help="folder or name of the model that is corrected (the world's embedded one)")
    parser.add_argument("--out", type=Path, required=True, help="the folder to write")
    parser.add_argument("--corrections", type=int, default=200, metavar="N", help="how many (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of scenes and mistakes (default %(default)s)")
    options = parser.parse_args(arguments)
    if not 1 <= options.corrections <= _MOST_CORRECTIONS or options.seed < 0:
        parser.error(f"--corrections {options.corrections} --seed {options.seed}, expected 1 to {_MOST_CORRECTIONS}, "
                     "and at least 0")
    world = WORLDS[options.world]
    person = Person(world, options.corrections, options.seed)
    pipeline = open_fitted(find_model(options.model or world.name),
                           PipelineConfig(vision=VisionOptions(backend="torch")))
    pictures = write_corrections(options.out, pipeline, person, options.seed)
    print(f"{options.out}: {person.corrected} corrections and {person.confirmed} confirmations in {pictures} pictures")
    return 0


if __name__ == "__main__":
    sys.exit(main())
