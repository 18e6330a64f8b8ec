"""Keys and values of the language model: of the rows being decoded, and of prompts worth keeping."""
from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from .adapter_folder import Adapter

_SLOT_STEP = 256  # the pool grows by this many slots at a time


class SlotCache:
    """One pool of slots for all rows: [layers, 2, heads, slots, head size]. A slot holds one token of any row.

    Tokens of all rows run as one sequence, and a mask says which slots each of them sees. So ragged rows need no
    padding, a prefix that rows share is held and read once, prompts and decoded tokens go through one forward, and a
    rejected draft is taken back by releasing its slots. Slots are counted: free where nobody uses them. Slot 0 takes
    what padding writes. Stands in for transformers' Cache in a model's forward.

    Attributes:
        memory: The pool; another tensor after it has grown or shrunk.
        slots: Where the coming forward writes its tokens, int64 [T].
        max_slots: Most slots it grows to.
    """

    def __init__(self, layers: int, heads: int, head_size: int, max_slots: int, dtype: torch.dtype,
                 device: torch.device):
        self._shape = (layers, 2, heads, head_size)
        self._dtype, self._device = dtype, device
        self.max_slots = max_slots
        self.slots, self._extent = torch.empty(0, dtype=torch.long, device=device), 0
        self._users = np.ones(1, np.int64)  # the padding's is never free
        self.memory = self._allocate(1)

    def _allocate(self, slots: int) -> torch.Tensor:
        layers, two, heads, size = self._shape
        # Zeros, not empty: a masked slot still takes part as 0 × value, and 0 × NaN is NaN.
        return torch.zeros(layers, two, heads, slots, size, dtype=self._dtype, device=self._device)

    @property
    def bytes(self) -> int:
        """Size of the pool."""
        return self.memory.numel() * self.memory.element_size()

    @property
    def capacity(self) -> int:
        """Slots there is memory for."""
        return len(self._users)

    @property
    def extent(self) -> int:
        """Slots up to the last one in use."""
        return int(np.flatnonzero(self._users)[-1]) + 1

    def take(self, count: int) -> np.ndarray:
        """Free slots for `count` tokens, the first ones. Raises ValueError past the limit."""
        free = np.flatnonzero(self._users == 0)[:count]
        if len(free) < count:
            self._grow(self.capacity + count - len(free))
            free = np.flatnonzero(self._users == 0)[:count]
        self._users[free] = 1
        return free

    def _grow(self, slots: int) -> None:
        if slots > self.max_slots + 1:
            raise ValueError(f"{slots - 1} tokens, expected at most {self.max_slots}")
        slots = min(self.max_slots + 1, -(-slots // _SLOT_STEP) * _SLOT_STEP)
        grown = self._allocate(slots)
        grown[:, :, :, :self.capacity] = self.memory
        self.memory = grown
        self._users = np.concatenate([self._users, np.zeros(slots - self.capacity, np.int64)])

    def share(self, slots: np.ndarray) -> None:
        """One more user of each of these slots."""
        self._users[slots] += 1

    def release(self, slots: np.ndarray) -> None:
        """One user less of each of these slots."""
        self._users[slots] -= 1

    def clear(self) -> None:
        """All slots are free; the memory stays."""
        self._users[1:] = 0

    def shrink(self) -> None:
        """Give back what has grown beyond the first step, where no slot is in use: a forward may read all there is."""
        if self.capacity > _SLOT_STEP and not self._users[1:].any():
            self._users = self._users[:_SLOT_STEP].copy()
            self.memory = self._allocate(_SLOT_STEP)

    def map_slots(self, slots: torch.Tensor, extent: int) -> None:
        """Have the next forward write its tokens to `slots` [T] and read the first `extent` slots."""
        self.slots, self._extent = slots, extent

    def update(self, keys: torch.Tensor, values: torch.Tensor, layer: int, *_: Any,
               **__: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Called by the attention layers: keys and values [1, heads, T, head size] in, [1, heads, extent, …] out."""
        held = self.memory[layer]
        # What is not finite would spoil every row, masked or not. Its own token shows it all the same: see Decoder.
        held[0].index_copy_(1, self.slots, keys[0].nan_to_num(0.0, 0.0, 0.0))
        held[1].index_copy_(1, self.slots, values[0].nan_to_num(0.0, 0.0, 0.0))
        return held[0:1, :, :self._extent], held[1:2, :, :self._extent]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Called by transformers: how many slots the coming forward reads."""
        return self._extent

    def fill(self, slots: np.ndarray, kept: torch.Tensor) -> None:
        """Copy kept keys and values [layers, 2, heads, len(slots), head size] in."""
        self.memory.index_copy_(3, torch.from_numpy(slots).to(self._device), kept)

    def copy_out(self, slots: np.ndarray) -> torch.Tensor:
        """A copy of what slots hold: [layers, 2, heads, len(slots), head size]."""
        return self.memory.index_select(3, torch.from_numpy(slots).to(self._device))


@dataclass(frozen=True, eq=False)
class Prompt:
    """Tokens of a prompt.

    `vision` names the vision output whose embeddings are spliced in: two prompts share a prefix only where tokens,
    region indices, the vision output and the adapter that computes their keys and values are the same.
    """

    ids: np.ndarray  # int64 [L]
    region_index: np.ndarray  # int64 [L]: which embedding of that output, or of regions added to it; −1 for none
    vision: Hashable
    adapter: Adapter | None = None

    @classmethod
    def of(cls, ids: Sequence[int], region_index: Sequence[int] | np.ndarray, vision: Hashable,
           adapter: Adapter | None = None) -> Prompt:
        """Make one of lists."""
        return cls(np.asarray(ids, np.int64), np.asarray(region_index, np.int64), vision, adapter)

    def __len__(self) -> int:
        return len(self.ids)

    def common_prefix(self, other: Prompt) -> int:
        """How many first tokens are the same."""
        if self.vision != other.vision or self.adapter is not other.adapter:
            return 0
        n = min(len(self), len(other))
        differs = (self.ids[:n] != other.ids[:n]) | (self.region_index[:n] != other.region_index[:n])
        return int(differs.argmax()) if differs.any() else n


class PrefixCache:
    """Keys and values of prompts seen before, bounded in bytes, least recently used out first.

    Holds the prefix of each recent frame and the whole of each recent conversation. A prompt finds the entry with which
    it shares most first tokens, and only the rest is computed. Whatever was evicted is merely computed again.

    Attributes:
        max_bytes: The limit.
        bytes: What is held.
        evictions: How many entries have made room for others.
    """

    def __init__(self, max_bytes: int):
        self.max_bytes, self.bytes, self.evictions = max_bytes, 0, 0
        self._entries: OrderedDict[Hashable, tuple[Prompt, torch.Tensor]] = OrderedDict()
        self._by_vision: dict[Hashable, set[Hashable]] = {}  # only entries of the same vision output can share a prefix

    def __len__(self) -> int:
        return len(self._entries)

    def longest(self, prompt: Prompt) -> tuple[int, torch.Tensor | None]:
        """Find what is held of a prompt.

        Returns:
            The number of its first tokens that are held, and their keys and values
            [layers, 2, heads, that many, head size]; None where there are none.
        """
        best, best_name = 0, None
        for name in self._by_vision.get(prompt.vision, ()):
            common = self._entries[name][0].common_prefix(prompt)
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
        self._by_vision.setdefault(prompt.vision, set()).add(name)
        self.bytes += size

    def drop(self, name: Hashable) -> None:
        """Forget the entry of that name, if there is one."""
        entry = self._entries.pop(name, None)
        if entry is None:
            return
        prompt, kept = entry
        self.bytes -= kept.numel() * kept.element_size()
        names = self._by_vision[prompt.vision]
        names.remove(name)
        if not names:
            del self._by_vision[prompt.vision]

    def clear(self) -> None:
        """Forget everything."""
        self._entries.clear()
        self._by_vision.clear()
        self.bytes = 0
