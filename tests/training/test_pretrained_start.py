"""From pretrained parts, in the layouts they are published in, through both stages to what the node runs."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import training_fixtures as fixtures
import yaml
from recipe_fixtures import ROOT
from transformers import AutoConfig, AutoModelForCausalLM, CLIPConfig, CLIPModel, LlamaConfig

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "model"))
from model_fixtures import CLIP, LLAMA, sentencepiece_like  # noqa: E402

from ros_gpt4roi.model.__main__ import main as convert  # noqa: E402
from ros_gpt4roi.model.checkpoint import CheckpointError, load_checkpoint, untrained_parts  # noqa: E402
from ros_gpt4roi.model.pretrained import PARTS, PretrainedPart  # noqa: E402
from ros_gpt4roi.paths import find_model  # noqa: E402
from ros_gpt4roi.regular_file import file_digest  # noqa: E402
from ros_gpt4roi.runtime.pipeline import Pipeline, PipelineConfig  # noqa: E402
from ros_gpt4roi.runtime.request import Conversation, Question  # noqa: E402
from ros_gpt4roi.runtime.types import Frame, Region, Status  # noqa: E402
from ros_gpt4roi.runtime.vision_stage import VisionOptions  # noqa: E402
from training.deploy import deploy, deploy_without_base  # noqa: E402
from training.recipe import RecipeError, read_recipe  # noqa: E402
from training.train import train  # noqa: E402

WIDTH, SEEN = LLAMA["hidden_size"], CLIP["hidden_size"]


@pytest.fixture(scope="module")
def parts(tmp_path_factory) -> Path:
    """A tiny Vicuna and CLIP as transformers saves them, and LLaVA's projector as its first stage does."""
    folder = tmp_path_factory.mktemp("parts")
    torch.manual_seed(0)
    tokenizer = sentencepiece_like(added=())
    config = LlamaConfig(**{**LLAMA, "vocab_size": len(tokenizer), "pad_token_id": None})
    llama = AutoModelForCausalLM.from_config(config)
    llama.save_pretrained(folder / "vicuna")
    tokenizer.save_pretrained(folder / "vicuna")
    text = dict(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, vocab_size=99)
    CLIPModel(CLIPConfig(text_config=text, vision_config=CLIP, projection_dim=8)).save_pretrained(folder / "clip")
    (folder / "llava-pretrain").mkdir()
    torch.save(adapter(), folder / "llava-pretrain" / "mm_projector.bin")
    regions = {"kind": "roi_align", "channels": 16, "scales": [2, 2, 1, 1], "fusion_rounds": 2, "groups": 4,
               "roi_size": 3, "hidden": 16, "position_hidden": 8}
    small = {"regions": regions, "vision": {"levels": [-4, -3, -2, -1], "tokens": -2}}
    (folder / "small.json").write_text(json.dumps(small))
    return folder


def adapter() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    return {"model.mm_projector.weight": torch.randn(WIDTH, SEEN, generator=generator).half(),
            "model.mm_projector.bias": torch.randn(WIDTH, generator=generator).half()}


def assemble(parts: Path, out: Path, *options: str) -> int:
    return convert(["assemble", str(parts / "vicuna"), str(out), "--vision", str(parts / "clip"),
                    "--config", str(parts / "small.json"), *options])


def published(stage: str, folder: Path, model: Path) -> Path:
    """One of the published stages' recipes on files of the same formats, for a few steps on a CPU."""
    recipe = yaml.safe_load((ROOT / "training" / "configs" / f"{stage}.yaml").read_text())

    def small(source: dict[str, Any], place: Path) -> dict[str, Any]:
        kind, name = source["type"], source.get("dataset", source.get("form"))
        files = getattr(fixtures, kind)(place, *([name] if name else []))
        return json.loads(json.dumps({**source, **files}, default=str))

    for section in ("train", "validation"):
        sources = [small(source, folder / section / str(number))
                   for number, source in enumerate(recipe[section]["sources"])]
        recipe[section] |= {"cache": str(folder / "cache"), "sources": sources}
    arguments = recipe["stages"][0]["arguments"]
    for name in ("num_train_epochs", "fsdp", "fsdp_config"):
        arguments.pop(name, None)
    arguments |= {"max_steps": 2, "logging_steps": 1, "bf16": False, "dataloader_num_workers": 0, "eval_steps": 2,
                  "report_to": "none", "disable_tqdm": True, "warmup_steps": 0, "learning_rate": 1e-3}
    path = folder / f"{stage}.yaml"
    path.write_text(yaml.safe_dump({**recipe, "model": str(model)}))
    return path


