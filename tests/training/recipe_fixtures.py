"""Recipes of a tiny network, on a few rendered scenes."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import torch
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "model"))
from model_fixtures import TEXTS, tiny_config  # noqa: E402

from ros_gpt4roi.model.checkpoint import build_model, load_checkpoint, read_config, save_checkpoint  # noqa: E402
from ros_gpt4roi.model.config import VisionConfig  # noqa: E402
from training.data.scene_files import render_scenes  # noqa: E402
from training.data.tabletop import TABLETOP  # noqa: E402
from training.from_scratch.tokenizer import train_tokenizer  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
RESNET = dict(model_type="resnet", embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
TUNE = {"name": "tune", "objective": {"kind": "conversation"}, "trainable": ["regions", "projector", "language"]}


def save_start(folder: Path, convolutional: bool = True) -> Path:
    """A checkpoint of random weights, to start recipes from. Its encoder is a ResNet, or CLIP's transformer."""
    tokenizer = train_tokenizer(TEXTS, 420, "compact")
    config = tiny_config(len(tokenizer), tokenizer.pad_token_id)
    config = dataclasses.replace(config, prompt=dataclasses.replace(config.prompt, template="compact", context=1024))
    if convolutional:
        config = dataclasses.replace(
            config, vision=VisionConfig(encoder=RESNET, levels=("stage1", "stage2"), tokens="stage2"),
            regions=dataclasses.replace(config.regions, scales=None, fusion_rounds=1))
    torch.manual_seed(0)
    loaded = build_model(config, tokenizer)
    save_checkpoint(loaded.model, tokenizer, folder)
    return folder


def save_scenes(folder: Path, start: Path) -> Path:
    """What the recipes' data sections render; copied to a run's "scenes" it need not be rendered again."""
    preprocess = read_config(start).preprocess
    for split, count in (("train", 12), ("validation", 4)):
        render_scenes(TABLETOP, folder / f"{split}-5", split, count, seed=5, preprocess=preprocess)
    return folder


def write_recipe(folder: Path, start: Path, stages: list[dict], steps: int = 4, **arguments) -> Path:
    facts = {
        "model": str(start), "seed": 3,
        "train": {"kind": "tabletop", "split": "train", "scenes": 12, "seed": 5},
        "validation": {"kind": "tabletop", "split": "validation", "scenes": 4, "seed": 5},
        "arguments": {"max_steps": steps, "per_device_train_batch_size": 4, "learning_rate": 1e-2, "bf16": False,
                      "logging_steps": 1, "save_steps": 2, "report_to": "none", "disable_tqdm": True, **arguments},
        "stages": stages}
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(facts))
    return path


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(folder).model.state_dict()


def losses(folder: Path) -> list[float]:
    """The logged losses of a stage."""
    return [entry["loss"] for entry in json.loads((folder / "curve.json").read_text()) if "loss" in entry]


def launch(processes: int, *command: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess:
    """Runs `python …` in several processes that find each other through torch's launcher, over gloo."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    with subprocess.Popen([sys.executable, *launcher, *command], cwd=ROOT, env={**os.environ, **(env or {})}, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True) as launched:
        try:
            out, err = launched.communicate(timeout=240)
        finally:
            if launched.poll() is None:  # the launcher's children outlive it
                os.killpg(launched.pid, signal.SIGKILL)
    return subprocess.CompletedProcess(launched.args, launched.returncode, out, err)
