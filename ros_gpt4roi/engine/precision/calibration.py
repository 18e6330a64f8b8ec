"""Calibration on recorded frames, and explicit quantisation.

QuantizeLinear and DequantizeLinear pairs (Q/DQ) stand around the products with constant weights. Activations get one
scale a tensor, measured on the frames; weights one scale an output channel. Zero points are zero, as TensorRT asks
for. The first product (it reads pixels) stays as it is, and so do those of modules that ask for it
(`FormatRequirements`).

Recorded frames are a folder of images and a frames.json, boxes in pixels of their image; the gate runs on them too:

    {"frames": [{"image": "0.jpg", "boxes": [[x1, y1, x2, y2], …]}, …]}
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import ml_dtypes
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from ...image_file import read_image
from ...model.config import PreprocessConfig
from ...model.preprocess import normalise_boxes, preprocess_frame
from ...paths import find
from ...regular_file import read_json
from .. import EngineError
from ..graph import INPUTS, FormatRequirements, is_within, replace_nodes, session_options

FRAMES_FILE = "frames.json"
# Beyond this share of an activation's values the range is cut: single outliers would cost all others their digits.
_PERCENTILE = 99.99
# Smallest normal float16: below it a scale loses digits.
_SMALLEST_SCALE = 2.0 ** -14


@dataclass(frozen=True, eq=False)
class StoredFrame:
    """image: uint8 RGB [1, H, W, 3]. boxes: float32 [1, N, 4] in units of the image. name: for messages."""

    name: str
    image: np.ndarray
    boxes: np.ndarray


def default_frames_folder() -> Path:
    """The frames that come with the package.

    Raises:
        FileNotFoundError: it was installed without them.
    """
    return find(f"engines/probe/{FRAMES_FILE}").parent


def load_frames(folder: Path, config: PreprocessConfig) -> list[StoredFrame]:
    """Reads a folder and brings its frames to the network's input size.

    Raises:
        EngineError: names the file and what was expected.
    """
    return [_frame(folder, entry, lambda image: preprocess_frame(image, config)) for entry in _entries(folder)]


def load_pictures(folder: Path, sizes: Sequence[tuple[int, int]]) -> list[StoredFrame]:
    """Reads a folder and brings its frames to sizes (height, width) in turn: each frame and each size at least once.

    Raises:
        EngineError: names the file and what was expected.
    """
    entries = _entries(folder)
    return [_frame(folder, entries[turn % len(entries)], functools.partial(_stretched, sizes[turn % len(sizes)]))
            for turn in range(max(len(entries), len(sizes)))]


def _stretched(size: tuple[int, int], image: np.ndarray) -> np.ndarray:
    return cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA)


def load_stored(folder: Path, record: dict[str, Any]) -> list[StoredFrame]:
    """The frames of a folder as a network wants them. record: its `frames_record`."""
    if "sizes" in record:
        return load_pictures(folder, [(height, width) for height, width in record["sizes"]])
    return load_frames(folder, PreprocessConfig(**record["preprocess"]))


def _entries(folder: Path) -> list[Any]:
    listing = folder / FRAMES_FILE
    try:
        entries = read_json(listing)["frames"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EngineError(f"{listing}: {error!r}, expected {{\"frames\": [{{\"image\": …, \"boxes\": …}}]}}") from error
    if not isinstance(entries, list) or not entries:
        raise EngineError(f"{listing}: no frames, expected at least one")
    return entries


def _frame(folder: Path, entry: dict[str, Any], prepare: Callable[[np.ndarray], np.ndarray]) -> StoredFrame:
    try:
        path = folder / entry["image"]
        image = read_image(path)
        boxes = normalise_boxes(np.asarray(entry["boxes"], np.float32), image.shape[1], image.shape[0])
        if not len(boxes):
            raise ValueError("no boxes, expected at least one")
        pixels = prepare(image)
    except (KeyError, TypeError, ValueError) as error:
        raise EngineError(f"{folder / FRAMES_FILE}, entry {entry!r}: {error}") from error
    return StoredFrame(path.name, pixels[None], boxes[None])


@dataclass(frozen=True)
class _Format:
    onnx_type: int
    dtype: np.dtype[Any]
    largest: float


FORMATS = {"int8": _Format(TensorProto.INT8, np.dtype(np.int8), 127.0),
           "fp8": _Format(TensorProto.FLOAT8E4M3FN, np.dtype(ml_dtypes.float8_e4m3fn), 448.0)}


def _candidates(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    weights = {w.name for w in model.graph.initializer}
    products = [n for n in model.graph.node
                if n.op_type in ("Conv", "Gemm", "MatMul") and n.input[1] in weights and n.input[0] not in weights]
    requirements = FormatRequirements.of(model)
    kept = requirements.keep_unquantised + requirements.keep_in_fp32
    return [n for n in products[1:] if not is_within(n, kept)]


def calibrate(path: Path, frames: Sequence[StoredFrame]) -> dict[str, float]:
    """Runs the float32 graph at `path` on frames.

    Returns:
        The range (largest |value|) of every product's input by the product's node name.

    Raises:
        EngineError: the graph has no product that can be quantised.
    """
    # Its file of weights, where it has one, is named relative to the graph: the copy lies beside the original.
    model = onnx.load(str(path), load_external_data=False)
    watched = {node.name: node.input[0] for node in _candidates(model)}
    if not watched:
        raise EngineError(f"{path}: no product with constant weights to quantise")
    outputs = sorted(set(watched.values()))
    kept = {o.name for o in model.graph.output}
    model.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs if name not in kept)
    probe = path.with_name(path.stem + ".calibration.onnx")
    onnx.save(model, str(probe))
    try:
        session = onnxruntime.InferenceSession(str(probe), session_options(0), providers=["CPUExecutionProvider"])
        ranges = dict.fromkeys(outputs, 0.0)
        shapes = {value.name: value.shape for value in session.get_inputs()}
        for frame in frames:
            feed = {INPUTS[0]: frame.image}
            if len(shapes) > 1:  # a network of pictures is given no regions
                side = shapes[INPUTS[2]][-1]
                feed |= {INPUTS[1]: frame.boxes,
                         INPUTS[2]: np.ones((*frame.boxes.shape[:2], side, side), np.float32)}
            for name, value in zip(outputs, session.run(outputs, feed)):
                ranges[name] = max(ranges[name], float(np.percentile(np.abs(value), _PERCENTILE)))
    finally:
        probe.unlink()
    return {node: ranges[value] for node, value in watched.items()}


def insert_qdq(model: onnx.ModelProto, ranges: dict[str, float], kind: str) -> onnx.ModelProto:
    """Makes the calibrated products of a float32 or half-precision graph, in place, run in int8 or fp8.

    Args:
        model: the graph.
        ranges: of `calibrate` on the float32 graph this one stems from.
        kind: "int8" or "fp8".
    """
    form, graph = FORMATS[kind], model.graph
    weights = {w.name: w for w in graph.initializer}
    made: dict[str, TensorProto] = {}
    nodes: list[onnx.NodeProto] = []
    quantised: dict[tuple[str, float], str] = {}
    chosen = {n.name for n in _candidates(model)} & set(ranges)
    for node in graph.node:
        if node.name in chosen:
            activation, weight = node.input[0], weights[node.input[1]]
            float_type = weight.data_type
            scale = _rounded(max(ranges[node.name] / form.largest, _SMALLEST_SCALE), float_type)
            place = (activation, float(scale))
            if place not in quantised:
                quantised[place] = _pair(f"{activation}_{kind}_{len(quantised)}", activation, scale, float_type, form,
                                         nodes, made)
            node.input[0] = quantised[place]
            node.input[1] = _quantised_weight(f"{node.name}_{kind}", node, weight, form, nodes, made)
        nodes.append(node)
    replace_nodes(graph, nodes, made.values())
    return model


def _rounded(values: np.ndarray | float, float_type: int) -> np.ndarray:
    """Scales as the graph's number format holds them, in float32: weights are divided by what is multiplied later."""
    dtype = helper.tensor_dtype_to_np_dtype(float_type)
    return np.asarray(values, np.float32).astype(dtype).astype(np.float32)


