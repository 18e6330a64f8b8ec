"""A scheduler over the tiny model that can be held between two steps."""
from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future

import pytest

from ros_gpt4roi.runtime.pipeline import Pipeline
from ros_gpt4roi.runtime.request import DescriptionRequest, Question
from ros_gpt4roi.runtime.scheduler import Scheduler, SchedulerConfig
from ros_gpt4roi.runtime.types import Frame, FrameDescriptions

LIMIT_S = 60.0  # no test takes this long; a hang ends here


class Running:
    """A scheduler with everything it says collected, and a brake: while held, the worker rests between two steps."""

    def __init__(self, pipeline: Pipeline, config: SchedulerConfig, clock: Callable[[], float]):
        self.results: queue.Queue[FrameDescriptions] = queue.Queue()
        self.pipeline = pipeline
        self.steps = 0
        self._free = threading.Event()
        self._free.set()
        self._at_rest = threading.Event()
        step = pipeline.step

        def braked_step() -> list:
            self._at_rest.set()
            assert self._free.wait(LIMIT_S)
            self._at_rest.clear()
            self.steps += 1
            return step()

        pipeline.step = braked_step
        self.scheduler = Scheduler(pipeline, config, self.results.put, clock)
        self.scheduler.start()

    def hold(self) -> None:
        self._at_rest.clear()
        self._free.clear()

    def wait_until_held(self) -> None:
        assert self._at_rest.wait(LIMIT_S)

    def release(self) -> None:
        self._free.set()

    def ask(self, text: str, frame: Frame | None, query_id: str = "", **how) -> Future:
        question = Question(text, query_id, frame=frame, **how)
        self.scheduler.submit(question)
        return question.future

    def describe(self, frame: Frame) -> Future:
        request = DescriptionRequest(frame=frame)
        self.scheduler.submit(request)
        return request.future


@pytest.fixture(name="run")
def run_fixture(make_pipeline: Callable[..., Pipeline]) -> Iterator[Callable[..., Running]]:
    """Start a scheduler over the tiny model; keywords: SchedulerConfig's, `pipeline` for the pipeline's, or `clock`."""
    started: list[Running] = []

    def start(pipeline: dict | None = None, clock: Callable[[], float] = time.monotonic, **limits) -> Running:
        started.append(Running(make_pipeline(**(pipeline or {})), SchedulerConfig(**limits), clock))
        return started[-1]
    yield start
    for running in started:
        running.release()
        assert running.scheduler.stop(LIMIT_S)


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < end, "the condition did not come true in time"
        threading.Event().wait(0.002)
