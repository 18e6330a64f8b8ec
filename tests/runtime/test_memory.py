"""Memory after hundreds of frames, conversations, cancelled questions and failures is what it was after the first."""
from __future__ import annotations

import gc
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

import pytest
import torch

from ros_gpt4roi.runtime.request import DescriptionRequest, Question
from ros_gpt4roi.runtime.scheduler import Scheduler, SchedulerConfig
from ros_gpt4roi.runtime.types import Status

CYCLES, SETTLED, CONVERSATIONS = 500, 100, 96
LIMIT_S = 60.0


def resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


def tensor_bytes() -> int:
    gc.collect()
    return sum(item.nbytes for item in gc.get_objects() if type(item) is torch.Tensor)


@pytest.mark.slow
def test_memory_returns_over_500_cycles(make_pipeline: Callable, make_frame: Callable) -> None:
    # A small store, and so many conversations that both are full, and evicting, long before the first measurement:
    # what a closed conversation held leaves the store with it.
    pipeline = make_pipeline(description_tokens=4, answer_tokens=4, cache_mib=1, reuse_distance=0.001)
    scheduler = Scheduler(pipeline, SchedulerConfig(conversations=CONVERSATIONS))
    scheduler.start()

    def gone(piece: str) -> None:
        raise ConnectionError("the client left")

    def submit(request: Question | DescriptionRequest) -> Future:
        scheduler.submit(request)
        return request.future

    def cycle(number: int) -> None:
        # Ids rise as a tracker's do.
        frame = make_frame([str(2 * number), str(2 * number + 1)], seed=number, stamp_ns=number)
        described = submit(DescriptionRequest(frame=frame))
        first = submit(Question(f"What is region {2 * number}?", frame=frame))
        assert first.result(LIMIT_S).status is Status.OK
        again = submit(Question("And then?", "", first.result().conversation_id))
        left = submit(Question("What is there?", on_text=gone, frame=frame))
        stopped = submit(Question("What is there?", f"stop {number}", frame=frame))
        scheduler.cancel(f"stop {number}")
        assert described.result(LIMIT_S).status is again.result(LIMIT_S).status is Status.OK
        assert left.result(LIMIT_S).status in (Status.CANCELED, Status.OK)  # it may have had nothing to say
        assert stopped.result(LIMIT_S).status in (Status.CANCELED, Status.OK)
        if number % 50 == 0:  # the worker fails in mid-decode
            step = pipeline.language.generator.step

            def fail() -> None:
                pipeline.language.generator.step = step
                raise torch.OutOfMemoryError("no memory left on the device")

            pipeline.language.generator.step = fail
            failed = submit(DescriptionRequest(frame=make_frame(2, seed=number + 1))).result(LIMIT_S)
            assert failed.status is Status.FAILED

    before: tuple[int, float, int] | None = None
    for number in range(1, CYCLES + 1):
        cycle(number)
        if number == SETTLED:
            before = tensor_bytes(), resident_mib(), threading.active_count()
    after = tensor_bytes(), resident_mib(), threading.active_count()
    statistics = scheduler.statistics()
    assert scheduler.stop(LIMIT_S)
    assert statistics["cache_evictions"] > 0 and statistics["worker_restarts"] == CYCLES // 50
    assert statistics["conversations"] == CONVERSATIONS and statistics["questions_open"] == 0
    assert after[0] <= before[0] + 2**20  # what the store still holds varies by less than its limit
    assert after[1] <= before[1] + 24
    assert after[2] == before[2]
