"""The float32 graph of the exporter → the graph of a precision."""

from __future__ import annotations

from pathlib import Path

import onnx

from ..graph import INLINE_BYTES
from .calibration import FORMATS, insert_qdq
from .half import to_half


def convert_graph(model: onnx.ModelProto, precision: str, ranges: dict[str, float]) -> onnx.ModelProto:
    """Turns a float32 graph, in place, into one of a precision.

    Args:
        model: as exported.
        precision: of `profiles.PRECISIONS`.
        ranges: of `calibration.calibrate`, for int8 and fp8; else not used.
    """
    if precision == "fp32":
        return model
    if precision in FORMATS:
        return insert_qdq(to_half(model, "fp16"), ranges, precision)
    return to_half(model, precision)


def write_graph(source: Path, precision: str, ranges: dict[str, float], target: Path) -> Path:
    """Writes the graph of a precision (see `convert_graph`). Returns where it is: float32 is `source` itself."""
    if precision == "fp32":
        return source
    model = convert_graph(onnx.load(str(source)), precision, ranges)
    large = sum(len(weight.raw_data) for weight in model.graph.initializer) > INLINE_BYTES
    onnx.save(model, str(target), save_as_external_data=large, location=f"{target.name}.data" if large else None)
    return target
