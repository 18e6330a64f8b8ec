"""Several processes train what one does; a model in shards, adapters and half precision do, too."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
import training_fixtures as fixtures
import yaml
from recipe_fixtures import ROOT, TUNE, launch, losses, save_start, weights, write_recipe

from training.data.mixture import open_mixture
from training.data.shards import write_shards
from training.recipe import RecipeError, read_recipe
from training.train import train

SHORT = {"name": "short", "objective": {"kind": "conversation"}, "trainable": ["regions", "projector"],
         "data": {"texts": "captions"}}


@pytest.fixture(scope="module")
def alone(start, scenes, tmp_path_factory) -> Path:
    """Two stages in one process, six images a step."""
    run = tmp_path_factory.mktemp("alone")
    shutil.copytree(scenes, run / "scenes")
    train(read_recipe(write_recipe(run, start, [SHORT, TUNE], per_device_train_batch_size=6)), run)
    return run


def close(found: Path, expected: Path, atol: float) -> None:
    ours = weights(found)
    for key, value in weights(expected).items():
        torch.testing.assert_close(ours[key], value, rtol=1e-3, atol=atol, msg=f"{key}: {{}}".format)


@pytest.mark.slow
def test_two_processes_reach_what_one_does(start, alone, tmp_path):
    # Not copied: one of the two renders, the other waits.
    recipe = write_recipe(tmp_path, start, [SHORT, TUNE], per_device_train_batch_size=3)
    done = launch(2, "-m", "training.train", str(recipe), "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    for stage in ("short", "tune"):
        assert losses(tmp_path / stage) == pytest.approx(losses(alone / stage), rel=1e-4)
        close(tmp_path / stage / "final", alone / stage / "final", 1e-3)


# accelerate leaves FSDP out where there are only CPUs. Torch itself shards on CPUs too, so here accelerate is told that
# it may: all else, the sharding, gathering and checkpoints, is what runs on cards.
SHARDED = """
import os, shutil, sys
from pathlib import Path
from accelerate.state import AcceleratorState, DistributedType, PartialState
from training import recipe, train

