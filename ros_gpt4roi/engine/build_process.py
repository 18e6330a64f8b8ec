"""Exports and builds in a child process that may not take the machine down with it.

Address space limits do not work here: CUDA reserves far more addresses than it uses. Instead the parent watches what
the child holds and what the system has left, and kills it before memory runs out; should the kernel be faster, the
child has asked to be its first choice.

The child gets one job as a line of JSON on stdin and tells its progress as lines of JSON on stdout.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import selectors
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

import psutil

from . import EngineError

_log = logging.getLogger(__name__)
_POLL_S = 0.05


@dataclass(frozen=True)
class Progress:
    """How far a build has come. step: what is being done, in words. fraction: of that step, 0..1."""

    step: str
    fraction: float


ProgressCallback = Callable[[Progress], None]


@dataclass(frozen=True)
class Limits:
    """memory_mib: of the child. reserve_mib: system memory that must stay available. timeout_s: of the whole job."""

    memory_mib: int
    reserve_mib: int
    timeout_s: float


@dataclass(frozen=True)
class Usage:
    """seconds it took; peak resident memory of the child and peak GPU memory of the whole device beyond the start."""

    seconds: float
    peak_mib: int
    gpu_peak_mib: int


class Report(Protocol):
    """How a job tells how far it has come."""

    def __call__(self, *, step: str, fraction: float) -> None:
        """step, fraction: see Progress."""


def run_job(job: dict[str, Any], limits: Limits, progress: ProgressCallback | None = None) -> Usage:
    """Runs a job in a child process until it is done.

    Args:
        job: "kind" of `_JOBS`, and what that kind reads.
        limits: of the child; it is killed where it meets one.
        progress: called with how far the job has come; it must return at once.

    Raises:
        EngineError: with the child's error, or with the limit it met.
    """
    begun = time.monotonic()
    # No code from the folder that the node happens to be started in, which an empty or relative element stands for.
    path = [str(Path(__file__).resolve().parents[2]),
            *filter(os.path.isabs, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    environment = {**os.environ, "PYTHONSAFEPATH": "1", "PYTHONPATH": os.pathsep.join(path)}
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as errors:
        child = subprocess.Popen([sys.executable, "-m", __name__], stdin=subprocess.PIPE,
                                 stdout=subprocess.PIPE, stderr=errors, env=environment)
        assert child.stdin is not None and child.stdout is not None
        try:
            # stdin stays open: its end tells the child that its parent has died.
            child.stdin.write(json.dumps(job).encode() + b"\n")
            child.stdin.flush()
            return _watch(child, errors, begun, limits, progress)
        except BrokenPipeError:
            raise EngineError(f"the building process did not start:\n{_tail(errors)}") from None
        finally:
            child.kill()
            child.wait()
            child.stdout.close()
            with contextlib.suppress(BrokenPipeError):
                child.stdin.close()


def _watch(child: subprocess.Popen[bytes], errors: IO[str], begun: float, limits: Limits,
           progress: ProgressCallback | None) -> Usage:
    peak, gpu_start = 0, _gpu_free_mib()
    gpu_least, buffer, failure, done = gpu_start, b"", "", False
    assert child.stdout is not None
    os.set_blocking(child.stdout.fileno(), False)
    with selectors.DefaultSelector() as selector:
        selector.register(child.stdout, selectors.EVENT_READ)
        while True:
            readable = selector.select(_POLL_S)
            held = _resident_mib(child.pid)
            peak, gpu_least = max(peak, held), min(gpu_least, _gpu_free_mib())
            if held > limits.memory_mib:
                raise EngineError(f"building stopped at {held} MiB, the profile allows memory_limit_mib "
                                  f"{limits.memory_mib}")
            left = psutil.virtual_memory().available >> 20
            if left < limits.reserve_mib:
                raise EngineError(f"building stopped with {left} MiB of system memory left, the profile keeps "
                                  f"reserve_mib {limits.reserve_mib}")
            if time.monotonic() - begun > limits.timeout_s:
                raise EngineError(f"building stopped after {limits.timeout_s:.0f} s, the profile's timeout_s")
            if not readable:
                continue
            chunk = child.stdout.read()
            if chunk is None:
                continue
            if not chunk:
                break
            *lines, buffer = (buffer + chunk).split(b"\n")
            for message in map(json.loads, lines):
                failure, done = message.get("error", failure), done or message.get("done", False)
                if "step" in message:
                    _log.debug("%s %.0f %%", message["step"], 100 * message["fraction"])
                    if progress is not None:
                        progress(Progress(message["step"], message["fraction"]))
    child.wait(limits.timeout_s)
    if failure or not done:
        raise EngineError(failure or f"the building process ended with {child.returncode}:\n{_tail(errors)}")
    return Usage(time.monotonic() - begun, peak, gpu_start - gpu_least)


def _tail(errors: IO[str]) -> str:
    errors.seek(0)
    return errors.read()[-2000:]


def _resident_mib(pid: int) -> int:
    try:
        text = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except OSError:
        return 0
    _, found, rest = text.partition("VmHWM:")  # the peak so far, in KiB
    return int(rest.split()[0]) // 1024 if found else 0


def _gpu_free_mib() -> int:
    import torch  # not at the top: the child builds without it, and its memory is better left to the builder

    return torch.cuda.mem_get_info()[0] >> 20 if torch.cuda.is_available() else 0


# The child


def _export(job: dict[str, Any], report: Report) -> None:
    from .export import export_onnx, load_network

    report(step="exporting to ONNX", fraction=0.0)
    export_onnx(load_network(Path(job["network"])), Path(job["onnx"]))


def _build(job: dict[str, Any], report: Report) -> None:
    from .precision import write_graph
    from .precision.calibration import FORMATS, calibrate, load_stored
    from .tensorrt.plan import build_plan

    graph, ranges = Path(job["onnx"]), {}
    if job["precision"] in FORMATS:
        report(step="measuring ranges on recorded frames", fraction=0.0)
        ranges = calibrate(graph, load_stored(Path(job["frames_folder"]), job["frames"]))
    report(step=f"writing the {job['precision']} graph", fraction=0.0)
    build_plan(write_graph(graph, job["precision"], ranges, Path(job["converted"])), Path(job["plan"]), job, report)


_JOBS = {"export": _export, "build": _build}


def main() -> None:
    """Runs the job that comes on stdin; the process ends with 0 only where it was done."""
    # Libraries print to stdout as they please: the protocol gets a descriptor of its own.
    out = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)
    lock = threading.Lock()

    def send(**message: Any) -> None:
        with lock:
            out.write(json.dumps(message) + "\n")
            out.flush()

    with contextlib.suppress(OSError):  # some containers do not allow it
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    os.nice(10)
    job = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        _JOBS[job["kind"]](job, send)
    except Exception as error:  # whatever a library raises: the parent decides what it leads to
        send(error=f"{type(error).__name__}: {error}")
        # No clean-up on the way out: a half-built network in a driver that is out of memory may hang.
        os._exit(1)
    send(done=True)
    out.close()
    os._exit(0)


def _end_with_parent() -> None:
    sys.stdin.read()
    os._exit(2)


if __name__ == "__main__":
    main()
