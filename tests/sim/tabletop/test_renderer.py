"""The tabletop renderer against its own ground truth, with real MuJoCo rendering."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from ros_gpt4roi.sim.rendering import MIN_SIDE, MIN_VISIBLE
from ros_gpt4roi.sim.studio import point_camera
from ros_gpt4roi.sim.tabletop.meshes import all_shapes
from ros_gpt4roi.sim.tabletop.renderer import TabletopRenderer
from ros_gpt4roi.sim.tabletop.scene import COLOURS, HELD_OUT, KINDS, MATERIALS, SIZES, WORKSHOP_KINDS
from ros_gpt4roi.sim.tabletop.scene_spec import sample_scene_spec


@pytest.fixture(scope="module")
def renderer():
    with TabletopRenderer() as opened:
        yield opened


@pytest.fixture(scope="module")
def scenes(renderer):
    return [renderer.render("test", 7, index) for index in range(60)]


def _rotation(quaternion: np.ndarray) -> np.ndarray:
    w, x, y, z = quaternion
    return np.array([[1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
                     [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
                     [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)]])


def _vertices(item) -> np.ndarray:
    return all_shapes()[item.shape].mesh.vertices @ _rotation(item.quaternion).T + item.origin


def _iou(a, b) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    common = max(0, width) * max(0, height)
    return common / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - common)


def test_scene_has_the_promised_form(scenes):
    for scene in scenes:
        assert scene.image.shape == (240, 320, 3) and scene.image.dtype == np.uint8
        assert scene.boxes().shape == (len(scene.objects), 4)
        assert len(scene.objects) <= 10
        assert len({o.object_index for o in scene.objects}) == len(scene.objects)
        for o in scene.objects:
            x1, y1, x2, y2 = o.box
            assert 0 <= x1 and x2 <= 320 and 0 <= y1 and y2 <= 240
            assert min(x2 - x1, y2 - y1) >= MIN_SIDE * 240
            assert MIN_VISIBLE <= o.visible <= 1
            assert o.distance == pytest.approx(np.linalg.norm(np.subtract(o.position, scene.camera_position)))
    objects = [o for s in scenes for o in s.objects]
    assert {o.kind for o in objects} == set(KINDS) and {o.colour for o in objects} == set(COLOURS)
    assert {o.size for o in objects} == set(SIZES) and {o.material for o in objects} == set(MATERIALS)


def test_objects_hide_one_another_and_are_cut_by_the_border(scenes):
    objects = [o for s in scenes for o in s.objects]
    partly = [o for o in objects if o.visible < 0.9]
    at_border = [o for o in partly if o.box[0] == 0 or o.box[1] == 0 or o.box[2] == 320 or o.box[3] == 240]
    assert len(partly) > 0.1 * len(objects)
    assert at_border


def test_boxes_are_tight_over_the_owned_pixels(scenes):
    for scene in scenes:
        for o in scene.objects:
            rows, columns = np.nonzero(scene.owner == o.object_index)
            assert o.box == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)


def test_every_object_shows_its_colour(scenes):
    """A geom whose material overrode its rgba, or the reverse, would be grey or have its predecessor's colour."""
    for scene in scenes:
        for o in scene.objects:
            mask = (scene.owner == o.object_index).astype(np.uint8)
            inner = cv2.erode(mask, np.ones((3, 3), np.uint8))
            pixel = np.median(scene.image[(inner if inner.any() else mask) > 0], axis=0).astype(np.uint8)
            hue, saturation, value = (int(v) for v in cv2.cvtColor(pixel[None, None], cv2.COLOR_RGB2HSV)[0, 0])
            where = f"test/7/{scene.index} {o}: RGB {pixel}, HSV {hue, saturation, value}"
            if o.colour == "black":
                assert value < 70, where
            elif o.colour == "white":
                assert saturation < 40 and value > 90, where
            else:
                # Mean of the colour's range under white light, in OpenCV's half degrees.
                nominal = np.mean(COLOURS[o.colour], axis=0) * 255
                expected = int(cv2.cvtColor(nominal.astype(np.uint8)[None, None], cv2.COLOR_RGB2HSV)[0, 0, 0])
                assert abs((hue - expected + 90) % 180 - 90) <= 8, where
                assert saturation > 60 and value > 40, where


