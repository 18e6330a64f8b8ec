"""A TensorRT engine of this model for this machine: cached or built, through the gate, else in a safer precision."""

from __future__ import annotations

import hashlib
import logging
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ...model.checkpoint import LoadedModel, LoadedQwen3VL
from ...regular_file import file_digest
from .. import EngineError
from ..build_process import ProgressCallback, run_job
from ..cache import CachedEngine, CacheError, EngineCache, EngineKey, plain
from ..export import AnyNetwork, ExportedGraph, provide_onnx
from ..gate import Encode, GateReport, TextWriter, check, limit_for, pytorch_reference, read_report
from ..picture_network import PictureNetwork
from ..precision.calibration import FORMATS, FRAMES_FILE
from ..profiles import EngineOptions, EngineProfile, fallback_precisions
from .library import Gpu, Library, choose_library, this_gpu
from .picture_runner import TensorRTPictureRunner
from .runner import TensorRTRunner

_log = logging.getLogger(__name__)
_Runner = TypeVar("_Runner", bound=Encode)
_Found = TypeVar("_Found")


@dataclass(frozen=True)
class EngineRequest:
    """What an engine is wanted for. gpu: None to build ahead of time. frames_folder: to calibrate on."""

    network: AnyNetwork
    entry: str
    profile: EngineProfile
    library: Library
    gpu: Gpu | None
    frames_folder: Path

    def engine_entry(self, precision: str) -> str:
        """File name without suffix. Profile and library are in it so that a shared cache can hold several machines'."""
        return f"{self.entry}-{plain(self.profile.name)}-{self.library.name}-{precision}"

    def key(self, onnx: str, precision: str) -> EngineKey:
        """A plan for listed compute capabilities runs on all of them, whatever card and driver: it names none."""
        if self.gpu is None or (self.library.ahead_of_time and self.profile.compute_capabilities):
            gpu, capability, driver = "any", " ".join(self.profile.compute_capabilities) or "any", "any"
        else:
            gpu, capability, driver = self.gpu.name, "{}.{}".format(*self.gpu.capability), self.gpu.driver
        calibration = _frames_digest(self.frames_folder) if precision in FORMATS else ""
        return EngineKey(onnx, self.library.name, self.library.version, gpu, capability, driver,
                         self.network.shapes_text(self.profile), precision, calibration)


def _frames_digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.is_file():
            digest.update(f"{path.name} {file_digest(path)}\n".encode())
    if not (folder / FRAMES_FILE).exists():
        raise EngineError(f"{folder}: no {FRAMES_FILE}, expected recorded frames to calibrate on")
    return digest.hexdigest()


def provide_engine(request: EngineRequest, precision: str, cache: EngineCache, build: bool = True,
                   progress: ProgressCallback | None = None) -> tuple[CachedEngine, EngineKey]:
    """A verified engine of one precision, built where the cache has none that fits.

    Of several processes that ask for the same, one builds and the others wait.

    Raises:
        EngineError: it is missing and build is False; the build fails, meets a limit, or takes another process too
            long.
    """
    limits = request.profile.limits
    graph = provide_onnx(request.network, request.entry, cache, limits, build, progress)
    key, entry = request.key(graph.digest, precision), request.engine_entry(precision)
    with cache.lock(entry, limits.timeout_s, progress):
        try:
            return cache.load(entry, key), key
        except CacheError as reason:
            if not build:
                raise EngineError(f"{reason}, and building is switched off") from reason
            _log.info("%s, building it", reason)
        with tempfile.TemporaryDirectory(dir=cache.folder, prefix=".build-") as scratch:
            plan = Path(scratch, "plan")
            usage = run_job(_job(request, graph, precision, Path(scratch)), limits, progress)
            notes = {"seconds": round(usage.seconds, 1), "peak_mib": usage.peak_mib, "gpu_peak_mib": usage.gpu_peak_mib}
            engine = cache.store(entry, key, plan, notes)
        _log.info("%s: built in %.0f s, peak memory %d MiB, on the GPU %d MiB", engine.path, usage.seconds,
                  usage.peak_mib, usage.gpu_peak_mib)
        return engine, key


def _job(request: EngineRequest, graph: ExportedGraph, precision: str, scratch: Path) -> dict[str, Any]:
    profile = request.profile
    return {
        "kind": "build", "onnx": str(graph.path), "converted": str(scratch / "converted.onnx"),
        "plan": str(scratch / "plan"), "library": request.library.name, "precision": precision,
        "workspace_mib": profile.workspace_mib,
        "shapes": request.network.plan_shapes(profile),
        "compute_capabilities": list(profile.compute_capabilities) if request.library.ahead_of_time else [],
        "frames_folder": str(request.frames_folder), "frames": request.network.frames_record(profile)}