def _tensor(name: str, values: np.ndarray, onnx_type: int) -> TensorProto:
    return numpy_helper.from_array(np.asarray(values).astype(helper.tensor_dtype_to_np_dtype(onnx_type)), name)


def _pair(name: str, activation: str, scale: np.ndarray, float_type: int, form: _Format,
          nodes: list[onnx.NodeProto], made: dict[str, TensorProto]) -> str:
    made[f"{name}_scale"] = _tensor(f"{name}_scale", scale, float_type)
    made[f"{name}_zero"] = _tensor(f"{name}_zero", np.zeros(()), form.onnx_type)
    constants = [f"{name}_scale", f"{name}_zero"]
    nodes.append(helper.make_node("QuantizeLinear", [activation, *constants], [f"{name}_q"], name=f"{name}_q"))
    nodes.append(helper.make_node("DequantizeLinear", [f"{name}_q", *constants], [name], name=name))
    return name


def _quantised_weight(name: str, node: onnx.NodeProto, weight: TensorProto, form: _Format,
                      nodes: list[onnx.NodeProto], made: dict[str, TensorProto]) -> str:
    values = numpy_helper.to_array(weight).astype(np.float32)
    transposed = any(a.name == "transB" and a.i for a in node.attribute)
    axis = 0 if node.op_type == "Conv" or transposed else values.ndim - 1
    others = tuple(i for i in range(values.ndim) if i != axis)
    scale = _rounded(np.maximum(np.abs(values).max(axis=others) / form.largest, _SMALLEST_SCALE), weight.data_type)
    shape = [-1 if i == axis else 1 for i in range(values.ndim)]
    scaled = np.clip(values / scale.reshape(shape), -form.largest, form.largest)
    if form.onnx_type == TensorProto.INT8:
        scaled = np.rint(scaled)
    made[f"{name}_weight"] = _tensor(f"{name}_weight", scaled, form.onnx_type)
    made[f"{name}_weight_scale"] = _tensor(f"{name}_weight_scale", scale, weight.data_type)
    made[f"{name}_weight_zero"] = _tensor(f"{name}_weight_zero", np.zeros(scale.shape), form.onnx_type)
    nodes.append(helper.make_node(
        "DequantizeLinear", [f"{name}_weight", f"{name}_weight_scale", f"{name}_weight_zero"], [f"{name}_dequantised"],
        name=f"{name}_dequantised", axis=axis))
    return f"{name}_dequantised"
