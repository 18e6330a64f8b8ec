"""Steps in which rows have adapters: the decoder's linear layers, with what each row's adapter adds to their output.

Rows of several adapters take a step together: the weights of all that are in it stand one behind the other, as one
adapter of the sum of their ranks, and a mask leaves each row its own. Beside the products themselves it costs the same
three operations a layer however many there are, so adapters had better be small.
"""
from __future__ import annotations

import copy
import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from .adapter_folder import Adapter, LoraWeights, linear_layers
from .forward import MOST_FIXED, Forward
from .language_model import Body

logger = logging.getLogger(__name__)
_BLENDS = 4  # sets of adapters whose forwards are kept; on a GPU each has CUDA graphs


class _Blend:
    """Several adapters as one: `weights` has each layer that any of them changes, ranks one behind the other."""

    def __init__(self, adapters: tuple[Adapter, ...]):
        self._adapters = adapters
        names = dict.fromkeys(name for adapter in adapters for name in adapter.weights)
        self.weights = {name: self._stack(name) for name in names} if len(adapters) > 1 else adapters[0].weights
        self._ranks = np.array([adapter.rank for adapter in adapters])
        # Few tokens always find their mask at the same address, as a CUDA graph needs it.
        self._few = next(iter(self.weights.values())).down.new_zeros(MOST_FIXED, int(self._ranks.sum()))

    def _stack(self, name: str) -> LoraWeights:
        some = next(adapter.weights[name] for adapter in self._adapters if name in adapter.weights)
        none = some.down.new_zeros
        parts = [adapter.weights.get(name) or LoraWeights(none(adapter.rank, some.down.shape[1]),
                                                          none(some.up.shape[0], adapter.rank))
                 for adapter in self._adapters]
        return LoraWeights(torch.cat([part.down for part in parts]), torch.cat([part.up for part in parts], 1))

    def mask(self, rows: Sequence[Adapter | None], counts: Sequence[int]) -> torch.Tensor:
        """1 where a token has a rank, else 0: [T or more, ranks], of T tokens that rows with these adapters feed."""
        own = np.array([[row is adapter for adapter in self._adapters] for row in rows])
        mask = torch.from_numpy(own.repeat(self._ranks, 1).repeat(counts, 0)).to(self._few)
        if len(mask) > len(self._few):
            return mask
        self._few[:len(mask)] = mask
        return self._few


class _Step:
    """What the layers read: the weights and the mask of the step that is taken."""

    weights: Mapping[str, LoraWeights] = {}
    mask: torch.Tensor


class _AdaptedLinear(nn.Module):
    """A linear layer, and beside it what the step's adapters add."""

    def __init__(self, layer: nn.Module, name: str, step: _Step):
        super().__init__()
        self._layer, self._name, self._step = layer, name, step

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute [..., T, out] of [..., T, in]."""
        out: torch.Tensor = self._layer(x)
        weights = self._step.weights.get(self._name)
        if weights is None:
            return out
        return out + F.linear(F.linear(x, weights.down) * self._step.mask[:x.shape[-2]], weights.up)


class AdaptedForward:
    """Gives the forward of a step whose rows have adapters. Not thread-safe, but for `prepare`.

    Args:
        body: The decoder; it is left as it is, and its layers are shared.
        choose_body: Chooses what runs a decoder.
        make_forward: Makes a forward of that.
    """

    def __init__(self, body: nn.Module, choose_body: Callable[[nn.Module], Body],
                 make_forward: Callable[[Body], Forward]):
        self._original, self._choose, self._make, self._step = body, choose_body, make_forward, _Step()
        self._body: Body | None = None
        self._forwards: OrderedDict[tuple[Adapter, ...], tuple[_Blend, Forward]] = OrderedDict()

    def prepare(self) -> None:
        """Make the decoder, unless there is one; on any one thread at a time."""
        self._adapted_body()

    def _adapted_body(self) -> Body:
        if self._body is None:
            # The same tree of modules over the same tensors, but for the linear layers.
            kept: dict[int, Any] = {id(tensor): tensor
                                    for tensor in (*self._original.parameters(), *self._original.buffers())}
            kept |= {id(layer): _AdaptedLinear(layer, name, self._step)
                     for name, layer in linear_layers(self._original).items()}
            self._body = self._choose(copy.deepcopy(self._original, kept))
            logger.info("steps with an adapter run in PyTorch, as %s", type(self._body).__name__)
        return self._body

    def choose(self, rows: Sequence[Adapter | None], counts: Sequence[int]) -> Forward:
        """Give the forward of the coming step.

        Args:
            rows: The adapter of each row, at least one.
            counts: How many tokens each row feeds.
        """
        adapters = tuple(sorted({row for row in rows if row is not None}, key=id))
        if adapters not in self._forwards:
            if len(self._forwards) == _BLENDS:
                self._forwards.popitem(last=False)
            self._forwards[adapters] = _Blend(adapters), self._make(self._adapted_body())
        self._forwards.move_to_end(adapters)
        blend, forward = self._forwards[adapters]
        self._step.weights, self._step.mask = blend.weights, blend.mask(rows, counts)
        return forward
