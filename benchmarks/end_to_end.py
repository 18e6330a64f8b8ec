"""From the stamp of a camera frame to its descriptions, through the perception node in a process of its own, over DDS.

    python -m benchmarks.end_to_end --json benchmarks/results/end_to_end.json

Frames are published one at a time, each described anew (no kept texts), and after each one the published procedure runs
on the same frame in this process; then at a camera's rate with everything on; then questions are asked over the action.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rclpy.time import Time
from ros_gpt4roi_interfaces.msg import RegionDescriptionArray
from sensor_msgs.msg import Image
from std_msgs.msg import Header
from vision_msgs.msg import Detection2D, Detection2DArray

from benchmarks.common import machine_facts, seconds, use_own_ros_domain, write_results
from benchmarks.language_models import published_procedure
from ros_gpt4roi.client import Client, ClientError
from ros_gpt4roi.image_messages import rgb_to_image
from ros_gpt4roi.interrupts import Interrupts
from ros_gpt4roi.messages import box_to_message
from ros_gpt4roi.model.checkpoint import LoadedModel, load_checkpoint
from ros_gpt4roi.paths import find_model
from ros_gpt4roi.runtime.language_format import FORMATS
from ros_gpt4roi.runtime.region_text import RegionText
from ros_gpt4roi.runtime.types import Frame, Region
from ros_gpt4roi.sim.rendering import RenderedScene
from ros_gpt4roi.sim.worlds import RENDERERS, TABLETOP

ROOT = Path(__file__).resolve().parents[1]
LIMIT_S, STOP_LIMIT_S = 300.0, 30.0
PUBLISHED_REGIONS = 2  # conversations of the published procedure that are run for a frame; all cost the same


def main() -> None:
    """Measure and write what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="where the results go")
    parser.add_argument("--world", choices=RENDERERS, default=TABLETOP, help="what the camera looks at")
    parser.add_argument("--model", type=Path, help="checkpoint folder (the world's embedded model)")
    parser.add_argument("--language-format", default="int8", choices=FORMATS)
    parser.add_argument("--frames", type=int, default=30)
    parser.add_argument("--regions", type=int, default=8, help="boxes a frame")
    parser.add_argument("--rate", type=float, default=10.0, help="frames a second of the camera")
    parser.add_argument("--width", type=int, default=640)
    parser.add_argument("--height", type=int, default=480)
    options = parser.parse_args()
    options.model = options.model or find_model(options.world)
    use_own_ros_domain()
    scenes = render(options)
    loaded = load_checkpoint(options.model)
    results: dict[str, Any] = {"command": "python -m benchmarks.end_to_end " + " ".join(sys.argv[1:]),
                               "machine": machine_facts(), "image": [options.width, options.height],
                               "regions": options.regions, "language_format": options.language_format}
    node = {"pipeline.language_format": options.language_format}
    fresh = {"pipeline.reuse_distance": 0.0, "pipeline.decoding.draft_tokens": 0}
    with Station(options.model, node | fresh) as station:
        results["one_at_a_time"] = one_at_a_time(station, scenes, loaded, options)
        results["questions"] = questions(station, scenes[0], options)
    with Station(options.model, node) as station:
        results["at_rate"] = at_rate(station, scenes, options)
    results["vs_published"] = results["one_at_a_time"]["vs_published"]
    results["stamp_to_description_ms"] = results["one_at_a_time"]["total_ms"]["median"]
    write_results(options.json, results)


def render(options: argparse.Namespace) -> list[RenderedScene]:
    """Views of the first test scenes that have enough objects to see."""
    scenes: list[RenderedScene] = []
    with RENDERERS[options.world](options.width, options.height) as renderer:
        index = 0
        while len(scenes) < options.frames:
            for step in range(10):
                scene = renderer.render_view("test", 0, index, step)
                if scene.objects:
                    scenes.append(scene)
            index += 1
    return scenes[:options.frames]


