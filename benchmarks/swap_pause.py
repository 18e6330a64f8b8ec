"""The pause that a change of the model costs the stream of descriptions.

    python -m benchmarks.swap_pause --json benchmarks/results/swap_pause.json

The perception node runs in a process of its own; a moving camera publishes at a steady rate. `load_model` takes a copy
of the model that runs, so that the new one costs as much as the old one; then `rollback` takes it back. Measured are
the gaps between one description message and the next: usually, while the new model is loaded and asked the probes, and
at either change.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from ros_gpt4roi_interfaces.srv import LoadModel
from std_srvs.srv import Trigger

from benchmarks.common import machine_facts, use_own_ros_domain, write_results
from benchmarks.end_to_end import Station, spread
from ros_gpt4roi.paths import find_model
from ros_gpt4roi.sim.tabletop.renderer import TabletopRenderer
from ros_gpt4roi.sim.tabletop.scene import Scene

_WIDTH, _HEIGHT, _VIEWS = 640, 480, 20
_SETTLE_S = 10.0  # at the start, when the node's caches fill
_AFTER_S = 5.0  # behind a change
_LIMIT_S = 900.0  # of a service, and of the answer to a probe


class Stream:
    """A camera that publishes at its rate, and the arrival of the descriptions.

    Args:
        station: The node.
        views: Played again and again.
        rate: Frames a second.
        regions: Boxes a frame.
    """

    def __init__(self, station: Station, views: Sequence[Scene], rate: float, regions: int) -> None:
        self._station, self._views, self._rate, self._regions = station, views, rate, regions
        self._count, self._began = 0, time.monotonic()

    def until(self, done: Callable[[], bool], limit_s: float) -> None:
        """Go on until a condition holds."""
        end = time.monotonic() + limit_s
        while not done():
            if time.monotonic() > end:
                raise SystemExit(f"error: not within {limit_s:g} s")
            time.sleep(max(0.0, self._began + self._count / self._rate - time.monotonic()))
            self._station.publish(self._views[self._count % len(self._views)], self._regions)
            self._count += 1

    def for_seconds(self, seconds: float) -> None:
        """Go on for some time."""
        end = time.monotonic() + seconds
        self.until(lambda: time.monotonic() >= end, seconds + _LIMIT_S)

    def gaps(self, first: int) -> Iterator[tuple[float, bool]]:
        """Seconds from one message to the next, from that one on, and whether the model changed in between."""
        for (before, one), (after, other) in pairwise(self._station.received[first:]):
            yield after - before, one.model_version != other.model_version


def measure(station: Station, stream: Stream, model: Path, seconds: float) -> dict[str, Any]:
    """Change the model and take it back; return the gaps in milliseconds."""
    node = station.client.node
    services = {kind: node.create_client(kind, name) for kind, name in ((LoadModel, "load_model"),
                                                                        (Trigger, "rollback"))}

    def call(kind: Any, request: Any) -> tuple[float, list[tuple[float, bool]]]:
        """How long a service took, and the gaps until shortly behind the change."""
        stream.until(services[kind].service_is_ready, _LIMIT_S)
        first, began = len(station.received) - 1, time.monotonic()
        future = services[kind].call_async(request)
        stream.until(future.done, _LIMIT_S)
        taken = time.monotonic() - began
        if not future.result().success:
            raise SystemExit(f"error: {future.result().message}")
        stream.for_seconds(_AFTER_S)
        gaps = list(stream.gaps(first))
        if sum(changed for _, changed in gaps) != 1:
            raise SystemExit("error: the descriptions do not say that the model has changed")
        return taken, gaps

    stream.for_seconds(_SETTLE_S)
    first = len(station.received)
    stream.for_seconds(seconds)
    usual = [gap for gap, _ in stream.gaps(first)]
    loading_s, loaded = call(LoadModel, LoadModel.Request(model=str(model)))
    _, rolled_back = call(Trigger, Trigger.Request())
    median = float(np.median(usual))
    place = next(place for place, (_, changed) in enumerate(loaded) if changed)
    figures = {"usual_ms": spread(usual), "while_loading_ms": spread([gap for gap, _ in loaded[:place]]),
               "load_model_s": loading_s}
    for name, gaps in (("change", loaded), ("rollback", rolled_back)):
        figures[f"{name}_ms"] = 1000 * next(gap for gap, changed in gaps if changed)
        figures[f"{name}_over_usual"] = figures[f"{name}_ms"] / 1000 / median
    everything = [gap for gap, _ in (*loaded, *rolled_back)]
    return {**figures, "longest_over_usual": max(everything) / median, "gaps": len(everything),
            "late": sum(gap > 2 * median for gap in everything), "late_usually": sum(gap > 2 * median for gap in usual),
            "usual_gaps": len(usual)}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and write what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="where the results go")
    parser.add_argument("--rate", type=float, default=10.0, help="frames a second of the camera")
    parser.add_argument("--regions", type=int, default=8, help="boxes a frame")
    parser.add_argument("--vision-backend", default="auto", help="the node's pipeline.vision.backend; auto: exporting "
                        "the new model for ONNX Runtime is part of loading it")
    parser.add_argument("--seconds", type=float, default=60.0, help="for which the usual gaps are measured")
    options = parser.parse_args(arguments)
    use_own_ros_domain()
    with TabletopRenderer(_WIDTH, _HEIGHT) as renderer:
        views = [renderer.render_view("test", 0, 0, step) for step in range(_VIEWS)]
    model = find_model("tabletop")
    node = {"scheduler.answer_timeout_s": _LIMIT_S, "pipeline.vision.backend": options.vision_backend}
    with tempfile.TemporaryDirectory() as scratch, Station(model, node) as station:
        other = Path(shutil.copytree(model, Path(scratch) / "other"))
        stream = Stream(station, [view for view in views if view.objects], options.rate, options.regions)
        results = measure(station, stream, other, options.seconds)
    write_results(options.json, {"machine": machine_facts(), "rate_hz": options.rate, "regions": options.regions,
                                 "vision_backend": options.vision_backend, **results})
    return 0


if __name__ == "__main__":
    sys.exit(main())
