"""ONNX → TensorRT plan, with either library. Runs in the child process."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from .. import EngineError
from ..build_process import Report
from .library import load_library, make_logger


def build_plan(graph: Path, plan: Path, job: dict[str, Any], report: Report) -> None:
    """Writes a plan file.

    Args:
        graph: in the precision of the plan.
        plan: the file to write.
        job: "library", "precision", "shapes" (of each optimisation profile by input: least, usual, largest),
            "workspace_mib", "compute_capabilities".
        report: called with how far the build has come.

    Raises:
        EngineError: with TensorRT's own words.
    """
    library = load_library(job["library"])
    trt, logger = library.module, make_logger(library.module)
    builder = trt.Builder(logger)
    if not builder:
        raise EngineError(f"{library.name} {library.version} cannot build here: {logger.last_error}")
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(graph)):
        raise EngineError("; ".join(str(parser.get_error(i)) for i in range(parser.num_errors)) or logger.last_error)
    plugins = [network.get_layer(i).name for i in range(network.num_layers)
               if "PLUGIN" in str(network.get_layer(i).type)]
    if plugins:
        raise EngineError(f"layers {plugins} became plugins, expected none")
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, job["workspace_mib"] << 20)
    if job["precision"] == "fp32":
        # TensorFloat-32 has float16's digits: as the last resort it would refuse what float16 was refused for.
        config.clear_flag(trt.BuilderFlag.TF32)
    monitor = _monitor(trt, job["precision"], report)
    config.progress_monitor = monitor
    targets = job["compute_capabilities"]
    if targets:
        config.num_compute_capabilities = len(targets)
        for index, name in enumerate(targets):
            known = trt.ComputeCapability.__members__
            if name not in known:
                raise EngineError(f"compute capability {name!r}, expected some of {list(known)}")
            config.set_compute_capability(getattr(trt.ComputeCapability, name), index)
    for shapes in job["shapes"]:
        optimisation = builder.create_optimization_profile()
        for name, least_usual_largest in shapes.items():
            optimisation.set_shape(name, *map(tuple, least_usual_largest))
        config.add_optimization_profile(optimisation)
    serialised = builder.build_serialized_network(network, config)
    if serialised is None:
        raise EngineError(f"{library.name} {library.version} could not build: {logger.last_error}")
    with plan.open("wb") as file:
        file.write(memoryview(serialised))
    report(step=f"built the {job['precision']} engine", fraction=1.0)


def _monitor(trt: Any, precision: str, report: Report) -> Any:
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        """TensorRT's phases nest; the fraction reported is the outermost one's."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._lock = threading.Lock()
            self._phases: dict[str | None, list[Any]] = {}  # name → [parent, steps, steps done]

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            with self._lock:
                self._phases[phase_name] = [parent_phase, max(num_steps, 1), 0]
                self._report(phase_name)

        def step_complete(self, phase_name: str, step: int) -> bool:
            with self._lock:
                if phase_name in self._phases:
                    self._phases[phase_name][2] = step + 1
                    self._report(phase_name)
            return True

        def phase_finish(self, phase_name: str) -> None:
            with self._lock:
                self._phases.pop(phase_name, None)

        def _report(self, phase: str) -> None:
            fraction, name = 0.0, phase
            while name in self._phases:
                name, steps, done = self._phases[name]
                fraction = min((done + fraction) / steps, 1.0)
            report(step=f"building the {precision} engine: {phase}", fraction=fraction)

    return Monitor()
