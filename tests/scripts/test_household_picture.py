"""The page of described scenes: its text and its picture say the same, each beside what the thing is."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace as Values

import household_picture
import numpy as np
import pytest
from household_picture import COLUMNS, PAGE, PICTURE, SEEDS, Described, describe, page, picture
from PIL import Image

from ros_gpt4roi.configuration import ConfigError
from ros_gpt4roi.runtime.types import Frame, Region
from ros_gpt4roi.sim.household.scene import HouseholdScene

sys.path.insert(0, str(Path(__file__).parents[1] / "sim" / "household"))
from household_texts import make_scene  # noqa: E402, scenes without rendering


def seen(seed: int) -> HouseholdScene:
    scene = make_scene(seed, "test")
    return replace(scene, image=np.full((scene.height, scene.width, 3), 60, np.uint8))


class Talker:
    """A pipeline that says of each region where it ends."""

    def describe(self, frame: Frame) -> Values:
        said = tuple(Values(text=f"A thing | up to {region.box[2]}. It stands.") for region in frame.regions)
        return Values(error="", descriptions=said)

    def reset(self) -> None:
        pass


def test_every_region_stands_on_the_page_beside_what_it_is() -> None:
    described = [describe(Talker(), seen(seed)) for seed in (3, 5)]
    text = page(described)
    assert text.count("\n## Seed ") == 2 and f"]({PICTURE})" in text
    for item in described:
        for thing in item.scene.objects:
            row = f"| {thing.object_index + 1} | A thing &#124; up to {thing.box[2]}. It stands. | "
            assert row in text and thing.facts.name in text.partition(row)[2].partition("\n")[0]


def test_the_picture_has_the_first_sentences(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[str] = []

    def annotate(image: np.ndarray, regions: Sequence[tuple[Region, str]]) -> np.ndarray:
        drawn.extend(text for _, text in regions)
        return image

    monkeypatch.setattr(household_picture, "annotate", annotate)
    scene = seen(3)
    made = picture([Described(scene, tuple("A mug. It stands." for _ in scene.objects)) for _ in SEEDS])
    assert made.shape == (2 * scene.height, 3 * scene.width, 3)
    assert drawn == ["A mug."] * len(SEEDS) * len(scene.objects)


def test_a_model_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
                                            capsys: pytest.CaptureFixture[str]) -> None:
    def nowhere(name: str) -> Path:
        raise ConfigError(f"no {name}")
    monkeypatch.setattr(household_picture, "find_model", nowhere)
    monkeypatch.setattr(sys, "argv", ["household_picture.py", str(tmp_path)])
    assert household_picture.main() == 1 and "household_picture.py: no household" in capsys.readouterr().err


def test_the_page_that_is_there_is_what_the_script_makes(root: Path) -> None:
    text = (root / "docs" / PAGE).read_text(encoding="utf-8")
    assert text.startswith(page([]))
    assert [f"## Seed {seed}" for seed in SEEDS] == [line for line in text.splitlines() if line.startswith("## ")]
    with Image.open(root / "docs" / PICTURE) as shown:
        assert shown.width == COLUMNS * 640
