"""Muon for the matrices of a network, AdamW for everything else, as one optimiser with one state.

Muon (Jordan et al. 2024, kellerjordan.github.io/posts/muon; torch.optim.Muon) brings small transformers to the same
loss in fewer steps than AdamW, but takes matrices alone, and embeddings are none in its sense: AdamW learns those.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from typing_extensions import override


class MuonAdamW(torch.optim.Optimizer):
    """Muon for the matrices of layers (parameters named "….layers.…"), AdamW for all others.

    Args:
        named: Parameters by name.
        lr: Learning rate of Muon.
        adamw_lr: Learning rate of AdamW.

    Raises:
        ValueError: no parameter is a matrix of a layer.
    """

    def __init__(self, named: Iterable[tuple[str, nn.Parameter]], lr: float, adamw_lr: float):
        matrices, others = list[nn.Parameter](), list[nn.Parameter]()
        for name, parameter in named:
            (matrices if parameter.ndim == 2 and ".layers." in name else others).append(parameter)
        if not matrices:
            raise ValueError("no matrix of a layer is trainable, expected some for the optimizer muon")
        self._parts = (torch.optim.Muon(matrices, lr=lr, weight_decay=0.0),
                       torch.optim.AdamW(others or [nn.Parameter(torch.zeros(0))], lr=adamw_lr, weight_decay=0.0,
                                         betas=(0.9, 0.95)))
        # The parts' own groups: a learning rate set here is the part's.
        super().__init__([group for part in self._parts for group in part.param_groups], {})
        for part, group in zip(self._parts, self.param_groups, strict=True):
            part.param_groups = [group]

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """One step of both. closure is not supported."""
        for part in self._parts:
            part.step()

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"parts": [part.state_dict() for part in self._parts]}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for i, (part, state) in enumerate(zip(self._parts, state_dict["parts"], strict=True)):
            part.load_state_dict(state)
            self.param_groups[i] = part.param_groups[0]
