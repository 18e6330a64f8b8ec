from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from engine_fixtures import inputs
from onnx import TensorProto, numpy_helper

from ros_gpt4roi.engine import EngineError
from ros_gpt4roi.engine.export import VisionNetwork
from ros_gpt4roi.engine.gate import LIMITS, relative_error
from ros_gpt4roi.engine.graph import scope
from ros_gpt4roi.engine.onnxruntime import OnnxRuntimeRunner
from ros_gpt4roi.engine.precision import convert_graph
from ros_gpt4roi.engine.precision.calibration import StoredFrame, calibrate
from ros_gpt4roi.engine.precision.half import to_half


@pytest.fixture(scope="module")
def frames() -> list[StoredFrame]:
    return [StoredFrame(str(seed), *inputs(32, 1, 5, seed)) for seed in range(3)]


@pytest.fixture(scope="module")
def ranges(exported: Path, frames: list[StoredFrame]) -> dict[str, float]:
    return calibrate(exported, frames)


def types_of(model: onnx.ModelProto) -> dict[str, int]:
    """Types of all values, by ONNX's own inference: it refuses operators whose inputs do not fit together."""
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, check_type=True).graph
    types = {v.name: v.type.tensor_type.elem_type for v in (*inferred.input, *inferred.value_info, *inferred.output)}
    return types | {w.name: w.data_type for w in inferred.initializer}


@pytest.mark.parametrize(("precision", "half"), [("fp16", TensorProto.FLOAT16), ("bf16", TensorProto.BFLOAT16)])
def test_products_are_half_and_what_overflows_is_not(exported: Path, precision: str, half: int) -> None:
    model = to_half(onnx.load(str(exported)), precision)
    types = types_of(model)
    for node in model.graph.node:
        where = scope(node)
        if node.op_type in ("Conv", "Gemm", "MatMul") and not where.startswith("regions.position"):
            assert types[node.output[0]] == half, node.name
        if node.op_type in ("InstanceNormalization", "LayerNormalization", "ReduceMean"):
            assert types[node.output[0]] == TensorProto.FLOAT, node.name
        if node.op_type == "Add" and where == "regions" and types[node.output[0]] != TensorProto.INT64:
            assert types[node.output[0]] == TensorProto.FLOAT, f"sum of levels {node.name}"
    assert {types[o.name] for o in model.graph.output} == {half}
    assert types["images"] == TensorProto.UINT8 and types["boxes"] == TensorProto.FLOAT


def test_box_coordinates_never_become_half(exported: Path) -> None:
    model = to_half(onnx.load(str(exported)), "fp16")
    types, from_boxes = types_of(model), {"boxes"}
    for node in model.graph.node:
        # Up to the interpolation matrices, which the next product takes.
        if node.op_type in ("MatMul", "Gemm", "Cast", "Shape") or not from_boxes & set(node.input):
            continue
        from_boxes |= set(node.output)
        assert TensorProto.FLOAT16 not in {types[name] for name in node.output}, node.name
    assert len(from_boxes) > 20


@pytest.mark.parametrize("precision", ["fp16", "int8", "fp8"])
def test_converted_graph_stays_within_the_gates_limit(
        precision: str, exported: Path, network: VisionNetwork, ranges: dict[str, float], tmp_path: Path) -> None:
    graph = tmp_path / "converted.onnx"
    onnx.save(convert_graph(onnx.load(str(exported)), precision, ranges), str(graph))
    runner = OnnxRuntimeRunner(graph, torch.device("cpu"), network.output_shapes, "fp16", threads=1)
    images, boxes = inputs(32, 1, 5, seed=9)
    with torch.inference_mode():
        expected = network(torch.from_numpy(images), torch.from_numpy(boxes))
    errors = [relative_error(got, wanted) for got, wanted in zip(runner(images, boxes), expected)]
    assert max(errors) <= LIMITS[precision]
    assert min(errors) > 0


@pytest.mark.parametrize(("precision", "kind"), [("int8", TensorProto.INT8), ("fp8", TensorProto.FLOAT8E4M3FN)])
def test_quantised_products_read_calibrated_pairs(
        precision: str, kind: int, exported: Path, ranges: dict[str, float]) -> None:
    model = convert_graph(onnx.load(str(exported)), precision, ranges)
    made_by = {output: node for node in model.graph.node for output in node.output}
    weights = {w.name: w for w in model.graph.initializer}
    quantised = [n for n in model.graph.node if n.name in ranges]
    assert len(quantised) == len(ranges) > 10
    for node in quantised:
        pair = [made_by[name] for name in node.input[:2]]
        assert [n.op_type for n in pair] == ["DequantizeLinear", "DequantizeLinear"]
        assert made_by[pair[0].input[0]].op_type == "QuantizeLinear"
        assert weights[pair[1].input[0]].data_type == kind
        assert not scope(node).startswith(("projector", "regions.project", "regions.position"))


def test_weight_beyond_half_precision_is_refused(exported: Path) -> None:
    def with_large_weight() -> onnx.ModelProto:
        model = onnx.load(str(exported))
        conv = next(n for n in model.graph.node if n.op_type == "Conv")
        weight = next(w for w in model.graph.initializer if w.name == conv.input[1])
        values = numpy_helper.to_array(weight).copy()
        values.flat[0] = 1e6
        weight.CopyFrom(numpy_helper.from_array(values, weight.name))
        return model

    with pytest.raises(EngineError, match="beyond float16"):
        to_half(with_large_weight(), "fp16")
    assert to_half(with_large_weight(), "bf16").graph.node


def test_bfloat16_weights_are_rounded_to_nearest() -> None:
    from ros_gpt4roi.engine.precision.half import _HalfConversion

    values = np.array([1.0, 1.00390625, 1.01171875, -3.1415927], np.float32)
    model = onnx.helper.make_model(onnx.helper.make_graph([], "g", [], [], [numpy_helper.from_array(values, "w")]))
    halved = _HalfConversion(model, TensorProto.BFLOAT16)._half_weight(model.graph.initializer[0], "w_half")
    got = torch.frombuffer(bytearray(halved.raw_data), dtype=torch.bfloat16)
    assert torch.equal(got, torch.from_numpy(values).bfloat16())
