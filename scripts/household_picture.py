"""Make docs/images/household.webp: the first six scenes of the household's test split, with the name of each object.

    . scripts/env.sh
    python scripts/household_picture.py docs/images/household.webp
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image as Picture

from ros_gpt4roi.annotate import annotate
from ros_gpt4roi.runtime.types import Region
from ros_gpt4roi.sim.household.renderer import HouseholdRenderer

WIDTH, HEIGHT, COLUMNS, ROWS = 640, 480, 3, 2
QUALITY = 72


def with_names(renderer: HouseholdRenderer, index: int) -> np.ndarray:
    """Return a scene of the test split with the box and the name of each object, uint8 RGB [H, W, 3]."""
    scene = renderer.render("test", 0, index)
    return annotate(scene.image, [(Region(str(item.object_index + 1), item.box), item.facts.name)
                                  for item in scene.objects])


def main() -> None:
    """Draw the scenes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="the picture, .webp")
    path = parser.parse_args().out
    with HouseholdRenderer(WIDTH, HEIGHT) as renderer:
        images = [with_names(renderer, index) for index in range(COLUMNS * ROWS)]
    height = max(len(image) for image in images)  # some have a legend
    images = [np.pad(image, ((0, height - len(image)), (0, 0), (0, 0)), constant_values=30) for image in images]
    rows = [np.hstack(images[start:start + COLUMNS]) for start in range(0, len(images), COLUMNS)]
    Picture.fromarray(np.vstack(rows)).save(path, quality=QUALITY, method=6)


if __name__ == "__main__":
    main()
