from __future__ import annotations

import numpy as np
import pytest
import torch

from ros_gpt4roi.runtime.kv_cache import PrefixCache, Prompt, SlotCache

LAYERS, HEADS, SIZE = 2, 3, 4


def make_cache(max_slots: int = 600) -> SlotCache:
    return SlotCache(LAYERS, HEADS, SIZE, max_slots, torch.float32, torch.device("cpu"))


def write(cache: SlotCache, slots: np.ndarray, keys: torch.Tensor | None = None) -> torch.Tensor:
    """Feed every layer one token a slot; returns the keys [layers, heads, count, size]."""
    keys = torch.randn(LAYERS, HEADS, len(slots), SIZE) if keys is None else keys
    cache.map_slots(torch.from_numpy(slots), cache.extent)
    for layer in range(LAYERS):
        cache.update(keys[layer, None], -keys[layer, None], layer)
    return keys


def test_tokens_lie_in_their_slots_and_the_layer_sees_all_up_to_the_last() -> None:
    cache = make_cache()
    first, second = cache.take(3), cache.take(2)
    assert not {0, *first} & {*second} and 0 not in first  # the bin is nobody's
    keys, more = write(cache, first), torch.randn(1, HEADS, 2, SIZE)
    cache.map_slots(torch.from_numpy(second), cache.extent)
    held, values = cache.update(more, -more, 1)
    assert held.shape == values.shape == (1, HEADS, 6, SIZE) and cache.get_seq_length() == 6
    assert torch.equal(held[0][:, first], keys[1]) and torch.equal(held[0][:, second], more[0])
    assert torch.equal(values, -held)


def test_a_slot_is_free_when_its_last_user_has_left() -> None:
    cache = make_cache()
    shared = cache.take(4)
    cache.share(shared[:2])
    cache.release(shared)
    assert cache.extent == 3
    assert cache.take(3).tolist() == [3, 4, 5]  # the first that are free
    cache.release(shared[:2])
    assert cache.take(2).tolist() == shared[:2].tolist()


def test_growing_keeps_what_is_held() -> None:
    cache = make_cache()
    slots = cache.take(5)
    keys = write(cache, slots)
    before = cache.memory
    cache.take(300)
    assert cache.memory is not before
    assert cache.capacity == 512 and cache.bytes == LAYERS * 2 * HEADS * 512 * SIZE * 4
    assert torch.equal(cache.copy_out(slots)[:, 0], keys)
    cache.take(295)
    assert cache.capacity == 601  # never more than the limit and the bin
    with pytest.raises(ValueError, match="601 tokens, expected at most 600"):
        cache.take(1)
    cache.clear()
    assert cache.extent == 1 and cache.capacity == 601 and cache.take(2).tolist() == [1, 2]


def test_what_has_grown_is_given_back_when_nobody_uses_it() -> None:
    cache = make_cache()
    slots = cache.take(300)
    cache.release(slots[:299])
    cache.shrink()
    assert cache.capacity == 512  # a slot is still in use
    cache.release(slots[299:])
    cache.shrink()
    assert cache.capacity == 256 and cache.bytes == LAYERS * 2 * HEADS * 256 * SIZE * 4
    before = cache.memory
    cache.shrink()
    assert cache.memory is before
    again = cache.take(300)
    keys = write(cache, again)
    assert torch.equal(cache.copy_out(again)[:, 0], keys)


def test_what_is_copied_out_fills_other_slots() -> None:
    cache = make_cache()
    slots, others = cache.take(4), cache.take(4)
    keys = write(cache, slots)
    kept = cache.copy_out(slots)
    cache.fill(others, kept)
    assert torch.equal(cache.copy_out(others)[:, 1], -keys)
    write(cache, slots)
    assert torch.equal(kept[:, 0], keys)  # a copy, not a view


def test_numbers_that_are_not_finite_do_not_get_in() -> None:
    cache = make_cache()
    slots = cache.take(3)
    keys = torch.ones(LAYERS, HEADS, 3, SIZE)
    keys[:, :, 0], keys[:, :, 2] = torch.nan, torch.inf
    write(cache, slots, keys)
    held = cache.copy_out(slots)
    assert not held[:, :, :, [0, 2]].any() and (held[:, 0, :, 1] == 1).all()


def prompt(ids: list[int], vision: str = "v", regions: dict[int, int] | None = None) -> Prompt:
    return Prompt.of(ids, [(regions or {}).get(i, -1) for i in range(len(ids))], vision)


@pytest.mark.parametrize(("other", "common"), [
    (prompt([1, 2, 3, 4]), 4), (prompt([1, 2, 3]), 3), (prompt([1, 2, 3, 4, 5]), 4), (prompt([1, 9, 3, 4]), 1),
    (prompt([7, 2, 3, 4]), 0), (prompt([1, 2, 3, 4], "w"), 0), (prompt([1, 2, 3, 4], regions={2: 0}), 2),
    (prompt([]), 0)])
def test_a_common_prefix_has_the_same_tokens_regions_and_vision(other: Prompt, common: int) -> None:
    mine = prompt([1, 2, 3, 4])
    assert mine.common_prefix(other) == other.common_prefix(mine) == common


def entry(length: int, fill: float = 0.0) -> torch.Tensor:
    return torch.full((LAYERS, 2, HEADS, length, SIZE), fill)


UNIT = entry(1).nbytes  # bytes a token


def test_the_store_finds_the_longest_common_prefix() -> None:
    store = PrefixCache(100 * UNIT)
    store.put("short", prompt([1, 2]), entry(2, 2.0))
    store.put("long", prompt([1, 2, 3, 4]), entry(4, 4.0))
    store.put("other", prompt([1, 2, 3, 4, 5], "w"), entry(5, 5.0))
    length, kept = store.longest(prompt([1, 2, 3, 9, 9]))
    assert length == 3 and kept.shape[3] == 3 and (kept == 4.0).all()
    assert store.longest(prompt([9])) == (0, None)


def test_the_store_is_bounded_in_bytes_and_evicts_the_least_recently_used() -> None:
    store = PrefixCache(6 * UNIT)
    store.put("a", prompt([1, 1]), entry(2))
    store.put("b", prompt([2, 2]), entry(2))
    store.put("c", prompt([3, 3]), entry(2))
    assert store.longest(prompt([1, 1]))[0] == 2  # used: now b is the oldest
    store.put("d", prompt([4, 4, 4]), entry(3))
    assert store.evictions == 2 and len(store) == 2 and store.bytes == 5 * UNIT
    assert [store.longest(prompt([i, i]))[0] for i in (1, 2, 3, 4)] == [2, 0, 0, 2]
    store.put("too large", prompt([5] * 7), entry(7))
    assert store.longest(prompt([5, 5]))[0] == 0 and len(store) == 2


def test_an_entry_replaces_the_one_of_its_name() -> None:
    store = PrefixCache(100 * UNIT)
    store.put("a", prompt([1, 1, 1]), entry(3))
    store.put("a", prompt([2]), entry(1))
    assert store.bytes == UNIT and len(store) == 1 and store.longest(prompt([1, 1]))[0] == 0
    store.drop("a")
    store.drop("nothing")
    assert store.bytes == 0
    store.put("a", prompt([1]), entry(1))
    store.clear()
    assert store.bytes == len(store) == 0
