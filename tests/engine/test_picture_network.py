"""The encoder of a tiny Qwen3-VL as an engine, against transformers' own in PyTorch, at several aspects."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

import engine_fixtures  # noqa: F401  (makes qwen_fixtures importable)
import numpy as np
import onnx
import pytest
import torch
from qwen_fixtures import write_qwen

from ros_gpt4roi.engine import EngineError, PictureSizeError
from ros_gpt4roi.engine.build_engine import main as build_engine
from ros_gpt4roi.engine.build_process import Limits
from ros_gpt4roi.engine.cache import EngineCache, model_entry
from ros_gpt4roi.engine.export import ExportedGraph, fingerprint, load_network, network_of, provide_onnx, save_network
from ros_gpt4roi.engine.gate import LIMITS, GateReport, check, pytorch_reference, relative_error
from ros_gpt4roi.engine.onnxruntime import OnnxPictureRunner
from ros_gpt4roi.engine.picture_network import PictureNetwork
from ros_gpt4roi.engine.precision import convert_graph
from ros_gpt4roi.engine.precision.calibration import default_frames_folder
from ros_gpt4roi.engine.profiles import EngineOptions, EngineProfile
from ros_gpt4roi.engine.tensorrt.engine import EngineRequest, provide_engine
from ros_gpt4roi.engine.tensorrt.library import load_library
from ros_gpt4roi.model.checkpoint import LoadedQwen3VL, load_any
from ros_gpt4roi.model.qwen3_vl import AnyVisionOutput, PictureOutput, Qwen3VL
from ros_gpt4roi.runtime.pipeline import Pipeline, PipelineConfig
from ros_gpt4roi.runtime.types import Frame, Region, Status
from ros_gpt4roi.runtime.vision_stage import VisionOptions, VisionStage

CPU = torch.device("cpu")
# Height and width: of a camera, upright, square, one row, one token.
SIZES = [(48, 80), (96, 32), (64, 64), (16, 112), (16, 16)]
# What the profile's camera frames become within the tiny model's budget of 96×96 pixels.
PROFILE = EngineProfile("test", pictures=("640x480", "480x640", "1280x720", "1920x1080"),
                        compute_capabilities=("SM89",), reserve_mib=0)
LIMITS_OF_JOBS = Limits(memory_mib=8192, reserve_mib=0, timeout_s=1200)


def picture(size: tuple[int, int], regions: int = 3) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(size[0] * size[1])
    boxes = np.sort(random.random((1, regions, 2, 2), np.float32), axis=2).reshape(1, regions, 4)
    return random.integers(0, 256, (1, *size, 3), np.uint8), boxes


def assert_same(got: AnyVisionOutput, expected: AnyVisionOutput) -> None:
    assert isinstance(got, PictureOutput) and isinstance(expected, PictureOutput)
    assert got.grid == expected.grid
    for name in ("image_tokens", "region_embeddings", "deepstack"):
        assert getattr(got, name).shape == getattr(expected, name).shape
        assert relative_error(getattr(got, name), getattr(expected, name)) < 1e-5, name


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_qwen(tmp_path_factory.mktemp("qwen") / "tiny")


@pytest.fixture(scope="module")
def qwen(folder: Path) -> LoadedQwen3VL:
    loaded = load_any(folder)
    assert isinstance(loaded, LoadedQwen3VL)
    return loaded


@pytest.fixture(scope="module")
def pictures(qwen: LoadedQwen3VL) -> PictureNetwork:
    return PictureNetwork.of(qwen.model)


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> EngineOptions:
    return EngineOptions(cache=str(tmp_path_factory.mktemp("engines")))


@pytest.fixture(scope="module")
def graph(pictures: PictureNetwork, folder: Path, options: EngineOptions) -> ExportedGraph:
    """Exported once, in the child process, into the cache of `options`."""
    return provide_onnx(pictures, model_entry(folder), options.open_cache(), LIMITS_OF_JOBS)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_network_computes_what_transformers_computes(size: tuple[int, int], qwen: LoadedQwen3VL,
                                                     pictures: PictureNetwork) -> None:
    image, boxes = picture(size)
    with torch.inference_mode():
        got = pictures.picture(pictures(torch.from_numpy(image)), image, boxes)
        assert_same(got, qwen.model.encode(torch.from_numpy(image), torch.from_numpy(boxes)))
    assert tuple(tuple(output.shape) for output in (got.image_tokens, got.deepstack)) == pictures.output_shapes(*size)


def test_network_of_a_model_without_deepstack_has_one_output(qwen: LoadedQwen3VL) -> None:
    network = dict(qwen.config.network)
    network["vision_config"] = {**network["vision_config"], "deepstack_visual_indexes": []}
    model = Qwen3VL(dataclasses.replace(qwen.config, network=network)).eval()
    plain, (image, boxes) = PictureNetwork.of(model), picture(SIZES[0])
    assert plain.outputs == plain.compared == ("image_tokens",)
    with torch.inference_mode():
        got = plain.picture(plain(torch.from_numpy(image)), image, boxes)
        expected = model.encode(torch.from_numpy(image), torch.from_numpy(boxes))
    assert got.deepstack is expected.deepstack is None
    torch.testing.assert_close(got.image_tokens, expected.image_tokens, rtol=1e-4, atol=1e-4)


def test_another_process_gets_the_same_network(pictures: PictureNetwork, qwen: LoadedQwen3VL, tmp_path: Path) -> None:
    save_network(pictures, tmp_path)
    copy, image = load_network(tmp_path), torch.from_numpy(picture(SIZES[0])[0])
    assert isinstance(copy, PictureNetwork) and fingerprint(copy) == fingerprint(pictures)
    with torch.inference_mode():
        assert all(map(torch.equal, copy(image), pictures(image)))
    # How many pixels a deployment allows decides what engines are built for, not what the graph is.
    small = network_of(qwen.model, 4096)
    assert isinstance(small, PictureNetwork) and fingerprint(small) == fingerprint(pictures)
    assert small.sizes(PROFILE) != pictures.sizes(PROFILE)
    with torch.no_grad():
        copy.vision.merger.linear_fc2.bias[0] += 1e-3
    assert fingerprint(copy) != fingerprint(pictures)


def test_profile_says_which_sizes_an_engine_is_built_for(pictures: PictureNetwork) -> None:
    assert pictures.sizes(PROFILE) == [(64, 128), (80, 96), (96, 80)], "of two cameras of one aspect, one"
    assert pictures.plan_shapes(PROFILE)[0] == {"images": [[1, 64, 128, 3]] * 3}
    frames = pictures.frames(default_frames_folder(), PROFILE)
    assert {frame.image.shape[1:3] for frame in frames} == set(pictures.sizes(PROFILE)) and len(frames) == 6
    for wrong in ("640", "640x", "0x480", "640x480x3", "-1x4", "640×480"):
        with pytest.raises(ValueError, match="expected WIDTHxHEIGHT"):
            EngineProfile("test", pictures=(wrong,))


@pytest.mark.slow
def test_one_graph_takes_all_sizes(graph: ExportedGraph, pictures: PictureNetwork, qwen: LoadedQwen3VL) -> None:
    stored = onnx.load(str(graph.path)).graph
    assert [value.name for value in stored.input] == ["images"]
    assert [value.name for value in stored.output] == ["image_tokens", "deepstack"]
    assert [bool(d.dim_param) for d in stored.input[0].type.tensor_type.shape.dim] == [False, True, True, False]
    assert [node.op_type for node in stored.node if "images" in node.input] == ["Cast"]
    assert {node.domain for node in stored.node} == {""}
    runner = OnnxPictureRunner(graph.path, CPU, pictures, "fp32", threads=1)
    for size in SIZES:
        image, boxes = picture(size)
        with torch.inference_mode():
            assert_same(runner(image, boxes), qwen.model.encode(torch.from_numpy(image), torch.from_numpy(boxes)))


@pytest.mark.slow
def test_gate_takes_a_half_precision_graph_and_refuses_a_broken_one(
        graph: ExportedGraph, pictures: PictureNetwork, qwen: LoadedQwen3VL, tmp_path: Path) -> None:
    """What a TensorRT engine is built from, in ONNX Runtime."""
    frames = pictures.frames(default_frames_folder(), PROFILE)[:3]
    half = convert_graph(onnx.load(str(graph.path)), "fp16", {})
    onnx.save(half, str(tmp_path / "fp16.onnx"))
    write_texts = Pipeline(qwen, PipelineConfig()).describe_output

    def report(path: Path) -> GateReport:
        return check(OnnxPictureRunner(path, CPU, pictures, "fp16", threads=1),
                     pytorch_reference(qwen.model.encode, CPU), frames, pictures.mask_side, "fp16", LIMITS["fp16"],
                     "sha", "key", write_texts, pictures.outputs)

    passed = report(tmp_path / "fp16.onnx")
    assert set(passed.errors) == {"image_tokens", "deepstack"} and passed.texts > 3
    assert not [reason for reason in passed.reason.split("; ") if "differs by" in reason], passed.reason
    (norm,) = [weight for weight in half.graph.initializer
               if weight.name == "vision.deepstack_merger_list.1.norm.weight"]
    norm.CopyFrom(onnx.numpy_helper.from_array(2 * onnx.numpy_helper.to_array(norm), norm.name))
    onnx.save(half, str(tmp_path / "broken.onnx"))
    assert "deepstack differs by" in report(tmp_path / "broken.onnx").reason


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_plan_is_built_ahead_of_time_for_the_sizes_of_the_profile(
        graph: ExportedGraph, pictures: PictureNetwork, folder: Path, options: EngineOptions, precision: str) -> None:
    pytest.importorskip("tensorrt_rtx")
    request = EngineRequest(pictures, model_entry(folder), PROFILE, load_library("tensorrt_rtx"), None,
                            default_frames_folder())
    engine, key = provide_engine(request, precision, options.open_cache())
    assert len(engine.plan) > 100_000
    assert key.onnx == graph.digest
    assert key.shapes == "pictures 128x64 96x80 80x96 workspace 1024 MiB"
    assert bool(key.calibration) == (precision == "int8")
    # Another size of the camera is another engine.
    other = dataclasses.replace(request, profile=dataclasses.replace(PROFILE, pictures=("640x480",)))
    with pytest.raises(EngineError, match="stale, shapes was .*building is switched off"):
        provide_engine(other, precision, options.open_cache(), build=False)


@pytest.mark.slow
def test_command_builds_for_a_qwen3_vl_folder(graph: ExportedGraph, folder: Path, options: EngineOptions,
                                              tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tensorrt_rtx")
    profile = tmp_path / "mine.yaml"
    profile.write_text("library: tensorrt_rtx\ncompute_capabilities: [SM89]\nreserve_mib: 0\npictures: [640x480]\n")
    assert build_engine(["--model", str(folder), "--profile", str(profile), "--cache", options.cache,
                         "--max-pixels", "4096"]) == 0
    assert "built ahead of time" in capsys.readouterr().out
    (built,) = [path for path in EngineCache(Path(options.cache)).files() if "mine" in path.name]
    assert b"pictures 64x48 " in built.read_bytes()


@pytest.mark.slow
def test_node_writes_the_same_with_its_encoder_in_onnx_runtime(graph: ExportedGraph, folder: Path,
                                                               options: EngineOptions) -> None:
    texts = []
    for backend in ("torch", "onnxruntime"):
        pipeline = Pipeline.open(folder, PipelineConfig(
            device="cpu", language_format="fp32", description_tokens=12,
            vision=VisionOptions(backend, dataclasses.replace(options, build="never"))))
        assert pipeline.encoder.vision.backend == backend
        for shape in ((60, 100), (91, 37)):
            image = np.random.default_rng(7).integers(0, 256, (*shape, 3), np.uint8)
            frame = Frame(image, (Region("1", (2.0, 3.0, 30.0, 33.0)), Region("2", (5.0, 20.0, 36.0, 50.0))), 0, "cam")
            described = pipeline.describe(frame)
            assert described.status is Status.OK
            texts.append([description.text for description in described.descriptions])
    assert texts[:2] == texts[2:]


def test_auto_stays_with_pytorch_on_a_cpu(qwen: LoadedQwen3VL, folder: Path, options: EngineOptions) -> None:
    stage = VisionStage.open(qwen, VisionOptions("auto", dataclasses.replace(options, build="never")), folder)
    assert stage.backend == "torch" and stage.reason == "the fastest backend on cpu"
    with pytest.raises(EngineError, match="TensorRT needs a GPU"):
        VisionStage.open(qwen, VisionOptions("tensorrt", options), folder)


def test_picture_of_another_size_is_encoded_in_pytorch(qwen: LoadedQwen3VL, caplog: pytest.LogCaptureFixture) -> None:
    class OneSize:
        precision = "fp16"

        def __call__(self, images: np.ndarray, boxes: np.ndarray, masks: np.ndarray | None = None) -> AnyVisionOutput:
            if images.shape[1:3] != SIZES[0]:
                raise PictureSizeError(f"a picture of {images.shape[2]}x{images.shape[1]}, the engine was built for …")
            return qwen.model.encode(torch.from_numpy(images), torch.from_numpy(boxes))

    stage = VisionStage(qwen.model, "tensorrt", OneSize())
    with caplog.at_level(logging.WARNING):
        for size in (SIZES[0], SIZES[1], SIZES[1], SIZES[0]):
            image, boxes = picture(size)
            with torch.inference_mode():
                assert_same(stage.encode(image, boxes),
                            qwen.model.encode(torch.from_numpy(image), torch.from_numpy(boxes)))
    assert stage.counters == {"frames_without_engine": 2}
    assert [record.message for record in caplog.records if "a picture of 32x96" in record.message] == [
        record.message for record in caplog.records], "said once a size"


@pytest.mark.slow
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_tensorrt_matches_pytorch_at_every_size_it_was_built_for(folder: Path, tmp_path: Path) -> None:
    profile = tmp_path / "gpu.yaml"
    profile.write_text("reserve_mib: 0\npictures: [640x480, 480x640]\n")
    moved = load_any(folder, "cuda")
    assert isinstance(moved, LoadedQwen3VL)
    engine = EngineOptions(cache=str(tmp_path / "engines"), profile=str(profile))
    stage = VisionStage.open(moved, VisionOptions("tensorrt", engine), folder)
    for size in ((80, 96), (96, 80), (80, 96), (48, 80)):
        image, boxes = picture(size)
        got, expected = stage.encode(image, boxes), VisionStage(moved.model).encode(image, boxes)
        torch.testing.assert_close(got.image_tokens, expected.image_tokens, rtol=2e-2, atol=2e-2)
    assert stage.counters == {"frames_without_engine": 1}
