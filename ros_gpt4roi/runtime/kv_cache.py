"""Keys and values of the language model: of the rows being decoded, and of prompts worth keeping."""
from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

_LENGTH_STEP = 128  # the buffer grows by this many positions at a time


class RowCache:
    """One buffer for all rows: [layers, 2, rows, heads, positions, head size].

    A row's token at position p always lies at index p, so ragged rows need no left padding, a row joins by filling the
    next free index and a rejected draft is taken back by forgetting its length. The last position is a bin: padding
    writes there and nobody reads it. Stands in for transformers' Cache in a model's forward.
    A shared prefix is computed once but copied into every row, so that one attention call serves all rows: at most
    max_rows · max_length positions, of which as many are allocated as the longest text so far has needed.
    """

    def __init__(self, layers: int, heads: int, head_size: int, max_rows: int, max_length: int, dtype: torch.dtype,
                 device: torch.device):
        self._shape = (layers, 2, heads, head_size)
        self._dtype, self._device = dtype, device
        self.max_rows, self.max_length = max_rows, max_length
        self._buffer = self._allocate(0, 0)
        self._first, self._rows, self._length = 0, 0, 0
        self._write_rows = self._write_positions = torch.empty(0, dtype=torch.long)

    def _allocate(self, rows: int, length: int) -> torch.Tensor:
        layers, two, heads, size = self._shape
        # Zeros, not empty: a masked position still takes part as 0 × value, and 0 × NaN is NaN.
        return torch.zeros(layers, two, rows, heads, length + 1, size, dtype=self._dtype, device=self._device)

    @property
    def bytes(self) -> int:
        return self._buffer.numel() * self._buffer.element_size()

    @property
    def bin(self) -> int:
        return self._buffer.shape[4] - 1

    def reserve(self, rows: int, length: int) -> None:
        """Make room for `rows` rows of `length` positions; what is held stays."""
        have_rows, have_length = self._buffer.shape[2], self.bin
        if rows <= have_rows and length <= have_length:
            return
        if rows > self.max_rows or length > self.max_length:
            raise ValueError(f"{rows} rows of {length} tokens, expected at most {self.max_rows} of {self.max_length}")
        rows = max(have_rows, rows)
        length = max(have_length, min(self.max_length, -(-length // _LENGTH_STEP) * _LENGTH_STEP))
        grown = self._allocate(rows, length)
        grown[:, :, :have_rows, :, :have_length] = self._buffer[:, :, :, :, :have_length]
        self._buffer = grown

    def shrink(self) -> None:
        """Give the memory back; for when no row is live."""
        self._buffer = self._allocate(0, 0)

    def aim(self, first: int, positions: torch.Tensor, length: int) -> None:
        """The next forward writes row `first` + i, token j, at positions[i, j], and reads `length` positions."""
        self._first, self._rows, self._length = first, positions.shape[0], length
        self._write_rows = torch.arange(first, first + self._rows, device=positions.device).unsqueeze(1)
        self._write_positions = positions

    def update(self, keys: torch.Tensor, values: torch.Tensor, layer: int, *_,
               **__) -> tuple[torch.Tensor, torch.Tensor]:
        """Called by the attention layers: keys and values [rows, heads, tokens, head size] in, all of the rows' out."""
        held_keys, held_values = self._buffer[layer, 0], self._buffer[layer, 1]
        held_keys[self._write_rows, :, self._write_positions] = keys.transpose(1, 2)
        held_values[self._write_rows, :, self._write_positions] = values.transpose(1, 2)
        rows = slice(self._first, self._first + self._rows)
        return held_keys[rows, :, :self._length], held_values[rows, :, :self._length]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self._length

    def fill(self, first: int, rows: int, kept: torch.Tensor) -> None:
        """Copy kept keys and values [layers, 2, heads, n, head size] to the start of `rows` rows."""
        self._buffer[:, :, first:first + rows, :, :kept.shape[3]] = kept.unsqueeze(2)

    def copy_out(self, row: int, length: int) -> torch.Tensor:
        """A copy of a row's first positions: [layers, 2, heads, length, head size]."""
        return self._buffer[:, :, row, :, :length].clone()

    def move(self, source: int, target: int, length: int) -> None:
        self._buffer[:, :, target, :, :length] = self._buffer[:, :, source, :, :length]

    def clear(self, row: int) -> None:
        self._buffer[:, :, row] = 0


@dataclass(frozen=True, eq=False)
class Prompt:
    """Tokens of a prompt. `vision` names the vision output whose embeddings are spliced in: two prompts share a prefix
    only where tokens, region indices and the vision output are the same."""

    ids: np.ndarray  # int64 [L]
    region_index: np.ndarray  # int64 [L], −1 where no region embedding stands
    vision: Hashable

    @classmethod
    def of(cls, ids: Sequence[int], region_index: Sequence[int], vision: Hashable) -> Prompt:
        return cls(np.asarray(ids, np.int64), np.asarray(region_index, np.int64), vision)

    def __len__(self) -> int:
        return len(self.ids)

    def common_prefix(self, other: Prompt) -> int:
        """How many first tokens are the same."""
        if self.vision != other.vision:
            return 0
        n = min(len(self), len(other))
        differs = (self.ids[:n] != other.ids[:n]) | (self.region_index[:n] != other.region_index[:n])
        return int(differs.argmax()) if differs.any() else n


class PrefixStore:
    """Keys and values of prompts seen before, bounded in bytes, least recently used out first.

    Holds the prefix of each recent frame and the whole of each recent conversation. A prompt finds the entry with which
    it shares most first tokens, and only the rest is computed. Whatever was evicted is merely computed again.
    """

    def __init__(self, max_bytes: int):
        self.max_bytes, self.bytes, self.evictions = max_bytes, 0, 0
        self._entries: OrderedDict[Hashable, tuple[Prompt, torch.Tensor]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def longest(self, prompt: Prompt) -> tuple[int, torch.Tensor | None]:
        """Number of first tokens of `prompt` that are held, and their keys and values."""
        best, best_name = 0, None
        for name, (held, _) in self._entries.items():
            common = held.common_prefix(prompt)
            if common > best:
                best, best_name = common, name
        if best_name is None:
            return 0, None
        self._entries.move_to_end(best_name)
        return best, self._entries[best_name][1][:, :, :, :best]

    def put(self, name: Hashable, prompt: Prompt, kept: torch.Tensor) -> None:
        """Keep `kept` [layers, 2, heads, len(prompt), head size] under `name`, in place of what had that name."""
        self.drop(name)
        size = kept.numel() * kept.element_size()
        if size > self.max_bytes:
            return
        while self.bytes + size > self.max_bytes:
            self.drop(next(iter(self._entries)))
            self.evictions += 1
        self._entries[name] = (prompt, kept)
        self.bytes += size

    def drop(self, name: Hashable) -> None:
        entry = self._entries.pop(name, None)
        if entry is not None:
            self.bytes -= entry[1].numel() * entry[1].element_size()

    def clear(self) -> None:
        self._entries.clear()
        self.bytes = 0
