"""What all benchmarks share: facts about the machine, interleaved timing, results as JSON."""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import torch

sys.path.append(str(Path(__file__).resolve().parents[1] / "scripts"))
from isolation import claim_domain  # noqa: E402

_claims: list[IO[str]] = []  # open until this process ends


def use_own_ros_domain() -> None:
    """Keeps ROS traffic on this machine and, unless ROS_DOMAIN_ID is set, in a domain that no test or demo here uses.

    What a node of theirs publishes would be taken for this benchmark's.
    """
    if "ROS_DOMAIN_ID" not in os.environ:
        domain, claim = claim_domain()
        _claims.append(claim)
        os.environ["ROS_DOMAIN_ID"] = str(domain)
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")


def machine_facts() -> dict[str, Any]:
    """What a figure depends on besides the code."""
    model = next((line.split(":", 1)[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
                  if line.startswith("model name")), platform.processor())
    return {
        "cpu": model, "cores": os.cpu_count(), "threads": torch.get_num_threads(), "load_before": os.getloadavg()[0],
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(), "torch": torch.__version__,
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}


def synchronise() -> None:
    """Waits for the GPU, where there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def seconds(function: Callable[[], Any]) -> float:
    """Wall-clock time of one call, GPU work included."""
    synchronise()
    begin = time.perf_counter()
    function()
    synchronise()
    return time.perf_counter() - begin


def compare(functions: Mapping[str, Callable[[], Any]], rounds: int, warm_up: int = 2,
            settle: bool = False) -> dict[str, float]:
    """Median seconds of each function. They take turns, so that whatever else the machine does meets all of them.

    Args:
        functions: By their names.
        rounds: Timed calls of each.
        warm_up: Untimed calls of each before them.
        settle: An untimed call before each timed one. For functions of milliseconds: PyTorch's threads spin for about
            as long after its last operator, on the cores that the next function needs.
    """
    times: dict[str, list[float]] = {name: [] for name in functions}
    for number in range(warm_up + rounds):
        for name, function in functions.items():
            if settle:
                function()
            taken = seconds(function)
            if number >= warm_up:
                times[name].append(taken)
    return {name: statistics.median(values) for name, values in times.items()}


def write_results(path: Path | None, results: Mapping[str, Any]) -> None:
    """Results as JSON to a file, and to the terminal."""
    text = json.dumps(results, indent=2)
    print(text)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n", encoding="utf-8")
