"""The float32 graph of the exporter → the graph of a precision."""

from __future__ import annotations

from pathlib import Path

import onnx

from .graph import INLINE_BYTES
from .precision import to_half
from .quantise import FORMATS, quantise


def lower(model: onnx.ModelProto, precision: str, ranges: dict[str, float]) -> onnx.ModelProto:
    """Works in place. precision: of profiles.PRECISIONS. ranges: of `calibrate`, for int8 and fp8; else not used."""
    if precision == "fp32":
        return model
    if precision in FORMATS:
        return quantise(to_half(model, "fp16"), ranges, precision)
    return to_half(model, precision)


def lower_file(source: Path, precision: str, ranges: dict[str, float], target: Path) -> Path:
    """Writes the graph of a precision beside others of its kind. Returns where it is: float32 is `source` itself."""
    if precision == "fp32":
        return source
    model = lower(onnx.load(str(source)), precision, ranges)
    large = sum(len(weight.raw_data) for weight in model.graph.initializer) > INLINE_BYTES
    onnx.save(model, str(target), save_as_external_data=large, location=f"{target.name}.data" if large else None)
    return target
