from __future__ import annotations

import pytest
import torch

from ros_gpt4roi.runtime.kv_cache import Prompt, PrefixStore, RowCache

LAYERS, HEADS, SIZE = 2, 3, 4


def make_cache(max_rows: int = 5, max_length: int = 300) -> RowCache:
    return RowCache(LAYERS, HEADS, SIZE, max_rows, max_length, torch.float32, torch.device("cpu"))


def write(cache: RowCache, first: int, starts: list[int], count: int, length: int) -> torch.Tensor:
    """Feed every layer `count` random tokens a row; returns the keys [layers, rows, heads, count, size]."""
    positions = torch.tensor(starts).unsqueeze(1) + torch.arange(count)
    cache.aim(first, positions, length)
    keys = torch.randn(LAYERS, len(starts), HEADS, count, SIZE)
    for layer in range(LAYERS):
        cache.update(keys[layer], -keys[layer], layer)
    return keys


def test_tokens_lie_at_their_positions_in_ragged_rows() -> None:
    cache = make_cache()
    cache.reserve(2, 10)
    keys = write(cache, 0, [0, 3], 4, 7)
    cache.aim(0, torch.tensor([[6], [7]]), 8)
    more = torch.randn(2, HEADS, 1, SIZE)
    held, values = cache.update(more, -more, 1)
    assert held.shape == values.shape == (2, HEADS, 8, SIZE) and cache.get_seq_length() == 8
    assert torch.equal(held[0, :, 0:4], keys[1, 0]) and torch.equal(held[1, :, 3:7], keys[1, 1])
    assert torch.equal(held[0, :, 6:7], more[0]) and torch.equal(held[1, :, 7:8], more[1])
    assert torch.equal(values, -held)
    assert not held[0, :, 4:6].any() and not held[1, :, :3].any()


def test_growing_keeps_what_is_held_and_the_bin_stays_last() -> None:
    cache = make_cache()
    cache.reserve(1, 5)
    assert cache.bin == 128
    keys = write(cache, 0, [0], 5, 5)
    write(cache, 0, [cache.bin], 1, 5)  # into the bin
    cache.reserve(4, 200)
    assert cache.bin == 256 and cache.bytes == LAYERS * 2 * 4 * HEADS * 257 * SIZE * 4
    assert torch.equal(cache.copy_out(0, 5)[:, 0], keys[:, 0])
    assert not cache.copy_out(0, 200)[:, :, :, 5:].any()  # what was the bin is an empty position now
    cache.reserve(2, 10)
    assert cache.bin == 256
    cache.reserve(4, 300)
    assert cache.bin == 300  # never more than the limit
    cache.shrink()
    assert cache.bytes <= LAYERS * 2 * HEADS * SIZE * 4


@pytest.mark.parametrize(("rows", "length"), [(6, 10), (1, 301)])
def test_more_than_the_limit_is_refused(rows: int, length: int) -> None:
    with pytest.raises(ValueError, match=f"{rows} rows of {length} tokens, expected at most 5 of 300"):
        make_cache().reserve(rows, length)


def test_fill_move_and_clear_touch_their_rows_only() -> None:
    cache = make_cache()
    cache.reserve(3, 20)
    keys = write(cache, 0, [0, 0, 0], 6, 6)
    kept = cache.copy_out(2, 4)
    assert torch.equal(kept[:, 0], keys[:, 2, :, :4])
    cache.fill(0, 2, kept)
    for row in (0, 1):
        assert torch.equal(cache.copy_out(row, 4), kept)
        assert torch.equal(cache.copy_out(row, 6)[:, 0, :, 4:], keys[:, row, :, 4:])
    cache.move(1, 0, 6)
    assert torch.equal(cache.copy_out(0, 6), cache.copy_out(1, 6))
    cache.clear(1)
    assert not cache.copy_out(1, 20).any() and cache.copy_out(0, 6).any() and cache.copy_out(2, 6).any()
    assert kept.any()  # a copy, not a view


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
    store = PrefixStore(100 * UNIT)
    store.put("short", prompt([1, 2]), entry(2, 2.0))
    store.put("long", prompt([1, 2, 3, 4]), entry(4, 4.0))
    store.put("other", prompt([1, 2, 3, 4, 5], "w"), entry(5, 5.0))
    length, kept = store.longest(prompt([1, 2, 3, 9, 9]))
    assert length == 3 and kept.shape[3] == 3 and (kept == 4.0).all()
    assert store.longest(prompt([9])) == (0, None)


def test_the_store_is_bounded_in_bytes_and_evicts_the_least_recently_used() -> None:
    store = PrefixStore(6 * UNIT)
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
    store = PrefixStore(100 * UNIT)
    store.put("a", prompt([1, 1, 1]), entry(3))
    store.put("a", prompt([2]), entry(1))
    assert store.bytes == UNIT and len(store) == 1 and store.longest(prompt([1, 1]))[0] == 0
    store.drop("a")
    store.drop("nothing")
    assert store.bytes == 0
    store.put("a", prompt([1]), entry(1))
    store.clear()
    assert store.bytes == len(store) == 0
