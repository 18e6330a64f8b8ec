"""Folders of transformers that are no usable Qwen3-VL: each says what is wrong with it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from qwen_fixtures import write_qwen

from ros_gpt4roi.model.checkpoint import CheckpointError, load_any, load_checkpoint


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_qwen(tmp_path_factory.mktemp("qwen") / "whole")


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    return shutil.copytree(whole, tmp_path / "copy")


def change(path: Path, edit: Callable[[dict], object]) -> None:
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize("edit, expected", [
    (lambda c: c.update(model_type="qwen2_5_vl"), "a qwen2_5_vl of transformers, expected a qwen3_vl or a checkpoint"),
    (lambda c: c.update(auto_map={"AutoModel": "evil.Model"}), "auto_map names code to run"),
    (lambda c: c.update(quantization_config={"quant_method": "fp8"}), "weights are quantised by 'fp8'"),
    (lambda c: c.update(transformers_version="99.1.0", third_axis=True), "written by transformers 99.1.0, with fields "
     "that .* does not know: third_axis"),
    (lambda c: (c.update(transformers_version="99.1.0"), c["text_config"].update(new_norm="x")),
     "does not know: text_config.new_norm"),
    (lambda c: c.update(text_config=7), "text_config is 7, expected a mapping"),
    (lambda c: c.update(image_token_id=3), r"the tokenizer has '<\|image_pad\|>' as \d+, expected 3"),
    (lambda c: c["text_config"].update(vocab_size=100), "vocab_size is 100, expected at least the tokenizer's"),
    (lambda c: c["text_config"].update(num_hidden_layers=5), r"layers.4.* missing, expected"),
    (lambda c: c["text_config"].update(num_hidden_layers=10**9), "num_hidden_layers is 1000000000, expected at most"),
    (lambda c: c["vision_config"].update(hidden_size="wide"), "config.json.*describes no qwen3_vl"),
    (lambda c: c["text_config"].update(num_attention_heads=0), "config.json: describes a network that cannot be made: "
     "ZeroDivisionError"),
    (lambda c: c["text_config"]["rope_parameters"].update(rope_theta=None), "config.json: .* cannot be made: Type"),
    (lambda c: c.update(dtype=[]), r"no usable tokenizer or config.json \(IndexError"),
    (lambda c: c["vision_config"].update(patch_size=16), "patch_size is 8, expected the encoder's 16"),
])
def test_a_config_that_does_not_fit_is_named(folder: Path, edit: Callable[[dict], object], expected: str) -> None:
    change(folder / "config.json", edit)
    with pytest.raises(CheckpointError, match=expected):
        load_any(folder)


def test_a_newer_version_of_the_same_fields_loads(folder: Path) -> None:
    change(folder / "config.json", lambda c: c.update(transformers_version="99.0.0"))
    assert load_any(folder).model.language.config.num_hidden_layers == 4


def test_half_a_download_says_what_is_missing(folder: Path) -> None:
    weights = folder / "model.safetensors"
    (folder / "model.safetensors.index.json").write_text(json.dumps(
        {"weight_map": {"lm_head.weight": "model-00002-of-00002.safetensors", "a": "model.safetensors"}}))
    with pytest.raises(CheckpointError, match="half downloaded or copied, 1 of the 2 files .*model-00002-of-00002"):
        load_any(folder)
    (folder / "model.safetensors.index.json").unlink()
    weights.write_bytes(weights.read_bytes()[:5000])
    with pytest.raises(CheckpointError, match="truncated or not a safetensors file"):
        load_any(folder)
    weights.unlink()
    with pytest.raises(CheckpointError, match="no weights"):
        load_any(folder)


def test_without_a_tokenizer_it_says_so(folder: Path) -> None:
    for path in folder.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(CheckpointError, match="no usable tokenizer"):
        load_any(folder)


def test_a_tokenizer_of_another_model_is_refused(folder: Path) -> None:
    text = (folder / "tokenizer.json").read_text().replace("<|vision_start|>", "<|elsewhere|>")
    (folder / "tokenizer.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"the tokenizer has '<\|vision_start\|>' as None"):
        load_any(folder)


def test_a_chat_template_that_runs_code_is_refused_and_not_run(folder: Path, tmp_path: Path,
                                                              caplog: pytest.LogCaptureFixture) -> None:
    canary = tmp_path / "canary"
    (folder / "chat_template.jinja").write_text(
        "{{ cycler.__init__.__globals__.os.system('touch " + str(canary) + "') }}")
    with pytest.raises(CheckpointError, match="chat template reaches for __init__, which would run code"):
        load_any(folder)
    (folder / "chat_template.jinja").write_text("[INST]{{ messages[0].content }}[/INST]")
    load_any(folder)
    assert "another form than Qwen3-VL's" in caplog.text and not canary.exists()


def test_what_only_takes_this_packages_checkpoints_says_so(whole: Path) -> None:
    with pytest.raises(CheckpointError, match="a qwen3_vl of transformers, expected a checkpoint of this package"):
        load_checkpoint(whole)