def test_visible_fraction_equals_a_render_without_the_others_and_without_borders(renderer):
    """Outlines come from projected convex parts; here each object is rendered alone, three times as wide."""
    with TabletopRenderer(960, 720) as wide:
        for index in range(6):
            scene = renderer.render("test", 8, index)
            spec = sample_scene_spec(np.random.default_rng(np.random.SeedSequence([3, 8, index])), "test")
            fovy = np.degrees(2 * np.arctan(3 * np.tan(np.radians(spec.camera.fovy) / 2)))
            position, rotation = spec.camera.pose(0)
            for o in scene.objects:
                wide._apply(replace(spec, objects=(spec.objects[o.object_index],)))
                point_camera(wide._mujoco, wide._model, wide._data, position, rotation, fovy)
                alone = (wide._draw()[1] == 0).sum()
                seen = (scene.owner == o.object_index).sum()
                assert o.visible == pytest.approx(min(1.0, seen / alone), abs=0.04), f"test/8/{index} {o}"


def test_objects_stand_on_the_table_and_do_not_meet():
    for index in range(40):
        spec = sample_scene_spec(np.random.default_rng(index), "test")
        footprints = []
        for item in spec.objects:
            vertices = _vertices(item)
            assert vertices[:, 2].min() == pytest.approx(0, abs=1e-3)
            assert np.abs((vertices.min(0) + vertices.max(0))[2] / 2 - item.centre[2]) < 2e-3
            footprints.append(cv2.convexHull((vertices[:, :2] * 1000).astype(np.float32)))
        for i, a in enumerate(footprints):
            for b in footprints[:i]:
                assert cv2.intersectConvexConvex(a, b)[0] == 0


def test_held_out_pairs_occur_in_the_test_split_only():
    pairs = {split: Counter((o.kind, o.colour) for index in range(150)
                            for o in sample_scene_spec(np.random.default_rng(index), split).objects)
             for split in ("train", "validation", "test")}
    assert not HELD_OUT & pairs["train"].keys() and not HELD_OUT & pairs["validation"].keys()
    assert HELD_OUT <= pairs["test"].keys()
    assert {k for k, _ in pairs["train"]} == set(KINDS) and {c for _, c in pairs["train"]} == set(COLOURS)


def test_the_workshop_has_things_that_no_other_split_has():
    found = {split: Counter(o.kind for index in range(60)
                            for o in sample_scene_spec(np.random.default_rng(index), split).objects)
             for split in ("train", "test", "workshop")}
    assert not set(WORKSHOP_KINDS) & (found["train"].keys() | found["test"].keys())
    assert set(found["workshop"]) == {*KINDS, *WORKSHOP_KINDS}
    assert 0.4 < sum(found["workshop"][kind] for kind in WORKSHOP_KINDS) / found["workshop"].total() < 0.6


def test_sizes_keep_a_clear_gap():
    assert SIZES["large"][0] / SIZES["small"][1] >= 1.5
    for kind in KINDS:
        volumes = {size: [np.prod(np.ptp(s.mesh.vertices, axis=0)) for s in all_shapes()
                          if (s.kind, s.size) == (kind, size)] for size in SIZES}
        assert min(volumes["large"]) > 2 * max(volumes["small"])


def test_meshes_are_closed_and_face_outwards():
    for shape in all_shapes():
        a, b, c = (shape.mesh.vertices[shape.mesh.faces[:, i]] for i in range(3))
        facing = (np.cross(b - a, c - a) * shape.mesh.normals[shape.mesh.faces].mean(1)).sum(1)
        assert (facing > 0).all(), shape.kind
        # The directed areas of a closed surface add up to nothing; a mug's handle is open where it enters the wall.
        assert shape.kind == "mug" or np.abs(np.cross(b - a, c - a).sum(0)).max() < 1e-9, shape.kind


def test_the_same_numbers_give_the_same_scene_whatever_came_before(renderer, scenes):
    with TabletopRenderer() as other:
        for index in (5, 0):
            again = other.render("test", 7, index)
            assert np.array_equal(again.image, scenes[index].image)
            assert again.objects == scenes[index].objects
        moved = other.render_view("test", 7, 0, 3)
    assert np.array_equal(moved.image, renderer.render_view("test", 7, 0, 3).image)


