"""Loading weight by weight, and keeping what was quantised, on folders of both kinds."""
from __future__ import annotations

import contextlib
import gc
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from qwen_fixtures import build_qwen, qwen_tokenizer, write_qwen
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch.multiprocessing.reductions import StorageWeakRef

from ros_gpt4roi.engine.cache import EngineCache, model_entry
from ros_gpt4roi.engine.profiles import EngineOptions
from ros_gpt4roi.model.checkpoint import CheckpointError, load_any
from ros_gpt4roi.model.checkpoint_files import StoredTensor
from ros_gpt4roi.runtime import language_cache, language_format, quantised_linear
from ros_gpt4roi.runtime.language_cache import load_kept
from ros_gpt4roi.runtime.language_format import FORMATS, load_model, quantise_language, quantised_file, save_quantised

QUANTISED = ("int8", "int8-dynamic", "int4")


@pytest.fixture(scope="module", params=["own", "Qwen3-VL", "Qwen3-VL tied"])
def folder(request: pytest.FixtureRequest, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of this package, tied and in shards of float16; of transformers, in shards of bfloat16."""
    target = tmp_path_factory.mktemp("models") / "model"
    if request.param.startswith("Qwen3-VL"):
        write_qwen(target, tied=request.param.endswith("tied"))
        model = build_qwen(qwen_tokenizer(), tied=request.param.endswith("tied")).bfloat16()
        (target / "model.safetensors").unlink()
        model.save_pretrained(target, max_shard_size="200KB")
        assert len(list(target.glob("model-*.safetensors"))) > 2
        return target
    shutil.copytree(checkpoint, target)
    tensors = {key: value.half() if value.is_floating_point() else value
               for key, value in load_file(target / "model.safetensors").items()}
    (target / "model.safetensors").unlink()
    names = sorted(tensors)  # a layer's weight and bias may lie in different files
    for i in range(3):
        save_file({name: tensors[name] for name in names[i::3]}, target / f"model-{i + 1}.safetensors")
    return target


def same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    """Whether two models are the same to the bit, also where no checkpoint has it."""
    mine, theirs = ({**model.state_dict(), **dict(model.named_buffers())} for model in (one, other))
    return mine.keys() == theirs.keys() and all(
        value.dtype == theirs[key].dtype and torch.equal(value, theirs[key]) for key, value in mine.items())


@pytest.mark.parametrize("number_format", FORMATS)
def test_it_is_what_converting_the_whole_float_model_gives(folder: Path, number_format: str,
                                                           monkeypatch: pytest.MonkeyPatch) -> None:
    whole = load_any(folder).model
    if number_format in QUANTISED:
        quantise_language(whole.language, number_format)
        monkeypatch.setattr(quantised_linear, "_BLOCK", 1 << 12)  # layers in several blocks
    elif number_format == "bf16":
        whole.language.bfloat16()
    assert same(load_model(folder, number_format).model, whole)


@pytest.mark.parametrize("number_format", ["bf16", "int8", "int4"])
def test_no_more_than_one_layers_weights_are_held_as_they_are_stored(folder: Path, number_format: str,
                                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    layers: list[StorageWeakRef] = []  # what was read of layers; the others' are kept until all is read
    held, read = [], StoredTensor.read

    def counted(stored: StoredTensor) -> torch.Tensor:
        value = read(stored)
        if value.ndim == 2 and "embed" not in stored.name:
            layers.append(StorageWeakRef(value.untyped_storage()))
        held.append({number for number, storage in enumerate(layers) if not storage.expired()})
        return value

    monkeypatch.setattr(StoredTensor, "read", counted)
    gc.disable()  # what only the collector would free is in memory for longer
    try:
        loaded = load_model(folder, number_format)
    finally:
        gc.enable()
    kept = {number for number, storage in enumerate(layers) if not storage.expired()}  # they are in this format already
    assert len(layers) > 20 and loaded.model is not None and (number_format == "bf16" or len(kept) < 5)
    assert max(len(now - kept) for now in held) <= 2  # the weight that is read, and the one before it


def test_weights_that_do_not_fit_are_told_before_any_is_read(folder: Path, tmp_path: Path,
                                                             monkeypatch: pytest.MonkeyPatch) -> None:
    broken = shutil.copytree(folder, tmp_path / "broken")
    path = sorted(broken.glob("model*.safetensors"))[0]
    tensors = load_file(path)
    name = next(iter(tensors))
    save_file({**{key: value for key, value in tensors.items() if key != name}, "extra": torch.zeros(1)}, path)
    monkeypatch.setattr(StoredTensor, "read", None)
    with pytest.raises(CheckpointError, match="(?s)do not fit the config:.*extra: not part of this model.*: missing, "):
        load_model(broken, "int8")


@pytest.fixture
def options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EngineOptions:
    monkeypatch.setattr(language_cache, "_LEAST", 0)
    return EngineOptions(cache=str(tmp_path / "cache"))


def kept_files(options: EngineOptions) -> list[Path]:
    return sorted(options.open_cache().folder.glob("*.safetensors"))


@pytest.mark.parametrize("number_format", ["int8", "int4"])
def test_a_later_start_reads_what_the_first_has_quantised(folder: Path, number_format: str, options: EngineOptions,
                                                          caplog: pytest.LogCaptureFixture,
                                                          monkeypatch: pytest.MonkeyPatch) -> None:
    caplog.set_level(logging.INFO)
    names = {path.name for path in folder.iterdir()}
    first = load_kept(folder, number_format, "cpu", options).model
    assert f"converted to {number_format} in" in caplog.text and "kept for later starts" in caplog.text
    monkeypatch.setattr(language_format, "quantise_language", None)
    assert same(load_kept(folder, number_format, "cpu", options).model, first)
    assert "read from" in caplog.text and len(kept_files(options)) == 1
    assert {path.name for path in folder.iterdir()} == names, "a model's folder may be read-only"


def test_what_does_not_fit_any_more_is_made_again(checkpoint: Path, tmp_path: Path, options: EngineOptions,
                                                  caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    folder, expected = shutil.copytree(checkpoint, tmp_path / "model"), load_model(checkpoint, "int8").model

    def converts() -> bool:
        caplog.clear()
        assert same(load_kept(folder, "int8", "cpu", options).model, expected)
        return "converted to int8" in caplog.text

    assert converts() and not converts()
    kept, = kept_files(options)
    with kept.open("r+b") as file:  # one bit in the last weights
        file.seek(-1, 2)
        last = file.read(1)[0]
        file.seek(-1, 2)
        file.write(bytes([last ^ 1]))
    assert converts() and "damaged, its SHA-256 is" in caplog.text
    kept.write_bytes(kept.read_bytes()[:-9])
    assert converts() and "quantised again" in caplog.text
    kept.with_suffix(".sha256").unlink()
    assert converts()
    weights = {key: value * 2 for key, value in load_file(folder / "model.safetensors").items()}
    save_file(weights, folder / "model.safetensors")
    expected = load_model(folder, "int8").model
    assert converts() and "stale, of model@" in caplog.text
    assert not converts() and kept_files(options) == [kept]


def test_a_format_that_the_folder_brings_goes_before_the_cache(checkpoint: Path, tmp_path: Path,
                                                               options: EngineOptions) -> None:
    folder = shutil.copytree(checkpoint, tmp_path / "model")
    save_quantised(load_model(folder, "int8").model.language, "int8", folder)
    load_kept(folder, "int8", "cpu", options)
    load_kept(folder, "bf16", "cpu", options)
    assert quantised_file(folder, "int8").exists() and kept_files(options) == []


def test_a_small_model_is_not_kept(checkpoint: Path, options: EngineOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    load_kept(checkpoint, "int8", "cpu", options)
    assert kept_files(options) == []


def test_files_of_models_that_are_gone_are_removed(checkpoint: Path, tmp_path: Path, options: EngineOptions) -> None:
    for name in ("one", "two"):
        load_kept(shutil.copytree(checkpoint, tmp_path / name), "int8", "cpu", options)
    assert [path.name.partition("-")[0] for path in kept_files(options)] == ["one", "two"]
    shutil.rmtree(tmp_path / "one")
    load_kept(tmp_path / "two", "int4", "cpu", options)
    assert [path.name.partition("-")[0] for path in kept_files(options)] == ["two", "two"]
    assert not list(options.open_cache().folder.glob("one*"))


@pytest.mark.parametrize("obstacle", ["full disk", "disk fills up", "no folder", "busy"])
def test_a_model_that_cannot_be_kept_is_loaded_all_the_same(
        checkpoint: Path, tmp_path: Path, options: EngineOptions, obstacle: str, caplog: pytest.LogCaptureFixture,
        monkeypatch: pytest.MonkeyPatch) -> None:
    if obstacle == "full disk":
        monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1 << 30, 1 << 30, 1000))
    elif obstacle == "disk fills up":
        def full(descriptor: int) -> None:
            raise OSError(28, "No space left on device")
        monkeypatch.setattr("os.fsync", full)
    elif obstacle == "no folder":
        (tmp_path / "cache").write_text("")  # refuses root, too
    cache = options.open_cache()
    if obstacle == "busy":
        monkeypatch.setattr(language_cache, "_WAIT_S", 0.0)
        with cache.lock(f"{model_entry(checkpoint)}.language-int8", 1.0):
            model = load_kept(checkpoint, "int8", "cpu", options).model
    else:
        model = load_kept(checkpoint, "int8", "cpu", options).model
    assert "cannot be kept for the next start" in caplog.text
    assert same(model, load_model(checkpoint, "int8").model)
    assert not [path for path in cache.folder.iterdir() if "language" in path.name and path.suffix != ".lock"]


def test_who_waited_for_another_process_reads_what_that_has_kept(checkpoint: Path, options: EngineOptions,
                                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    first = load_kept(checkpoint, "int8", "cpu", options).model
    kept, = kept_files(options)
    kept.rename(kept.with_suffix(".away"))
    lock = EngineCache.lock

    @contextlib.contextmanager
    def lock_after_another(cache: EngineCache, entry: str, timeout_s: float) -> Iterator[bool]:
        kept.with_suffix(".away").rename(kept)
        with lock(cache, entry, timeout_s):
            yield True

    monkeypatch.setattr(EngineCache, "lock", lock_after_another)
    monkeypatch.setattr(language_format, "quantise_language", None)
    assert same(load_kept(checkpoint, "int8", "cpu", options).model, first)


def test_a_kept_file_says_whose_it_is(checkpoint: Path, options: EngineOptions) -> None:
    load_kept(checkpoint, "int4", "cpu", options)
    kept, = kept_files(options)
    with safe_open(kept, framework="pt") as archive:
        notes = archive.metadata()
    assert notes["folder"] == str(checkpoint.resolve()) and notes["checkpoint"].startswith(f"{checkpoint.name}@")
