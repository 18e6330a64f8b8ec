"""Make docs/household_scenes.md and its picture: six scenes of the household, as their model describes them.

    . scripts/env.sh
    python scripts/household_picture.py docs

The scenes are those that `scripts/demo.sh` shows with --seed 0 to 5; the model is run as the node runs it.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image as Picture

from ros_gpt4roi.annotate import annotate
from ros_gpt4roi.configuration import ConfigError
from ros_gpt4roi.model.checkpoint import CheckpointError
from ros_gpt4roi.paths import find_model
from ros_gpt4roi.runtime.pipeline import Pipeline, PipelineConfig
from ros_gpt4roi.runtime.types import Frame, Region
from ros_gpt4roi.sim.household.catalogue import AssetsError
from ros_gpt4roi.sim.household.renderer import HouseholdRenderer
from ros_gpt4roi.sim.household.sampler import is_clear, look
from ros_gpt4roi.sim.household.scene import HouseholdScene
from ros_gpt4roi.sim.studio import RendererError
from ros_gpt4roi.sim.worlds import HOUSEHOLD, region_id

SEEDS, COLUMNS = range(6), 3
FORMAT = "int8-dynamic"
QUALITY = 72
PAGE, PICTURE = "household_scenes.md", "images/household.webp"
HEAD = f"""# Six scenes of the household

What `models/household` says of the scenes that `scripts/demo.sh` shows with `--seed 0` to `--seed 5`, none of them
picked: of the test split, which nothing was trained on, through the node's pipeline in {FORMAT}, with true boxes.
The picture has the first sentence of each description. Where a description differs from the last column, or has a
region beside itself, the model is wrong. `scripts/household_picture.py` writes this page.

![The six scenes, with the first sentence of each description]({PICTURE})
"""
TABLE = "| region | description | what it really is |\n| --- | --- | --- |\n"


@dataclass(frozen=True)
class Described:
    """A scene and its regions' descriptions, in the order of its objects."""

    scene: HouseholdScene
    texts: tuple[str, ...]


def describe(pipeline: Pipeline, scene: HouseholdScene) -> Described:
    """Have a scene described."""
    regions = tuple(Region(region_id(item), item.box) for item in scene.objects)
    found = pipeline.describe(Frame(scene.image, regions, 0, ""))
    pipeline.reset()
    if found.error:
        raise ValueError(found.error)
    return Described(scene, tuple(item.text for item in found.descriptions))


def page(described: Sequence[Described]) -> str:
    """The page, Markdown."""
    parts = [HEAD]
    for item in described:
        rows = []
        for thing, text in zip(item.scene.objects, item.texts, strict=True):
            known = look(thing) + ("" if is_clear(item.scene, thing) else " (hardly seen)")
            rows.append(f"| {region_id(thing)} | {text.replace('|', '&#124;')} | {known} |\n")
        parts.append(f"## Seed {item.scene.seed}\n\n{TABLE}{''.join(rows)}")
    return "\n".join(parts)


def picture(described: Sequence[Described]) -> np.ndarray:
    """The scenes beside and below each other, with the first sentence of each description, uint8 RGB [H, W, 3]."""
    images = [annotate(item.scene.image, [
        (Region(region_id(thing), thing.box), re.split(r"(?<=\.)\s", text)[0])
        for thing, text in zip(item.scene.objects, item.texts, strict=True)]) for item in described]
    height = max(len(image) for image in images)  # some have a legend
    images = [np.pad(image, ((0, height - len(image)), (0, 0), (0, 0)), constant_values=30) for image in images]
    return np.vstack([np.hstack(images[start:start + COLUMNS]) for start in range(0, len(images), COLUMNS)])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help=f"the folder to write {PAGE} and {PICTURE} to")
    out = parser.parse_args().out
    try:
        pipeline = Pipeline.open(find_model(HOUSEHOLD), PipelineConfig(language_format=FORMAT))
        with HouseholdRenderer() as renderer:
            described = [describe(pipeline, renderer.render("test", seed, 0)) for seed in SEEDS]
        (out / PAGE).write_text(page(described), encoding="utf-8")
        Picture.fromarray(picture(described)).save(out / PICTURE, quality=QUALITY, method=6)
    except (ConfigError, CheckpointError, AssetsError, RendererError, OSError) as error:
        print(f"household_picture.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
