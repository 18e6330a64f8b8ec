"""Where things are, from made-up depth whose answer is known and from the renderer's, which knows the truth."""
from __future__ import annotations

import math

import numpy as np
import pytest

from ros_gpt4roi.nodes.positions import Calibration, CalibrationError, locate

CAMERA = Calibration((500.0, 500.0), (319.5, 239.5))


def test_a_thing_on_the_axis_is_straight_ahead() -> None:
    depth = np.full((480, 640), 1500, np.uint16)
    found = locate(depth, 0.001, (300, 220, 340, 260), CAMERA)
    assert found is not None
    assert found.point == pytest.approx((0, 0, 1.5)) and found.spread == 0
    assert found.size == pytest.approx((40 / 500 * 1.5, 40 / 500 * 1.5))


def test_right_is_positive_x_and_down_positive_y() -> None:
    found = locate(np.full((480, 640), 2.0, np.float32), 1.0, (410, 330, 430, 350), CAMERA)
    assert found is not None and found.point == pytest.approx((100 / 500 * 2, 100 / 500 * 2, 2))


def test_what_is_behind_does_not_count_and_holes_are_left_out() -> None:
    depth = np.full((480, 640), 3.0, np.float32)  # a wall
    depth[210:270, 290:350] = 1.0  # something that fills half of its box each way
    depth[::2] = np.nan
    depth[:, ::5] = 0
    found = locate(depth, 1.0, (260, 180, 380, 300), CAMERA)
    assert found is not None and found.point[2] == 1.0 and found.spread == 0


def test_two_things_in_one_box_show_in_the_spread() -> None:
    depth = np.full((480, 640), 1.0, np.float32)
    depth[:, 320:] = 2.0
    found = locate(depth, 1.0, (260, 180, 380, 300), CAMERA)
    assert found is not None and found.spread == pytest.approx(0.5)


def test_of_two_things_in_one_box_the_masked_one_is_located() -> None:
    depth = np.full((480, 640), 1.0, np.float32)
    depth[:, 320:] = 2.0
    right = np.zeros((4, 8))
    right[:, 4:] = 1
    found = [locate(depth, 1.0, (260, 180, 380, 300), CAMERA, mask) for mask in (right, 1 - right, 0 * right)]
    assert [(place.point[2], place.spread) for place in found[:2] if place] == [(2, 0), (1, 0)] and found[2] is None
    assert found[0] is not None and found[0].point[0] == pytest.approx(CAMERA.ray(350, 240)[0] * 2, abs=0.01)


@pytest.mark.parametrize("box", [(300, 220, 340, 260), (320, 240, 320, 240), (-50, -50, 20, 20), (630, 470, 700, 600)])
def test_without_depth_there_is_no_position(box: tuple[float, float, float, float]) -> None:
    assert locate(np.zeros((480, 640), np.uint16), 0.001, box, CAMERA) is None
    sparse = np.zeros((480, 640), np.float32)
    sparse[::4, ::4] = 1.0  # 6 % of the pixels
    assert locate(sparse, 1.0, box, CAMERA) is None
    assert locate(np.ones((480, 640), np.float32), 1.0, box, CAMERA) is not None


@pytest.mark.parametrize("corner", [(0, 0), (640, 480), (0.2, 479.9)])
def test_a_point_may_lie_in_a_corner(corner: tuple[float, float]) -> None:
    found = locate(np.ones((480, 640), np.float32), 1.0, corner * 2, CAMERA)
    assert found is not None and found.point[2] == 1.0


@pytest.mark.parametrize("model, distortion", [("plumb_bob", (-0.2, 0.05, 0.001, -0.002, 0.0)),
                                               ("equidistant", (0.05, -0.01, 0.002, 0.0))])
def test_distortion_is_undone(model: str, distortion: tuple[float, ...]) -> None:
    import cv2
    camera = Calibration((500.0, 500.0), (319.5, 239.5), model, distortion)
    matrix = np.array([[500, 0, 319.5], [0, 500, 239.5], [0, 0, 1.0]])
    seen = np.array([[[0.4, -0.3, 1.0]]])
    project = cv2.fisheye.projectPoints if model == "equidistant" else cv2.projectPoints
    (x, y), = project(seen, np.zeros(3), np.zeros(3), matrix, np.array(distortion))[0].reshape(-1, 2).tolist()
    assert camera.ray(x + 0.5, y + 0.5) == pytest.approx((0.4, -0.3), abs=1e-4)
    assert camera.project((0.8, -0.6, 2.0)) == pytest.approx((x + 0.5, y + 0.5))


@pytest.mark.parametrize("fields", [{"focal": (0.0, 0.0)}, {"focal": (math.nan, 500.0)}, {"centre": (math.inf, 1.0)},
                                    {"model": "mine", "distortion": (0.1,)}, {"distortion": (0.1, 0.2, 0.3)},
                                    {"distortion": (0.1,) * 100}, {"model": "equidistant", "distortion": (0.1,) * 5}])
def test_a_camera_that_is_not_calibrated_is_refused(fields: dict) -> None:
    with pytest.raises(CalibrationError, match="expected"):
        Calibration(**{"focal": (500.0, 500.0), "centre": (319.5, 239.5), **fields})


def test_a_distortion_that_leads_nowhere_gives_no_position() -> None:
    camera = Calibration((500.0, 500.0), (319.5, 239.5), "rational_polynomial", (1e308, -1e308, 0, 0, 0, 1e308, 0, 0))
    assert locate(np.ones((480, 640), np.float32), 1.0, (0, 0, 40, 40), camera) is None


def test_rendered_objects_are_where_they_are() -> None:
    from ros_gpt4roi.sim.tabletop.renderer import TabletopRenderer
    seen = 0
    with TabletopRenderer(640, 480) as renderer:
        for step in (0, 25):
            scene = renderer.render_view("test", 0, 0, step)
            depth = renderer.depth()
            assert depth.shape == (480, 640) and depth.dtype == np.float32 and 0.2 < depth.min() < depth.max() < 10
            camera = Calibration((renderer.focal,) * 2, (319.5, 239.5))
            for item in scene.objects:
                if item.visible < 0.95 or item.kind in ("mug", "bowl"):  # another stands before it, or it is hollow
                    continue
                found = locate(depth, 1.0, item.box, camera)
                assert found is not None
                radius = max(found.size) * 0.75
                # Its surface is nearer than its centre, by no more than its half.
                assert -0.01 <= item.distance - math.dist((0, 0, 0), found.point) <= radius, item
                seen += 1
    assert seen >= 4
