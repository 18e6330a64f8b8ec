"""Recipes and stages: what learns, that it learns, and that an interrupted run ends where an uninterrupted one does."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import training_fixtures as fixtures
import yaml
from recipe_fixtures import ROOT, TUNE, losses, weights, write_recipe
from safetensors import safe_open
from test_resume import DAMAGES

from ros_gpt4roi.engine.profiles import EngineOptions
from ros_gpt4roi.model.checkpoint import CheckpointError, load_checkpoint
from ros_gpt4roi.runtime import language_format
from ros_gpt4roi.runtime.pipeline import Pipeline, PipelineConfig
from ros_gpt4roi.runtime.types import Frame, Region
from ros_gpt4roi.runtime.vision_stage import VisionOptions
from training.deploy import deploy, main, model_card
from training.recipe import RecipeError, read_recipe
from training.train import train

STAGES = [
    {"name": "oracle", "objective": {"kind": "oracle_conversation", "counterfactual": 0.5},
     "trainable": ["language", "regions.position", "regions.project"]},
    {"name": "see", "objective": {"kind": "attribute_classification"}, "trainable": ["vision", "regions"]},
    {"name": "align", "objective": {"kind": "feature_alignment", "attribute_embeddings": "oracle"},
     "trainable": ["regions.convs", "regions.flatten"]},
    {"name": "short", "objective": {"kind": "conversation"}, "trainable": ["regions", "projector"],
     "data": {"texts": "captions"}},
    TUNE,
]


@pytest.fixture(scope="module")
def finished(start: Path, scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of all stages, uninterrupted."""
    run = tmp_path_factory.mktemp("run")
    shutil.copytree(scenes, run / "scenes")
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
def test_every_objective_learns(start, finished, scenes, tmp_path):
    shutil.copytree(scenes, tmp_path / "scenes")
    for stage in STAGES:
        run = tmp_path / stage["name"]
        run.mkdir()
        (run / "scenes").symlink_to(tmp_path / "scenes")
        stage = {**stage, "trainable": ["vision", "regions", "projector", "language"]}
        if stage["name"] == "align":
            (run / "oracle").symlink_to(finished / "oracle")
        train(read_recipe(write_recipe(run, start, [stage],
                                       steps=120, eval_strategy="no", save_steps=200)), run)
        found = losses(run / stage["name"])
        # Of three epochs each: what a batch costs depends on its pictures, by as much as thirty steps teach.
        assert sum(found[-9:]) < 0.85 * sum(found[:9]), stage["name"]


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
    killed = subprocess.run([sys.executable, "-c", KILLED, recipe, tmp_path], cwd=ROOT, capture_output=True,
                            timeout=240)
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
@pytest.mark.parametrize("damage", ["empty optimizer", "cut weights", "no state"])
def test_a_run_with_a_damaged_checkpoint_goes_on_from_the_one_before(finished, tmp_path, caplog, damage):
    for stage in ("scenes", *(stage["name"] for stage in STAGES)):
        shutil.copytree(finished / stage, tmp_path / stage)
    shutil.rmtree(tmp_path / "tune" / "final")
    DAMAGES[damage](tmp_path / "tune" / "checkpoint-4")
    result = train(read_recipe(finished / "recipe.yaml"), tmp_path)
    assert "checkpoint-4 is damaged" in caplog.text
    expected, found = weights(finished / "tune" / "final"), weights(result)
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=1e-5, atol=1e-6, msg=lambda m, key=key: f"{key}: {m}")


@pytest.mark.slow
def test_a_checkpoint_of_another_recipe_is_not_gone_on_from(start, finished, scenes, tmp_path):
    shutil.copytree(scenes, tmp_path / "scenes")
    shutil.copytree(finished / "oracle" / "checkpoint-2", tmp_path / "tune" / "checkpoint-2")
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
def test_the_same_seed_gives_the_same_weights(start, finished, scenes, tmp_path):
    shutil.copytree(scenes, tmp_path / "scenes")
    result = train(read_recipe(write_recipe(tmp_path, start, STAGES[:1])), tmp_path)
    expected = weights(finished / "oracle" / "final")
    assert all(torch.equal(value, expected[key]) for key, value in weights(result).items())


