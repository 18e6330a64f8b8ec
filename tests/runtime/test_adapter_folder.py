"""Adapter folders that are none, damaged, of another model, or hold what cannot be computed here."""
from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from adapter_fixtures import write_adapter
from safetensors.torch import load_file, save_file

from ros_gpt4roi.model.checkpoint import CheckpointError, LoadedModel, load_any
from ros_gpt4roi.runtime import adapter_folder
from ros_gpt4roi.runtime.adapter_folder import Adapter, read_adapter

Change = Callable[[Path], object]


@pytest.fixture(scope="module")
def good(loaded: LoadedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapters") / "good"
    write_adapter(folder, loaded.model.language)
    return folder


@pytest.fixture
def read(loaded: LoadedModel, good: Path, tmp_path: Path) -> Callable[[Change], Adapter]:
    def changed(change: Change) -> Adapter:
        folder = Path(shutil.copytree(good, tmp_path / "changed"))
        change(folder)
        return read_adapter(folder, loaded.model.language.base_model, torch.float32, torch.device("cpu"))
    return changed


def fields(**values: Any) -> Change:
    def change(folder: Path) -> None:
        path = folder / "adapter_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
    return change


def tensors(change: Callable[[dict[str, torch.Tensor]], object]) -> Change:
    def changed(folder: Path) -> None:
        path = folder / "adapter_model.safetensors"
        values = load_file(path)
        change(values)
        save_file(values, path)
    return changed


def cut(folder: Path) -> None:
    path = folder / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def pickle_it(folder: Path) -> None:
    torch.save(load_file(folder / "adapter_model.safetensors"), folder / "adapter_model.bin")
    (folder / "adapter_model.safetensors").unlink()


def rename(values: dict[str, torch.Tensor], old: str, new: str) -> None:
    for key in [key for key in values if old in key]:
        values[key.replace(old, new)] = values.pop(key)


def narrow(values: dict[str, torch.Tensor]) -> None:
    for key in [key for key in values if "lora_A" in key]:
        values[key] = values[key][:, :-1].contiguous()


def spoil(values: dict[str, torch.Tensor]) -> None:
    next(iter(values.values()))[0, 0] = torch.inf


DOWN = "layers.1.mlp.down_proj.lora_A.weight"
BAD: list[tuple[Change, str]] = [
    (shutil.rmtree, r"adapter_config.json: No such file or directory"),
    (lambda folder: (folder / "adapter_config.json").write_text("[]"), "not a JSON object"),
    (lambda folder: (folder / "adapter_model.safetensors").unlink(), "adapter_model.safetensors: truncated or not"),
    (cut, "adapter_model.safetensors: truncated or not a safetensors file"),
    (pickle_it, "adapter_model.bin: pickled, which may run code .*; expected adapter_model.safetensors"),
    (fields(peft_type="IA3"), "peft_type is 'IA3', expected 'LORA'"),
    (fields(use_dora=True), "use_dora is True, expected none: only plain LoRA and rsLoRA"),
    (fields(bias="all"), "bias is 'all', expected 'none'"),
    (fields(modules_to_save=["lm_head"]), r"modules_to_save is \['lm_head'\], expected none"),
    (fields(fan_in_fan_out=True), "fan_in_fan_out is True"),
    (fields(trainable_token_indices=[3]), "trainable_token_indices is"),
    (fields(invented_next_year={"a": 1}), "invented_next_year is"),
    (fields(init_lora_weights="pissa"), "init_lora_weights is 'pissa', expected .*convert"),
    (fields(r=0), "r is 0, expected a whole number, at least 1"),
    (fields(r=8), r"weights of rank \[4\], expected the 8 that r is"),
    (fields(lora_alpha="16"), "lora_alpha is '16', expected a number"),
    (fields(lora_alpha=10**400), "lora_alpha is 1000.*, expected a number"),
    (fields(lora_alpha=float("nan")), "lora_alpha is nan, expected a number"),
    (fields(use_rslora="yes"), "use_rslora is 'yes', expected true or false"),
    (fields(alpha_pattern={"(a+)+$": 3}), "alpha_pattern is .*, expected numbers by names of layers"),
    (fields(rank_pattern=[1]), "rank_pattern is"),
    (tensors(dict.clear), "empty, expected tensors such as lora_A.weight"),
    (tensors(lambda values: rename(values, "mlp.down_proj", "mlp.experts")),
     "4 of its tensors belong to no linear layer .*such as base_model.model.model.layers.0.mlp.experts.lora_A.weight"),
    (tensors(lambda values: rename(values, "lora_A.weight", "lora_magnitude_vector")), "belong to no linear layer"),
    (tensors(lambda values: rename(values, "layers.1.", "layers.2.")), "belong to no linear layer"),
    (tensors(lambda values: [values.pop(key) for key in list(values) if "layers.1." in key]),
     "made for another language model: of 1 layers, expected 2"),
    (tensors(lambda values: values.pop(f"base_model.model.model.{DOWN}")),
     "layers.1.mlp.down_proj: lora_A.weight is missing"),
    (tensors(narrow), r"another language model:\n  model.layers.0.mlp.down_proj: \[4, 127\] and .*expected \[4, 128\]"),
    (tensors(spoil), "are not finite"),
]


@pytest.mark.parametrize(("change", "message"), BAD, ids=[str(number) for number in range(len(BAD))])
def test_what_is_no_adapter_of_this_model_is_refused_by_name(change: Change, message: str,
                                                             read: Callable[[Change], Adapter]) -> None:
    with pytest.raises(CheckpointError, match=re.compile(message, re.DOTALL)):
        read(change)


def test_a_rank_that_memory_has_no_room_for(read: Callable[[Change], Adapter],
                                            monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapter_folder, "free_memory", lambda device: 3 << 10)
    with pytest.raises(CheckpointError, match="of rank 4 its weights take 0 MiB, and 0 MiB are free"):
        read(lambda folder: None)


def test_what_is_read(read: Callable[[Change], Adapter]) -> None:
    adapter = read(fields(base_model_name_or_path="/nowhere", lora_dropout=0.3, peft_version="9"))
    assert re.fullmatch("changed@[0-9a-f]{12}", adapter.version) and adapter.rank == 4 and len(adapter.weights) == 14
    down, up = adapter.weights["layers.0.mlp.gate_proj"]
    assert down.shape == (4, 64) and up.shape == (128, 4)


def test_an_adapter_in_the_place_of_a_model_says_where_it_belongs(good: Path) -> None:
    with pytest.raises(CheckpointError, match="an adapter, expected the model that it is for; .*pipeline.adapters"):
        load_any(good)
