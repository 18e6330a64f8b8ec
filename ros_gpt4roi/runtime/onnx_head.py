"""A small output layer and the choice of the next tokens, run by ONNX Runtime: few calls where PyTorch takes a dozen."""
from __future__ import annotations

from typing import NamedTuple

import numpy as np
import onnxruntime
import torch
from onnx import TensorProto
from torch import nn

from .language_model import Choice, Head
from .onnx_graph import FEW, GraphWriter, Steps, bind, value

_THREADS = 1  # a second session's threads would wait on the cores that the body's need


class _Shape(NamedTuple):
    """Input and outputs for one number of tokens, always at the same addresses, bound to a session."""

    hidden: torch.Tensor
    logits: torch.Tensor
    tokens: torch.Tensor
    probabilities: torch.Tensor
    binding: onnxruntime.IOBinding


class OnnxHead:
    """Chooses at few places here, at more in `otherwise`. never: ids [k] of tokens that are not to be chosen.

    Raises ValueError for a layer that is neither of float32 nor of int8 weights.
    """

    def __init__(self, layer: nn.Module, never: torch.Tensor, otherwise: Head):
        writer = GraphWriter()
        logits = writer.linear([layer], "hidden")
        stored = layer.weight if type(layer) is nn.Linear else layer.stored()["weight"]
        self._vocabulary, self._width = stored.shape
        allowed = torch.zeros(self._vocabulary).index_fill_(0, never, float("-inf"))
        last = writer.constant(torch.tensor([-1]))
        writer.node("Add", [logits, writer.constant(allowed)], names=["logits"])
        writer.node("ArgMax", ["logits"], names=["tokens"], axis=-1, keepdims=0)
        largest, total = (writer.node(kind, ["logits", last], keepdims=0) for kind in ("ReduceMax", "ReduceLogSumExp"))
        writer.node("Exp", [writer.node("Sub", [largest, total])], names=["probabilities"])
        self._steps, self._otherwise = Steps[_Shape](writer.model(
            [value("hidden", ["n", self._width])],
            [value("logits", ["n", self._vocabulary]), value("tokens", ["n"], TensorProto.INT64),
             value("probabilities", ["n"])]), lambda: _THREADS), otherwise

    def __call__(self, hidden: torch.Tensor, wanted: list[int]) -> Choice:
        """As `language_model.Head`."""
        count = len(wanted)
        if count > FEW:
            return self._otherwise(hidden, wanted)
        shape = self._steps.shape(count, self._prepare)
        shape.hidden.copy_(hidden if count == len(hidden) else hidden[wanted])
        self._steps.session.run_with_iobinding(shape.binding)
        return Choice(shape.tokens.tolist(), shape.probabilities.tolist(), shape.logits,
                      np.isfinite(hidden.numpy()).all(-1))

    def _prepare(self, count: int, session: onnxruntime.InferenceSession) -> _Shape:
        shape = _Shape(torch.empty(count, self._width), torch.empty(count, self._vocabulary),
                       torch.empty(count, dtype=torch.long), torch.empty(count), session.io_binding())
        bind(shape.binding.bind_input, "hidden", shape.hidden)
        for name in ("logits", "tokens", "probabilities"):
            bind(shape.binding.bind_output, name, getattr(shape, name))
        return shape
