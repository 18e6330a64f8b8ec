"""Several robots on one server: is anything lost, and has each its turn?

    python -m benchmarks.remote_fleet --remote http://host:8000/v1 --robots 8 --json fleet.json

Each robot is a pipeline of its own, with its own connections. It describes the regions of frames of noise,
and asks about each frame; all begin together. A frame or an answer without a text is lost. How even their
shares are is Jain's index of what each has done a second: 1 where all have the same, 1/robots where one has all.
"""
from __future__ import annotations

import argparse
import queue
import statistics
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import machine_facts, write_results
from ros_gpt4roi.runtime.pipeline_config import PipelineConfig
from ros_gpt4roi.runtime.remote.options import ServerOptions
from ros_gpt4roi.runtime.remote.pipeline import RemotePipeline
from ros_gpt4roi.runtime.request import Conversation, Question
from ros_gpt4roi.runtime.types import Frame, Region, Status

_START_S = 300.0


def robot(number: int, options: argparse.Namespace, ready: threading.Barrier, results: queue.Queue) -> None:
    """One robot, on a thread of its own.

    Args:
        number: Which one.
        options: Of the command.
        ready: A barrier, passed by all at the same time.
        results: A queue, which gets what came of it.
    """
    limit = options.limit
    pipeline = RemotePipeline.connect(PipelineConfig(
        remote=options.remote, description_tokens=options.tokens, answer_tokens=options.tokens, reuse_distance=0.0,
        server=ServerOptions(model=options.model, stall_timeout_s=limit, busy_timeout_s=limit)))
    frames, answers, lost = [], [], 0
    random = np.random.default_rng(number)
    height, width = options.size
    step = width / options.regions
    regions = tuple(Region(str(i + 1), (i * step, 0.0, (i + 1) * step, height / 2)) for i in range(options.regions))
    ready.wait(_START_S)
    began = time.monotonic()
    for stamp in range(options.frames):
        frame = Frame(random.integers(0, 256, (height, width, 3), np.uint8), regions, stamp, "camera")
        start = time.monotonic()
        described = pipeline.describe(frame)
        frames.append(time.monotonic() - start)
        lost += described.status is not Status.OK or len(described.descriptions) != options.regions
        start = time.monotonic()
        answer = pipeline.ask(Conversation("", frame), Question("What is region 1?"))
        answers.append(time.monotonic() - start)
        lost += answer.status is not Status.OK or not answer.text
    seconds = time.monotonic() - began
    results.put({"robot": number, "seconds": seconds, "frames": frames, "answers": answers, "lost": int(lost),
                 "busy": pipeline.server.counters["server_busy"], "errors": pipeline.server.counters["server_errors"]})
    pipeline.close()


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Run all robots to their ends, and say what came of them."""
    ready, results = threading.Barrier(options.robots), queue.Queue[dict[str, Any]]()
    for number in range(options.robots):
        threading.Thread(target=robot, args=(number, options, ready, results), daemon=True).start()
    longest = _START_S + 2 * options.frames * options.limit
    robots = sorted((results.get(timeout=longest) for _ in range(options.robots)), key=lambda result: result["robot"])
    shares = [options.frames / result["seconds"] for result in robots]
    frames, answers = ([value for result in robots for value in result[name]] for name in ("frames", "answers"))
    return {"machine": machine_facts(), "server": options.named, "robots": options.robots, "regions": options.regions,
            "frames_each": options.frames, "tokens": options.tokens, "lost": sum(result["lost"] for result in robots),
            "fairness": sum(shares)**2 / (len(shares) * sum(share**2 for share in shares)),
            "slowest_over_fastest": max(shares) / min(shares),
            "texts_a_second": options.robots * options.frames * (options.regions + 1)
            / max(result["seconds"] for result in robots),
            "frame_median_s": statistics.median(frames), "frame_longest_s": max(frames),
            "answer_median_s": statistics.median(answers), "answer_longest_s": max(answers), "each": robots}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return 1 where anything was lost."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.remote_fleet", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--remote", required=True, help="address of the server, such as http://host:8000/v1")
    parser.add_argument("--model", default="", help="the model's name there; by default the only one")
    parser.add_argument("--named", default="", help="what the results call the server and its model")
    parser.add_argument("--robots", type=int, default=8)
    parser.add_argument("--frames", type=int, default=4, help="frames of each robot")
    parser.add_argument("--regions", type=int, default=8, help="regions of a frame")
    parser.add_argument("--tokens", type=int, default=25, help="most tokens of a text")
    parser.add_argument("--size", type=int, nargs=2, default=(480, 640), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--limit", type=float, default=120.0, help="seconds that a server may send nothing")
    parser.add_argument("--json", type=Path, help="file for the results")
    options = parser.parse_args(arguments)
    results = measure(options)
    write_results(options.json, results)
    return int(results["lost"] > 0)


if __name__ == "__main__":
    sys.exit(main())
