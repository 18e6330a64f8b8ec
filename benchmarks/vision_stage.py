"""The vision stage: the published way in eager PyTorch against ours in PyTorch, compiled, ONNX Runtime and TensorRT.

python -m benchmarks.vision_stage --json benchmarks/results/vision_stage.json

One run, the same weights and inputs, all variants taking turns; medians. Weights are random: speed does not depend on
them, and the outputs of all variants are compared before anything is timed.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime
import torch
from onnx import TensorProto, helper
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import published
from benchmarks.common import compare, machine_facts, seconds, write_results
from ros_gpt4roi.engine import EngineError
from ros_gpt4roi.engine.build_process import Limits
from ros_gpt4roi.engine.cache import EngineCache
from ros_gpt4roi.engine.export import VisionNetwork, provide_onnx
from ros_gpt4roi.engine.gate import relative_error
from ros_gpt4roi.engine.onnxruntime import OnnxRuntimeRunner
from ros_gpt4roi.engine.precision.calibration import default_frames_folder
from ros_gpt4roi.engine.profiles import find_profile
from ros_gpt4roi.engine.tensorrt.engine import EngineRequest, provide_engine
from ros_gpt4roi.engine.tensorrt.library import choose_library, this_gpu
from ros_gpt4roi.engine.tensorrt.runner import TensorRTRunner
from ros_gpt4roi.model.checkpoint import read_config
from ros_gpt4roi.model.config import preset
from ros_gpt4roi.paths import find_model

# Each by the width of its language model, which the projections write.
MODELS = {"tabletop": 256, "gpt4roi-7b": 4096, "gpt4roi-7b-lite": 4096}
COUNTS = (1, 8, 64)
# The figures named in the README are of a usual frame.
USUAL = 8
# Outputs of the variants: in float32 as close as this; TensorRT runs in half precision.
CLOSE, CLOSE_HALF = 1e-3, 2e-2

Variant = Callable[[np.ndarray, np.ndarray], Any]


class _Timing(NamedTuple):
    """How `compare` measures; calls of seconds need neither many rounds nor to settle."""

    rounds: int
    warm_up: int = 2
    settle: bool = True


def main() -> None:
    """Measure and write what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="where the results go")
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    parser.add_argument("--counts", nargs="+", type=int, default=list(COUNTS), help="numbers of regions")
    parser.add_argument("--rounds", type=int, default=30, help="timed calls of each variant; a tenth at full size")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument("--light", action="store_true",
                        help=f"the large models with {USUAL} regions and not compiled, the full size in PyTorch only")
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    results: dict[str, Any] = {"machine": {**machine_facts(), "onnxruntime": onnxruntime.__version__,
                                           "gemm_flops": _gemm_speed(device), "copy_bytes": _copy_speed(device)}}
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        for name in options.models:
            large = name != "tabletop"
            timing = (_Timing(max(3, options.rounds // 10), warm_up=1, settle=False) if large
                      else _Timing(options.rounds))
            left_out = {"compiled"} if options.no_compile or large and options.light else set()
            if name == "gpt4roi-7b" and options.light:
                left_out |= {"onnxruntime", "tensorrt"}
            counts = [USUAL] if large and options.light else options.counts
            results[name] = _measure(name, device, counts, timing, left_out, EngineCache(Path(folder)),
                                     results["machine"])
    results.update(_headlines(results, options.counts))
    write_results(options.json, results)


def _measure(name: str, device: torch.device, counts: list[int], timing: _Timing, left_out: set[str],
             cache: EngineCache, machine: dict[str, Any]) -> dict[str, Any]:
    torch.manual_seed(0)
    dtype = torch.float16 if device.type == "cuda" else torch.float32
    config = read_config(find_model("tabletop")) if name == "tabletop" else preset(name)
    network = VisionNetwork.build(config, MODELS[name]).to(device, dtype)
    variants, notes = _variants(network, name, device, left_out, cache)
    size = network.config.preprocess.image_size
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (1, size, size, 3), np.uint8)
    found: dict[str, Any] = {"notes": notes}
    for count in counts:
        boxes = np.sort(random.random((1, count, 2, 2), np.float32), axis=2).reshape(1, count, 4)
        expected = variants["published"](images, boxes)
        errors = {key: max(map(relative_error, variant(images, boxes), expected)) for key, variant in variants.items()}
        half = device.type == "cuda"
        wrong = {key: error for key, error in errors.items() if not error <= (CLOSE_HALF if half else CLOSE)}
        if wrong:
            raise SystemExit(f"{name}, {count} regions: outputs differ from the published way: {wrong}")
        times = compare({key: partial(variant, images, boxes) for key, variant in variants.items()},
                        **timing._asdict())
        found[f"{count} regions"] = {
            "seconds": times, "speed_vs_published": {key: times["published"] / value for key, value in times.items()},
            "stages": _stages(network, images, boxes, device, timing), "floor": _floor(network, images, boxes, machine),
            "errors": errors}
    return found


def _variants(network: VisionNetwork, name: str, device: torch.device, left_out: set[str],
              cache: EngineCache) -> tuple[dict[str, Variant], dict[str, str]]:
    def place(function: Callable[..., Any]) -> Variant:
        return lambda images, boxes: function(torch.from_numpy(images).to(device), torch.from_numpy(boxes).to(device))

    variants: dict[str, Variant] = {
        "published": place(lambda images, boxes: published.encode(network, images, boxes)), "torch": place(network)}
    notes = dict.fromkeys(left_out, "left out of this run")
    if "compiled" not in left_out:
        variants["compiled"] = place(torch.compile(network, dynamic=False))
    gpu = this_gpu(device)
    profile = find_profile("auto", gpu.name if gpu else None)
    try:
        if "onnxruntime" not in left_out:
            graph = provide_onnx(network, name, cache, Limits(profile.memory_limit_mib, 0, profile.timeout_s))
            variants["onnxruntime"] = OnnxRuntimeRunner(graph.path, device, network.output_shapes, "fp32")
    except EngineError as error:
        notes["onnxruntime"] = str(error)
    if gpu is None or "tensorrt" in left_out:
        return variants, {"tensorrt": "no GPU here", **notes}
    try:
        library = choose_library(profile.library, gpu)
        request = EngineRequest(network, name, replace(profile, reserve_mib=0), library, gpu, default_frames_folder())
        engine, _ = provide_engine(request, "fp16", cache)
        variants["tensorrt"] = TensorRTRunner(library, engine, device, COUNTS)
    except EngineError as error:
        notes["tensorrt"] = str(error)
    return variants, notes


def _stages(network: VisionNetwork, images: np.ndarray, boxes: np.ndarray, device: torch.device,
            timing: _Timing) -> dict[str, dict[str, float]]:
    """Seconds of upload, encoder, pyramid and regions, of the published way and of ours in PyTorch."""
    on_device, places = torch.from_numpy(images).to(device), torch.from_numpy(boxes).to(device)
    tokens, levels = network.vision(on_device)
    fused = network.regions.pyramid(levels)

    def ours_regions() -> None:
        pyramid, network.regions.pyramid = network.regions.pyramid, torch.nn.Identity()
        try:
            network.regions(fused, places)
        finally:
            network.regions.pyramid = pyramid

    shared = {"upload": lambda: torch.from_numpy(images).to(device),
              "encoder": lambda: network.projector(network.vision(on_device)[0])}
    times = compare({
        **shared, "published pyramid": lambda: published.pyramid(network, levels),
        "published regions": lambda: published.regions(network, fused, places),
        "ours pyramid": lambda: network.regions.pyramid(levels), "ours regions": ours_regions},
        **timing._asdict())
    return {way: {stage: times[stage] if stage in times else times[f"{way} {stage}"]
                  for stage in ("upload", "encoder", "pyramid", "regions")} for way in ("published", "ours")}


def _floor(network: VisionNetwork, images: np.ndarray, boxes: np.ndarray, machine: dict[str, Any]) -> dict[str, float]:
    """The least time the operations and the bytes of our network can take at this machine's measured speeds."""
    device = network.projector.weight.device
    with FlopCounterMode(display=False) as counter:
        outputs = network(torch.from_numpy(images).to(device), torch.from_numpy(boxes).to(device))
    operations = counter.get_total_flops()
    moved = sum(t.numel() * t.element_size() for t in (*network.parameters(), *outputs)) + images.nbytes + boxes.nbytes
    return {"operations": operations, "bytes": moved,
            "seconds": max(operations / machine["gemm_flops"], moved / machine["copy_bytes"])}


def _gemm_speed(device: torch.device) -> float:
    """Operations a second of a large matrix product in the number format the engines use here."""
    side, dtype = (8192, torch.float16) if device.type == "cuda" else (2048, torch.float32)
    a, b = torch.randn(2, side, side, device=device, dtype=dtype)
    fastest = min(seconds(lambda: a @ b) for _ in range(5))
    if device.type == "cpu":  # PyTorch's library of products need not be the fastest for every make of CPU
        fastest = min(fastest, _onnxruntime_product(a.numpy(), b.numpy()))
    return 2 * side ** 3 / fastest


def _onnxruntime_product(a: np.ndarray, b: np.ndarray) -> float:
    """Seconds that ONNX Runtime takes for a @ b on the CPU."""
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, a.shape) for name in "abc"]
    graph = helper.make_graph([helper.make_node("MatMul", ["a", "b"], ["c"])], "product", values[:2], values[2:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(model.SerializeToString(), settings, providers=["CPUExecutionProvider"])
    return min(seconds(lambda: session.run(None, {"a": a, "b": b})) for _ in range(6))


def _copy_speed(device: torch.device) -> float:
    """Bytes a second read and written by a large copy."""
    source = torch.zeros(1 << 28, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * source.numel() / min(seconds(lambda: target.copy_(source)) for _ in range(5))


def _headlines(results: dict[str, Any], counts: list[int]) -> dict[str, float]:
    usual = f"{USUAL if USUAL in counts else counts[0]} regions"
    lines = {}
    if "tabletop" in results:
        speeds = results["tabletop"][usual]["speed_vs_published"]
        if "onnxruntime" in speeds:
            lines["tabletop_onnxruntime_vs_published"] = speeds["onnxruntime"]
    if "gpt4roi-7b" in results and "gpt4roi-7b-lite" in results:
        lite = {k: v for k, v in results["gpt4roi-7b-lite"][usual]["seconds"].items() if k != "published"}
        lines["full_lite_vs_published"] = results["gpt4roi-7b"][usual]["seconds"]["published"] / min(lite.values())
    return lines


if __name__ == "__main__":
    main()