LORA = {**TUNE, "trainable": ["regions", "projector"],
        "lora": {"r": 4, "lora_alpha": 8, "target_modules": "all-linear"}}


@pytest.mark.slow
def test_adapters_are_trained_go_on_and_become_part_of_the_result(start, scenes, tmp_path):
    shutil.copytree(scenes, tmp_path / "scenes")
    recipe = read_recipe(write_recipe(tmp_path, start, [LORA], activation_checkpointing=True))
    whole = weights(train(recipe, tmp_path))
    with safe_open(tmp_path / "tune" / "checkpoint-4" / "model.safetensors", "pt") as archive:
        held = [key for key in archive.keys() if key.startswith("model.language")]
    assert held and all(".lora_" in key for key in held), "what is frozen is not stored again"
    before = weights(start)
    assert before.keys() == whole.keys()
    changed = {key for key in whole if not torch.equal(before[key], whole[key])}
    linear = {f"language.{name}.weight" for name, layer in load_checkpoint(start).model.language.named_modules()
              if isinstance(layer, torch.nn.Linear) and name != "lm_head"}
    assert {key for key in changed if key.startswith("language.")} == linear
    shutil.rmtree(tmp_path / "tune" / "final")
    shutil.rmtree(tmp_path / "tune" / "checkpoint-4")
    for key, value in weights(train(recipe, tmp_path)).items():
        torch.testing.assert_close(value, whole[key], rtol=1e-5, atol=1e-6, msg=lambda m, key=key: f"{key}: {m}")


@pytest.mark.slow
def test_in_half_precision_adapters_stand_on_a_frozen_model_of_half_the_size(start, scenes, tmp_path):
    shutil.copytree(scenes, tmp_path / "scenes")
    train(read_recipe(write_recipe(tmp_path, start, [LORA], steps=30, bf16=True, save_steps=100)), tmp_path)
    found = losses(tmp_path / "tune")
    assert sum(found[-5:]) < 0.99 * sum(found[:5])
    with safe_open(tmp_path / "tune" / "final" / "model.safetensors", "pt") as archive:
        kinds = {archive.get_tensor(key).dtype for key in archive.keys() if key.startswith("language.model.layers")}
    assert kinds == {torch.bfloat16}


@pytest.mark.slow
def test_recomputed_activations_give_the_same_weights(start, scenes, tmp_path):
    shutil.copytree(scenes, tmp_path / "scenes")
    results = []
    for recompute in (False, True):
        run = tmp_path / str(recompute)
        run.mkdir()
        (run / "scenes").symlink_to(tmp_path / "scenes")
        recipe = write_recipe(run, start, [TUNE], activation_checkpointing=recompute, save_strategy="no")
        results.append(weights(train(read_recipe(recipe), run)))
    for key, value in results[0].items():
        torch.testing.assert_close(results[1][key], value, rtol=1e-5, atol=1e-6, msg=lambda m, key=key: f"{key}: {m}")


@pytest.mark.slow
def test_deploy_writes_a_folder_that_loads_in_half_precision(finished, tmp_path):
    deploy(finished / "recipe.yaml", finished, tmp_path / "model")
    expected = weights(finished / "tune" / "final")
    for key, value in weights(tmp_path / "model").items():
        torch.testing.assert_close(value, expected[key].half().to(value.dtype), rtol=0, atol=0)
    assert set(json.loads((tmp_path / "model" / "curve.json").read_text())) == {s["name"] for s in STAGES}
    assert "stage" in (tmp_path / "model" / "README.md").read_text()


@pytest.mark.slow
def test_a_cut_curve_is_named(finished, tmp_path):
    run = shutil.copytree(finished, tmp_path / "run")
    curve = run / "see" / "curve.json"
    curve.write_text(curve.read_text()[:-9])
    with pytest.raises(CheckpointError, match=f"{curve}: .*expected what a finished stage wrote"):
        deploy(run / "recipe.yaml", run, tmp_path / "model")


