"""Graphs of ONNX Runtime's CPU operators, written by hand, and their sessions over tensors of PyTorch."""
from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

import numpy as np
import onnxruntime
import torch
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper
from torch import nn

from .quantised_linear import Int8DynamicLinear, Int8Linear

CONTRIB = "com.microsoft"  # ONNX Runtime's own operators, documented in its ContribOperators.md
FEW = 16  # up to so many tokens it is calls that cost; of more it is arithmetic, which PyTorch does as well
_BLOCKS = 16, 256  # inputs of an int8 layer that share a scale, for weights and activations alike: powers of two
_INT8_ACTIVATIONS = 4  # accuracy level of MatMulNBits: multiplies bytes
_OPERATORS, _FORMAT = 21, 10  # versions of ONNX

Shape = TypeVar("Shape")  # tensors at the same addresses, and their binding


class GraphWriter:
    """Nodes and weights of a graph, one after the other."""

    def __init__(self) -> None:
        #: Whether all layers so far compute with float weights.
        self.exact = True
        self._nodes: list[NodeProto] = []
        self._weights: list[TensorProto] = []

    def node(self, kind: str, inputs: list[str], outputs: int = 1, names: list[str] | None = None, **attributes):
        """Adds a node. Returns the name of its output, or of its outputs where there are more."""
        names = names or [f"{kind}_{len(self._nodes)}_{i}" for i in range(outputs)]
        self._nodes.append(helper.make_node(kind, inputs, names, **attributes))
        return names[0] if len(names) == 1 else names

    def constant(self, value: torch.Tensor) -> str:
        name = f"constant_{len(self._weights)}"
        self._weights.append(numpy_helper.from_array(value.detach().contiguous().numpy(), name))
        return name

    def linear(self, layers: list[nn.Module], x: str) -> str:
        """One product for layers that have the same input; the outputs one behind the other.

        Raises ValueError for layers that are neither all float32 nor all int8.
        """
        if all(type(layer) is nn.Linear and layer.weight.dtype == torch.float32 for layer in layers):
            out = self.node("MatMul", [x, self.constant(torch.cat([layer.weight for layer in layers]).t())])
        elif all(isinstance(layer, (Int8Linear, Int8DynamicLinear)) for layer in layers):
            out = self._int8([layer.stored() for layer in layers], x)
        else:
            raise ValueError(f"layers of {sorted({type(layer).__name__ for layer in layers})}, expected float32 or int8 ones")
        biases = [layer.bias for layer in layers]
        if all(bias is None for bias in biases):
            return out
        return self.node("Add", [out, self.constant(torch.cat([bias.float() for bias in biases]))])

    def _int8(self, stored: list[dict[str, torch.Tensor]], x: str) -> str:
        self.exact = False
        weight = torch.cat([tensors["weight"] for tensors in stored])
        scale = torch.cat([tensors["scale"].float() for tensors in stored])
        rows, inputs = weight.shape
        least, most = _BLOCKS
        block = min(most, max(least, 1 << (inputs - 1).bit_length()))
        blocks = -(-inputs // block)
        # Of unsigned weights 128 is the zero, where no other is given.
        weight = nn.functional.pad((weight.short() + 128).to(torch.uint8), (0, blocks * block - inputs), value=128)
        return self.node("MatMulNBits", [x, self.constant(weight.reshape(rows, blocks, block)),
                                         self.constant(scale.unsqueeze(1).expand(rows, blocks))],
                         domain=CONTRIB, K=inputs, N=rows, bits=8, block_size=block, accuracy_level=_INT8_ACTIVATIONS)

    def model(self, inputs: list[ValueInfoProto], outputs: list[ValueInfoProto]) -> ModelProto:
        graph = helper.make_graph(self._nodes, "steps", inputs, outputs, self._weights)
        operators = [helper.make_opsetid("", _OPERATORS), helper.make_opsetid(CONTRIB, 1)]
        return helper.make_model(graph, ir_version=_FORMAT, opset_imports=operators)


def value(name: str, shape: list, kind: int = TensorProto.FLOAT) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


class Steps(Generic[Shape]):
    """A graph's session, and what is bound to it for each number of tokens.

    threads: gives how many the session is to have, asked at every step.
    """

    def __init__(self, model: ModelProto, threads: Callable[[], int]):
        self._model, self._wanted, self._threads = model.SerializeToString(), threads, 0
        self.session: onnxruntime.InferenceSession | None = None
        self._shapes: dict[int, Shape] = {}

    def shape(self, count: int, prepare: Callable[[int, onnxruntime.InferenceSession], Shape]) -> Shape:
        """What `prepare` has bound for so many tokens; `session`, with as many threads as it is to have, runs it."""
        threads = self._wanted()
        if self._threads != threads:
            self._threads = threads
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = threads
            options.add_session_config_entry("session.force_spinning_stop", "1")  # between steps PyTorch needs the cores
            self.session = onnxruntime.InferenceSession(self._model, options, providers=["CPUExecutionProvider"])
            self.forget()
        if count not in self._shapes:
            self._shapes[count] = prepare(count, self.session)
        return self._shapes[count]

    def forget(self) -> None:
        """Have everything bound again, where the memory has changed."""
        self._shapes.clear()


def bind(to: Callable[..., None], name: str, tensor: torch.Tensor) -> None:
    """Binds an input or output of a session to a tensor's memory; the tensor has to stay."""
    kind = np.int64 if tensor.dtype == torch.int64 else np.float32
    to(name, "cpu", 0, kind, tensor.shape, tensor.data_ptr())
