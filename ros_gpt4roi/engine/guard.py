"""Runs a job in a child process that may not take the machine down with it.

Address space limits do not work here: CUDA reserves far more addresses than it uses. Instead the parent watches what
the child holds and what the system has left, and kills it before memory runs out; should the kernel be faster, the
child has asked to be its first choice.
"""

from __future__ import annotations

import json
import logging
import os
import selectors
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from .errors import EngineError

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


def run_guarded(job: dict[str, Any], limits: Limits, progress: ProgressCallback | None = None) -> Usage:
    """Runs `worker.py` on a job until it is done.

    Raises EngineError with the child's error, or with the limit it met.
    """
    begun = time.monotonic()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(
        [str(Path(__file__).resolve().parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])])}
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as errors:
        child = subprocess.Popen([sys.executable, "-m", "ros_gpt4roi.engine.worker"], stdin=subprocess.PIPE,
                                 stdout=subprocess.PIPE, stderr=errors, env=environment)
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
            try:
                child.stdin.close()
            except BrokenPipeError:
                pass


def _watch(child: subprocess.Popen, errors: Any, begun: float, limits: Limits,
           progress: ProgressCallback | None) -> Usage:
    peak, gpu_start = 0, _gpu_free_mib()
    gpu_least, buffer, failure, done = gpu_start, b"", "", False
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
            left = _available_mib()
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


def _tail(errors: Any) -> str:
    errors.seek(0)
    return errors.read()[-2000:]


def _resident_mib(pid: int) -> int:
    try:
        text = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except OSError:
        return 0
    return _kib(text, "VmHWM:") // 1024


def _available_mib() -> int:
    return _kib(Path("/proc/meminfo").read_text(encoding="utf-8"), "MemAvailable:") // 1024


def _kib(text: str, name: str) -> int:
    _, found, rest = text.partition(name)
    return int(rest.split()[0]) if found else 0


def _gpu_free_mib() -> int:
    return torch.cuda.mem_get_info()[0] >> 20 if torch.cuda.is_available() else 0
