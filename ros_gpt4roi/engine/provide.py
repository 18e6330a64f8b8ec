"""An engine of this model for this machine: exported, built, checked, from the cache where it is there already."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .cache import CachedEngine, CacheError, EngineCache, EngineKey, file_digest
from .errors import EngineError
from .flavour import Flavour, Gpu
from .frames import FRAMES_FILE
from .graph import onnx_files
from .guard import Limits, ProgressCallback, run_guarded
from .network import VisionNetwork, fingerprint, save_network
from .profiles import EngineProfile
from .quantise import FORMATS

_log = logging.getLogger(__name__)
_RECORD = "record.json"
GRAPH_FOLDER = "vision.onnx"  # of a model folder that brings its exported graph
_ADOPTION_LIMIT_S = 600.0


def model_slot(folder: Path) -> str:
    """Name under which the cache keeps what belongs to a model folder: its last part and a check value of its path."""
    folder = Path(folder).resolve()
    return f"{_plain(folder.name)}-{hashlib.sha256(str(folder).encode()).hexdigest()[:8]}"


def _plain(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_]+", "_", text).strip("_")


@dataclass(frozen=True)
class ExportedGraph:
    """The float32 ONNX graph of a model. digest: SHA-256 over graph and weights."""

    path: Path
    digest: str


def provide_onnx(network: VisionNetwork, slot: str, cache: EngineCache, limits: Limits, build: bool = True,
                 progress: ProgressCallback | None = None) -> ExportedGraph:
    """The exported graph of a network, from the cache where it fits.

    slot: of `model_slot`. Raises EngineError where it is missing and build is False, or cannot be exported.
    """
    expected = fingerprint(network)
    folder = cache.graph_folder(slot)
    with cache.lock(f"{slot}.onnx", limits.timeout_s):
        found, reason = verify_graph(folder, expected)
        if found is not None:
            return found
        if not build:
            raise EngineError(f"{folder}: {reason}, and building is switched off")
        _log.info("%s: %s, exporting", folder, reason)
        with tempfile.TemporaryDirectory(dir=cache.folder, prefix=".export-") as scratch:
            source, target = Path(scratch, "network"), Path(scratch, "graph")
            source.mkdir()
            target.mkdir()
            save_network(network, source)
            graph = target / "vision.onnx"
            run_guarded({"kind": "export", "network": str(source), "onnx": str(graph)}, limits, progress)
            files = {path.name: file_digest(path) for path in onnx_files(graph)}
            (target / _RECORD).write_text(json.dumps({"fingerprint": expected, "files": files}), encoding="utf-8")
            shutil.rmtree(folder, ignore_errors=True)
            os.replace(target, folder)
        found, reason = verify_graph(folder, expected)
        if found is None:
            raise EngineError(f"{folder}: {reason}, just after it was written")
        return found


def adopt_graph(folder: Path, network: VisionNetwork, slot: str, cache: EngineCache) -> None:
    """Puts the graph that a model folder brings into the cache, unless what is there fits or the graph does not.

    network: of that model. Raises nothing: what could not be taken is exported where it is needed, and the log says why.
    """
    brought, own = Path(folder) / GRAPH_FOLDER, cache.graph_folder(slot)
    if not brought.is_dir():
        return
    expected = fingerprint(network)
    try:
        with cache.lock(f"{slot}.onnx", _ADOPTION_LIMIT_S):
            if verify_graph(own, expected)[0] is not None:
                return
            found, reason = verify_graph(brought, expected)
            if found is None:
                raise EngineError(reason)
            with tempfile.TemporaryDirectory(dir=cache.folder, prefix=".export-") as scratch:
                copy = shutil.copytree(brought, Path(scratch, "graph"))
                shutil.rmtree(own, ignore_errors=True)
                os.replace(copy, own)
    except (EngineError, OSError) as error:
        _log.warning("%s is not used: %s", brought, error)
    else:
        _log.info("%s: taken into %s", brought, own)


def verify_graph(folder: Path, expected: str | None = None) -> tuple[ExportedGraph | None, str]:
    """The graph of a folder, or None and why it must not be used. expected: the network's fingerprint (None: any)."""
    try:
        record = json.loads((folder / _RECORD).read_text(encoding="utf-8"))
        if expected not in (None, record["fingerprint"]):
            return None, "stale, model, code or PyTorch changed"
        for name, digest in record["files"].items():
            if file_digest(folder / name) != digest:
                return None, f"{name} is damaged or tampered with"
    except FileNotFoundError:
        return None, "not exported yet"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return None, f"unreadable ({error!r})"
    whole = hashlib.sha256(json.dumps(record["files"], sort_keys=True).encode()).hexdigest()
    return ExportedGraph(folder / "vision.onnx", whole), ""


