"""Household scenes on disk and the data set over them, with the real renderer."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from ros_gpt4roi.model.checkpoint import read_config
from ros_gpt4roi.model.config import ModelConfig, PreprocessConfig
from ros_gpt4roi.model.preprocess import preprocess_frame
from ros_gpt4roi.model.region_shapes import area_sample
from ros_gpt4roi.paths import find_model_as_it_came
from ros_gpt4roi.sim.household.catalogue import AssetsError, find_assets, kinds
from ros_gpt4roi.sim.household.conversations import conversation
from ros_gpt4roi.sim.household.renderer import HouseholdRenderer
from ros_gpt4roi.sim.household.scene import HouseholdScene
from training.data import DataError, check_section, open_dataset, scene_files
from training.data.household import HOUSEHOLD, HouseholdDataset, main
from training.data.record import Record, check_record
from training.data.scene_files import ScenesError, read_manifest, render_scenes

try:
    find_assets()
except AssetsError as error:
    pytest.skip(str(error), allow_module_level=True)

SCENES, SEED, SIZE = 5, 3, (320, 240)
MODEL = ModelConfig(preprocess=PreprocessConfig(image_size=64))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return render_scenes(HOUSEHOLD, tmp_path_factory.mktemp("scenes") / "scenes" / f"train-{SEED}", "train", SCENES,
                         SEED, 1, *SIZE, preprocess=MODEL.preprocess, masks=True)


@pytest.fixture(scope="module")
def rendered() -> list[HouseholdScene]:
    with HouseholdRenderer(*SIZE) as renderer:
        return [renderer.render("train", SEED, index) for index in range(SCENES)]


@pytest.mark.slow
def test_what_texts_need_is_as_it_was_rendered(folder: Path, rendered: list[HouseholdScene]) -> None:
    dataset = HouseholdDataset(folder)
    assert len(dataset) == SCENES
    for index, scene in enumerate(rendered):
        kept = dataset.scene(index)
        assert kept.objects == scene.objects and kept.camera_position == scene.camera_position
        assert (kept.split, kept.seed, kept.index, kept.width, kept.height) == ("train", SEED, index, *SIZE)
        np.testing.assert_array_equal(dataset.image(index), preprocess_frame(scene.image, MODEL.preprocess))
        drawn = (conversation(each, np.random.default_rng(1)) for each in (kept, scene))
        assert next(drawn) == next(drawn)


@pytest.mark.slow
@pytest.mark.parametrize("texts", ["captions", "conversations", "recall", "mixed"])
def test_texts_are_valid_and_new_in_every_epoch(folder: Path, texts: str) -> None:
    dataset, again = HouseholdDataset(folder, texts=texts), HouseholdDataset(folder, texts=texts)
    for index in range(SCENES):
        scene, of_epoch = dataset.scene(index), []
        for epoch in range(2):
            dataset.set_epoch(epoch)
            again.set_epoch(epoch)
            sample = dataset[index]
            check_record(Record(sample.image, scene.boxes(), tuple(sample.rounds), f"household {index}"))
            assert sample.rounds == again[index].rounds
            # Look-ups are asked among some of the regions.
            assert len(sample.boxes) == len(scene.objects) or texts in ("recall", "mixed") and sample.boxes.size
            of_epoch.append(sample.rounds)
            if texts == "captions":
                assert len(sample.rounds) == len(scene.objects)
                assert sample.attributes is not None
                place_of_kind = dataset.attribute_names.index("kind")
                for box, turn, classes in zip(sample.boxes, sample.rounds, sample.attributes):
                    place = tuple(np.round(box * (SIZE * 2)).astype(int).tolist())
                    (item,) = (o for o in scene.objects if o.box == place)
                    assert item.facts.name in turn.answer or "can't tell" in turn.answer
                    told = -100 if "can't tell" in turn.answer else list(kinds()).index(item.kind)
                    assert classes[place_of_kind] == told and len(classes) == len(dataset.classes)
                    assert not kinds()[item.kind].held_out
        assert of_epoch[0] != of_epoch[1]


@pytest.mark.slow
def test_regions_are_shown_as_masks_points_or_boxes_that_a_detector_gives(
        folder: Path, rendered: list[HouseholdScene]) -> None:
    whole = HouseholdDataset(folder, model=MODEL)
    masked, pointed, moved = (HouseholdDataset(folder, model=MODEL, **how) for how in (
        {"masks": 1.0}, {"points": 0.5}, {"jitter": 0.1}))
    points = []
    for index, scene in enumerate(rendered):
        boxes = whole[index].boxes
        seen = {o.box: scene.owner[o.box[1]:o.box[3], o.box[0]:o.box[2]] == o.object_index for o in scene.objects}
        places = [tuple(np.round(box * (SIZE * 2)).astype(int).tolist()) for box in boxes]
        masks = masked[index].masks
        assert masks is not None
        for place, mask in zip(places, masks, strict=True):
            np.testing.assert_array_equal(mask, area_sample(seen[place], MODEL.regions.roi_size))
        points += [number in pointed[index].points for number in range(1, len(boxes) + 1)]
        assert moved[index].rounds == whole[index].rounds
        far = np.abs(moved[index].boxes - boxes) / np.tile(boxes[:, 2:] - boxes[:, :2], 2)
        assert (far > 0).mean() > 0.8 and far.max() <= 0.1001
        assert moved[index].boxes.min() >= 0 and moved[index].boxes.max() <= 1
    assert 0.2 < np.mean(points) < 0.8


@pytest.mark.slow
def test_a_recipe_section_finds_the_scenes_of_its_own_world_only(folder: Path) -> None:
    wanted = {"kind": "household", "split": "train", "scenes": SCENES, "seed": SEED}
    with pytest.raises(DataError, match="household: .*holds other scenes.*width 320 instead of 640"):
        open_dataset(wanted, folder.parents[1], 0, MODEL)
    with pytest.raises(DataError, match="tabletop: .*holds other scenes.*world 'household' instead of 'tabletop'"):
        open_dataset({**wanted, "kind": "tabletop"}, folder.parents[1], 0, MODEL)
    manifest = read_manifest(folder) | {"width": 640, "height": 480}
    (folder / "dataset.json").write_text(json.dumps(manifest), encoding="utf-8")
    try:
        opened = open_dataset({**wanted, "texts": "captions", "jitter": 0.1}, folder.parents[1], 0, MODEL)
        assert isinstance(opened, HouseholdDataset) and (opened.texts, opened.jitter) == ("captions", 0.1)
    finally:
        (folder / "dataset.json").write_text(json.dumps(manifest | {"width": SIZE[0], "height": SIZE[1]}))


@pytest.mark.parametrize("model", [[], ["--model", "household"]])
def test_the_command_renders_for_the_households_own_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                          model: list[str]) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))  # where it was never completed
    made: dict = {}
    monkeypatch.setattr(scene_files, "render_scenes", lambda *_, **options: made.update(options))
    assert main(["render", "--scenes", "1", "--split", "train", "--seed", "1", "--out", str(tmp_path), *model]) == 0
    assert made["preprocess"] == read_config(find_model_as_it_came("household"), whole=False).preprocess
    assert made["preprocess"] != read_config(find_model_as_it_came("tabletop")).preprocess


@pytest.mark.parametrize(("changes", "message"), [
    ({"split": "training"}, "split is 'training', expected train"), ({"texts": "songs"}, "texts is 'songs'"),
    ({"jitter": 0.6}, "jitter"), ({"scenes": 0}, "scenes"), ({"colour": 1}, "colour"),
])
def test_a_wrong_section_is_named(changes: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        check_section({"kind": "household", "split": "train", "scenes": 2, "seed": 1, **changes})


def test_unfinished_scenes_are_named(tmp_path: Path) -> None:
    (tmp_path / "dataset.json").write_text('{"scenes": 3}', encoding="utf-8")
    with pytest.raises(ScenesError, match="shard-00000 is not finished"):
        HouseholdDataset(tmp_path)
