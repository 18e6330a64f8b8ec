"""Recipes and stages: what learns, that it learns, and that an interrupted run ends where an uninterrupted one does."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from recipe_fixtures import ROOT, TUNE, losses, save_start, weights, write_recipe
from safetensors import safe_open

from ros_gpt4roi.model.checkpoint import CheckpointError, load_checkpoint
from training.deploy import deploy
from training.recipe import RecipeError, read_recipe
from training.train import train

STAGES = [
    {"name": "tell", "objective": "facts", "trainable": ["language", "regions.position", "regions.project"],
     "list_regions": True},
    {"name": "see", "objective": "attributes", "trainable": ["vision", "regions"]},
    {"name": "align", "objective": "align", "trainable": ["regions.convs", "regions.flatten"], "facts": "tell"},
    {"name": "short", "objective": "conversation", "trainable": ["regions", "projector"], "texts": "short"},
    TUNE,
]


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_start(tmp_path_factory.mktemp("start"))


@pytest.fixture(scope="module")
def finished(start: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of all stages, uninterrupted."""
    run = tmp_path_factory.mktemp("run")
    train(read_recipe(write_recipe(run, start, STAGES)), run)
    return run


@pytest.mark.slow
@pytest.mark.parametrize("number, parts", [(0, ("language", "regions.position", "regions.project")),
                                           (1, ("vision", "regions")), (2, ("regions.convs", "regions.flatten")),
                                           (3, ("regions", "projector")),
                                           (4, ("regions", "projector", "language"))])
def test_a_stage_changes_what_it_trains_and_nothing_else(start, finished, number, parts):
    before = weights(finished / STAGES[number - 1]["name"] / "final" if number else start)
    after = weights(finished / STAGES[number]["name"] / "final")
    changed = {key for key in after if not torch.equal(before[key], after[key])}
    # Statistics of a frozen encoder's normalisation are weights too.
    assert all(key.startswith(tuple(p + "." for p in parts)) for key in changed)
    assert all(any(key.startswith(part + ".") for key in changed) for part in parts)


@pytest.mark.slow
def test_every_objective_learns(start, finished, tmp_path):
    shutil.copytree(finished / "scenes", tmp_path / "scenes")
    for stage in STAGES:
        run = tmp_path / stage["name"]
        run.mkdir()
        (run / "scenes").symlink_to(tmp_path / "scenes")
        stage = {**stage, "trainable": ["vision", "regions", "projector", "language"]}
        if stage["objective"] == "align":
            (run / "tell").symlink_to(finished / "tell")
        train(read_recipe(write_recipe(run, start, [stage],
                                       steps=30, eval_strategy="no", save_steps=100)), run)
        found = losses(run / stage["name"])
        assert sum(found[-5:]) < 0.85 * sum(found[:5]), stage["name"]


# Killed as no program can prevent, in the middle of writing its second checkpoint.
KILLED = """
import os, signal, sys
from pathlib import Path
from training import recipe, train, trainer

def kill(self, folder):
    if self.state.global_step == 4:
        os.kill(os.getpid(), signal.SIGKILL)
    return save(self, folder)

save, trainer.StageTrainer._save_rng_state = trainer.StageTrainer._save_rng_state, kill
train.train(recipe.read_recipe(sys.argv[1]), Path(sys.argv[2]))
"""


@pytest.mark.slow
def test_a_killed_run_ends_where_an_uninterrupted_one_does(start, finished, tmp_path):
    for stage in ("scenes", *(stage["name"] for stage in STAGES[:-1])):
        shutil.copytree(finished / stage, tmp_path / stage)
    recipe = shutil.copy(finished / "recipe.yaml", tmp_path)
    killed = subprocess.run([sys.executable, "-c", KILLED, recipe, tmp_path], cwd=ROOT, capture_output=True, timeout=240)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    # The checkpoint that was being written is not taken for one.
    assert [path.name for path in (tmp_path / "tune").glob("checkpoint-*")] == ["checkpoint-2"]
    assert os.listdir(tmp_path / "tune" / "checkpoint.partial") == ["checkpoint-4"]
    result = train(read_recipe(recipe), tmp_path)
    expected, found = weights(finished / "tune" / "final"), weights(result)
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=1e-5, atol=1e-6, msg=lambda m, key=key: f"{key}: {m}")
    assert losses(tmp_path / "tune") == pytest.approx(losses(finished / "tune"), rel=1e-4)


