"""Checkpoints come back as they went, and each bad one is refused with what is wrong with it."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import sys
from pathlib import Path

import pytest
import sentencepiece
import torch
from model_fixtures import TEXTS, sentencepiece_like, tiny_config
from safetensors.torch import load_file, save_file

from ros_gpt4roi.configuration import build
from ros_gpt4roi.model import preprocess
from ros_gpt4roi.model.checkpoint import (
    CheckpointError,
    build_model,
    folder_version,
    load_checkpoint,
    load_tokenizer,
    read_config,
    save_checkpoint,
    write_config,
)
from ros_gpt4roi.model.checkpoint_files import WeightsFile
from ros_gpt4roi.model.config import (
    ConfigError,
    DeformableConfig,
    FocalConfig,
    LanguageConfig,
    ModelConfig,
    PointConfig,
    RoIAlignLiteConfig,
    preset,
)
from ros_gpt4roi.model.preprocess import preprocess_hash


@pytest.fixture(scope="module")
def original():
    torch.manual_seed(0)
    tokenizer = sentencepiece_like()
    config = tiny_config(len(tokenizer))
    tied = {**config.language.model, "tie_word_embeddings": True}
    return build_model(dataclasses.replace(config, language=LanguageConfig(tied)), tokenizer)


@pytest.fixture
def folder(tmp_path, original):
    save_checkpoint(original.model, original.tokenizer, tmp_path)
    return tmp_path


def change_config(folder, change) -> None:
    fields = json.loads((folder / "config.json").read_text())
    change(fields)
    (folder / "config.json").write_text(json.dumps(fields))


def change_weights(folder, change) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors")


def test_round_trip(folder, original):
    loaded = load_checkpoint(folder)
    assert loaded.config == original.config
    assert loaded.tokenizer.get_vocab() == original.tokenizer.get_vocab()
    state = original.model.state_dict()
    for key, value in loaded.model.state_dict().items():
        assert torch.equal(value, state[key]), key
    assert not loaded.model.training
    assert loaded.model.language.lm_head.weight is loaded.model.language.get_input_embeddings().weight
    rounds = [("What is <region1>?", "A mug.")]
    assert loaded.prompts.encode(rounds, 1) == original.prompts.encode(rounds, 1)
    assert not any(t.is_meta for t in [*loaded.model.parameters(), *loaded.model.buffers()])


def test_number_formats(folder, original, tmp_path):
    save_checkpoint(original.model, original.tokenizer, tmp_path / "half", torch.float16)
    assert load_checkpoint(tmp_path / "half", dtype=None).model.projector.weight.dtype == torch.float16
    assert load_checkpoint(tmp_path / "half").model.projector.weight.dtype == torch.float32
    small, large = ((f / "model.safetensors").stat().st_size for f in (tmp_path / "half", folder))
    assert small < 0.6 * large


def test_saving_over_shards_leaves_none(folder, original):
    save_file({"projector.bias": torch.zeros(1)}, folder / "model-00001-of-00002.safetensors")
    save_checkpoint(original.model, original.tokenizer, folder)
    assert [f.name for f in folder.glob("*.safetensors")] == ["model.safetensors"]


def test_other_preprocessing_is_refused_with_both_hashes(folder, original, monkeypatch):
    trained = preprocess_hash(original.config.preprocess)
    monkeypatch.setattr(preprocess, "REVISION", preprocess.REVISION + 1)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(folder)
    assert trained in str(caught.value) and preprocess_hash(original.config.preprocess) in str(caught.value)


def test_edited_preprocessing_is_refused(folder):
    change_config(folder, lambda fields: fields["model"]["preprocess"].update(interpolation="linear"))
    with pytest.raises(CheckpointError, match="trained with preprocessing [0-9a-f]{64}, expected [0-9a-f]{64}"):
        load_checkpoint(folder)


@pytest.mark.parametrize(("change", "text"), [
    (lambda fields: fields.update(format="pytorch"), "not a ros_gpt4roi checkpoint"),
    (lambda fields: fields.update(version=99), "version 99, expected 2"),
    (lambda fields: fields["model"].update(audio={}), "audio is unknown"),
    (lambda fields: fields["model"]["regions"].update(depth=3), "regions.depth is unknown"),
    (lambda fields: fields["model"]["regions"].update(layers=3), "regions.layers is unknown"),
    (lambda fields: fields["model"]["regions"].update(kind="none"), "regions.kind is 'none'"),
    (lambda fields: fields["model"]["prompt"].update(template="none"), "prompt.template is 'none'"),
    (lambda fields: fields["model"]["prompt"].update(template="llama3"), "splits '<|start_header_id|>'"),
    (lambda fields: fields["model"]["language"]["model"].update(vocab_size=9), "vocab_size is 9, expected at least"),
    (lambda fields: fields["model"]["vision"].update(encoder={}), "vision.encoder has no model_type"),
    (lambda fields: fields["model"]["vision"]["encoder"].update(hidden_size="x"),
     "vision.encoder describes no clip_vision_model model"),
    (lambda fields: fields["model"]["language"]["model"].update(model_type="x"), "language.model describes no x model"),
    (lambda fields: fields["model"]["vision"].update(levels=[-9, -1]), "vision.levels or vision.tokens name {-9}"),
    (lambda fields: fields["model"]["vision"]["encoder"].update(num_hidden_layers=10 ** 8),
     "num_hidden_layers is 100000000"),
    (lambda fields: fields["model"]["vision"].update(encoder={"model_type": "resnet", "depths": [1, 10 ** 8]}),
     "vision.encoder.depths is 100000000, expected at most 1024"),
    (lambda fields: fields["model"]["vision"].update(encoder={"model_type": "resnet", "depths": [1000] * 4}),
     "expected at most 1024 in all"),
    (lambda fields: fields["model"]["language"]["model"].update(hidden_size=10 ** 12), "hidden_size is 1000000000000"),
    (lambda fields: fields["model"]["language"]["model"].update(rope_parameters={"a": [0] * 5000}), "has 5000 entries"),
    (lambda fields: fields["model"]["regions"].update(fusion_rounds=10 ** 8), "fusion_rounds"),
    (lambda fields: fields["model"]["preprocess"].update(image_size=10 ** 8), "image_size"),
    (lambda fields: fields["model"]["language"]["model"].update(_attn_implementation="kernels-community/flash-attn"),
     "language.model._attn_implementation is 'kernels-community/flash-attn'"),
    (lambda fields: fields["model"]["language"]["model"].update(attn_implementation="eager"), "attn_implementation"),
    (lambda fields: fields["model"]["language"]["model"].update(auto_map={"AutoConfig": "x--y.Z"}), "must not choose"),
    (lambda fields: fields["model"]["vision"]["encoder"].update(text_config={"quantization_config": {}}),
     "text_config.quantization_config is {}"),
    (lambda fields: fields["model"]["vision"].update(encoder={"model_type": "timm_backbone"}), "timm_backbone model"),
    (lambda fields: fields["model"].update(regions=3), "regions is 3, expected a mapping"),
])
def test_bad_configs_are_refused(folder, change, text):
    change_config(folder, change)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(folder)
    assert text in str(caught.value) and str(folder) in str(caught.value)


@pytest.mark.parametrize("content", ["{", "[]", "\"text\"", ""])
def test_configs_that_are_none_are_refused(folder, content):
    (folder / "config.json").write_text(content)
    with pytest.raises(CheckpointError, match="config.json: not "):
        load_checkpoint(folder)


@pytest.mark.parametrize(("name", "text"), [("config.json", "config.json: No such file"),
                                            ("model.safetensors", "no weights"),
                                            ("tokenizer.json", "no usable tokenizer")])
def test_missing_files_are_named(folder, name, text):
    (folder / name).unlink()
    if name == "tokenizer.json":
        (folder / "tokenizer_config.json").unlink()
    with pytest.raises(CheckpointError, match=text):
        load_checkpoint(folder)


@pytest.mark.parametrize("length", [0, 7, 1000, -1])
def test_truncated_weights_are_refused(folder, length):
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[:length])
    with pytest.raises(CheckpointError, match="model.safetensors: truncated or not a safetensors file"):
        load_checkpoint(folder)


def test_weights_that_are_cut_or_replaced_while_they_are_read_are_refused(folder):
    path = folder / "model.safetensors"
    tensors = list(WeightsFile.open(path).tensors.values())
    value, other = tensors[-1].read(), path.with_name("other")
    expected, data = value.clone(), path.read_bytes()
    other.write_bytes(data[:-1] + b"\xff")
    os.replace(other, path)
    with pytest.raises(CheckpointError, match="model.safetensors: changed while it was read"):
        tensors[0].read()
    tensors = list(WeightsFile.open(path).tensors.values())
    os.truncate(path, 1000)  # of a file that is mapped, the kernel ends who reads on
    with pytest.raises(CheckpointError, match="model.safetensors: changed while it was read"):
        tensors[-1].read()
    path.unlink()
    with pytest.raises(CheckpointError, match="model.safetensors: No such file"):
        tensors[-1].read()
    assert torch.equal(value, expected)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero")])
def test_pipes_and_devices_are_refused(folder, name, make):
    (folder / name).unlink()
    make(folder / name)
    with pytest.raises(CheckpointError, match=f"{name}: no regular file"):
        load_checkpoint(folder)


def test_a_huge_config_is_not_read(folder):
    with (folder / "config.json").open("ab") as file:
        file.truncate(1 << 40)  # a hole: no disk is used
    with pytest.raises(CheckpointError, match="larger than"):
        load_checkpoint(folder)


def test_what_happens_to_the_file_afterwards_does_not_reach_the_model(folder):
    loaded = load_checkpoint(folder)
    before = {key: value.clone() for key, value in loaded.model.state_dict().items()}
    with (folder / "model.safetensors").open("r+b") as file:  # in place: a new file would leave the old one's pages
        file.write(b"\xff" * (folder / "model.safetensors").stat().st_size)
    assert all(torch.equal(value, before[key]) for key, value in loaded.model.state_dict().items())


def test_all_weights_that_do_not_fit_are_listed(folder):
    def change(weights):
        del weights["projector.bias"], weights["language.model.embed_tokens.weight"]
        weights["projector.weight"] = torch.zeros(3, 4)
        weights["left.over"] = torch.zeros(2)

    change_weights(folder, change)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(folder)
    for line in ("projector.bias: missing, expected [32]", "projector.weight: [3, 4], expected [32, 16]",
                 "left.over: not part of this model", "language.model.embed_tokens.weight: missing, expected ["):
        assert line in str(caught.value)


def test_a_folder_with_only_a_sentencepiece_model_says_what_it_takes(tmp_path, monkeypatch):
    (tmp_path / "words.txt").write_text("\n".join(TEXTS))
    sentencepiece.SentencePieceTrainer.train(input=str(tmp_path / "words.txt"), vocab_size=100, model_type="bpe",
                                             model_prefix=str(tmp_path / "tokenizer"), minloglevel=2)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "LlamaTokenizer"}))
    assert len(load_tokenizer(tmp_path)) == 100
    monkeypatch.setitem(sys.modules, "sentencepiece", None)  # as where it is not installed
    with pytest.raises(CheckpointError, match="tokenizer.model is SentencePiece's.*pip install sentencepiece$"):
        load_tokenizer(tmp_path)


def test_a_missing_shard_shows(folder):
    weights = load_file(folder / "model.safetensors")
    keys = list(weights)
    (folder / "model.safetensors").unlink()
    save_file({k: weights[k] for k in keys[::2]}, folder / "model-00001-of-00002.safetensors")
    with pytest.raises(CheckpointError, match=f"{keys[1]}: missing"):
        load_checkpoint(folder)
    save_file({k: weights[k] for k in keys[1::2]}, folder / "model-00002-of-00002.safetensors")
    assert torch.equal(load_checkpoint(folder).model.state_dict()[keys[1]], weights[keys[1]])


@pytest.mark.parametrize("name", ["gpt4roi-7b", "gpt4roi-7b-lite"])
def test_presets_survive_json(name):
    config = preset(name)
    again = build(ModelConfig, json.loads(json.dumps(config.to_dict())))
    assert dataclasses.replace(again, vision=config.vision) == config
    assert again.vision.levels == config.vision.levels
    assert again.vision.encoder.keys() == config.vision.encoder.keys()


def to_version_1(fields: dict) -> None:
    """A config.json as it was written when one class held the fields of all region extractors."""
    model = fields["model"]
    focal = model.pop("focal") or {"scale": 0.0, "size": 0}
    every = {"channels": 1024, "scales": [8, 4, 2, 1], "fusion_rounds": 5, "groups": 64, "samples": 2, "layers": 3,
             "heads": 8, "points": 4, "point_size": model.pop("points")["size"], "focal": focal["scale"],
             "focal_size": focal["size"]}
    model["regions"] = {**every, **model["regions"]}
    model["prompt"]["repeat_embeddings"] = False
    # As transformers noted them.
    model["vision"]["encoder"].update({"_attn_implementation_autoset": True, "_name_or_path": ""})
    model["language"]["model"]["_name_or_path"] = ""
    fields["version"] = 1


def test_version_1_loads_as_the_same_model(folder):
    config = read_config(folder)
    for kind, focal in ((DeformableConfig, FocalConfig(3.0, 48)), (RoIAlignLiteConfig, None)):
        changed = dataclasses.replace(config, regions=config.regions.converted(kind), focal=focal,
                                      points=PointConfig(0.1))
        write_config(changed, folder)
        change_config(folder, to_version_1)
        assert read_config(folder) == changed
    change_config(folder, lambda fields: fields["model"]["prompt"].update(repeat_embeddings=True))
    with pytest.raises(CheckpointError, match="prompt.repeat_embeddings is unknown"):
        read_config(folder)


def test_a_version_is_of_the_name_and_of_what_is_loaded(folder, tmp_path):
    version = folder_version(folder)
    assert version.startswith(f"{folder.name}@") and version == folder_version(folder)
    copy = Path(shutil.copytree(folder, tmp_path / "elsewhere" / "other"))
    assert folder_version(copy) == version.replace(folder.name, "other", 1)
    (copy / "scores.json").write_text("{}")
    assert folder_version(copy) == version.replace(folder.name, "other", 1)
    change_weights(copy, lambda weights: next(iter(weights.values())).view(-1)[:1].add_(1))
    assert folder_version(copy) != version.replace(folder.name, "other", 1)


def test_unknown_preset_is_refused():
    with pytest.raises(ConfigError, match="'gpt5'.*gpt4roi-7b-lite"):
        preset("gpt5")
