"""A model that ships without its language model becomes the one that was trained, and says what it lacks before."""

from __future__ import annotations

import dataclasses
import json
import os
import resource
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from model_fixtures import CLIP, LLAMA, sentencepiece_like
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, CLIPVisionConfig, CLIPVisionModel, LlamaConfig

from ros_gpt4roi import paths
from ros_gpt4roi.configuration import ConfigError
from ros_gpt4roi.model import pretrained
from ros_gpt4roi.model.__main__ import main
from ros_gpt4roi.model.checkpoint import CheckpointError, LoadedModel, load_checkpoint
from ros_gpt4roi.model.without_base import complete, incomplete_models, save_without_base
from ros_gpt4roi.paths import find_model
from ros_gpt4roi.regular_file import file_digest
from ros_gpt4roi.runtime.probes import PROBES_FILE

SMALL = {"vision": {"levels": [-4, -3, -2, -1], "tokens": -2},
         "regions": {"kind": "roi_align", "channels": 16, "scales": [2, 2, 1, 1], "fusion_rounds": 1, "groups": 4,
                     "roi_size": 3, "hidden": 16, "position_hidden": 8}}
WEIGHTS = "model.safetensors"


@pytest.fixture(autouse=True)
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of a tiny language model, in a package named "stand-in"; models are only in tmp_path."""
    torch.manual_seed(0)
    tokenizer, folder = sentencepiece_like(added=()), tmp_path / "packages" / "stand_in"
    AutoModelForCausalLM.from_config(
        LlamaConfig(**{**LLAMA, "vocab_size": len(tokenizer), "pad_token_id": None})).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(folder.parent))
    part = pretrained.PretrainedPart(
        "stand_in", "stand-in", WEIGHTS, file_digest(folder / WEIGHTS), "none",
        lambda source, out: shutil.copytree(source.parent, out, dirs_exist_ok=True) and None)
    monkeypatch.setitem(pretrained.PARTS, "stand-in", part)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setattr(paths, "_places", tuple)
    yield folder


@pytest.fixture
def trained(base: Path, tmp_path: Path) -> tuple[LoadedModel, dict[str, tuple[torch.Tensor, torch.Tensor]]]:
    """A model of that language model, of which two matrices were changed, and these changes."""
    CLIPVisionModel(CLIPVisionConfig(**{**CLIP, "model_type": "clip_vision_model"})).save_pretrained(tmp_path / "clip")
    (tmp_path / "small.json").write_text(json.dumps(SMALL))
    assert main(["assemble", str(base), str(tmp_path / "start"), "--vision", str(tmp_path / "clip"),
                 "--config", str(tmp_path / "small.json")]) == 0
    loaded = load_checkpoint(tmp_path / "start")
    changes = {}
    for name in ("model.layers.0.self_attn.q_proj.weight", "model.layers.1.mlp.down_proj.weight"):
        weight = loaded.model.language.get_parameter(name)
        changes[name] = torch.randn(3, weight.shape[1]), torch.randn(weight.shape[0], 3)
        weight.data += changes[name][1] @ changes[name][0]
    return loaded, changes


@pytest.fixture
def shipped(trained: tuple, tmp_path: Path) -> Path:
    folder = tmp_path / "data" / "ros_gpt4roi" / "models" / "kitchen"
    save_without_base(trained[0].model, "stand-in", trained[1], folder)
    (folder / PROBES_FILE).parent.mkdir()
    (folder / PROBES_FILE).write_text("[]")
    return folder


def test_it_is_found_by_its_name_once_it_was_completed_as_it_was_trained(trained, shipped, capsys) -> None:
    stored = load_file(shipped / WEIGHTS)
    assert not any(key.startswith("language.") for key in stored) and not (shipped / "tokenizer.json").exists()
    with pytest.raises(ConfigError, match=f"without its language model.*complete {shipped}"):
        find_model("kitchen")
    with pytest.raises(CheckpointError, match="without its language model"):
        load_checkpoint(shipped)
    assert incomplete_models() == [shipped]
    assert main(["complete"]) == 0
    whole = find_model("kitchen")
    assert find_model(str(shipped)) == whole and str(whole) in capsys.readouterr().out
    assert whole.name == "kitchen" and (whole / PROBES_FILE).read_text() == "[]"
    loaded, found = trained[0], load_checkpoint(whole)
    assert found.config == loaded.config and found.tokenizer.get_vocab() == loaded.tokenizer.get_vocab()
    for key, value in loaded.model.state_dict().items():
        torch.testing.assert_close(found.model.state_dict()[key], value, rtol=2e-3, atol=5e-3, msg=key)


def test_it_is_completed_once_and_anew_where_it_has_changed(trained, shipped) -> None:
    first = complete(shipped)
    made = (first / "config.json").stat().st_mtime_ns
    assert complete(shipped) == first and (first / "config.json").stat().st_mtime_ns == made
    trained[0].model.projector.bias.data += 1
    save_without_base(trained[0].model, "stand-in", trained[1], shipped)
    with pytest.raises(ConfigError, match="without its language model"):
        find_model("kitchen")
    second = complete(shipped)
    assert find_model("kitchen") == second != first and not first.exists()
    bias = load_checkpoint(second).model.projector.bias
    torch.testing.assert_close(bias, trained[0].model.projector.bias, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("name", "content", "message"), [
    ("config.json", {"hidden_act": "nosuch"}, "describe a network that cannot be made: KeyError: 'nosuch'"),
    ("config.json", {"num_hidden_layers": "x"}, "no usable tokenizer"),
    ("config.json", {"vocab_size": None}, "no usable tokenizer"),
    ("tokenizer.json", {"added_tokens": 5}, "no usable tokenizer"),
])
def test_a_language_model_that_is_none_is_named(base, trained, tmp_path, capsys, name, content, message) -> None:
    (base / name).write_text(json.dumps({**json.loads((base / name).read_text()), **content}))
    assert main(["assemble", str(base), str(tmp_path / "out"), "--vision", str(tmp_path / "clip"), "--config",
                 str(tmp_path / "small.json")]) == 1
    said = capsys.readouterr().err
    assert str(base) in said and message in said


def test_a_config_file_that_is_not_there_is_named(base, trained, tmp_path, capsys) -> None:
    assert main(["assemble", str(base), str(tmp_path / "out"), "--vision", str(tmp_path / "clip"), "--config",
                 str(tmp_path / "none.json")]) == 1
    assert f"--config {tmp_path}/none.json: no such file" in capsys.readouterr().err


@pytest.mark.parametrize("damage", [
    lambda whole: (whole / "config.json").write_bytes(b""), lambda whole: (whole / "config.json").unlink(),
    lambda whole: os.truncate(next(whole.glob("*.safetensors")), 100),
])
def test_a_damaged_one_is_made_anew(shipped, damage) -> None:
    whole = complete(shipped)
    damage(whole)
    assert complete(shipped) == whole and load_checkpoint(whole)


def test_what_killed_processes_left_is_removed_and_what_others_write_is_kept(shipped) -> None:
    places = [complete(shipped).parents[1] / f".unfinished-{name}" for name in ("killed", "writing")]
    for place in places:
        (place / "whole").mkdir(parents=True)
    os.utime(places[0], (0, 0))
    (find_model("kitchen") / "config.json").unlink()
    complete(shipped)
    assert [place.exists() for place in places] == [False, True]


def test_a_full_disk_is_told(trained, shipped, tmp_path, monkeypatch, capsys) -> None:
    part = pretrained.PARTS["stand-in"]
    monkeypatch.setitem(pretrained.PARTS, "stand-in", dataclasses.replace(part, unpack=lambda source, out: save_file(
        load_file(source), out / WEIGHTS)))
    most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, most[1]))
    try:
        status = main(["unpack", "stand-in", str(tmp_path / "part")]), main(["complete", str(shipped)])
        with pytest.raises(CheckpointError, match="out: cannot be written .*File too large"):
            save_without_base(trained[0].model, "stand-in", {}, tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, most)
    first, second = capsys.readouterr().err.splitlines()
    assert status == (1, 1) and "part: cannot be written" in first and "kitchen: cannot be written" in second


def test_a_package_that_cannot_be_read_is_named(base, shipped, monkeypatch) -> None:
    monkeypatch.setattr(pretrained, "_sha256", lambda path: path.joinpath("none").read_bytes())
    with pytest.raises(CheckpointError, match=f"{base / WEIGHTS}: cannot be read .*install stand-in anew"):
        complete(shipped)


def test_a_write_protected_model_becomes_one_that_can_be_replaced(shipped) -> None:
    for path in (shipped / PROBES_FILE, (shipped / PROBES_FILE).parent, shipped):
        path.chmod(path.stat().st_mode & ~0o222)
    whole = complete(shipped)
    assert all(path.stat().st_mode & 0o200 for path in (whole, *whole.rglob("*")))


def test_a_pipe_in_a_folder_of_it_is_refused(shipped) -> None:
    os.mkfifo((shipped / PROBES_FILE).parent / "pipe")
    with pytest.raises(CheckpointError, match="pipe: no regular file"):
        complete(shipped)


def test_models_of_one_name_or_content_do_not_replace_each_other(trained, shipped, tmp_path) -> None:
    same_content, same_name = tmp_path / "copy", tmp_path / "run*" / "kitchen"
    shutil.copytree(shipped, same_content)
    trained[0].model.projector.bias.data += 1
    save_without_base(trained[0].model, "stand-in", trained[1], same_name)
    assert len({complete(folder) for folder in (shipped, same_content, same_name)}) == 3
    for folder in (shipped, same_content, same_name):
        assert (find_model(str(folder)) / "config.json").is_file()


def test_a_whole_model_is_left_as_it_is(trained, tmp_path) -> None:
    assert complete(tmp_path / "start") == tmp_path / "start" == find_model(str(tmp_path / "start"))


def test_what_prevents_it_is_said(base, shipped, capsys, monkeypatch) -> None:
    def said(*folders: Path) -> str:
        assert main(["complete", *map(str, folders)]) == 1
        return capsys.readouterr().err

    part = pretrained.PARTS["stand-in"]
    monkeypatch.setitem(pretrained.PARTS, "stand-in", part.__class__(
        "no_such_package", "no-such-package", part.file, part.sha256, part.licence, part.unpack))
    assert "the package no-such-package is not installed" in said(shipped)
    monkeypatch.setitem(pretrained.PARTS, "stand-in", part.__class__(
        part.package, part.distribution, part.file, "0" * 64, part.licence, part.unpack))
    assert f"made of stand-in with SHA-256 {part.sha256}, this version knows" in said(shipped)
    monkeypatch.setitem(pretrained.PARTS, "stand-in", part)
    (shipped / WEIGHTS).write_bytes((shipped / WEIGHTS).read_bytes() + b" ")
    assert "fetch it anew" in said(shipped)
    (shipped / WEIGHTS).unlink()
    assert f"{shipped / WEIGHTS}: No such file or directory, expected the model's weights" in said(shipped)
    content = json.loads((shipped / "config.json").read_text())
    (shipped / "config.json").write_text(json.dumps({**content, "base": {"part": "another"}}))
    assert "expected base with part (one of efficientnet-lite2, smollm2-135m-instruct, stand-in)" in said(shipped)
    assert not list((base.parents[1] / "data" / "ros_gpt4roi").glob("completed/*/*/config.json"))


def test_what_is_no_model_is_named_and_costs_only_itself(shipped, tmp_path, capsys) -> None:
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "config.json").write_text('{"base"')
    assert main(["complete", str(tmp_path / "none"), str(tmp_path / "cut"), str(shipped)]) == 1
    told = capsys.readouterr()
    assert f"{tmp_path}/none/config.json: No such file" in told.err and "cut/config.json: not JSON" in told.err
    assert told.out == f"{shipped}: {find_model('kitchen')}\n"


@pytest.mark.parametrize(("change", "message"), [
    ({"format": "other"}, "not a ros_gpt4roi checkpoint"), ({"version": 9}, "checkpoint version 9, expected 2"),
    ({"preprocess_hash": "0" * 64}, f"trained with preprocessing {'0' * 64}, expected"),
    ({"model": 5}, "is 5, expected a mapping of vision"),
])
def test_what_is_refused_of_a_whole_model_is_refused_before_it_is_completed(shipped, capsys, change, message) -> None:
    content = json.loads((shipped / "config.json").read_text())
    (shipped / "config.json").write_text(json.dumps({**content, **change}))
    assert main(["complete", str(shipped)]) == 1
    said = capsys.readouterr().err
    assert f"{shipped / 'config.json'}: " in said and message in said


@pytest.mark.parametrize(("change", "message"), [
    (lambda stored: stored.pop("projector.bias"), "projector.bias: missing"),
    (lambda stored: stored.update(surplus=torch.ones(1)), "surplus: not part of this model"),
    (lambda stored: stored.pop("change.language.model.layers.0.self_attn.q_proj.weight.up"), "expected factors of"),
    (lambda stored: stored.update({"change.language.model.layers.0.self_attn.q_proj.weight.up": torch.ones(32, 2)}),
     "expected factors of"),
])
def test_weights_that_do_not_fit_are_named(shipped, capsys, change, message) -> None:
    stored = load_file(shipped / WEIGHTS)
    change(stored)
    save_file(stored, shipped / WEIGHTS)
    content = json.loads((shipped / "config.json").read_text())
    content["base"]["weights_sha256"] = file_digest(shipped / WEIGHTS)
    (shipped / "config.json").write_text(json.dumps(content))
    assert main(["complete", str(shipped)]) == 1
    assert message in capsys.readouterr().err


def test_only_a_language_model_that_is_known_can_be_left_out(trained, tmp_path) -> None:
    with pytest.raises(CheckpointError, match="no language model 'gpt' is known, expected one of"):
        save_without_base(trained[0].model, "gpt", {}, tmp_path / "out")
