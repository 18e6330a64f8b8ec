"""Float32 ONNX graph → the same in half precision, with what would overflow or lose its digits kept in float32.

The types are written into the graph as casts, so that a strongly typed TensorRT network and ONNX Runtime compute the
same. Products run in half precision; normalisations, statistics and everything computed from box coordinates stay in
float32, and so does what the network's modules ask for (`FormatRequirements`); cheap operators take the type of what
they are given.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from .. import EngineError
from ..graph import FormatRequirements, is_within, replace_nodes

HALF = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}

_PRODUCTS = frozenset(("Conv", "ConvTranspose", "Gemm", "MatMul"))
_FLOAT32 = frozenset((
    "InstanceNormalization", "LayerNormalization", "GroupNormalization", "BatchNormalization", "RMSNormalization",
    "ReduceMean", "ReduceSum", "ReduceL2", "ReduceSumSquare", "Pow", "Sqrt", "Exp", "Log", "Reciprocal", "Div",
    "GridSample", "Floor", "Ceil", "Round", "AveragePool", "GlobalAveragePool"))
_TYPED = frozenset(("Cast", "CastLike", "Constant", "ConstantOfShape", "Range"))  # which say what their output is
# Inputs that have to be float32 whatever the others are: scales and regions of interest of Resize.
_PARAMETER_INPUTS = {"Resize": (1, 2)}


def to_half(model: onnx.ModelProto, precision: str) -> onnx.ModelProto:
    """Turns the graph, in place, into "fp16" or "bf16". Inputs keep their types, floating-point outputs become half.

    Raises:
        EngineError: a weight is too large for float16.
    """
    return _HalfConversion(model, HALF[precision]).run()


class _HalfConversion:
    def __init__(self, model: onnx.ModelProto, half: int):
        self.model, self.graph, self.half = model, model.graph, half
        self.requirements = FormatRequirements.of(model)
        self.weights = {w.name: w for w in self.graph.initializer}
        self.types = _float_values(self.model)
        self.casts: dict[tuple[str, int], str] = {}
        self.nodes: list[onnx.NodeProto] = []
        self.made: dict[str, TensorProto] = {}

    def run(self) -> onnx.ModelProto:
        for node in self.graph.node:
            self._node(node)
        for output in self.graph.output:
            if output.name in self.types:
                self._finish(output)
        replace_nodes(self.graph, self.nodes, self.made.values())
        if self.half == TensorProto.BFLOAT16:
            # The first version in which convolutions take bfloat16; no operator used here changed in it.
            self.model.opset_import[0].version = max(22, self.model.opset_import[0].version)
        return self.model

    def _node(self, node: onnx.NodeProto) -> None:
        floats = [i for i, name in enumerate(node.input)
                  if name in self.types and i not in _PARAMETER_INPUTS.get(node.op_type, ())]
        wanted = self._wanted(node, [node.input[i] for i in floats])
        for i in floats:
            node.input[i] = self._as(node.input[i], wanted)
        self.nodes.append(node)
        for name in node.output:
            if name in self.types:
                self.types[name] = wanted

    def _wanted(self, node: onnx.NodeProto, inputs: list[str]) -> int:
        if node.op_type in _PRODUCTS:
            return TensorProto.FLOAT if is_within(node, self.requirements.keep_in_fp32) else self.half
        computed = [name for name in inputs if name not in self.weights]
        if node.op_type in (_FLOAT32 | _TYPED) or not computed:
            return TensorProto.FLOAT
        is_sum = node.op_type in ("Add", "Sum") and len(computed) > 1
        if is_sum and is_within(node, self.requirements.sum_in_fp32):
            return TensorProto.FLOAT
        if any(self.types[name] == TensorProto.FLOAT for name in computed):
            return TensorProto.FLOAT
        return self.half

    def _as(self, name: str, wanted: int) -> str:
        """The name of a value in the wanted type; weights are converted here, computed values in the graph."""
        if self.types[name] == wanted:
            return name
        if (name, wanted) in self.casts:
            return self.casts[name, wanted]
        new = f"{name}_{TensorProto.DataType.Name(wanted).lower()}"
        if name in self.weights:
            self.made[new] = self._half_weight(self.weights[name], new)
        else:
            self.nodes.append(helper.make_node("Cast", [name], [new], name=f"cast_{new}", to=wanted))
        self.types[new] = wanted
        self.casts[name, wanted] = new
        return new

    def _half_weight(self, weight: TensorProto, new: str) -> TensorProto:
        with np.errstate(over="ignore"):
            values = numpy_helper.to_array(weight).astype(helper.tensor_dtype_to_np_dtype(self.half))
        if self.half == TensorProto.FLOAT16 and not np.isfinite(values).all():
            raise EngineError(f"weight {weight.name} has values beyond float16's 65504, this model needs bf16")
        return numpy_helper.from_array(values, new)

    def _finish(self, output: onnx.ValueInfoProto) -> None:
        if self.types[output.name] != self.half:
            inner = f"{output.name}_float"
            for node in self.nodes:
                for names in (node.input, node.output):
                    for i, name in enumerate(names):
                        if name == output.name:
                            names[i] = inner
            name = f"cast_{output.name}"
            self.nodes.append(helper.make_node("Cast", [inner], [output.name], name=name, to=self.half))
        output.type.tensor_type.elem_type = self.half


def _float_values(model: onnx.ModelProto) -> dict[str, int]:
    """Every float32 value of the graph → its present type."""
    graph = onnx.shape_inference.infer_shapes(_without_data(model)).graph
    typed: Iterable[onnx.ValueInfoProto] = [*graph.input, *graph.value_info, *graph.output]
    names = {v.name for v in typed if v.type.tensor_type.elem_type == TensorProto.FLOAT}
    names |= {w.name for w in model.graph.initializer if w.data_type == TensorProto.FLOAT}
    return dict.fromkeys(names, TensorProto.FLOAT)


def _without_data(model: onnx.ModelProto) -> onnx.ModelProto:
    """Copy a model, with large weights declared as inputs.

    Shape inference needs only their type, and a message of more than 2 GB can neither be copied nor sent to it.
    """
    graph = model.graph
    small = [w for w in graph.initializer if len(w.raw_data) <= 1024]
    large = [helper.make_tensor_value_info(w.name, w.data_type, list(w.dims))
             for w in graph.initializer if len(w.raw_data) > 1024]
    light = helper.make_graph(graph.node, graph.name, [*graph.input, *large], graph.output, small,
                              value_info=graph.value_info)
    return helper.make_model(light, opset_imports=model.opset_import, ir_version=model.ir_version)
