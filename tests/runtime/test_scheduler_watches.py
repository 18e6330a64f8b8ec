"""Questions of watches, between those of people and descriptions."""
from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future

import pytest
from scheduler_fixtures import (  # noqa: F401
    LIMIT_S,
    run_fixture,
)

from ros_gpt4roi.runtime.pipeline import Pipeline
from ros_gpt4roi.runtime.request import Conversation, DescriptionRequest, Question
from ros_gpt4roi.runtime.types import Status


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list:
    """What pipelines have begun: the texts of questions, the stamps of frames."""
    began: list = []
    begin = Pipeline.begin

    def recorded(pipeline: Pipeline, request: Question | DescriptionRequest) -> None:
        began.append(request.text if isinstance(request, Question) else request.frame.stamp_ns)
        begin(pipeline, request)

    monkeypatch.setattr(Pipeline, "begin", recorded)
    return began


def test_watches_come_after_questions_and_before_frames_one_at_a_time(run: Callable, make_frame: Callable,
                                                                      begun: list) -> None:
    running = run(pipeline={"question_rows": 2}, queue_length=1)
    frame = make_frame(2, stamp_ns=5)
    running.hold()
    first = running.ask("First?", frame)
    running.wait_until_held()
    running.scheduler.submit_frame(frame)
    watches = [running.ask(f"Watch {number}?", frame, for_watch=True) for number in (1, 2, 3)]
    waiting = running.ask("Second?", frame)  # the queue of one question is not taken by those of watches
    statistics = running.scheduler.statistics()
    assert (statistics["questions_waiting"], statistics["watch_questions_waiting"]) == (1, 3)
    running.release()
    assert {future.result(LIMIT_S).status for future in [first, waiting, *watches]} == {Status.OK}
    assert running.results.get(timeout=LIMIT_S).status is Status.OK
    assert begun == ["First?", "Second?", "Watch 1?", 5, "Watch 2?", "Watch 3?"]
    statistics = running.scheduler.statistics()
    assert (statistics["answers_ok"], statistics["watch_answers_ok"]) == (2, 3)


def test_a_watchs_question_is_answered_as_any_other_and_nothing_of_it_is_kept(
        run: Callable, make_frame: Callable, make_pipeline: Callable) -> None:
    running, frame = run(conversations=1), make_frame(3)
    opened = running.ask("What is region 1?", frame).result(LIMIT_S)
    kept = running.scheduler.statistics()["cache_bytes"]
    for number in range(5):
        answer = running.ask("What is region 2?", make_frame(3, seed=number), for_watch=True).result(LIMIT_S)
        alone = make_pipeline().ask(Conversation("c", make_frame(3, seed=number)), Question("What is region 2?"))
        assert (answer.status, answer.text, answer.conversation_id) == (Status.OK, alone.text, "")
    statistics = running.scheduler.statistics()
    assert statistics["cache_bytes"] == kept and statistics["conversations"] == 1
    assert running.ask("Why?", None, conversation_id=opened.conversation_id).result(LIMIT_S).status is Status.OK
    assert running.ask("Region 9?", frame, for_watch=True).result(LIMIT_S).status is Status.UNKNOWN_REGION


def test_neither_watches_nor_frames_keep_the_others_waiting(run: Callable, make_frame: Callable) -> None:
    running, frame = run(pipeline={"description_rows": 1}), make_frame(4)
    answered: list[Status] = []
    going_on = True

    def ask_again(done: Future | None = None) -> None:
        if done is not None:
            answered.append(done.result().status)
        if going_on:
            running.ask("What is region 1?", frame, for_watch=True).add_done_callback(ask_again)

    for _ in range(3):  # so that always some wait
        ask_again()
    described: list[Status] = []
    while len(described) < 4 or len(answered) < 8:
        running.scheduler.submit_frame(frame)
        described.append(running.results.get(timeout=LIMIT_S).status)
    going_on = False
    assert {*described, *answered} == {Status.OK}


def test_stopping_and_cancelling_answer_watches(run: Callable, make_frame: Callable) -> None:
    running, frame = run(pipeline={"answer_tokens": 400}), make_frame(2)
    running.hold()
    futures = [running.ask("What is region 1?", frame, f"watch {number}", for_watch=True) for number in range(3)]
    running.wait_until_held()
    assert running.scheduler.cancel("watch 2")
    running.release()
    assert futures[2].result(LIMIT_S).status is Status.CANCELED
    assert running.scheduler.stop(LIMIT_S)
    assert {future.result(LIMIT_S).status for future in futures[:2]} <= {Status.CANCELED, Status.OK}
