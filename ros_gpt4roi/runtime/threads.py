"""How many of the CPU's threads PyTorch works with: as many as help."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

_CALLS = 3
# A model that takes longer has work for all threads, and measuring would take its time.
_LONG_S = 1.0
# Fewer threads are taken where they are within this factor of the fastest: the others stay free for the robot.
_AS_GOOD = 1.05
# As the process began with: one a core, or what OMP_NUM_THREADS says.
_AT_START = torch.get_num_threads()


def use_all_threads() -> None:
    """Takes back what `fit_threads` has set."""
    torch.set_num_threads(_AT_START)


def fit_threads(work: Callable[[], object]) -> int:
    """Set the number of threads of PyTorch, for this process, to that with which `work` is done soonest. Returns it.

    A small model's operators are done before a second thread is awake, and threads that wait spin on cores that others
    need; a large model takes all there are. Other threads of the process take the number over if they have not computed
    with PyTorch yet.
    """
    most = torch.get_num_threads()
    if most == 1 or _seconds(work) > _LONG_S:
        return most
    taken = {}
    for threads in sorted({*(1 << bit for bit in range(most.bit_length())), most}):
        torch.set_num_threads(threads)
        work()
        taken[threads] = min(_seconds(work) for _ in range(_CALLS))
    best = min(taken.values())
    chosen = next(threads for threads, seconds in taken.items() if seconds <= _AS_GOOD * best)
    torch.set_num_threads(chosen)
    return chosen


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