def init(self, *args, fsdp_plugin=None, **kwargs):
    original(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
    if fsdp_plugin is not None:
        self.distributed_type = PartialState._shared_state["distributed_type"] = DistributedType.FSDP
        if self._mixed_precision != "no":
            fsdp_plugin.set_mixed_precision(self._mixed_precision)
        self.fsdp_plugin = fsdp_plugin

original, AcceleratorState.__init__ = AcceleratorState.__init__, init
run = Path(sys.argv[2])
train.train(recipe.read_recipe(sys.argv[1]), run)
if os.environ["RANK"] == "0":
    shutil.move(run / "tune" / "final", run / "whole")
    shutil.rmtree(run / "tune" / "checkpoint-4")
PartialState().wait_for_everyone()
train.train(recipe.read_recipe(sys.argv[1]), run)
"""
FSDP = {"fsdp": True, "fsdp_config": {"state_dict_type": "SHARDED_STATE_DICT", "activation_checkpointing": True}}


def train_in_shards(recipe: Path, run: Path) -> None:
    (run / "run.py").write_text(SHARDED)
    done = launch(2, str(run / "run.py"), str(recipe), str(run), env={"PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_a_model_in_shards_reaches_what_a_whole_one_does_and_goes_on(start, alone, scenes, tmp_path):
    shutil.copytree(alone / "short", tmp_path / "short")
    recipe = write_recipe(tmp_path, start, [SHORT, {**TUNE, "arguments": FSDP}], per_device_train_batch_size=3)
    shutil.copytree(scenes, tmp_path / "scenes")
    train_in_shards(recipe, tmp_path)
    assert (tmp_path / "tune" / "checkpoint-4" / "pytorch_model_fsdp_0").is_dir()
    assert losses(tmp_path / "tune") == pytest.approx(losses(alone / "tune"), rel=1e-4)
    close(tmp_path / "whole", alone / "tune" / "final", 1e-3)
    close(tmp_path / "tune" / "final", tmp_path / "whole", 1e-5)


@pytest.mark.slow
def test_a_model_in_shards_of_half_precision_learns_what_a_whole_one_does(scenes, tmp_path):
    start = save_start(tmp_path / "start", convolutional=False)
    found = []
    for name, arguments, batch in (("whole", {}, 6), ("shards", FSDP, 3)):
        run = tmp_path / name
        shutil.copytree(scenes, run / "scenes")
        stage = {**TUNE, "arguments": arguments}
        recipe = write_recipe(run, start, [stage], bf16=True, save_strategy="no" if name == "whole" else "steps",
                              per_device_train_batch_size=batch)
        if name == "shards":
            train_in_shards(recipe, run)
        else:
            train(read_recipe(recipe), run)
        found.append(losses(run / "tune"))
    assert found[0] == pytest.approx(found[1], rel=1e-2)
    kinds = {value.dtype for value in weights(tmp_path / "shards" / "tune" / "final").values()}
    assert kinds <= {torch.float32, torch.int64}


def test_batch_normalisation_in_shards_of_half_precision_is_refused(start, scenes, tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.TrainingArguments.world_size", 2)
    shutil.copytree(scenes, tmp_path / "scenes")
    with pytest.raises(RecipeError, match="batch normalisation"):
        train(read_recipe(write_recipe(tmp_path, start, [{**TUNE, "arguments": FSDP}], bf16=True)), tmp_path)


SEEN = """
import os, sys
from pathlib import Path
from training import collate, objective, recipe, train

class Collator(collate.ConversationCollator):
    def __call__(self, samples):
        with open(Path(sys.argv[2]) / f"seen-{os.environ['RANK']}", "a") as file:
            file.writelines(f"{sample.rounds!r}\\n" for sample in samples)
        return super().__call__(samples)

objective.ConversationCollator = Collator
train.train(recipe.read_recipe(sys.argv[1]), Path(sys.argv[2]))
"""


@pytest.mark.slow
def test_two_processes_train_on_every_sample_of_the_shards_once(start, scenes, tmp_path):
    sources = [{"type": "coco", **fixtures.coco(tmp_path / "coco")},
               {"type": "visual_genome", **fixtures.visual_genome(tmp_path / "vg")},
               {"type": "refcoco", **fixtures.refcoco(tmp_path / "refcoco", "refcocog")}]
    mixture = open_mixture({"cache": tmp_path / "cache", "sources": sources}, seed=0)
    assert len(write_shards(mixture, tmp_path / "tar", epochs=2, per_shard=3)) == 3
    expected = [repr(tuple(mixture[place].rounds)) for place in range(2 * len(mixture))]
    recipe = write_recipe(tmp_path, start, [TUNE], steps=2, per_device_train_batch_size=2, eval_strategy="no")
    section = {"kind": "shards", "index": str(tmp_path / "tar" / "index.json")}
    recipe.write_text(yaml.safe_dump(yaml.safe_load(recipe.read_text()) | {"train": section}))
    shutil.copytree(scenes, tmp_path / "scenes")
    (tmp_path / "run.py").write_text(SEEN)
    done = launch(2, str(tmp_path / "run.py"), str(recipe), str(tmp_path), env={"PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr
    seen = [(tmp_path / f"seen-{rank}").read_text().splitlines() for rank in range(2)]
    assert len(seen[0]) == len(seen[1]) == 4 and sorted(seen[0] + seen[1]) == sorted(expected)
    assert (tmp_path / "tune" / "final").is_dir()


def test_a_stream_needs_a_number_of_steps_and_is_nothing_to_validate_on(start, scenes, tmp_path):
    (tmp_path / "index.json").write_text('{"shards": [["shard-000000.tar", 3]]}')
    shards = {"kind": "shards", "index": str(tmp_path / "index.json")}
    shutil.copytree(scenes, tmp_path / "scenes")
    recipe = write_recipe(tmp_path, start, [TUNE], steps=-1)
    facts = yaml.safe_load(recipe.read_text())
    recipe.write_text(yaml.safe_dump(facts | {"train": shards}))
    with pytest.raises(RecipeError, match="expected max_steps"):
        train(read_recipe(recipe), tmp_path)
    recipe.write_text(yaml.safe_dump(facts | {"validation": shards}))
    with pytest.raises(RecipeError, match="stream without an end"):
        read_recipe(recipe)
