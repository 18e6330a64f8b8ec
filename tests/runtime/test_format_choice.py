"""Which number format is taken where none is asked for, by device, size and free memory."""
from __future__ import annotations

import logging
import shutil
from pathlib import Path

import pytest
import torch

from ros_gpt4roi.model.checkpoint import build_empty, load_any
from ros_gpt4roi.models.catalogue import read_catalogue
from ros_gpt4roi.runtime import format_choice
from ros_gpt4roi.runtime.format_choice import choose_format, count_parameters
from ros_gpt4roi.runtime.language_format import load_model, save_quantised
from ros_gpt4roi.runtime.pipeline import Pipeline, PipelineConfig
from ros_gpt4roi.runtime.vision_stage import VisionOptions


def test_the_embedded_model_runs_in_int8_on_a_cpu(root: Path) -> None:
    choice = choose_format(root / "models" / "tabletop", "cpu", free=0)
    assert choice.name == "int8" and "small model on a CPU" in choice.reason


def test_a_pipeline_takes_it_and_says_why(checkpoint: Path) -> None:
    pipeline = Pipeline.open(checkpoint, PipelineConfig(device="cpu", vision=VisionOptions("torch")))
    assert pipeline.config.language_format == "int8"
    assert pipeline.placement()["language model"] == f"int8: {choose_format(checkpoint, 'cpu').reason}"
    asked = Pipeline.open(checkpoint, PipelineConfig(device="cpu", language_format="bf16",
                                                     vision=VisionOptions("torch")))
    assert asked.placement()["language model"] == "bf16: asked for"


@pytest.mark.parametrize("vnni, expected", [(True, "int8-dynamic"), (False, "int8")])
def test_a_larger_one_on_a_cpu_by_what_the_cpu_multiplies(
        checkpoint: Path, vnni: bool, expected: str, monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(format_choice, "_SMALL", 0)  # no large model is here
    choice = choose_format(checkpoint, "cpu", free=10**10, vnni=vnni)
    assert choice.name == expected and "computed, of 10.0 GB free" in choice.reason and not caplog.records
    choose_format(checkpoint, "cpu", free=0, vnni=vnni)
    assert f"{checkpoint} needs" in caplog.text and "expected a smaller model" in caplog.text


@pytest.mark.parametrize("name, free, expected, words", [
    ("Qwen3-VL-2B-Instruct", 24e9, "bf16", "the most exact that fits; it needs 7.2 GB"),
    ("Qwen3-VL-2B-Instruct", 7.0e9, "int8", "bf16 would need 7.2 GB; it needs 6.1 GB"),  # an Orin Nano of 8 GB
    ("Qwen3-VL-4B-Instruct", 15e9, "bf16", "the most exact that fits"),
    ("Qwen3-VL-8B-Instruct", 17e9, "int8", "bf16 would need 21.4 GB"),
    ("Qwen3-VL-8B-Instruct", 23e9, "int8", "of 20.1 GB: what is free, 23.0 GB, less an eighth for caches"),
    ("Qwen3-VL-8B-Instruct", 80e9, "bf16", "the most exact that fits"),
])
def test_on_a_gpu_the_most_exact_that_fits(name: str, free: float, expected: str, words: str,
                                           caplog: pytest.LogCaptureFixture) -> None:
    parameters = read_catalogue()[name].parameters
    assert parameters is not None
    choice = format_choice._by_memory(Path(name), parameters, int(free))
    assert choice.name == expected and words in choice.reason and not caplog.records


def test_where_nothing_fits_the_smallest_is_tried_with_a_warning(checkpoint: Path,
                                                                caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        choice = choose_format(checkpoint, "cuda", free=10**9)
    assert "the smallest, though it needs 1.5 GB" in choice.reason
    assert "may not fit" in caplog.text and "expected a smaller model" in caplog.text


def test_one_format_that_the_folder_brings_is_taken(checkpoint: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(checkpoint, tmp_path / "model")
    save_quantised(load_model(folder, "int4").model.language, "int4", folder)
    assert choose_format(folder, "cuda", free=10**11) == ("int4", "auto: the folder brings language-int4.safetensors")
    save_quantised(load_model(folder, "int8").model.language, "int8", folder)
    assert choose_format(folder, "cuda", free=10**11).name == "bf16"


def test_parameters_are_counted_without_weights(checkpoint: Path, tiny_qwen: Path) -> None:
    for folder in (checkpoint, tiny_qwen):
        empty = build_empty(folder)
        counted = count_parameters(empty)
        assert all(parameter.is_meta for parameter in empty.model.parameters())
        weights = load_any(folder).model.parameters()  # weights that are shared come once
        assert counted.total == sum(parameter.numel() for parameter in weights)
        assert counted.linear > 0 and counted.norms > 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_small_one_on_a_gpu_is_bf16(checkpoint: Path) -> None:
    pipeline = Pipeline.open(checkpoint, PipelineConfig(device="cuda", vision=VisionOptions("torch")))
    assert pipeline.config.language_format == "bf16" and "GB" in pipeline.number_format.reason
