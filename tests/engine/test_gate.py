from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from engine_fixtures import inputs
from onnx import numpy_helper

from ros_gpt4roi.engine import EngineError
from ros_gpt4roi.engine.cache import CachedEngine, EngineCache
from ros_gpt4roi.engine.export import VisionNetwork
from ros_gpt4roi.engine.gate import (
    LIMITS,
    Encode,
    GateReport,
    check,
    limit_for,
    pytorch_reference,
    read_report,
)
from ros_gpt4roi.engine.graph import scope
from ros_gpt4roi.engine.onnxruntime import OnnxRuntimeRunner
from ros_gpt4roi.engine.precision import convert_graph
from ros_gpt4roi.engine.precision.calibration import StoredFrame, default_frames_folder
from ros_gpt4roi.engine.profiles import EngineProfile
from ros_gpt4roi.engine.tensorrt.engine import EngineRequest, first_accepted
from ros_gpt4roi.engine.tensorrt.library import load_library
from ros_gpt4roi.model.checkpoint import LoadedModel
from ros_gpt4roi.model.gpt4roi import VisionOutput
from ros_gpt4roi.model.qwen3_vl import AnyVisionOutput
from ros_gpt4roi.runtime.pipeline import Pipeline, PipelineConfig

MASK_SIDE = 3  # of the tiny model
FRAMES = [StoredFrame(str(seed), *inputs(32, 1, 3, seed)) for seed in range(2)]


@pytest.fixture
def reference(loaded: LoadedModel) -> Encode:
    return pytorch_reference(loaded.model.encode, torch.device("cpu"))


def run_check(engine: Encode, reference: Encode, precision: str = "fp16",
              loaded: LoadedModel | None = None) -> GateReport:
    return check(engine, reference, FRAMES, MASK_SIDE, precision, LIMITS[precision], "sha", "key",
                 Pipeline(loaded, PipelineConfig()).describe_output if loaded else None)


def test_reference_passes_its_own_gate(reference: Encode, loaded: LoadedModel) -> None:
    report = run_check(reference, reference, "fp32", loaded)
    assert report.passed
    assert report.errors == dict.fromkeys(("image_tokens", "region_embeddings", "region_embeddings under masks"), 0.0)
    assert report.texts == report.same_texts == 6


@pytest.mark.parametrize("output", ["image_tokens", "region_embeddings"])
def test_wrong_output_is_refused_by_name(reference: Encode, output: str) -> None:
    def engine(*arrays: np.ndarray) -> AnyVisionOutput:
        got = reference(*arrays)
        # One wrong vector among many must not drown in the average.
        wrong = getattr(got, output).clone()
        wrong[0, -1] *= 1.1
        return got._replace(**{output: wrong})

    report = run_check(engine, reference)
    assert not report.passed
    assert f"{output} differs by 0.1" in report.reason


def test_an_engine_that_passes_masks_over_is_refused(reference: Encode) -> None:
    report = run_check(lambda images, boxes, *masks: reference(images, boxes), reference)
    assert not report.passed and report.errors["region_embeddings"] == 0
    assert report.reason.startswith("region_embeddings under masks differs by")


def test_same_error_is_judged_by_precision(reference: Encode) -> None:
    def engine(*arrays: np.ndarray) -> VisionOutput:
        return VisionOutput(*(value * 1.05 for value in reference(*arrays)))

    assert not run_check(engine, reference, "fp16").passed
    assert run_check(engine, reference, "bf16").passed


def test_limit_is_no_closer_than_the_reference_itself() -> None:
    assert limit_for("fp32", torch.float32) == LIMITS["fp32"]
    assert limit_for("fp32", torch.float16) == LIMITS["fp16"]
    assert limit_for("int8", torch.float16) == LIMITS["int8"]


def test_overflow_is_refused(reference: Encode) -> None:
    def engine(*arrays: np.ndarray) -> VisionOutput:
        return VisionOutput(*(value * float("inf") for value in reference(*arrays)))

    assert not run_check(engine, reference, "fp8").passed


