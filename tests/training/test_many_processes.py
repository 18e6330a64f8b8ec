"""Several processes train what one does; a model in shards, adapters and half precision do, too."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from recipe_fixtures import TUNE, launch, losses, save_start, weights, write_recipe

from training.recipe import read_recipe
from training.train import train

TELL = {"name": "tell", "objective": "facts", "trainable": ["language", "regions.position", "regions.project"]}


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_start(tmp_path_factory.mktemp("start"))


@pytest.fixture(scope="module")
def alone(start, tmp_path_factory) -> Path:
    """Two stages in one process, six images a step."""
    run = tmp_path_factory.mktemp("alone")
    train(read_recipe(write_recipe(run, start, [TELL, TUNE], per_device_train_batch_size=6)), run)
    return run


def close(found: Path, expected: Path, atol: float) -> None:
    found, expected = weights(found), weights(expected)
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=1e-3, atol=atol, msg=lambda m, key=key: f"{key}: {m}")


@pytest.mark.slow
def test_two_processes_reach_what_one_does(start, alone, tmp_path):
    recipe = write_recipe(tmp_path, start, [TELL, TUNE], per_device_train_batch_size=3)
    done = launch(2, "-m", "training.train", str(recipe), "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    for stage in ("tell", "tune"):
        assert losses(tmp_path / stage) == pytest.approx(losses(alone / stage), rel=1e-4)
        close(tmp_path / stage / "final", alone / stage / "final", 1e-3)
