"""ONNX export and engines of the vision stage: build, cache, gate, run. Knows the model, no ROS.

Its parts:

    export.py           the part of a model that becomes an engine, and its float32 ONNX graph
    precision/          that graph in float16 and bfloat16, in int8 and fp8 by calibration
    picture_network.py  the same of a model that takes pictures of any aspect
    tensorrt/           graph → plan → runner, with either of TensorRT's libraries
    onnxruntime.py      the float32 graph in ONNX Runtime
    gate.py             an engine's outputs and texts against PyTorch's
    cache.py            files with a key and a check sum
    build_process.py    the child process that exports and builds, and its limits
    profiles.py         what engines are built for, by GPU
"""

from __future__ import annotations


class EngineError(RuntimeError):
    """An engine that cannot be built, loaded or trusted; the message says why and what to do."""


class PictureSizeError(EngineError):
    """A picture of a size that the engine was not built for: another way has to encode it."""
