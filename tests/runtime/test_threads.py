from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest
import torch

from ros_gpt4roi.runtime import threads
from ros_gpt4roi.runtime.threads import fit_threads, use_all_threads


@pytest.fixture(autouse=True)
def four_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """What the measuring reads instead of the time; only work moves it."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(threads, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    return clock


def work_of(seconds: dict[int, float], seen: list[int], clock: SimpleNamespace) -> Callable[[], None]:
    """Work that takes as long as it says by PyTorch's number of threads."""
    def work() -> None:
        seen.append(torch.get_num_threads())
        clock.now += seconds[torch.get_num_threads()]
    return work


@pytest.mark.parametrize("seconds, best", [
    ({1: 0.05, 2: 0.005, 4: 0.05}, 2), ({1: 0.005, 2: 0.05, 4: 0.05}, 1), ({1: 0.05, 2: 0.05, 4: 0.005}, 4),
])
def test_the_fastest_number_is_taken(clock, seconds, best):
    assert fit_threads(work_of(seconds, [], clock)) == best == torch.get_num_threads()


def test_fewer_are_taken_where_more_do_not_help(clock):
    assert fit_threads(work_of({1: 0.1, 2: 0.1, 4: 0.1}, [], clock)) == 1


def test_work_that_takes_long_is_done_once_and_keeps_all(clock):
    seen: list[int] = []
    assert fit_threads(work_of({4: 1.1}, seen, clock)) == 4
    assert seen == [4]


def test_all_threads_can_be_had_back():
    use_all_threads()
    begun_with = torch.get_num_threads()
    torch.set_num_threads(begun_with + 1)
    use_all_threads()
    assert torch.get_num_threads() == begun_with
