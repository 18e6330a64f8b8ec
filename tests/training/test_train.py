"""Recipes and stages: what learns, that it learns, and that an interrupted run ends where an uninterrupted one does."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "model"))
from model_fixtures import TEXTS, tiny_config  # noqa: E402

from ros_gpt4roi.model.checkpoint import build_model, load_checkpoint, save_checkpoint  # noqa: E402
from ros_gpt4roi.model.config import VisionConfig  # noqa: E402
from training.deploy import deploy  # noqa: E402
from training.recipe import RecipeError, read_recipe  # noqa: E402
from training.tokenizer import train_tokenizer  # noqa: E402
from training.train import train  # noqa: E402

RESNET = dict(model_type="resnet", embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
STAGES = [
    {"name": "tell", "objective": "facts", "trainable": ["language", "regions.position", "regions.project"],
     "list_regions": True},
    {"name": "see", "objective": "attributes", "trainable": ["vision", "regions"]},
    {"name": "align", "objective": "align", "trainable": ["regions.convs", "regions.flatten"], "facts": "tell"},
    {"name": "short", "objective": "conversation", "trainable": ["regions", "projector"], "texts": "short"},
    {"name": "tune", "objective": "conversation", "trainable": ["regions", "projector", "language"],
     "list_regions": True},
]


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a tiny network with a convolutional encoder, to start recipes from."""
    tokenizer = train_tokenizer(TEXTS, 420, "compact")
    config = tiny_config(len(tokenizer), tokenizer.pad_token_id)
    config = dataclasses.replace(
        config, vision=VisionConfig(encoder=RESNET, levels=("stage1", "stage2"), tokens="stage2"),
        regions=dataclasses.replace(config.regions, scales=None, fusion_rounds=1),
        prompt=dataclasses.replace(config.prompt, template="compact", context=1024))
    torch.manual_seed(0)
    loaded = build_model(config, tokenizer)
    folder = tmp_path_factory.mktemp("start")
    save_checkpoint(loaded.model, tokenizer, folder)
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


@pytest.fixture(scope="module")
def finished(start: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of all stages, uninterrupted."""
    run = tmp_path_factory.mktemp("run")
    train(read_recipe(write_recipe(run, start, STAGES)), run)
    return run


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(folder).model.state_dict()


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
        losses = [e["loss"] for e in json.loads((run / stage["name"] / "curve.json").read_text()) if "loss" in e]
        assert sum(losses[-5:]) < 0.85 * sum(losses[:5]), stage["name"]


@pytest.mark.slow
def test_an_interrupted_run_ends_where_an_uninterrupted_one_does(start, finished, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished, run, symlinks=True)
    # As if the machine had died in the last stage, after its first checkpoint.
    shutil.rmtree(run / "tune" / "final")
    shutil.rmtree(run / "tune" / "checkpoint-4")
    result = train(read_recipe(run / "recipe.yaml"), run)
    expected, found = weights(finished / "tune" / "final"), weights(result)
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=1e-5, atol=1e-6, msg=lambda m, key=key: f"{key}: {m}")


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