@pytest.mark.slow
def test_pretrained_parts_become_what_the_node_runs(parts, tmp_path, capsys, request):
    assert convert(["convert", str(parts / "vicuna"), str(tmp_path / "no"), "--vision", str(parts / "clip")]) == 1
    assert "no region extractor" in (said := capsys.readouterr().err) and "assemble" in said
    start, run = tmp_path / "start", tmp_path / "run"
    assert assemble(parts, start, "--projector", str(parts / "llava-pretrain" / "mm_projector.bin")) == 0
    projector = adapter()
    states = [load_checkpoint(start).model.state_dict()]
    assert torch.equal(states[0]["projector.weight"], projector["model.mm_projector.weight"].float())
    assert torch.equal(states[0]["projector.bias"], projector["model.mm_projector.bias"].float())
    one = published("stage1", tmp_path, start)
    train(read_recipe(one), run)
    two = published("stage2", tmp_path, run / "stage1" / "final")
    train(read_recipe(two), run)
    states += [load_checkpoint(run / stage / "final").model.state_dict() for stage in ("stage1", "stage2")]

    def moved(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
        return {key.partition(".")[0] for key in before if not torch.equal(before[key], after[key])}

    assert moved(*states[:2]) == {"regions"} and moved(*states[1:]) == {"regions", "projector", "language"}
    deploy(two, run, tmp_path / "robot", ["int8"])
    pipeline = Pipeline.open(tmp_path / "robot", PipelineConfig(
        language_format="int8", vision=VisionOptions(backend="torch"), description_tokens=4, answer_tokens=4))
    pixels = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    frame = Frame(pixels, (Region("1", (2, 2, 20, 20)), Region("2", (30, 10, 60, 40))), 0, "camera")
    assert [d.region.id for d in pipeline.describe(frame).descriptions] == ["1", "2"]
    assert pipeline.ask(Conversation("", frame), Question("What is region 2?", "")).status is Status.OK
    pytest.importorskip("ros_gpt4roi_interfaces.msg", reason="the interfaces are not built or not sourced")
    from answering import connected_client, described_camera, running_perception
    peer = request.getfixturevalue("peer")
    with running_perception(tmp_path / "robot", tmp_path / "node.log") as node, connected_client(node) as client:
        described_camera(peer, client)
        answer = client.ask("What is region 2?")
        assert answer.status == answer.OK and list(answer.region_ids) == ["2"], answer.error


@pytest.mark.parametrize("source", ["pretrain folder", "llava folder", "adapter of LoRA"])
def test_a_projector_is_found_wherever_llava_keeps_it(parts, tmp_path, source):
    given = parts / "llava-pretrain"
    if source == "llava folder":
        given = tmp_path / "llava"
        given.mkdir()
        torch.save({"model.norm.weight": torch.ones(3), **adapter()}, given / "pytorch_model-00001-of-00001.bin")
    elif source == "adapter of LoRA":
        given = tmp_path / "non_lora_trainables.bin"
        torch.save({f"base_model.model.{key}": value for key, value in adapter().items()}, given)
    assert assemble(parts, tmp_path / "start", "--projector", str(given)) == 0
    found = load_checkpoint(tmp_path / "start").model.projector.weight
    assert torch.equal(found, adapter()["model.mm_projector.weight"].float())
    assert untrained_parts(tmp_path / "start") == {"regions"}


@pytest.mark.parametrize(("content", "message"), [
    ({"model.mm_projector.0.weight": torch.ones(1), "model.mm_projector.2.weight": torch.ones(1)},
     "expected weight and bias of one linear layer"),
    ({"model.mm_projector.weight": torch.ones(2, 3), "model.mm_projector.bias": torch.ones(WIDTH)},
     rf"[2, 3], expected [{WIDTH}, {SEEN}]"),
    ({"other": torch.ones(1)}, "has [], expected weight and bias"),
])
def test_what_is_no_such_projector_is_refused(parts, tmp_path, capsys, content, message):
    torch.save(content, tmp_path / "mm_projector.bin")
    assert assemble(parts, tmp_path / "start", "--projector", str(tmp_path / "mm_projector.bin")) == 1
    assert message in capsys.readouterr().err


def test_a_model_ships_without_its_language_model_where_it_can_be_completed(parts, tmp_path, monkeypatch):
    start, package = tmp_path / "start", tmp_path / "packages" / "stand_in"
    shutil.copytree(parts / "vicuna", package)
    (package / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(package.parent))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))

    def known(as_it_is: bool) -> PretrainedPart:
        """The package's language model, or another of its shapes."""
        def unpack(source: Path, out: Path) -> None:
            shutil.copytree(source.parent, out, dirs_exist_ok=True)
            if not as_it_is:
                AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(out)).save_pretrained(out)
        return PretrainedPart("stand_in", "stand-in", "model.safetensors", file_digest(package / "model.safetensors"),
                              "none", unpack)

    assert assemble(parts, start, "--projector", str(parts / "llava-pretrain" / "mm_projector.bin")) == 0
    recipe = published("stage2_lora", tmp_path, start)
    final = train(read_recipe(recipe), tmp_path / "run")
    monkeypatch.setitem(PARTS, "stand-in", known(True))
    deploy_without_base(recipe, tmp_path / "run", tmp_path / "shipped", "stand-in")
    whole = find_model(str(tmp_path / "shipped"))
    assert (whole / "README.md").is_file() and (tmp_path / "shipped" / "recipe.yaml").is_file()
    made, trained, before = (load_checkpoint(folder).model.state_dict() for folder in (whole, final, start))
    moved = 0.0
    for key, value in trained.items():
        torch.testing.assert_close(made[key], value, rtol=1e-3, atol=1e-3, msg=key)
        if key.startswith("language."):
            moved = max(moved, (value - before[key]).abs().max().item())
    assert moved > 0, "the adapters have learned"
    monkeypatch.setitem(PARTS, "stand-in", known(False))
    with pytest.raises(CheckpointError, match="is not that of stand-in with what the stage has learned"):
        deploy_without_base(recipe, tmp_path / "run", tmp_path / "wrong", "stand-in")
    assert not (tmp_path / "wrong" / "config.json").exists() and find_model(str(tmp_path / "shipped")) == whole


def test_a_stage_does_not_learn_against_parts_that_stay_random(parts, tmp_path):
    start = tmp_path / "start"
    assert assemble(parts, start) == 0
    assert untrained_parts(start) == {"projector", "regions"}
    path = published("stage1", tmp_path, start)
    with pytest.raises(RecipeError, match="stage1: the projector .* `assemble --projector`"):
        train(read_recipe(path), tmp_path / "run")
    values = yaml.safe_load(path.read_text())
    values["stages"][0]["trainable"] = ["projector"]
    path.write_text(yaml.safe_dump(values))
    final = train(read_recipe(path), tmp_path / "run")  # as LLaVA's first stage
    assert untrained_parts(final) == {"regions"}
    values["stages"][0]["trainable"] = ["language"]
    path.write_text(yaml.safe_dump({**values, "model": str(final)}))
    with pytest.raises(RecipeError, match="stage1: the regions .* random weights"):
        train(read_recipe(path), tmp_path / "again")


def test_a_start_that_is_not_there_is_named(parts, tmp_path):
    with pytest.raises(RecipeError, match="nowhere.*, which is no folder, expected a checkpoint .*assemble"):
        train(read_recipe(published("stage1", tmp_path, tmp_path / "nowhere")), tmp_path / "run")