def test_a_model_card_says_whose_licences_hold_also_of_a_stage_that_logged_nothing(root):
    cards = []
    for name in ("tabletop", "stage2_lora"):
        recipe = read_recipe(root / "training" / "configs" / f"{name}.yaml")
        cards.append(model_card(recipe, {"language": 1_000_000}, {stage.name: [] for stage in recipe.stages}))
    assert "Licence: Apache-2.0." in cards[0]
    assert "Licence: those of the model it was trained from and of its data." in cards[1]
    assert "| stage2 (conversation) | regions, projector, language by LoRA |  | 2 |  |  |  |" in cards[1]


@pytest.mark.slow
def test_int4_is_stored_after_scaling_by_the_recipes_own_conversations(finished, tmp_path):
    deploy(finished / "recipe.yaml", finished, tmp_path / "model", ["int8", "int4"])
    norm = "model.layers.0.post_attention_layernorm.weight"
    plain, scaled = (language_format.load_model(tmp_path / "model", form).model.language.state_dict()[norm]
                     for form in ("int8", "int4"))
    assert not torch.allclose(plain, scaled, rtol=1e-2)


@pytest.mark.slow
def test_what_is_deployed_besides_is_what_the_robot_runs(finished, tmp_path, capsys, monkeypatch):
    made, there = tmp_path / "made", tmp_path / "robot"
    arguments = ["deploy", finished / "recipe.yaml", "--run", finished, "--out", made, "--quantise", "int8",
                 "--export-vision"]
    monkeypatch.setattr(sys, "argv", [*map(str, arguments)])
    assert main() == 0, capsys.readouterr().err
    made.rename(there)
    engine = EngineOptions(build="never", cache=str(tmp_path / "cache"))
    config = PipelineConfig(language_format="int8", vision=VisionOptions("onnxruntime", engine), description_tokens=4)
    # Without the stored formats this would convert, and refuse to export.
    monkeypatch.setattr(language_format, "quantise_language", None)
    pipeline = Pipeline.open(there, config)
    frame = Frame(np.zeros((64, 64, 3), np.uint8), (Region("1", (5.0, 5.0, 40.0, 40.0)),), 0, "")
    assert len(pipeline.describe(frame).descriptions) == 1 and pipeline.encoder.vision.backend == "onnxruntime"
    monkeypatch.undo()
    deploy(finished / "recipe.yaml", finished, there)
    names = {path.name for path in there.iterdir()}
    assert "model.safetensors" in names
    assert not names & {"language-int8.safetensors", "vision.onnx"}, "of an older model"


@pytest.mark.parametrize("change, message", [
    ({"objective": {"kind": "dream"}}, "objective.kind is 'dream', expected"),
    ({"data": {"texts": "medium"}}, "texts is 'medium'"),
    ({"data": {"text": "recall"}}, "text is unknown"),
    ({"colour": 1}, "colour is unknown"),
    ({"objective": {"kind": "feature_alignment"}}, "attribute_embeddings is missing"),
    ({"objective": {"kind": "oracle_conversation", "counterfactual": 20}},
     "counterfactual is 20, expected a number, 0 to 1"),
    ({"objective": {"kind": "attribute_classification", "image_size": -1}}, "image_size is -1, expected"),
    ({"objective": {"kind": "conversation", "image_size": 160}}, "image_size is unknown"),
    ({"objective": {"kind": "attribute_classification", "counterfactual": 0.2}}, "counterfactual is unknown"),
    ({"objective": {"kind": "supervised_conversation", "counterfactual": 0.2}},
     "attribute_embeddings '' and counterfactual 0.2, expected both or none"),
    ({"objective": {"kind": "supervised_conversation", "attribute_embeddings": "oracle"}}, "expected both or none"),
    ({"objective": {"kind": "oracle_conversation", "adamw_lr": 1e-3}, "arguments": {"fsdp": True}},
     "adamw_lr and fsdp"),
    ({"objective": {"kind": "supervised_conversation"}, "arguments": {"fsdp": True}}, "supervised attention and fsdp"),
    ({"objective": {"kind": "conversation", "attention": 0.1, "attention_layers": 1}, "arguments": {"fsdp": True}},
     "attention and fsdp"),
    ({"objective": {"kind": "conversation", "attention": 0.1}}, "expected both or none"),
    ({"lora": {"r": 4}}, "language is trainable and has lora"),
    ({"objective": {"kind": "conversation"}, "trainable": ["regions"], "lora": {"r": 4}, "arguments": {"fsdp": True}},
     "lora and fsdp"),
])
def test_a_wrong_stage_is_named(start, tmp_path, change, message):
    path = write_recipe(tmp_path, start, [{**STAGES[0], **change}])
    with pytest.raises(RecipeError) as error:
        read_recipe(path)
    assert message in str(error.value) and str(path) in str(error.value)


