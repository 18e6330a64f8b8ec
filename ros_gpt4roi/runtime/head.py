"""From hidden states to the next tokens and their probabilities."""
from __future__ import annotations

import logging
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from .body import weights_of

logger = logging.getLogger(__name__)
MOST_WEIGHTS = 1 << 22  # of more a product is worth all threads of PyTorch


class Choice(NamedTuple):
    """The most likely next token at n places, its probability there, and all logits [n, V] in float32; and of every hidden
    state whether it is finite, bool [T]. Logits hold until the next call."""

    tokens: list[int]
    probabilities: list[float]
    logits: torch.Tensor
    finite: np.ndarray


# Hidden states [T, D] and the n places that are wanted, in order → the choice.
Head = Callable[[torch.Tensor, list[int]], Choice]


class TorchHead:
    """The model's own output layer. never: ids [k] of tokens that are not to be chosen."""

    def __init__(self, layer: nn.Module, never: torch.Tensor):
        self._layer, self._never = layer, never

    def __call__(self, hidden: torch.Tensor, wanted: list[int]) -> Choice:
        every = len(wanted) == len(hidden)
        logits = self._layer(hidden if every else hidden[wanted]).float().index_fill_(-1, self._never, float("-inf"))
        greedy = logits.argmax(-1)
        chosen = logits.gather(-1, greedy.unsqueeze(-1)).squeeze(-1)
        finite = hidden.float().sum(-1).isfinite()
        # Tokens as doubles lose nothing, and one tensor is one readback.
        packed = torch.cat([greedy.double(), (chosen - logits.logsumexp(-1)).exp().double(), finite.double()]).tolist()
        count = len(wanted)
        return Choice([int(token) for token in packed[:count]], packed[count:2 * count], logits,
                      np.array(packed[2 * count:]) > 0)


def fast_head(layer: nn.Module, never: torch.Tensor, dtype: torch.dtype, onnxruntime: bool) -> Head:
    """OnnxHead for a small layer on a CPU and hidden states of float32, if `onnxruntime` may be used; else TorchHead.

    dtype: of the hidden states. never: ids [k] of tokens that are not to be chosen, on the layer's device.
    """
    own = TorchHead(layer, never)
    if not onnxruntime or never.device.type != "cpu" or dtype != torch.float32 or weights_of(layer) > MOST_WEIGHTS:
        return own
    try:
        from .onnx_head import OnnxHead  # neither onnx nor onnxruntime is needed where this is not used

        return OnnxHead(layer, never, own)
    except (ImportError, ValueError) as problem:
        logger.info("the output layer runs in PyTorch, not in ONNX Runtime: %s", problem)
        return own
