"""Opens a runner for a model: builds what is missing, passes the gate, falls back to safer precisions."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from ..configuration import Configuration, setting
from ..model.checkpoint import LoadedModel
from .cache import CachedEngine, EngineCache, EngineKey
from .errors import EngineError
from .flavour import choose_flavour
from .frames import default_frames_folder, load_frames
from .gate import Encode, GateReport, TextWriter, check, limit_for, read_report, twin_of
from .gpu import this_gpu
from .guard import Limits, ProgressCallback
from .network import VisionNetwork
from .profiles import PRECISIONS, EngineProfile, find_profile, ladder
from .provide import EngineRequest, provide_engine, provide_onnx
from .runners import OnnxRuntimeRunner, TensorRTRunner

_log = logging.getLogger(__name__)
_Runner = TypeVar("_Runner", bound=Encode)


@dataclass(frozen=True)
class EngineOptions(Configuration):
    """What a deployment says about engines."""

    build: str = setting("auto", "auto builds what is missing when the node is configured, never refuses to.",
                         choices=("auto", "never"))
    profile: str = setting("auto", "Name or path of a build profile; auto chooses by the GPU.")
    precision: str = setting("", "First precision to try, instead of the profile's.", choices=("", *PRECISIONS))
    cache: str = setting("", "Folder of engines; empty: ~/.cache/ros_gpt4roi/engines.")
    frames: str = setting("", "Folder of frames to calibrate and check engines with; empty: the package's own.")

    def open_cache(self) -> EngineCache:
        return EngineCache(Path(self.cache).expanduser() if self.cache else None)

    def find_profile(self, gpu_name: str | None) -> EngineProfile:
        profile = find_profile(self.profile, gpu_name)
        return dataclasses.replace(profile, precision=self.precision) if self.precision else profile

    @property
    def frames_folder(self) -> Path:
        return Path(self.frames).expanduser() if self.frames else default_frames_folder()


def open_tensorrt(loaded: LoadedModel, slot: str, options: EngineOptions,
                  progress: ProgressCallback | None = None, write_texts: TextWriter | None = None) -> TensorRTRunner:
    """A TensorRT runner that has passed the gate. Raises EngineError that says why each precision was left out."""
    device = loaded.model.device
    gpu = this_gpu(device)
    if gpu is None:
        raise EngineError(f"the model is on {device}, TensorRT needs a GPU")
    profile, cache = options.find_profile(gpu.name), options.open_cache()
    flavour = choose_flavour(profile.flavour, gpu)
    request = EngineRequest(VisionNetwork.of(loaded.model), slot, profile, flavour, gpu, options.frames_folder)

    def start(engine: CachedEngine) -> TensorRTRunner:
        kernels = cache.folder / f"{engine.path.stem}.kernels"
        return TensorRTRunner(flavour, engine, device, profile.graph_regions, kernels)

    runner = first_accepted(loaded, request, ladder(profile.precision, gpu.capability), cache, options.build == "auto",
                            start, progress, write_texts)
    runner.prepare()
    return runner


def first_accepted(loaded: LoadedModel, request: EngineRequest, precisions: list[str], cache: EngineCache, build: bool,
                   start: Callable[[CachedEngine], _Runner], progress: ProgressCallback | None = None,
                   write_texts: TextWriter | None = None) -> _Runner:
    """The runner of the first precision whose engine can be built and passes the gate.

    start: engine → runner. write_texts: of the language stage, for the gate.
    Raises EngineError that says why each precision was left out.
    """
    reasons = []
    for precision in precisions:
        slot = request.engine_slot(precision)
        try:
            engine, key = provide_engine(request, precision, cache, build, progress)
            runner = start(engine)
            report = _report(loaded, request, engine, key, cache, runner, precision, write_texts)
        except (EngineError, OSError, RuntimeError) as error:  # the last is PyTorch's, of a GPU without memory left
            _log.warning("%s engine: %s", precision, error)
            reasons.append(f"{precision}: {error}")
            continue
        if report.passed:
            _log.info("%s engine accepted: relative errors %s, %d of %d texts the same", precision,
                      {name: f"{error:.2g}" for name, error in report.errors.items()}, report.same_texts, report.texts)
            return runner
        _log.warning("%s engine refused: %s (%s)", precision, report.reason, cache.report_path(slot))
        reasons.append(f"{precision}: {report.reason}")
    raise EngineError("no engine: " + "; ".join(reasons))


def _report(loaded: LoadedModel, request: EngineRequest, engine: CachedEngine, key: EngineKey, cache: EngineCache,
            runner: Encode, precision: str, write_texts: TextWriter | None) -> GateReport:
    """The gate's verdict, remembered for this very file: a refused engine stays where it is, so that it is not built
    anew at every start."""
    path = cache.report_path(request.engine_slot(precision))
    report = read_report(path)
    if report is not None and (report.engine, report.key) == (engine.sha256, key.digest):
        return report
    most = request.profile.max_regions
    frames = [dataclasses.replace(frame, boxes=frame.boxes[:, :most])
              for frame in load_frames(request.frames_folder, request.network.config.preprocess)]
    report = check(runner, twin_of(loaded.model.encode, loaded.model.device), frames, precision,
                   limit_for(precision, loaded.model.dtype), engine.sha256, key.digest, write_texts)
    report.write(path)
    return report


def open_onnxruntime(loaded: LoadedModel, slot: str, options: EngineOptions,
                     progress: ProgressCallback | None = None, _: TextWriter | None = None) -> OnnxRuntimeRunner:
    """An ONNX Runtime runner of the float32 graph, on the model's device. Raises EngineError."""
    device = loaded.model.device
    gpu = this_gpu(device)
    profile, network = options.find_profile(gpu.name if gpu else None), VisionNetwork.of(loaded.model)
    limits = Limits(profile.memory_limit_mib, profile.reserve_mib, profile.timeout_s)
    graph = provide_onnx(network, slot, options.open_cache(), limits, options.build == "auto", progress)
    runner = OnnxRuntimeRunner(graph.path, device, network.output_shapes, "fp32")
    frames = load_frames(options.frames_folder, network.config.preprocess)[:1]
    report = check(runner, twin_of(loaded.model.encode, device), frames, "fp32",
                   limit_for("fp32", loaded.model.dtype), graph.digest, graph.digest)
    if not report.passed:
        raise EngineError(f"ONNX Runtime and PyTorch disagree: {report.reason}")
    return runner
