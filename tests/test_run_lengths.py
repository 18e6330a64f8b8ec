"""Run lengths of masks."""
from __future__ import annotations

import numpy as np
import pytest

from ros_gpt4roi import run_lengths


@pytest.mark.parametrize("seed", range(10))
def test_a_mask_comes_back(seed: int) -> None:
    random = np.random.default_rng(seed)
    mask = random.random(random.integers(1, 40, 2)) < random.choice([0.02, 0.5, 0.98, 2])
    counts = run_lengths.encode(mask)
    height, width = mask.shape
    assert np.array_equal(run_lengths.decode(run_lengths.check(counts, width, height), width, height), mask)


def test_runs_go_down_the_columns_and_begin_outside() -> None:
    mask = np.zeros((3, 2), bool)
    mask[:, 0] = mask[0, 1] = True
    assert run_lengths.encode(mask).tolist() == [0, 4, 2]


@pytest.mark.parametrize("counts, words", [
    ([3, 2], "runs of 5 pixels"), ([-1, 7], "expected run lengths"), ([0.5, 5.5], "expected run lengths"),
    ([[6]], "expected run lengths"), (None, "counts None"), ([], "runs of 0 pixels"),
    ([2**62, 2**62], "expected 2 * 3"), (np.array([2**32 - 1, 7], np.uint32), "runs of 4294967295 pixels")])
def test_what_fills_no_mask_is_refused(counts: object, words: str) -> None:
    with pytest.raises(ValueError, match=words.replace("*", r"\*")):
        run_lengths.check(counts, 2, 3)