def boxes_of(scene: RenderedScene, count: int) -> list[tuple[float, float, float, float]]:
    """So many boxes: those of the objects, again from the first where there are fewer."""
    boxes = (scene.objects[i % len(scene.objects)].box for i in range(count))
    return [(float(x1), float(y1), float(x2), float(y2)) for x1, y1, x2, y2 in boxes]


class Station:
    """A perception node in its own process, and the camera and the listener that talk to it."""

    def __init__(self, model: Path, parameters: dict[str, Any]) -> None:
        command = [sys.executable, "-P", "-m", "ros_gpt4roi.nodes.perception", "--ros-args", "-p", f"model:={model}"]
        for name, value in parameters.items():
            command += ["-p", f"{name}:={value}"]
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        environment = {**os.environ, "PYTHONPATH": path}
        environment.pop("_ROS_WHEELS_BOOTSTRAP_COMPLETE", None)  # the ROS wheels' own: with it, they find no libraries
        self._log = tempfile.TemporaryFile("w+")
        self._process = subprocess.Popen(command, env=environment, stdout=self._log, stderr=self._log)
        self._interrupts = Interrupts()
        try:
            self.client = Client(name="benchmark", check=self._check)
        except BaseException:
            self._process.kill()  # nobody else would end it
            self._process.wait()
            raise
        self._images = self.client.node.create_publisher(Image, "image", 10)
        self._detections = self.client.node.create_publisher(Detection2DArray, "detections", 10)
        self.received: list[tuple[float, RegionDescriptionArray]] = []
        self.client.on_descriptions(lambda message: self.received.append((time.time(), message)))

    def __enter__(self) -> Station:
        self._interrupts.__enter__()
        try:
            self.client.wait_for_node(LIMIT_S)
            self.wait_for(lambda: self._images.get_subscription_count() and self._detections.get_subscription_count()
                          and self.client.node.count_publishers("region_descriptions"), "the perception node")
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the node's process and this process's part in ROS."""
        self._process.terminate()
        try:
            self._process.wait(STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self.client.close()
        self._interrupts.__exit__()

    def _check(self) -> None:
        self._interrupts.check()
        if self._process.poll() is not None:
            self._log.seek(0)
            raise ClientError(f"the perception node has ended; it says:\n{self._log.read()[-3000:]}")

    def wait_for(self, condition: Callable[[], object], what: str) -> None:
        """Wait until `condition()`; end the program, naming `what`, where that takes too long."""
        self.client.wait_for(condition, LIMIT_S, what)

    def publish(self, scene: RenderedScene, count: int) -> float:
        """Publishes a frame with the present time as its stamp; returns the stamp, seconds."""
        image = rgb_to_image(scene.image, Header())
        boxes = [Detection2D(id=str(i + 1), bbox=box_to_message(box)) for i, box in enumerate(boxes_of(scene, count))]
        stamp = time.time_ns()
        header = Header(frame_id="camera", stamp=Time(nanoseconds=stamp).to_msg())
        image.header = header
        self._images.publish(image)
        self._detections.publish(Detection2DArray(header=header, detections=boxes))
        return stamp / 1e9


def one_at_a_time(station: Station, scenes: Sequence[RenderedScene], loaded: LoadedModel,
                  options: argparse.Namespace) -> dict[str, Any]:
    """Latency by stage, with nothing else under way; the first frame is counted apart."""
    totals, stages, published, same = [], [], [], []
    for number, scene in enumerate(scenes):
        before = len(station.received)
        stamp = station.publish(scene, options.regions)
        station.wait_for(lambda: len(station.received) > before, f"the descriptions of frame {number}")
        received, message = station.received[-1]
        if len(message.descriptions) != options.regions:
            raise SystemExit(f"{len(message.descriptions)} descriptions, expected {options.regions}")
        totals.append(received - stamp)
        stages.append({stage.stage: stage.duration.sec + stage.duration.nanosec / 1e9 for stage in message.stage_times})
        if number % 3 == 0:  # the same frame, in this process, while the node rests
            texts: list[str] = []
            published.append(seconds(lambda: texts.extend(published_texts(loaded, scene, options.regions))))
            same += [mine.text == text for mine, text in zip(message.descriptions, texts)]
    found: dict[str, Any] = {"total_ms": spread(totals[1:])}
    found |= {f"{stage}_ms": spread([times[stage] for times in stages[1:]]) for stage in stages[0]}
    found["transport_and_queue_ms"] = spread([total - sum(times.values())
                                              for total, times in zip(totals[1:], stages[1:])])
    found["first_frame_over_median"] = totals[0] / statistics.median(totals[1:])
    share = options.regions / min(PUBLISHED_REGIONS, options.regions)
    found["published_ms"] = spread([taken * share for taken in published])
    found["same_text_percent"] = 100 * float(np.mean(same))
    found["vs_published"] = found["published_ms"]["median"] / found["total_ms"]["median"]
    return found


def published_texts(loaded: LoadedModel, scene: RenderedScene, count: int) -> list[str]:
    """The texts of the first PUBLISHED_REGIONS regions."""
    regions = tuple(Region(str(i + 1), box) for i, box in enumerate(boxes_of(scene, count)))
    places = range(1, min(PUBLISHED_REGIONS, count) + 1)
    found = published_procedure(loaded, Frame(scene.image, regions, 0, "camera"), places, 64)
    names = RegionText([region.id for region in regions])
    return [names.to_user(loaded.tokenizer.decode(ids, skip_special_tokens=True)).strip() for ids in found]


def at_rate(station: Station, scenes: Sequence[RenderedScene], options: argparse.Namespace) -> dict[str, Any]:
    """A camera that does not wait; kept texts and drafts as configured. Frames that come too fast are dropped."""
    period, began = 1 / options.rate, time.monotonic()
    stamps = []
    for number, scene in enumerate([*scenes, *reversed(scenes)]):
        time.sleep(max(0.0, began + number * period - time.monotonic()))
        stamps.append(station.publish(scene, options.regions))
    time.sleep(2.0)
    latencies = [moment - (message.header.stamp.sec + message.header.stamp.nanosec / 1e9)
                 for moment, message in station.received]
    texts = [text for _, message in station.received for text in message.descriptions]
    if not texts:
        raise SystemExit("no frame was described")
    return {"rate_hz": options.rate, "frames_sent": len(stamps), "frames_described": len(station.received),
            "latency_ms": spread(latencies), "texts_kept_percent": 100 * sum(t.reused for t in texts) / len(texts),
            "descriptions_per_s": len(texts) / (station.received[-1][0] - stamps[0])}


def questions(station: Station, scene: RenderedScene, options: argparse.Namespace) -> dict[str, Any]:
    """First words and whole answers over the action, at rest."""
    firsts, wholes = [], []
    for number in range(max(3, options.frames // 3)):
        heard: list[float] = []
        began = time.monotonic()
        answer = station.client.ask(f"What is region {1 + number % options.regions}?",
                                    on_text=lambda piece: heard.append(time.monotonic()))
        if answer.status:
            raise SystemExit(f"an answer failed: {answer.error}")
        wholes.append(time.monotonic() - began)
        firsts.append((heard[0] if heard else time.monotonic()) - began)
    return {"first_words_ms": spread(firsts[1:]), "whole_answer_ms": spread(wholes[1:]),
            "first_over_median": wholes[0] / statistics.median(wholes[1:])}


def spread(values: Sequence[float]) -> dict[str, float]:
    """Milliseconds of seconds: median, 95th percentile, most."""
    in_ms = 1000 * np.asarray(values)
    return {"median": float(np.median(in_ms)), "p95": float(np.percentile(in_ms, 95)), "most": float(in_ms.max())}


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    main()
