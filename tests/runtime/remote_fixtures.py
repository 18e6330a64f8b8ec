"""Pipelines over a server that does what a test tells it to, and what they are asked."""
from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from chat_server import LIMIT_S, ChatServer
from PIL import Image

from ros_gpt4roi.runtime.pipeline_config import PipelineConfig
from ros_gpt4roi.runtime.remote.options import ServerOptions
from ros_gpt4roi.runtime.remote.pipeline import RemotePipeline
from ros_gpt4roi.runtime.request import Conversation, Question
from ros_gpt4roi.runtime.scheduler import Scheduler, SchedulerConfig
from ros_gpt4roi.runtime.types import Answer, Frame, Region


@pytest.fixture(name="connect")
def connect_fixture(server: ChatServer) -> Iterator[Callable[..., RemotePipeline]]:
    """A pipeline over the server. Keywords are those of `ServerOptions`, or of `PipelineConfig`."""
    opened: list[RemotePipeline] = []

    def connect(**how: Any) -> RemotePipeline:
        known = {name: how.pop(name) for name in list(how) if name in ServerOptions.__dataclass_fields__}
        config = {"remote": server.url, "answer_tokens": 32, "description_tokens": 16, **how}
        opened.append(RemotePipeline.connect(PipelineConfig(server=ServerOptions(**known), **config)))
        return opened[-1]
    yield connect
    for pipeline in opened:
        pipeline.close()


@pytest.fixture(name="run")
def run_fixture(connect: Callable[..., RemotePipeline]) -> Iterator[Callable[..., Scheduler]]:
    started: list[Scheduler] = []

    def run(pipeline: RemotePipeline | None = None, **limits: Any) -> Scheduler:
        started.append(Scheduler(pipeline or connect(), SchedulerConfig(**limits)))
        started[-1].start()
        return started[-1]
    yield run
    for scheduler in started:
        assert scheduler.stop(LIMIT_S)


def picture(seed: int = 0, size: tuple[int, int] = (96, 128), regions: int = 3) -> Frame:
    random = np.random.default_rng(seed)
    pixels = np.asarray(Image.fromarray(random.integers(0, 256, (6, 8, 3), np.uint8)).resize(size[::-1]))
    boxes = [(4.0 + 30 * i, 8.0, 30.0 + 30 * i, 60.0) for i in range(regions)]
    return Frame(pixels, tuple(Region(f"r{i}", box) for i, box in enumerate(boxes, 1)), 0, "camera")


def ask(pipeline: RemotePipeline, text: str = "What is region r2?", frame: Frame | None = None, **how: Any) -> Answer:
    return pipeline.ask(Conversation("", frame or picture()), Question(text, **how))


def submit(scheduler: Scheduler, text: str = "What is region r1?", **how: Any) -> Question:
    question = Question(text, **({"frame": picture()} | how))
    scheduler.submit(question)
    return question