@pytest.mark.slow
def test_a_checkpoint_of_another_recipe_is_not_gone_on_from(start, finished, tmp_path):
    shutil.copytree(finished / "scenes", tmp_path / "scenes")
    shutil.copytree(finished / "tell" / "checkpoint-2", tmp_path / "tune" / "checkpoint-2")
    with pytest.raises(CheckpointError, match="of another recipe"):
        train(read_recipe(write_recipe(tmp_path, start, [TUNE])), tmp_path)


@pytest.mark.slow
def test_checkpoints_hold_what_is_learned_and_old_ones_go(finished):
    for stage in STAGES:
        folder = finished / stage["name"]
        assert sorted(path.name for path in folder.glob("checkpoint*-*")) == ["checkpoint-2", "checkpoint-4"]
        with safe_open(folder / "checkpoint-4" / "model.safetensors", "pt") as archive:
            held = {key.removeprefix("model.") for key in archive.keys()}
        parameters = dict(load_checkpoint(finished / "tune" / "final").model.named_parameters())
        parts = tuple(part + "." for part in stage["trainable"])
        assert held & parameters.keys() == {name for name in parameters if name.startswith(parts)}


@pytest.mark.slow
def test_the_log_tells_speed_and_how_long_the_steps_waited_for_data(finished):
    entries = [e for e in json.loads((finished / "tune" / "curve.json").read_text()) if "loss" in e]
    assert len(entries) == 4
    assert all(0 < entry["data_wait"] < 1 and entry["samples_per_second"] > 0 for entry in entries)


@pytest.mark.slow
def test_the_same_seed_gives_the_same_weights(start, finished, tmp_path):
    shutil.copytree(finished / "scenes", tmp_path / "scenes")
    result = train(read_recipe(write_recipe(tmp_path, start, STAGES[:1])), tmp_path)
    expected = weights(finished / "tell" / "final")
    assert all(torch.equal(value, expected[key]) for key, value in weights(result).items())


@pytest.mark.slow
def test_deploy_writes_a_folder_that_loads_in_half_precision(finished, tmp_path):
    deploy(finished / "recipe.yaml", finished, tmp_path / "model")
    expected = weights(finished / "tune" / "final")
    for key, value in weights(tmp_path / "model").items():
        torch.testing.assert_close(value, expected[key].half().to(value.dtype), rtol=0, atol=0)
    assert set(json.loads((tmp_path / "model" / "curve.json").read_text())) == {s["name"] for s in STAGES}
    assert "stage" in (tmp_path / "model" / "README.md").read_text()


@pytest.mark.parametrize("change, message", [
    ({"objective": "dream"}, "objective 'dream'"),
    ({"texts": "medium"}, "texts 'medium'"),
    ({"colour": 1}, "unknown stage field ['colour']"),
    ({"objective": "align"}, "objective align without facts"),
])
def test_a_wrong_stage_is_named(start, tmp_path, change, message):
    path = write_recipe(tmp_path, start, [{**STAGES[0], **change}])
    with pytest.raises(RecipeError) as error:
        read_recipe(path)
    assert message in str(error.value) and str(path) in str(error.value)


def test_an_unknown_part_of_the_model_is_named(start, tmp_path):
    path = write_recipe(tmp_path, start, [{**STAGES[0], "trainable": ["tongue"]}])
    with pytest.raises(RecipeError, match=r"\['tongue'\]"):
        train(read_recipe(path), tmp_path)
