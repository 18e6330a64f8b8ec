"""Bags to records: minutes and memory against the size of the bag, which should not matter.

    python -m benchmarks.from_bag --json benchmarks/results/from_bag.json

The bags have raw frames of 640x480 with a box and a description each; `training.data from_bag` reads each in a process
of its own. Bag and pictures take about 1.4 times the largest size in the folder for temporary files.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from builtin_interfaces.msg import Time
from rclpy.serialization import serialize_message
from ros_gpt4roi_interfaces.msg import Region, RegionDescription, RegionDescriptionArray
from rosbags.rosbag2 import StoragePlugin, Writer
from std_msgs.msg import Header
from vision_msgs.msg import Detection2D, Detection2DArray

from benchmarks.common import machine_facts, write_results
from ros_gpt4roi.image_messages import rgb_to_image
from ros_gpt4roi.messages import box_to_message, hypothesis
from training.data.bags.messages import current_types

SIZE = (640, 480)
BOX = (100, 100, 300, 300)
TYPES = {"/image": "sensor_msgs/msg/Image", "/detections": "vision_msgs/msg/Detection2DArray",
         "/region_descriptions": "ros_gpt4roi_interfaces/msg/RegionDescriptionArray"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and write what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="where the results go")
    parser.add_argument("--gigabytes", nargs="+", type=float, default=[0.1, 1, 4], help="sizes of bags")
    options = parser.parse_args(arguments)
    results: dict[str, Any] = {"machine": machine_facts(), "bags": {}}
    for gigabytes in options.gigabytes:
        with tempfile.TemporaryDirectory() as scratch:
            results["bags"][f"{gigabytes:g}"] = _measure(Path(scratch), gigabytes)
    write_results(options.json, results)
    return 0


def _measure(folder: Path, gigabytes: float) -> dict[str, float]:
    frames = max(1, round(gigabytes * 1e9 / (SIZE[0] * SIZE[1] * 3)))
    with Writer(folder / "bag", version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        store = current_types()
        topics = {name: writer.add_connection(name, kind, typestore=store) for name, kind in TYPES.items()}
        for place in range(frames):
            for topic, message in _messages(place):
                writer.write(topics[topic], place * 10**8, serialize_message(message))
    begin = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "training.data", "from_bag", folder / "bag", "--out",
                                folder / "out"], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"error: from_bag ended with status {os.waitstatus_to_exitcode(status)}")
    return {"frames": frames, "records": len(list((folder / "out/images").iterdir())),
            "peak_mib": usage.ru_maxrss / 1024, "minutes": (time.perf_counter() - begin) / 60}


def _messages(place: int) -> Iterator[tuple[str, Any]]:
    stamp = 1_700_000_000 * 10 + place
    header = Header(stamp=Time(sec=stamp // 10, nanosec=stamp % 10 * 10**8), frame_id="camera")
    cells = np.random.default_rng(place).integers(0, 255, (8, 8, 3), np.uint8)
    yield "/image", rgb_to_image(cv2.resize(cells, SIZE, interpolation=cv2.INTER_CUBIC), header, "rgb8")
    box = box_to_message(BOX)
    yield "/detections", Detection2DArray(header=header, detections=[
        Detection2D(header=header, id="1", bbox=box, results=[hypothesis("mug", 0.9)])])
    yield "/region_descriptions", RegionDescriptionArray(header=header, descriptions=[
        RegionDescription(region=Region(id="1", bbox=box, label="mug", score=0.9), text="a mug", confidence=0.8)])


if __name__ == "__main__":
    sys.exit(main())
