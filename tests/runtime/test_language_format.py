from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from ros_gpt4roi.model.checkpoint import CheckpointError, LoadedModel, build_model, load_checkpoint, save_checkpoint
from ros_gpt4roi.runtime import quantised_linear
from ros_gpt4roi.runtime.language_format import FORMATS, load_model, quantise_language, quantised_file, save_quantised
from ros_gpt4roi.runtime.pipeline import Pipeline, PipelineConfig
from ros_gpt4roi.runtime.quantised_linear import Int4Linear, Int8DynamicLinear, Int8Linear
from ros_gpt4roi.runtime.types import Frame, Status
from ros_gpt4roi.runtime.vision_stage import VisionOptions

LAYERS = {
    "int8": (lambda layer: Int8Linear.from_float(layer), 0.012),
    "int8-dynamic": (lambda layer: Int8DynamicLinear.from_float(layer), 0.016),
    "int4": (lambda layer: Int4Linear.from_float(layer, 32), 0.12),
}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("tokens", [1, 16, 17, 40])
@pytest.mark.parametrize(("inputs", "outputs", "bias"), [(64, 64, False), (96, 50, True), (256, 192, False)])
def test_a_quantised_layer_is_close_to_the_float_one(name: str, tokens: int, inputs: int, outputs: int,
                                                     bias: bool) -> None:
    convert, error = LAYERS[name]
    torch.manual_seed(tokens + inputs)
    layer = nn.Linear(inputs, outputs, bias=bias)
    x = torch.randn(1, tokens, inputs).bfloat16()
    expected = layer(x.float())
    got = convert(layer)(x)
    assert got.shape == expected.shape and got.dtype == torch.bfloat16
    assert (got.float() - expected).norm() / expected.norm() < error


@pytest.mark.parametrize("onednn", [True, False])
def test_dynamic_int8_multiplies_each_token_by_itself(onednn: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if onednn and not quantised_linear.multiplies_bytes():
        pytest.skip("this CPU adds products of bytes with saturation")
    monkeypatch.setattr(quantised_linear, "multiplies_bytes", lambda: onednn)
    torch.manual_seed(0)
    layer, x = nn.Linear(96, 50), torch.randn(40, 96) * torch.logspace(-3, 3, 40).unsqueeze(1)
    converted = Int8DynamicLinear.from_float(layer)
    together, alone = converted(x), torch.cat([converted(token) for token in x.split(1)])
    torch.testing.assert_close(together, alone)
    expected = layer(x)
    assert ((together - expected).norm(dim=1) / expected.norm(dim=1)).max() < 0.03
    again = Int8DynamicLinear(**converted.stored())
    assert torch.equal(again(x), together) and again.weight_bytes == 96 * 50


def test_int4_reads_its_packed_weights_back() -> None:
    layer = nn.Linear(128, 70)
    packed = Int4Linear.from_float(layer, 32)
    again = Int4Linear(**packed.stored())
    assert torch.equal(again.packed, packed.packed) and torch.equal(again.dequantised(), packed.dequantised())
    assert (packed.dequantised()[:70].float() - layer.weight).abs().max() < 0.02


@pytest.mark.parametrize("number_format", FORMATS)
def test_every_format_describes(number_format: str, checkpoint: Path, make_frame: Callable[..., Frame]) -> None:
    pipeline = Pipeline.open(checkpoint, PipelineConfig(language_format=number_format, description_tokens=6,
                                                        vision=VisionOptions("torch")))
    result = pipeline.describe(make_frame(3))
    assert result.status is Status.OK and len(result.descriptions) == 3


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("number_format", FORMATS)
def test_every_format_describes_on_a_gpu(number_format: str, checkpoint: Path,
                                         make_frame: Callable[..., Frame]) -> None:
    pipeline = Pipeline.open(checkpoint, PipelineConfig(device="cuda", language_format=number_format,
                                                        description_tokens=6, vision=VisionOptions("torch")))
    pipeline.warm_up()
    assert pipeline.describe(make_frame(3)).status is Status.OK


@pytest.mark.parametrize("number_format", ["int8", "int8-dynamic", "int4"])
def test_a_saved_language_model_loads_as_it_was_and_without_float_layers(number_format: str, checkpoint: Path,
                                                                        tmp_path: Path) -> None:
    folder = shutil.copytree(checkpoint, tmp_path / "model")
    converted = load_model(folder, number_format)
    path = save_quantised(converted.model.language, number_format, folder)
    # A float language model that is not read cannot be in memory.
    shutil.copy(folder / "model.safetensors", tmp_path / "whole.safetensors")
    _without_language(folder / "model.safetensors")
    again = load_model(folder, number_format)
    ids = torch.arange(12).unsqueeze(0)
    with torch.inference_mode():
        assert torch.equal(again.model.language(ids).logits, converted.model.language(ids).logits)
        image, box = torch.zeros(1, 32, 32, 3, dtype=torch.uint8), torch.tensor([[[0.1, 0.1, 0.6, 0.7]]])
        for mine, other in zip(again.model.encode(image, box), converted.model.encode(image, box)):
            torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-5)
    assert path.stat().st_size < (tmp_path / "whole.safetensors").stat().st_size