def test_other_text_is_refused_although_the_numbers_are_close(reference: Encode) -> None:
    calls = []

    def write_texts(output: VisionOutput, boxes: np.ndarray, tokens: int) -> list[str]:
        calls.append(output)
        return ["a red mug"] * (len(boxes) - 1) + ["a red mug" if len(calls) % 2 else "a blue mug"]

    report = check(reference, reference, FRAMES, MASK_SIDE, "fp16", LIMITS["fp16"], "sha", "key", write_texts)
    assert not report.passed
    assert report.same_texts == 4 and "2 of 6 texts differ (0: 'a red mug', PyTorch 'a blue mug')" in report.reason


def test_engine_that_fails_to_run_is_refused(reference: Encode) -> None:
    def engine(*arrays: np.ndarray) -> VisionOutput:
        raise EngineError("out of memory")

    assert run_check(engine, reference).reason == "it does not run: out of memory"


def test_report_survives_a_file_and_damage_reads_as_none(reference: Encode, tmp_path: Path) -> None:
    report = run_check(reference, reference)
    report.write(tmp_path / "x.gate.json")
    assert read_report(tmp_path / "x.gate.json") == report
    (tmp_path / "x.gate.json").write_text(json.dumps({"engine": "x"}))
    assert read_report(tmp_path / "x.gate.json") is None
    assert read_report(tmp_path / "y.gate.json") is None


@pytest.mark.slow
def test_broken_engine_is_refused_and_the_next_safer_precision_taken(
        loaded: LoadedModel, network: VisionNetwork, exported: Path, cache: EngineCache,
        remembered: Callable[[str], None], tmp_path: Path) -> None:
    """Real plans from tensorrt_rtx; where no GPU runs them, ONNX Runtime runs the very graphs they are built from."""
    pytest.importorskip("tensorrt_rtx")
    remembered("tiny")
    started = []

    def start(engine: CachedEngine) -> OnnxRuntimeRunner:
        precision = engine.header["key"]["precision"]
        started.append(precision)
        model = convert_graph(onnx.load(str(exported)), precision, {})
        if precision == "fp16":
            _break(model)
        path = tmp_path / f"{precision}.onnx"
        onnx.save(model, str(path))
        return OnnxRuntimeRunner(path, torch.device("cpu"), network.output_shapes, precision, threads=1)

    request = EngineRequest(network, "tiny", EngineProfile("test", reserve_mib=0), load_library("tensorrt_rtx"), None,
                            default_frames_folder())
    runner = first_accepted(loaded, request, ["fp16", "fp32"], cache, True, start)
    assert runner.precision == "fp32" and started == ["fp16", "fp32"]
    refused = read_report(cache.report_path(request.engine_entry("fp16")))
    assert not refused.passed and "image_tokens differs" in refused.reason
    assert read_report(cache.report_path(request.engine_entry("fp32"))).passed

    # The verdicts are remembered: the next start neither builds nor compares.
    files = {path: path.stat().st_mtime_ns for path in (*cache.files(), *cache.folder.glob("*.gate.json"))}
    assert first_accepted(loaded, request, ["fp16", "fp32"], cache, True, start).precision == "fp32"
    assert files == {path: path.stat().st_mtime_ns for path in (*cache.files(), *cache.folder.glob("*.gate.json"))}
    with pytest.raises(EngineError, match="no engine: fp16: .*image_tokens differs"):
        first_accepted(loaded, request, ["fp16"], cache, True, start)


def _break(model: onnx.ModelProto) -> None:
    """Doubles the projector's bias."""
    node = next(n for n in model.graph.node if n.op_type == "Add" and scope(n) == "projector")
    bias = next(w for w in model.graph.initializer if w.name in node.input)
    values = copy.copy(numpy_helper.to_array(bias))
    bias.CopyFrom(numpy_helper.from_array(values + np.float16(1), bias.name))
