"""Another model takes over when the first cannot serve, and gives back: the server is gone, memory, latency."""
from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from adapter_fixtures import write_adapter
from chat_server import LIMIT_S, TEXT, ChatServer, Handler, stalling, until, words

from ros_gpt4roi.configuration import ConfigError
from ros_gpt4roi.runtime.fallback import FallbackOptions, FallbackPipeline
from ros_gpt4roi.runtime.pipeline import Pipeline
from ros_gpt4roi.runtime.pipeline_config import PipelineConfig
from ros_gpt4roi.runtime.remote.options import ServerOptions
from ros_gpt4roi.runtime.remote.pipeline import RemotePipeline
from ros_gpt4roi.runtime.request import Conversation, Question
from ros_gpt4roi.runtime.scheduler import Scheduler, SchedulerConfig
from ros_gpt4roi.runtime.types import Status

MIB = 1 << 20


class Clock:
    """A steady clock that stands still unless it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(name="clock")
def clock_fixture() -> Clock:
    return Clock()


@pytest.fixture(name="models")
def models_fixture(make_pipeline: Callable[..., Pipeline]) -> tuple[Pipeline, Pipeline]:
    first, second = make_pipeline(), make_pipeline()
    first.version, second.version = "large", "small"
    return first, second


@pytest.fixture(name="remote")
def remote_fixture(server: ChatServer) -> Iterator[RemotePipeline]:
    pipeline = RemotePipeline.connect(PipelineConfig(
        remote=server.url, server=ServerOptions(retry_s=0.1, stall_timeout_s=0.3)))
    yield pipeline
    pipeline.close()


def ask(pipeline: Pipeline, frame: Any, conversation: Conversation | None = None, **how: Any) -> Any:
    return pipeline.ask(conversation or Conversation("", frame), Question("What is region 1?", **how))


# --- a server that is gone -------------------------------------------------------------------------------------------

def test_the_local_model_answers_while_the_server_is_gone_and_gives_back(
        server: ChatServer, remote: RemotePipeline, models: tuple[Pipeline, Pipeline], make_frame: Callable) -> None:
    pipeline, frame = FallbackPipeline(remote, models[1], FallbackOptions()), make_frame(2)
    conversation = Conversation("talk", frame)
    first = ask(pipeline, frame, conversation)
    assert first.text == TEXT and first.model_version.startswith("qwen@") and not pipeline.trouble
    server.close()
    during = ask(pipeline, frame, conversation)
    assert during.status is Status.OK and during.model_version == "small" and during.text
    assert len(conversation.rounds) == 2, "the same conversation"
    assert pipeline.trouble.startswith("small serves in place of qwen@")
    described = pipeline.describe(frame)
    assert described.model_version == "small" and len(described.descriptions) == 2
    numbers = pipeline.statistics()
    assert numbers["fallback_serves"] == numbers["fallback_taken"] == numbers["requests_begun_again"] == 1
    again = ChatServer(server.port)
    try:
        until(lambda: not remote.trouble)
        back = ask(pipeline, frame, conversation)
        assert back.text == TEXT and not pipeline.trouble and pipeline.version == remote.version
        assert [message["role"] for message in again.bodies[-1]["messages"]] == ["user", "assistant"] * 2 + ["user"]
    finally:
        again.close()


def test_what_was_heard_in_part_is_not_begun_again(server: ChatServer, remote: RemotePipeline, make_frame: Callable,
                                                   models: tuple[Pipeline, Pipeline]) -> None:
    pipeline, frame = FallbackPipeline(remote, models[1], FallbackOptions()), make_frame(2)

    server.behave = stalling
    server.held.clear()
    heard: list[str] = []
    answer = ask(pipeline, frame, on_text=heard.append)
    assert answer.status is Status.TIMEOUT and answer.text == "a" == "".join(heard)
    described = pipeline.describe(frame)
    assert described.status is Status.OK and described.model_version == "small"
    server.held.set()


@pytest.mark.parametrize("code", [401, 403, 404, 500])
def test_a_server_that_refuses_everything_is_replaced_and_one_that_refuses_a_question_is_not(
        code: int, server: ChatServer, remote: RemotePipeline, models: tuple[Pipeline, Pipeline],
        make_frame: Callable) -> None:
    pipeline, frame, refused = FallbackPipeline(remote, models[1], FallbackOptions()), make_frame(2), threading.Event()

    def behave(handler: Handler, body: dict[str, Any]) -> None:
        if refused.is_set() or "Why?" in body["messages"][0]["content"][1]["text"]:
            return handler.answer(code, {"error": "no"})
        words(handler, body)

    server.behave = behave
    bad = pipeline.ask(Conversation("", frame), Question("Why?"))
    assert bad.status is Status.FAILED and f"({code})" in bad.error and not pipeline.trouble
    assert ask(pipeline, frame).text == TEXT
    refused.set()
    answer, described = ask(pipeline, frame), pipeline.describe(frame)
    assert answer.status is described.status is Status.OK
    assert answer.model_version == described.model_version == "small"
    assert pipeline.trouble.startswith("small serves in place of qwen@") and f"({code})" in pipeline.trouble
    refused.clear()
    until(lambda: not remote.trouble)
    assert ask(pipeline, frame).text == TEXT and not pipeline.trouble


def test_a_server_that_comes_and_goes_is_waited_for_longer_each_time(
        server: ChatServer, remote: RemotePipeline, models: tuple[Pipeline, Pipeline], make_frame: Callable,
        clock: Clock) -> None:
    pipeline, frame = FallbackPipeline(remote, models[1], FallbackOptions(retry_s=10.0), clock=clock), make_frame(2)
    waits = []
    for _ in range(4):
        server.behave = lambda handler, body: handler.answer(503, {"error": "nobody"})
        assert ask(pipeline, frame).model_version == "small"
        server.behave, began = words, clock.now
        until(lambda: not remote.trouble)
        while ask(pipeline, frame).model_version == "small":
            clock.now += 1
        waits.append(clock.now - began)
    assert waits == [0, 10, 20, 40]


def test_eight_at_once_are_all_answered_while_the_server_goes(server: ChatServer, remote: RemotePipeline,
                                                              models: tuple[Pipeline, Pipeline],
                                                              make_frame: Callable) -> None:
    scheduler = Scheduler(FallbackPipeline(remote, models[1], FallbackOptions()), SchedulerConfig(conversations=100))
    scheduler.start()
    try:
        questions = [Question("What is region 1?", frame=make_frame(2, seed=seed)) for seed in range(8)]
        for number, question in enumerate(questions):
            scheduler.submit(question)
            if number == 3:
                server.close()
        answers = [question.future.result(LIMIT_S) for question in questions]
        assert all(answer.status is Status.OK and answer.text for answer in answers)
        assert answers[-1].model_version == "small" == scheduler.model_version
    finally:
        assert scheduler.stop(LIMIT_S)


# --- memory ----------------------------------------------------------------------------------------------------------

def test_memory_that_runs_out_unloads_the_model_until_there_is_room(
        models: tuple[Pipeline, Pipeline], make_pipeline: Callable[..., Pipeline], make_frame: Callable, clock: Clock,
        monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = models
    free = [1000 * MIB]
    loaded = threading.Event()

    def reload() -> Pipeline:
        pipeline = make_pipeline()
        pipeline.version = "large"
        loaded.set()
        return pipeline

    pipeline = FallbackPipeline(first, second, FallbackOptions(retry_s=10.0), reload, 500 * MIB, clock,
                                lambda _: free[0])
    frame = make_frame(2)
    expected = [d.text for d in pipeline.describe(frame).descriptions]

    def no_room(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(first.language.generator, "_forward", no_room)
    described = pipeline.describe(frame)
    assert described.status is Status.OK and described.model_version == "small"
    assert [d.text for d in described.descriptions] == expected, "the same weights here"
    assert "memory has run out" in pipeline.trouble and not loaded.is_set()
    free[0], clock.now = 600 * MIB, clock.now + 60
    pipeline.describe(frame)
    assert not loaded.is_set(), "not enough room for the model and what is to stay free"
    free[0], clock.now = 800 * MIB, clock.now + 60
    pipeline.describe(frame)
    assert loaded.wait(LIMIT_S)
    until(lambda: pipeline.describe(frame).model_version == "large")
    assert not pipeline.trouble and pipeline.statistics()["fallback_given_back"] == 1


@pytest.mark.parametrize("error", [
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"),
    RuntimeError("CUDA error: out of memory"), MemoryError()])
@pytest.mark.parametrize("where", ["begin", "step"])
def test_memory_runs_out_by_errors_of_many_kinds(error: Exception, where: str, models: tuple[Pipeline, Pipeline],
                                                 make_frame: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = models

    def no_room(*_: Any) -> None:
        raise error

    owner, name = (first.encoder, "encode") if where == "begin" else (first.language.generator, "_forward")
    monkeypatch.setattr(owner, name, no_room)
    pipeline = FallbackPipeline(first, second, FallbackOptions(), lambda: first)
    described = pipeline.describe(make_frame(2))
    assert described.status is Status.OK and described.model_version == "small", described.error
    assert "memory has run out" in pipeline.trouble


def test_adapters_are_those_of_the_model_also_while_it_is_unloaded(
        models: tuple[Pipeline, Pipeline], make_pipeline: Callable[..., Pipeline], make_frame: Callable, clock: Clock,
        tmp_path: Path) -> None:
    first, second = models
    write_adapter(tmp_path / "kitchen", first.language._model.language, strength=0.5)
    write_adapter(tmp_path / "workshop", first.language._model.language, 1, strength=0.5)
    for name in ("kitchen", "workshop"):  # as load_model does: a model that is loaded again knows nothing of them
        first.adapters.put(first.adapters.read(tmp_path / name))
    first.adapters.serving = first.adapters.find("kitchen")
    free = [1000 * MIB]

    def reload() -> Pipeline:
        pipeline = make_pipeline()
        pipeline.version = "large"
        pipeline.adapters.open([tmp_path / "workshop"], "workshop")  # what the parameters name
        return pipeline

    pipeline = FallbackPipeline(first, second, FallbackOptions(retry_s=10.0), reload, 500 * MIB, clock,
                                lambda _: free[0])
    frame, talk = make_frame(2), Conversation("talk", make_frame(2))
    kitchen = ask(pipeline, frame, talk)
    assert kitchen.model_version.startswith("large+kitchen@")
    free[0], clock.now = 0, clock.now + 60
    assert ask(pipeline, frame).model_version == "small" == pipeline.version_of(pipeline.adapters.serving)
    with pytest.raises(ConfigError, match="not loaded now"):
        pipeline.adapters.read(tmp_path / "kitchen")
    pipeline.adapters.serving = pipeline.adapters.find("workshop")  # as the parameter does
    free[0], clock.now = 5000 * MIB, clock.now + 60

    def returned() -> bool:
        clock.now += 1
        return ask(pipeline, frame).model_version.startswith("large")

    until(returned)
    assert pipeline.statistics()["fallback_taken"] == 1
    workshop = ask(pipeline, frame)
    assert workshop.model_version.startswith("large+workshop@") and workshop.text != kitchen.text
    pipeline.adapters.serving = pipeline.adapters.find("kitchen")
    assert ask(pipeline, frame).text == kitchen.text
    again = ask(pipeline, frame, talk)  # nobody has asked in it meanwhile
    assert again.status is Status.OK and again.model_version == kitchen.model_version


def test_little_free_memory_is_enough_and_a_reload_that_fails_is_tried_later(
        models: tuple[Pipeline, Pipeline], make_frame: Callable, clock: Clock) -> None:
    free, tries = [100 * MIB], []

    def reload() -> Pipeline:
        tries.append(clock.now)
        raise MemoryError("no room")

    pipeline = FallbackPipeline(*models, FallbackOptions(retry_s=10.0), reload, 500 * MIB, clock, lambda _: free[0])
    assert ask(pipeline, make_frame(2)).model_version == "small"
    assert "100 MiB of memory are free, expected 256" in pipeline.trouble
    free[0] = 5000 * MIB
    for _ in range(200):
        clock.now += 1
        assert ask(pipeline, make_frame(1)).model_version == "small"
        until(lambda: pipeline._loading is None or pipeline._loading.done())
    gaps = [later - earlier for earlier, later in zip(tries, tries[1:])]
    assert len(tries) >= 3 and gaps == sorted(gaps) and gaps[1] > 1.5 * gaps[0]
    assert "could not be loaded again: MemoryError: no room" in pipeline.trouble


def test_a_frame_is_described_ahead_by_the_first_alone(models: tuple[Pipeline, Pipeline], make_frame: Callable,
                                                        monkeypatch: pytest.MonkeyPatch) -> None:
    (first, second), frame = models, make_frame(3)
    pipeline = FallbackPipeline(first, second, FallbackOptions())
    pipeline.prepare(frame)
    assert first.reuse.last("1") is not None and second.reuse.last("1") is None

    def fail(*_: object) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr(first, "begin", fail)
    pipeline.prepare(frame)  # its error is for whoever asks
    assert not first.live


# --- latency ---------------------------------------------------------------------------------------------------------

def test_latency_that_stays_over_its_limit_lets_the_other_serve_for_a_while(
        models: tuple[Pipeline, Pipeline], make_frame: Callable, clock: Clock) -> None:
    pipeline = FallbackPipeline(*models, FallbackOptions(latency_s=1e-6, patience_s=5.0, retry_s=10.0), clock=clock)
    frame = make_frame(2)
    assert ask(pipeline, frame).model_version == "large"
    clock.now += 4
    assert pipeline.describe(frame).model_version == "large" and not pipeline.trouble
    clock.now += 2
    pipeline.describe(frame)
    assert "over 1e-06 s (fallback.latency_s)" in pipeline.trouble
    assert pipeline.describe(frame).model_version == "small"
    clock.now += 11
    assert pipeline.describe(frame).model_version == "large", "it is tried again"
    clock.now += 6
    pipeline.describe(frame)
    clock.now += 11
    assert ask(pipeline, frame).model_version == "small", "and left for longer"
    clock.now += 10
    assert ask(pipeline, frame).model_version == "large"


def test_latency_under_its_limit_in_between_is_no_reason(models: tuple[Pipeline, Pipeline], make_frame: Callable,
                                                         clock: Clock) -> None:
    pipeline = FallbackPipeline(*models, FallbackOptions(latency_s=3600.0, patience_s=5.0), clock=clock)
    for _ in range(4):
        assert ask(pipeline, make_frame(2)).model_version == "large"
        clock.now += 4
    assert not pipeline.trouble
