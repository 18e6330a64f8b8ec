"""What a scheduler does about errors, failed and stuck workers, and at its end: nobody is left without an answer."""
from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable

import pytest
import torch
from scheduler_fixtures import (  # noqa: F401
    LIMIT_S,
    run_fixture,
    wait_for,
)

from ros_gpt4roi.runtime.region_text import RegionText
from ros_gpt4roi.runtime.request import Conversation, Question
from ros_gpt4roi.runtime.types import Status


def test_an_error_of_one_request_ends_that_request_alone(run: Callable, make_frame: Callable,
                                                         monkeypatch: pytest.MonkeyPatch) -> None:
    running, frame = run(pipeline={"answer_tokens": 60}), make_frame(3)
    opened = running.ask("What is region 1?", frame).result(LIMIT_S)
    to_model = RegionText.to_model

    def fail_by_name(text: RegionText, words: str, *more: object) -> str:
        if "fail" in words:
            raise KeyError("bın-1")
        return to_model(text, words, *more)

    monkeypatch.setattr(RegionText, "to_model", fail_by_name)
    running.hold()
    live = running.ask("What is region 1?", frame)
    running.wait_until_held()
    follow_up = running.ask("And region 2?", None, conversation_id=opened.conversation_id)
    failing = running.ask("fail", frame)
    running.release()
    failed = failing.result(LIMIT_S)
    assert failed.status is Status.FAILED and "KeyError" in failed.error and "bın-1" in failed.error
    assert live.result(LIMIT_S).status is follow_up.result(LIMIT_S).status is Status.OK
    assert "worker_restarts" not in running.scheduler.statistics()


@pytest.mark.parametrize("where", ["embed", "text"])
def test_an_error_in_one_text_ends_that_text_alone(where: str, run: Callable, make_frame: Callable,
                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    running, frame = run(pipeline={"answer_tokens": 20}), make_frame(3)
    language, bad = running.pipeline.language, []
    prepare = language.sequence

    def sequence(rounds: list, *how, **more):
        made = prepare(rounds, *how, **more)
        if "bad" in rounds[-1][0]:
            def fail(*_: object, **__: object) -> None:
                raise RuntimeError("broken")
            bad.append(made)
            if where == "embed":
                made.embed = fail
            else:
                made.stream.push = fail
        return made

    monkeypatch.setattr(language, "sequence", sequence)
    running.hold()
    live = running.ask("What is region 1?", frame)
    running.wait_until_held()
    failing, other = running.ask("bad", frame), running.ask("What is region 2?", frame)
    running.release()
    assert failing.result(LIMIT_S).status is Status.FAILED and "broken" in failing.result().error and bad
    assert live.result(LIMIT_S).status is other.result(LIMIT_S).status is Status.OK
    assert "worker_restarts" not in running.scheduler.statistics()


def test_a_failed_worker_answers_what_is_open_and_goes_on(run: Callable, make_frame: Callable,
                                                          make_pipeline: Callable) -> None:
    running, frame = run(), make_frame(3)
    opened = running.ask("What is region 1?", frame).result(LIMIT_S)
    good = running.pipeline.language.generator.step

    def out_of_memory() -> None:
        running.pipeline.language.generator.step = good
        raise torch.OutOfMemoryError("no memory left on the device")

    running.hold()
    question = running.ask("What is region 1?", frame)
    running.wait_until_held()
    running.scheduler.submit_frame(frame)
    running.pipeline.language.generator.step = out_of_memory
    running.release()
    assert question.result(LIMIT_S).status is Status.FAILED
    assert "no memory left" in question.result().error
    assert running.results.get(timeout=LIMIT_S).status is Status.OK  # what waited was served

    running.hold()
    running.scheduler.submit_frame(frame)
    running.wait_until_held()
    running.pipeline.language.generator.step = out_of_memory
    running.release()
    assert running.results.get(timeout=LIMIT_S).status is Status.FAILED
    follow_up = running.ask("And region 2?", None, conversation_id=opened.conversation_id).result(LIMIT_S)
    alone, pipeline = Conversation("c", frame), make_pipeline()
    pipeline.ask(alone, Question("What is region 1?", "q"))
    assert follow_up.text == pipeline.ask(alone, Question("And region 2?", "q")).text
    assert running.scheduler.statistics()["worker_restarts"] == 2


def test_stopping_answers_everything(run: Callable, make_frame: Callable) -> None:
    running, frame = run(pipeline={"answer_tokens": 400, "question_rows": 1}), make_frame(2)
    running.hold()
    futures = [running.ask("What is region 1?", frame) for _ in range(3)] + [running.describe(frame)]
    running.wait_until_held()
    stopper = threading.Thread(target=running.scheduler.stop, args=(LIMIT_S,))
    stopper.start()
    wait_for(lambda: not running.scheduler._running)
    running.release()
    stopper.join(LIMIT_S)
    assert {future.result(LIMIT_S).status for future in futures} == {Status.CANCELED}
    assert running.ask("What is region 1?", frame).result(LIMIT_S).status is Status.FAILED
    running.scheduler.start()
    running.scheduler.config = dataclasses.replace(running.scheduler.config, answer_timeout_s=0.05)
    assert running.ask("What is region 1?", frame).result(LIMIT_S).status is Status.TIMEOUT


def test_stopping_answers_what_a_stuck_worker_is_beginning(run: Callable, make_frame: Callable,
                                                           monkeypatch: pytest.MonkeyPatch) -> None:
    running = run()
    begun, go_on, begin = threading.Event(), threading.Event(), running.pipeline.begin

    def stuck_begin(request) -> None:
        begun.set()
        assert go_on.wait(LIMIT_S)
        begin(request)

    monkeypatch.setattr(running.pipeline, "begin", stuck_begin)
    described = running.describe(make_frame())
    assert begun.wait(LIMIT_S)
    assert not running.scheduler.stop(0.05)
    assert described.result(LIMIT_S).status == Status.FAILED
    go_on.set()
