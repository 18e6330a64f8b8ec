"""Minutes and memory of a retraining against the number of corrections.

    python -m benchmarks.retraining --json benchmarks/results/retraining.json

The embedded model is retrained, with the defaults of `training.retrain` and in a process of its own, on simulated
corrections of the workshop (training/retraining/simulated.py), each time from the beginning.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.common import machine_facts, write_results
from ros_gpt4roi.paths import find_model
from ros_gpt4roi.regular_file import read_json
from ros_gpt4roi.runtime.pipeline import Pipeline, PipelineConfig
from ros_gpt4roi.runtime.vision_stage import VisionOptions
from ros_gpt4roi.sim.worlds import TABLETOP
from training.evaluation.model import open_fitted
from training.retraining.simulated import Person, write_corrections
from training.retraining.worlds import WORLDS


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and write what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="where the results go")
    parser.add_argument("--corrections", nargs="+", type=int, default=[50, 100, 200, 500, 1000], help="how many")
    parser.add_argument("--seed", type=int, default=0, help="of scenes, mistakes and training")
    options = parser.parse_args(arguments)
    model = find_model(TABLETOP)
    pipeline = open_fitted(model, PipelineConfig(vision=VisionOptions(backend="torch")))
    results: dict[str, Any] = {"machine": machine_facts(), "options": {"seed": options.seed}, "corrections": {}}
    for count in options.corrections:
        with tempfile.TemporaryDirectory() as scratch:
            results["corrections"][str(count)] = _measure(Path(scratch), model, pipeline, count, options.seed)
    write_results(options.json, results)
    return 0


def _measure(folder: Path, model: Path, pipeline: Pipeline, count: int, seed: int) -> dict[str, Any]:
    person = Person(WORLDS[TABLETOP], count, seed)
    pictures = write_corrections(folder / "data", pipeline, person, seed)
    began = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "training.retrain", "--model", model, "--data", folder / "data",
                                "--out", folder / "model", "--seed", str(seed)], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"error: training.retrain ended with status {os.waitstatus_to_exitcode(status)}")
    minutes = (time.perf_counter() - began) / 60
    card = read_json(folder / "model" / "card.json")
    return {"pictures": pictures, "confirmations": person.confirmed, "steps": card["steps"], "minutes": minutes,
            "peak_mib": usage.ru_maxrss / 1024, "held_out": card["new"], "known": card["old"]}


if __name__ == "__main__":
    sys.exit(main())