@pytest.mark.parametrize("change, message", [
    ({"objective": {"kind": "oracle_conversation", "adamw_lr": 1e-3}}, "adamw_lr and fsdp"),
    ({"trainable": ["regions"], "lora": {"r": 4}}, "lora and fsdp"),
])
def test_the_recipes_arguments_have_to_suit_every_stage(start, tmp_path, change, message):
    with pytest.raises(RecipeError, match=f"stage {TUNE['name']}: {message}"):
        read_recipe(write_recipe(tmp_path, start, [{**TUNE, **change}], fsdp=True))
    read_recipe(write_recipe(tmp_path, start, [{**TUNE, **change, "arguments": {"fsdp": False}}], fsdp=True))


def test_a_model_from_nothing_needs_data_with_an_end(tmp_path):
    facts = yaml.safe_load((ROOT / "training" / "configs" / "tabletop.yaml").read_text())
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(facts | {"train": {"kind": "shards", "index": "index.json"}}))
    with pytest.raises(RecipeError, match="train is shards, expected tabletop or mixture"):
        read_recipe(path)


def test_a_recipe_without_stages_is_refused(start, tmp_path):
    with pytest.raises(RecipeError, match="stages is empty"):
        read_recipe(write_recipe(tmp_path, start, []))


@pytest.mark.parametrize("change, message", [
    ({"arguments": {"learning_speed": 1}}, "learning_speed"),
    ({"arguments": {"fsdp": True}}, "fsdp shares a model out among processes"),
    ({"trainable": ["regions"], "lora": {"rank": 4}}, "lora: .*rank"),
    ({"trainable": ["tongue"]}, r"\['tongue'\]"),
])
def test_settings_that_cannot_be_run_are_named(start, scenes, tmp_path, change, message):
    shutil.copytree(scenes, tmp_path / "scenes")
    path = write_recipe(tmp_path, start, [{**TUNE, **change}])
    with pytest.raises(RecipeError, match=message):
        train(read_recipe(path), tmp_path)


def test_a_conversation_that_the_model_cannot_read_costs_only_itself(start, tmp_path, caplog):
    section = {"kind": "mixture", "cache": str(tmp_path / "cache"), "sources": [{"type": "records", "form": "texts",
               "annotations": str(fixtures.records(tmp_path, *(
                   {"file": "images/a.png", "width": 100, "height": 80, "regions": [
                       {"box": [4, 4, 60, 60], "description": text}]}
                   for text in ("a ring", "a ring " * 900)))["annotations"])}]}
    path = write_recipe(tmp_path, start, [TUNE], 2, per_device_train_batch_size=1, save_strategy="no")
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {"train": section, "validation": section}))
    caplog.set_level(logging.WARNING, "training.data.report")  # commands that other tests run make it quieter
    train(read_recipe(path), tmp_path / "run")
    assert len(losses(tmp_path / "run" / "tune")) == 2
    assert any("records 1: records images/a.png: the prompt has" in record.getMessage() for record in caplog.records)