def open_tensorrt(loaded: LoadedModel | LoadedQwen3VL, network: AnyNetwork, entry: str, options: EngineOptions,
                  progress: ProgressCallback | None = None,
                  write_texts: TextWriter | None = None) -> TensorRTRunner | TensorRTPictureRunner:
    """A TensorRT runner that has passed the gate.

    Args:
        loaded: the model, on a GPU.
        network: what becomes its engine, of `export.network_of`.
        entry: its name in the cache, of `cache.model_entry`.
        options: profile, cache, and whether what is missing is built.
        progress: called with how far a build has come.
        write_texts: of the language stage, for the gate.

    Raises:
        EngineError: says why each precision was left out.
    """
    device = loaded.model.device
    gpu = this_gpu(device)
    if gpu is None:
        raise EngineError(f"the model is on {device}, TensorRT needs a GPU")
    profile, cache = options.find_profile(gpu.name), options.open_cache()
    library = choose_library(profile.library, gpu)
    request = EngineRequest(network, entry, profile, library, gpu, options.frames_folder)

    def start(engine: CachedEngine) -> TensorRTRunner | TensorRTPictureRunner:
        kernels = cache.folder / f"{engine.path.stem}.kernels"
        runner: TensorRTRunner | TensorRTPictureRunner
        if isinstance(network, PictureNetwork):
            runner = TensorRTPictureRunner(library, engine, device, network, kernels)
        else:
            runner = TensorRTRunner(library, engine, device, profile.graph_regions, kernels)
        runner.prepare()
        return runner

    precisions = fallback_precisions(profile.precision, gpu.capability)
    return first_accepted(loaded, request, precisions, cache, options.build == "auto", start, progress, write_texts)


def first_accepted(loaded: LoadedModel | LoadedQwen3VL, request: EngineRequest, precisions: list[str],
                   cache: EngineCache, build: bool, start: Callable[[CachedEngine], _Runner],
                   progress: ProgressCallback | None = None, write_texts: TextWriter | None = None) -> _Runner:
    """The runner of the first precision whose engine can be built and passes the gate.

    Args:
        loaded: the model.
        request: what the engine is for.
        precisions: to try, in this order.
        cache: where engines are kept.
        build: whether to build what is missing.
        start: engine → runner.
        progress: called with how far a build has come.
        write_texts: of the language stage, for the gate.

    Raises:
        EngineError: says why each precision was left out.
    """
    def accepted(precision: str) -> _Runner:
        engine, key = provide_engine(request, precision, cache, build, progress)
        runner = start(engine)
        report = _report(loaded, request, engine, key, cache, runner, precision, write_texts)
        if not report.passed:
            raise EngineError(f"refused, {report.reason} ({cache.report_path(request.engine_entry(precision))})")
        _log.info("%s engine accepted: relative errors %s, %d of %d texts the same", precision,
                  {name: f"{error:.2g}" for name, error in report.errors.items()}, report.same_texts, report.texts)
        return runner

    return first_that_works(precisions, accepted)


def first_that_works(precisions: list[str], attempt: Callable[[str], _Found]) -> _Found:
    """What `attempt` gives for the first precision with which it does not fail.

    Raises:
        EngineError: says why each precision was left out.
    """
    reasons = []
    for precision in precisions:
        try:
            return attempt(precision)
        except Exception as error:  # whatever fails leads to the next
            _log.warning("%s engine: %s", precision, error)
            reasons.append(f"{precision}: {error}")
    raise EngineError("no engine: " + "; ".join(reasons))


def _report(loaded: LoadedModel | LoadedQwen3VL, request: EngineRequest, engine: CachedEngine, key: EngineKey,
            cache: EngineCache, runner: Encode, precision: str, write_texts: TextWriter | None) -> GateReport:
    """Return the gate's verdict, remembered for this very file.

    A refused engine stays where it is, so that it is not built anew at every start.
    """
    path = cache.report_path(request.engine_entry(precision))
    report = read_report(path)
    if report is not None and (report.engine, report.key, set(report.errors)) == (
            engine.sha256, key.digest, set(request.network.compared)):
        # One that `build_engine` passed without a language stage has yet to be asked for texts.
        if write_texts is None or report.texts or not report.passed:
            return report
    report = check(runner, pytorch_reference(loaded.model.encode, loaded.model.device),
                   request.network.frames(request.frames_folder, request.profile), request.network.mask_side, precision,
                   limit_for(precision, loaded.model.dtype), engine.sha256, key.digest, write_texts,
                   request.network.outputs)
    report.write(path)
    return report
