"""One forward of the language model's body over tokens of all rows, in whatever shape or in few fixed ones."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from .kv_cache import SlotCache
from .language_model import Body

_TOKENS = (1, 2, 4, 8, 16, 32)  # fixed numbers of tokens; more than the last are a prompt, where shape costs little
MOST_FIXED = _TOKENS[-1]
_SLOTS = 512  # fixed numbers of slots are multiples of this


class Forward:
    """Runs any number of tokens as they are. On a CPU, where a launch is cheap, nothing is won by padding."""

    def __init__(self, body: Body, cache: SlotCache, device: torch.device):
        self._body, self._cache, self._device = body, cache, device

    def __call__(self, embeddings: torch.Tensor, positions: np.ndarray, slots: np.ndarray,
                 sees: np.ndarray, added: torch.Tensor | None = None) -> torch.Tensor:
        """Hidden states [T, D] of tokens embedded as [T, D].

        Args:
            embeddings: As `Body` takes them.
            positions: As `Body` takes them.
            slots: int64 [T], in the cache.
            sees: bool [T, extent], which slots each token attends to, its own among them.
            added: As `Body` takes it.
        """
        mask, place, at = (torch.from_numpy(value).to(self._device) for value in (sees, positions, slots))
        return self._run(embeddings, place, at, mask, added)

    def warm_up(self) -> None:
        """Nothing has to be prepared."""

    def _run(self, embeddings: torch.Tensor, positions: torch.Tensor, slots: torch.Tensor,
             mask: torch.Tensor, added: torch.Tensor | None = None) -> torch.Tensor:
        self._cache.map_slots(slots, mask.shape[1])
        return self._body(embeddings, positions, self._cache, mask, added)


@dataclass(frozen=True, eq=False)
class _Fixed:
    """Inputs and output of one shape, always at the same addresses, and what runs them."""

    embeddings: torch.Tensor
    positions: torch.Tensor
    slots: torch.Tensor
    mask: torch.Tensor
    output: torch.Tensor
    replay: Callable[[], None]


class FixedForward(Forward):
    """Pads few tokens to one of few shapes, each run from a CUDA graph: a step then costs one launch.

    Padding writes to slot 0 of the cache and attends only to that. compiler: name of the backend of PyTorch's compiler
    for the shapes' work ("inductor"), "" for none.
    """

    def __init__(self, body: Body, cache: SlotCache, device: torch.device, dtype: torch.dtype, width: int,
                 compiler: str = ""):
        super().__init__(body, cache, device)
        self._dtype, self._width = dtype, width
        self._step = torch.compile(self._run, backend=compiler) if compiler else self._run
        self._shapes: dict[tuple[int, int], _Fixed] = {}
        self._over: torch.Tensor | None = None  # the cache's memory that the shapes were captured over

    def __call__(self, embeddings: torch.Tensor, positions: np.ndarray, slots: np.ndarray,
                 sees: np.ndarray, added: torch.Tensor | None = None) -> torch.Tensor:
        """As `Forward`'s."""
        count, extent = sees.shape
        if count > _TOKENS[-1] or positions.ndim > 1 or added is not None:
            return super().__call__(embeddings, positions, slots, sees, added)
        fixed = self._shape(next(n for n in _TOKENS if n >= count), extent)
        mask = np.zeros(fixed.mask.shape, np.bool_)
        mask[:count, :extent], mask[count:, 0] = sees, True
        padded = np.zeros((2, len(fixed.slots)), np.int64)
        padded[0, :count], padded[1, :count] = positions, slots
        fixed.embeddings[:count] = embeddings
        fixed.mask.copy_(torch.from_numpy(mask))
        fixed.positions.copy_(torch.from_numpy(padded[0]))
        fixed.slots.copy_(torch.from_numpy(padded[1]))
        fixed.replay()
        return fixed.output[:count]

    def warm_up(self) -> None:
        """Prepare every shape that the cache, as large as it is now, can ask for."""
        for tokens in _TOKENS:
            for extent in range(1, self._cache.capacity + 1, _SLOTS):
                self._shape(tokens, extent)

    def _shape(self, tokens: int, extent: int) -> _Fixed:
        if self._over is not self._cache.memory:
            self._shapes.clear()
            self._over = self._cache.memory
        extent = min(self._cache.capacity, -(-extent // _SLOTS) * _SLOTS)
        if (tokens, extent) not in self._shapes:
            self._shapes[tokens, extent] = self._prepare(tokens, extent)
        return self._shapes[tokens, extent]

    def _prepare(self, tokens: int, extent: int) -> _Fixed:
        inputs = (torch.zeros(tokens, self._width, dtype=self._dtype, device=self._device),
                  torch.zeros(tokens, dtype=torch.long, device=self._device),
                  torch.zeros(tokens, dtype=torch.long, device=self._device),
                  torch.zeros(tokens, extent, dtype=torch.bool, device=self._device))
        inputs[-1][:, 0] = True
        output = torch.zeros_like(inputs[0])

        def run() -> None:
            output.copy_(self._step(*inputs))

        return _Fixed(*inputs, output, _captured(run) if self._device.type == "cuda" else run)


def _captured(run: Callable[[], None]) -> Callable[[], None]:
    """The work of `run` as a CUDA graph."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # libraries set themselves up, compilers compile: none of it may be captured
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay
