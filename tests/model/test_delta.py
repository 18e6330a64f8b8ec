"""A delta becomes a whole model by the base that it was made from, and by no other."""

from __future__ import annotations

import json

import pytest
import torch
from model_fixtures import TEXTS, sentencepiece_like
from published import as_delta, draw, is_norm, llama_shapes, run_published, write_folder
from safetensors.torch import load_file, save_file

from ros_gpt4roi.model import convert
from ros_gpt4roi.model.__main__ import main
from ros_gpt4roi.model.checkpoint import CheckpointError
from ros_gpt4roi.model.convert import plan_published
from training.from_scratch.tokenizer import train_tokenizer


def test_delta_is_added_to_the_base(folders, words, shapes):
    folder, config, published, _ = folders
    delta = as_delta(published)
    write_folder(folder / "published", delta, "bin")
    old_rows = len(words) - 5
    width, inner = 32, 48
    base = draw(llama_shapes(old_rows, width, inner, 2, 16), 9)
    write_folder(folder / "base", base, count=4)
    model = run_published(folder, config, base=folder / "base", dtype="float16").model
    state = {convert.published_key(k): v for k, v in model.state_dict().items()}
    for key, value in base.items():
        # Half precision of the exact sum, as adding in half precision gives it.
        expected = delta[key].clone()
        expected[:len(value)] += value
        assert torch.equal(state[key], expected.float()), key
    new_rows = delta["model.embed_tokens.weight"][old_rows:]
    assert torch.equal(state["model.embed_tokens.weight"][old_rows:], new_rows.float())
    for key, value in delta.items():
        if "spi_module" in key or "mm_projector" in key:
            assert torch.equal(state[key], value.float()), key


@pytest.fixture
def delta_and_base(folders, words):
    """A delta and the base that it was made from, each with config and tokenizer."""
    folder, config, published, _ = folders
    fields = {"hidden_size": 32, "rms_norm_eps": 1e-6, "max_position_embeddings": 2048}
    inv_freq = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}
    write_folder(folder / "published", as_delta(published) | inv_freq, "bin", config=fields)
    write_folder(folder / "base", draw(llama_shapes(len(words) - 5, 32, 48, 2, 16), 9) | inv_freq, config=fields,
                 tokenizer=sentencepiece_like(added=()))
    return folder, config


def test_a_delta_and_its_own_base_are_converted(delta_and_base):
    folder, config = delta_and_base
    assert run_published(folder, config, base=folder / "base").config.language.model["hidden_size"] == 32


def other_eps(folder):
    (folder / "base" / "config.json").write_text(json.dumps({"rms_norm_eps": 1e-5, "max_position_embeddings": 4096}))


def other_rotary(folder):
    key = "model.layers.0.self_attn.rotary_emb.inv_freq"
    for file in (folder / "base").glob("*.safetensors"):
        weights = load_file(file)
        if key in weights:
            save_file(weights | {key: torch.ones(8)}, file)


def other_words(folder):
    tokenizer = train_tokenizer(TEXTS, 420, "chatml")
    tokenizer.save_pretrained(folder / "base")


def delta_as_base(folder):
    for file in (folder / "base").glob("*.safetensors"):
        save_file(as_delta(load_file(file)), file)


def gpt4roi_as_base(folder):
    for file in (folder / "base").glob("*00001*.safetensors"):
        save_file(load_file(file) | {"model.mm_projector.bias": torch.zeros(32)}, file)


def whole_as_delta(folder):
    for file in (folder / "published").glob("*.bin"):
        weights = torch.load(file)
        torch.save({key: value * 100 + 1 if is_norm(key) else value for key, value in weights.items()}, file)


@pytest.mark.parametrize(("spoil", "reason"), [
    (other_eps, "base: another base.*max_position_embeddings 4096, the delta's 2048; rms_norm_eps 1e-05"),
    (other_rotary, r"base: .*inv_freq is \[8\], the delta's is \[4\]"), (other_words, "base: another base.*other ids"),
    (delta_as_base, "base: a delta itself"), (gpt4roi_as_base, "base: has a projector"),
    (whole_as_delta, "published: a whole model and no delta.*expected no --base")])
def test_what_is_no_delta_of_the_base_is_refused_with_the_reason(delta_and_base, spoil, reason, capsys):
    folder, config = delta_and_base
    spoil(folder)
    with pytest.raises(CheckpointError, match=reason):
        plan_published(folder / "published", folder / "clip", base=folder / "base", config=config)
    assert main(["convert", str(folder / "published"), str(folder / "ours"), "--vision", str(folder / "clip"),
                 "--base", str(folder / "base")]) == 1
    assert not (folder / "ours").exists() and capsys.readouterr().err.startswith("error: ")


def test_a_delta_without_a_base_is_refused(delta_and_base):
    folder, config = delta_and_base
    with pytest.raises(CheckpointError, match="published: a delta, .*expected --base"):
        plan_published(folder / "published", folder / "clip", config=config)