@dataclass(frozen=True)
class EngineRequest:
    """What an engine is wanted for. gpu: None to build ahead of time. frames_folder: to calibrate on."""

    network: VisionNetwork
    slot: str
    profile: EngineProfile
    flavour: Flavour
    gpu: Gpu | None
    frames_folder: Path

    @property
    def limits(self) -> Limits:
        return Limits(self.profile.memory_limit_mib, self.profile.reserve_mib, self.profile.timeout_s)

    def engine_slot(self, precision: str) -> str:
        """File name without suffix. Profile and flavour are in it so that a shared cache can hold several machines'."""
        return f"{self.slot}-{_plain(self.profile.name)}-{self.flavour.name}-{precision}"

    def key(self, onnx: str, precision: str) -> EngineKey:
        """A plan for listed compute capabilities runs on all of them, whatever card and driver: it names none."""
        portable = self.gpu is None or (self.flavour.ahead_of_time and bool(self.profile.compute_capabilities))
        if portable:
            gpu, capability, driver = "any", " ".join(self.profile.compute_capabilities) or "any", "any"
        else:
            gpu, capability, driver = self.gpu.name, "{}.{}".format(*self.gpu.capability), self.gpu.driver
        calibration = _frames_digest(self.frames_folder) if precision in FORMATS else ""
        return EngineKey(onnx, self.flavour.name, self.flavour.version, gpu, capability, driver, self.profile.shapes,
                         precision, calibration)


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

    Of several processes that ask for the same, one builds and the others wait. Raises EngineError where it is missing
    and build is False, where the build fails, meets a limit, or takes another process too long.
    """
    graph = provide_onnx(request.network, request.slot, cache, request.limits, build, progress)
    key, slot = request.key(graph.digest, precision), request.engine_slot(precision)
    with cache.lock(slot, request.limits.timeout_s):
        try:
            return cache.load(slot, key), key
        except CacheError as reason:
            if not build:
                raise EngineError(f"{reason}, and building is switched off") from reason
            _log.info("%s, building it", reason)
        with tempfile.TemporaryDirectory(dir=cache.folder, prefix=".build-") as scratch:
            plan = Path(scratch, "plan")
            usage = run_guarded(_job(request, graph, precision, Path(scratch)), request.limits, progress)
            notes = {"seconds": round(usage.seconds, 1), "peak_mib": usage.peak_mib, "gpu_peak_mib": usage.gpu_peak_mib}
            engine = cache.store(slot, key, plan, notes)
        _log.info("%s: built in %.0f s, peak memory %d MiB, on the GPU %d MiB", engine.path, usage.seconds,
                  usage.peak_mib, usage.gpu_peak_mib)
        return engine, key


def _job(request: EngineRequest, graph: ExportedGraph, precision: str, scratch: Path) -> dict[str, Any]:
    profile = request.profile
    return {
        "kind": "build", "onnx": str(graph.path), "lowered": str(scratch / "lowered.onnx"),
        "plan": str(scratch / "plan"), "flavour": request.flavour.name, "precision": precision,
        "workspace_mib": profile.workspace_mib,
        "frames": [1, profile.usual_frames, profile.max_frames],
        "regions": [1, profile.usual_regions, profile.max_regions],
        "compute_capabilities": list(profile.compute_capabilities) if request.flavour.ahead_of_time else [],
        "frames_folder": str(request.frames_folder), "preprocess": asdict(request.network.config.preprocess)}