def _without_language(path: Path) -> None:
    """Rewrites a checkpoint's weights; under another name first, because models may have the old file mapped."""
    with safe_open(path, framework="pt") as archive:
        kept = {name: archive.get_tensor(name) for name in archive.keys() if not name.startswith("language.")}
    save_file(kept, path.with_suffix(".new"))
    path.with_suffix(".new").replace(path)


def test_an_unknown_format_is_refused_by_name(checkpoint: Path) -> None:
    with pytest.raises(ValueError, match="'int3', expected one of fp32"):
        load_model(checkpoint, "int3")


def test_a_file_for_another_architecture_is_refused(checkpoint: Path, loaded: LoadedModel, tmp_path: Path) -> None:
    config = loaded.config
    facts = {**config.language.model, "num_hidden_layers": 3}
    other = build_model(dataclasses.replace(config, language=dataclasses.replace(config.language, model=facts)),
                        loaded.tokenizer)
    save_checkpoint(other.model, other.tokenizer, tmp_path)
    converted = load_checkpoint(checkpoint).model.language
    quantise_language(converted, "int8")
    save_quantised(converted, "int8", tmp_path)
    with pytest.raises(CheckpointError, match="architecture is 'llama 2×64 .*expected 'llama 3×64"):
        load_model(tmp_path, "int8")


def test_a_truncated_file_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(checkpoint, tmp_path / "model")
    converted = load_model(folder, "int8").model.language
    path = save_quantised(converted, "int8", folder)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="language-int8.safetensors: truncated"):
        load_model(folder, "int8")


def test_a_file_of_another_format_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(checkpoint, tmp_path / "model")
    save_quantised(load_model(folder, "int8").model.language, "int8", folder).rename(quantised_file(folder, "int4"))
    with pytest.raises(CheckpointError, match="number_format is 'int8', expected 'int4'"):
        load_model(folder, "int4")


def test_the_header_says_what_the_file_is(checkpoint: Path, tmp_path: Path) -> None:
    converted = load_model(checkpoint, "int4").model.language
    with safe_open(save_quantised(converted, "int4", tmp_path), framework="pt") as archive:
        header = archive.metadata()
    assert header["version"] == "2" and header["number_format"] == "int4" and "llama" in json.dumps(header)


@pytest.mark.parametrize("number_format", ["fp32", "int8"])
def test_what_happens_to_the_files_afterwards_does_not_reach_the_model(
        checkpoint: Path, tmp_path: Path, number_format: str) -> None:
    folder = shutil.copytree(checkpoint, tmp_path / "model")
    if number_format != "fp32":
        save_quantised(load_model(folder, number_format).model.language, number_format, folder)
    model = load_model(folder, number_format).model
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for path in folder.glob("*.safetensors"):
        with path.open("r+b") as file:  # in place: a new file would leave the old one's pages
            file.write(b"\xff" * path.stat().st_size)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", LAYERS)
def test_weights_that_are_not_finite_are_refused(name: str, value: float) -> None:
    layer = nn.Linear(64, 64)
    with torch.no_grad():
        layer.weight[3, 5] = value
    with pytest.raises(ValueError, match=r"\[64, .* not finite"):
        LAYERS[name][0](layer)
