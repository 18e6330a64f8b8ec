"""The child process of `guard.py`: one job as a line of JSON on stdin, progress as lines of JSON on stdout."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
from pathlib import Path
from typing import Any, TextIO

from .errors import EngineError


def _export(job: dict[str, Any], say: Any) -> None:
    # Imported here: building needs no PyTorch, and its memory is better left to the builder.
    from .export import export_onnx
    from .network import load_network

    say(step="exporting to ONNX", fraction=0.0)
    export_onnx(load_network(Path(job["network"])), Path(job["onnx"]))


def _build(job: dict[str, Any], say: Any) -> None:
    from ..model.config import PreprocessConfig
    from .builder import build_plan
    from .frames import load_frames
    from .lower import lower_file
    from .quantise import FORMATS, calibrate

    graph, ranges = Path(job["onnx"]), {}
    if job["precision"] in FORMATS:
        say(step="measuring ranges on recorded frames", fraction=0.0)
        ranges = calibrate(graph, load_frames(Path(job["frames_folder"]), PreprocessConfig(**job["preprocess"])))
    say(step=f"writing the {job['precision']} graph", fraction=0.0)
    build_plan(lower_file(graph, job["precision"], ranges, Path(job["lowered"])), Path(job["plan"]), job, say)


_KINDS = {"export": _export, "build": _build}


def main() -> None:
    """Runs the job; the process ends with 0 only where it was done."""
    # Libraries print to stdout as they please: the protocol gets a descriptor of its own.
    out = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)
    lock = threading.Lock()

    def say(**message: Any) -> None:
        with lock:
            _write(out, message)

    with contextlib.suppress(OSError):  # some containers do not allow it
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    os.nice(10)
    job = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        _KINDS[job["kind"]](job, say)
    except (EngineError, MemoryError, OSError, TypeError, ValueError, RuntimeError) as error:
        say(error=f"{type(error).__name__}: {error}")
        # No clean-up on the way out: a half-built network in a driver that is out of memory may hang.
        os._exit(1)
    say(done=True)
    out.close()
    os._exit(0)


def _write(out: TextIO, message: dict[str, Any]) -> None:
    out.write(json.dumps(message) + "\n")
    out.flush()


def _end_with_parent() -> None:
    sys.stdin.read()
    os._exit(2)


if __name__ == "__main__":
    main()
