"""Training: samples a second, waiting for data, memory, and what a second process costs.

python -m benchmarks.training --json benchmarks/results/training.json

Runs `training.train` itself, stage 2 of the embedded model, in one and in two processes, on rendered scenes, on JPEG
files (640x480, a mixture) and on the same in tar shards. Figures are medians over what the training logs every few
steps, without the first, in which everything starts.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from benchmarks.common import machine_facts, write_results
from ros_gpt4roi.model.checkpoint import read_config
from training.data.mixture import open_mixture
from training.data.scene_files import render_scenes
from training.data.shards import INDEX, write_shards
from training.data.tabletop import TABLETOP

ROOT = Path(__file__).resolve().parent.parent
NAMES = ("person", "dog", "car", "chair", "bottle", "book", "clock", "cup")
IMAGES, BOXES = 640, 8  # no epoch ends within a run: real ones are longer
DATA = ("tabletop", "jpeg", "shards")
LOGGED = 5  # steps of an entry of the log


def main() -> None:
    """Measure and write what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="where the results go")
    parser.add_argument("--model", default=str(ROOT / "models" / "tabletop"), help="checkpoint folder")
    parser.add_argument("--data", nargs="+", default=list(DATA), choices=DATA)
    parser.add_argument("--processes", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--batch", type=int, default=12, help="samples a step and process")
    parser.add_argument("--workers", type=int, default=1, help="loading processes of each training process")
    parser.add_argument("--entries", type=int, default=4,
                        help=f"entries of the log, {LOGGED} steps each, beside the first")
    options = parser.parse_args()
    results: dict[str, Any] = {"machine": machine_facts(), "batch": str(options.batch), "workers": str(options.workers)}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for kind in options.data:
            section = _data(kind, folder, options.model)
            results[kind] = {f"{n} processes": _measure(kind, section, n, options, folder) for n in options.processes}
    write_results(options.json, results | _headlines(results, options))


def _data(kind: str, folder: Path, model: str) -> dict[str, Any]:
    """The recipe's section, its data made."""
    if kind == "tabletop":
        scenes = {"split": "train", "scenes": IMAGES, "seed": 1}
        render_scenes(TABLETOP, folder / "scenes" / "train-1", **scenes, preprocess=read_config(model).preprocess)
        return {"kind": "tabletop", **scenes}
    mixture = {"cache": str(folder / "cache"), "sources": [
        {"type": "coco", "annotations": str(folder / "instances.json"), "images": str(folder / "images")}]}
    if not (folder / "images").is_dir():
        _write_images(folder)
    if kind == "jpeg":
        return {"kind": "mixture", **mixture}
    write_shards(open_mixture(mixture, 0), folder / "shards", epochs=1, per_shard=IMAGES // 6)
    return {"kind": "shards", "index": str(folder / "shards" / INDEX)}


def _write_images(folder: Path) -> None:
    """JPEG files of about the detail, and so the decoding time, of photographs, annotated in COCO's format."""
    random, images, annotations = np.random.default_rng(0), list[Any](), list[Any]()
    (folder / "images").mkdir()
    for number in range(IMAGES):
        coarse = Image.fromarray(random.integers(0, 256, (60, 80, 3), np.uint8))
        coarse = coarse.resize((640, 480), Image.Resampling.BICUBIC)
        noise = random.normal(0, 6, (480, 640, 3))
        pixels = (np.asarray(coarse) + noise).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{number}.jpg", quality=90)
        images.append({"id": number, "file_name": f"{number}.jpg", "width": 640, "height": 480})
        for _ in range(BOXES):
            x, y = random.integers(0, 400), random.integers(0, 300)
            annotations.append({"id": len(annotations), "image_id": number,
                                "category_id": int(random.integers(len(NAMES))),
                                "bbox": [int(x), int(y), 150, 120], "area": 18000, "iscrowd": 0})
    (folder / "instances.json").write_text(json.dumps({
        "images": images, "annotations": annotations,
        "categories": [{"id": place, "name": name} for place, name in enumerate(NAMES)]}))


def _measure(kind: str, section: dict[str, Any], processes: int, options: argparse.Namespace,
             folder: Path) -> dict[str, float]:
    run = folder / f"{kind}-{processes}"
    run.mkdir()
    if (folder / "scenes").is_dir():
        (run / "scenes").symlink_to(folder / "scenes")
    validation = section if section["kind"] != "shards" else _data("jpeg", folder, options.model)
    recipe = {"model": options.model, "train": section, "validation": validation, "stages": [{
        "name": "stage2", "objective": {"kind": "conversation"}, "trainable": ["regions", "projector", "language"],
        "arguments": {
            "max_steps": LOGGED * (options.entries + 1), "per_device_train_batch_size": options.batch,
            "logging_steps": LOGGED, "dataloader_num_workers": options.workers, "save_strategy": "no",
            "eval_strategy": "no", "report_to": "none", "disable_tqdm": True}}]}
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command = [sys.executable, *launcher, "-m", "training.train", str(run / "recipe.yaml"), "--out", str(run)]
    # The launcher gives each of several processes one thread; a single one must not get more, or they don't compare.
    with (run / "log").open("w") as log:
        child = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=log, stderr=log)
        _, status, usage = os.wait4(child.pid, 0)
    if status:
        raise SystemExit(f"training failed:\n{(run / 'log').read_text()[-3000:]}")
    entries = [e for e in json.loads((run / "stage2" / "curve.json").read_text()) if "data_wait" in e][1:]
    memory = {"memory_gib": usage.ru_maxrss / 2**20}  # of the largest process; Linux counts in KiB
    if "gpu_memory_gib" in entries[-1]:
        memory["gpu_memory_gib"] = entries[-1]["gpu_memory_gib"]
    return {name: statistics.median(e[name] for e in entries) for name in ("samples_per_second", "data_wait")} | memory


def _headlines(results: dict[str, Any], options: argparse.Namespace) -> dict[str, float]:
    """Numbers of the top level: the README's. cost_growth: process-seconds a sample, against those of one process."""
    lines = {}
    first = results[options.data[0]]
    for n in options.processes:
        lines[f"samples_per_second_{n}"] = first[f"{n} processes"]["samples_per_second"]
    lines["data_wait_percent"] = max(100 * run["data_wait"] for kind in options.data for run in results[kind].values())
    lines["memory_gib"] = max(run["memory_gib"] for kind in options.data for run in results[kind].values())
    if {1, 2} <= set(options.processes):
        lines["cost_growth_2_processes"] = 2 * lines["samples_per_second_1"] / lines["samples_per_second_2"]
    return lines


if __name__ == "__main__":
    main()
