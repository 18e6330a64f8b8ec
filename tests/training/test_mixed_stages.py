"""Both stages by one command over a mixture of every data set, from the annotation files to two checkpoints."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from pathlib import Path

import pytest
import torch
import training_fixtures as fixtures
import yaml
from recipe_fixtures import launch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "model"))
from model_fixtures import tiny_config  # noqa: E402

from ros_gpt4roi.model.checkpoint import build_model, load_checkpoint, save_checkpoint  # noqa: E402
from ros_gpt4roi.model.config import ModelConfig  # noqa: E402
from training.data import open_dataset  # noqa: E402
from training.from_scratch.tokenizer import train_tokenizer  # noqa: E402


@pytest.mark.slow
def test_both_stages_train_on_every_data_set(tmp_path):
    section = {"kind": "mixture", **json.loads(json.dumps(fixtures.section(tmp_path / "data"), default=str))}
    samples = open_dataset(section, tmp_path, 0, ModelConfig())
    texts = [text for i in range(len(samples)) for turn in samples[i].rounds for text in (turn.question, turn.answer)]
    tokenizer = train_tokenizer(texts, 420, "compact")
    config = tiny_config(len(tokenizer), tokenizer.pad_token_id)
    config = dataclasses.replace(config, prompt=dataclasses.replace(config.prompt, template="compact", context=1024))
    torch.manual_seed(0)
    loaded = build_model(config, tokenizer)
    save_checkpoint(loaded.model, tokenizer, tmp_path / "start")
    recipe = {
        "model": str(tmp_path / "start"), "train": section, "validation": section,
        # Seven batches of two see each of the fourteen visits of an epoch once.
        "arguments": {"max_steps": 7, "per_device_train_batch_size": 2, "learning_rate": 1e-2, "bf16": False,
                      "logging_steps": 1, "save_strategy": "no", "eval_strategy": "no", "report_to": "none",
                      "disable_tqdm": True},
        "stages": [{"name": "stage1", "objective": {"kind": "conversation"}, "trainable": ["regions"]},
                   {"name": "stage2", "objective": {"kind": "conversation"},
                    "trainable": ["regions", "projector", "language"]}],
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    done = launch(1, "-m", "training.train", str(tmp_path / "recipe.yaml"), "--out", str(tmp_path / "run"))
    assert done.returncode == 0, done.stderr
    final = tmp_path / "run" / "stage2" / "final"
    before, one, two = (load_checkpoint(folder).model.state_dict() for folder in (
        tmp_path / "start", tmp_path / "run" / "stage1" / "final", final))

    def moved(a, b):
        return {name.split(".")[0] for name in a if not torch.equal(a[name], b[name])}

    assert moved(before, one) == {"regions"}
    assert moved(one, two) == {"regions", "projector", "language"}
    curve = json.loads((tmp_path / "run" / "stage2" / "curve.json").read_text())
    losses = [entry["loss"] for entry in curve if "loss" in entry]
    assert len(losses) == 7 and all(math.isfinite(loss) for loss in losses)