@pytest.mark.parametrize("changed", [("validation", 7, 0), ("test", 8, 0), ("test", 7, 1)])
def test_split_seed_and_index_each_give_another_scene(renderer, scenes, changed):
    other = renderer.render(*changed)
    assert [o.position for o in other.objects] != [o.position for o in scenes[0].objects]


def test_a_moving_camera_keeps_the_objects(renderer):
    previous = renderer.render_view("test", 9, 0, 0)
    known = {o.object_index: o for o in previous.objects}
    for step in range(1, 12):
        view = renderer.render_view("test", 9, 0, step)
        assert view.step == step and view.camera_position != previous.camera_position
        assert not np.array_equal(view.image, previous.image)
        before = {o.object_index: o for o in previous.objects}
        assert len(before.keys() & {o.object_index for o in view.objects}) >= len(before) - 1
        for o in view.objects:
            first = known.setdefault(o.object_index, o)
            assert (o.kind, o.colour, o.size, o.material, o.position) == (
                first.kind, first.colour, first.size, first.material, first.position)
            if o.object_index in before and min(o.visible, before[o.object_index].visible) > 0.9:
                assert _iou(o.box, before[o.object_index].box) > 0.5
        previous = view


def test_shiny_is_brighter_at_its_highlight_than_matte(renderer):
    """The same scenes with every object matte, then shiny; black, where a highlight can't be mistaken."""
    difference = []
    for index in range(10):
        spec = sample_scene_spec(np.random.default_rng(index), "test")
        position, rotation = spec.camera.pose(0)
        brightest = []
        for material in MATERIALS:
            renderer._apply(replace(spec, objects=tuple(
                replace(o, material=material, rgb=np.full(3, 0.05)) for o in spec.objects)))
            point_camera(renderer._mujoco, renderer._model, renderer._data, position, rotation, spec.camera.fovy)
            image, owner = renderer._draw()
            brightest.append([image[owner == slot].max() for slot in range(len(spec.objects))
                              if (owner == slot).sum() > 100])
        difference += [int(shiny) - int(matte) for matte, shiny in zip(*brightest)]
    renderer._shown = None
    assert np.mean(np.array(difference) > 40) > 0.9


@pytest.mark.parametrize("arguments, named", [
    (("training", 0, 0, 0), "training"), (("test", -1, 0, 0), "-1"), (("test", 0, -2, 0), "-2"),
    (("test", 0, 0, -3), "-3")])
def test_bad_scene_numbers_are_refused(renderer, arguments, named):
    with pytest.raises(ValueError, match=named):
        renderer.render_view(*arguments)


def test_bad_image_size_is_refused():
    with pytest.raises(ValueError, match="16×240"):
        TabletopRenderer(16, 240)


def _in_a_new_process(code: str, **environment: str) -> subprocess.CompletedProcess:
    base = {k: v for k, v in os.environ.items() if not k.startswith("MUJOCO_")}
    return subprocess.run([sys.executable, "-c", code], env=base | environment, capture_output=True, text=True,
                          timeout=120)


def test_without_a_device_the_error_names_the_packages():
    done = _in_a_new_process("from ros_gpt4roi.sim.tabletop.renderer import TabletopRenderer; TabletopRenderer()",
                             MUJOCO_GL="egl", MUJOCO_EGL_DEVICE_ID="99")
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert "RendererError" in last and "libegl1 libgl1-mesa-dri" in last and "libosmesa6" in last


def test_a_backend_is_chosen_where_the_user_has_not():
    done = _in_a_new_process("import os; from ros_gpt4roi.sim.tabletop.renderer import TabletopRenderer\n"
                             "with TabletopRenderer() as r:\n"
                             "    print(os.environ['MUJOCO_GL'], r.render('test', 7, 0).image.max())")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[0] in ("egl", "osmesa") and int(done.stdout.split()[1]) > 100


def test_triton_can_be_loaded_after_a_picture(root: Path) -> None:
    """By a process of its own, because the order is what matters. Mesa's LLVM crashed it."""
    program = ("from ros_gpt4roi.sim.tabletop.renderer import TabletopRenderer\n"
               "with TabletopRenderer(32, 32) as renderer:\n    renderer.render('test', 0, 0)\n"
               "try:\n    import triton._C.libtriton\nexcept ImportError:\n    pass\n")
    ended = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr[-2000:]
