from __future__ import annotations

import json
import logging
import os
import resource
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from ros_gpt4roi.engine import EngineError
from ros_gpt4roi.engine.cache import model_entry
from ros_gpt4roi.engine.profiles import EngineOptions
from ros_gpt4roi.model.checkpoint import LoadedModel
from ros_gpt4roi.runtime.vision_stage import VisionOptions, VisionStage

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def masks_of(loaded: LoadedModel, frames: int, regions: int) -> np.ndarray:
    side = loaded.config.regions.roi_size
    return np.random.default_rng(0).random((frames, regions, side, side), np.float32).round(1)


def inputs(frames: int, regions: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(regions)
    boxes = np.sort(random.random((frames, regions, 2, 2), np.float32), axis=2).reshape(frames, regions, 4)
    return random.integers(0, 256, (frames, 32, 32, 3), np.uint8), boxes


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> EngineOptions:
    """Options with a cache of this file's tests."""
    return EngineOptions(cache=str(tmp_path_factory.mktemp("engines")))


def test_torch_backend_is_the_model(loaded: LoadedModel) -> None:
    images, boxes = inputs(2, 5)
    output = VisionStage(loaded.model).encode(images, boxes)
    with torch.inference_mode():
        expected = loaded.model.encode(torch.from_numpy(images), torch.from_numpy(boxes))
    assert torch.equal(output.image_tokens, expected.image_tokens)
    assert torch.equal(output.region_embeddings, expected.region_embeddings)
    masks = masks_of(loaded, 2, 5)
    output = VisionStage(loaded.model).encode(images, boxes, masks)
    with torch.inference_mode():
        masked = loaded.model.encode(*map(torch.from_numpy, (images, boxes, masks)))
    assert torch.equal(output.region_embeddings, masked.region_embeddings)
    assert not torch.equal(output.region_embeddings, expected.region_embeddings)


def test_frame_without_regions_has_image_tokens(loaded: LoadedModel) -> None:
    output = VisionStage(loaded.model).encode(*inputs(1, 0))
    assert output.region_embeddings.shape[:2] == (1, 0)
    assert output.image_tokens.abs().sum() > 0


@pytest.mark.slow
def test_auto_takes_onnxruntime_on_a_cpu_and_says_so(
        loaded: LoadedModel, engines: EngineOptions, caplog: pytest.LogCaptureFixture) -> None:
    told = []
    with caplog.at_level(logging.INFO):
        stage = VisionStage.open(loaded, VisionOptions("auto", engines), Path("tiny"), told.append)
    assert stage.backend == "onnxruntime" and "fastest" in stage.reason
    assert "vision stage runs on onnxruntime" in caplog.text
    assert any(progress.step == "exporting to ONNX" for progress in told)
    for frames, regions in ((1, 0), (1, 1), (2, 7), (1, 64)):
        for masks in (None, masks_of(loaded, frames, regions)):
            given = (*inputs(frames, regions), masks)
            got, expected = stage.encode(*given), VisionStage(loaded.model).encode(*given)
            torch.testing.assert_close(got.image_tokens, expected.image_tokens, rtol=1e-3, atol=1e-4)
            torch.testing.assert_close(got.region_embeddings, expected.region_embeddings, rtol=1e-3, atol=1e-4)
            assert got.image_tokens.dtype == loaded.model.dtype
    # What was exported is found again, also by a node that must not build.
    never = VisionOptions("auto", EngineOptions(build="never", cache=engines.cache))
    assert VisionStage.open(loaded, never, Path("tiny")).backend == "onnxruntime"


def test_auto_falls_back_to_torch_and_says_why(
        loaded: LoadedModel, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    options = VisionOptions("auto", EngineOptions(build="never", cache=str(tmp_path)))
    stage = VisionStage.open(loaded, options, Path("tiny"))
    assert stage.backend == "torch"
    assert "onnxruntime: " in stage.reason and "building is switched off" in stage.reason
    assert any("building is switched off" in r.message for r in caplog.records if r.levelno == logging.WARNING)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder that holds a few kilobytes: of a file system of its own, or where that needs other rights, of files."""
    folder, limits = tmp_path / "small", resource.getrlimit(resource.RLIMIT_FSIZE)
    folder.mkdir(mode=0o700)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k,mode=700", "tmpfs", folder]).returncode == 0
    if not mounted:
        resource.setrlimit(resource.RLIMIT_FSIZE, (8192, limits[1]))
    yield folder
    if mounted:
        subprocess.run(["umount", folder], check=True)
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_auto_falls_back_where_the_disk_is_full(loaded: LoadedModel, small_disk: Path) -> None:
    options = VisionOptions("auto", EngineOptions(cache=str(small_disk)))
    stage = VisionStage.open(loaded, options, Path("tiny"))
    assert stage.backend == "torch" and "onnxruntime: " in stage.reason
    assert stage.encode(*inputs(1, 3)).image_tokens.abs().sum() > 0


@pytest.mark.parametrize("make", [
    os.mkfifo, Path.mkdir, lambda path: path.write_bytes(os.urandom(99)), lambda path: path.symlink_to("/dev/zero"),
    lambda path: path.write_text(json.dumps({"fingerprint": "", "files": 3}))])
def test_auto_goes_on_beside_garbage_in_the_cache(
        loaded: LoadedModel, tmp_path: Path, make: Callable[[Path], object]) -> None:
    options = VisionOptions("auto", EngineOptions(build="never", cache=str(tmp_path / "cache")))
    cache, entry = options.engine.open_cache(), model_entry(Path("tiny"))
    cache.graph_folder(entry).mkdir()
    for path in (cache.graph_folder(entry) / "record.json", cache.folder / f".{entry}.onnx.lock"):
        make(path)
    assert VisionStage.open(loaded, options, Path("tiny")).backend == "torch"


@pytest.mark.slow
def test_auto_exports_without_a_home_and_goes_on_beside_garbage(
        loaded: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))  # below a file: that refuses root, too
    stage = VisionStage.open(loaded, VisionOptions("auto"), Path("tiny"))
    assert stage.backend == "onnxruntime"
    assert stage.encode(*inputs(1, 3)).image_tokens.abs().sum() > 0
    never = VisionOptions("auto", EngineOptions(build="never"))
    assert VisionStage.open(loaded, never, Path("tiny")).backend == "onnxruntime"
    for path in never.engine.open_cache().folder.rglob("*"):
        if path.is_file():
            path.write_bytes(os.urandom(99))
    assert VisionStage.open(loaded, never, Path("tiny")).backend == "torch"


def test_backend_asked_for_by_name_does_not_fall_back(loaded: LoadedModel, tmp_path: Path) -> None:
    engine = EngineOptions(build="never", cache=str(tmp_path))
    with pytest.raises(EngineError, match="TensorRT needs a GPU"):
        VisionStage.open(loaded, VisionOptions("tensorrt", engine), Path("tiny"))
    with pytest.raises(EngineError, match="building is switched off"):
        VisionStage.open(loaded, VisionOptions("onnxruntime", engine), Path("tiny"))
    assert VisionStage.open(loaded, VisionOptions("torch", engine), Path("tiny")).backend == "torch"


def test_options_name_what_they_expect() -> None:
    with pytest.raises(ValueError, match="'cuda', expected auto, tensorrt"):
        VisionOptions(backend="cuda")
    with pytest.raises(ValueError, match="'always', expected auto or never"):
        EngineOptions(build="always")


@needs_gpu
@pytest.mark.slow
def test_tensorrt_matches_pytorch_on_the_callers_stream(loaded: LoadedModel, engines: EngineOptions) -> None:
    moved = LoadedModel(loaded.model.to("cuda"), loaded.tokenizer, loaded.prompts)
    try:
        stage = VisionStage.open(moved, VisionOptions("tensorrt", engines), Path("tiny"))
        stream = torch.cuda.Stream()
        # 3 regions replay the graph of 4, 64 run outside any graph; each again, so that graphs are replayed, also after
        # a frame with masks. Every other call comes on another stream than the one before, and nobody waits between.
        asked, outputs = [], []
        for call, (frames, regions) in enumerate(((1, 1), (1, 3), (2, 7), (1, 64), (1, 3), (1, 3), (1, 64))):
            asked.append((*inputs(frames, regions), masks_of(loaded, frames, regions) if call in (4, 6) else None))
            with torch.cuda.stream(stream if call % 2 else torch.cuda.default_stream()):
                outputs.append(stage.encode(*asked[-1]))
        torch.cuda.synchronize()
        for given, got in zip(asked, outputs):
            expected = VisionStage(moved.model).encode(*given)
            torch.testing.assert_close(got.image_tokens, expected.image_tokens, rtol=2e-2, atol=2e-2)
            torch.testing.assert_close(got.region_embeddings, expected.region_embeddings, rtol=2e-2, atol=2e-2)
        with pytest.raises(EngineError, match="at most"):
            stage.encode(*inputs(1, 65))
    finally:
        loaded.model.to("cpu")
