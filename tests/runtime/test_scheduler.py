from __future__ import annotations

import dataclasses
import queue
import threading
from collections.abc import Callable

import pytest
from scheduler_fixtures import (  # noqa: F401
    LIMIT_S,
    run_fixture,
)

from ros_gpt4roi.runtime.request import Conversation, Question
from ros_gpt4roi.runtime.scheduler import SchedulerConfig
from ros_gpt4roi.runtime.types import Status


def test_frames_are_described_and_the_newest_wins(run: Callable, make_frame: Callable) -> None:
    running = run()
    running.hold()
    running.scheduler.submit_frame(make_frame(2, stamp_ns=1))
    running.wait_until_held()
    for stamp in range(2, 12):
        running.scheduler.submit_frame(make_frame(2, stamp_ns=stamp))
    running.release()
    stamps = [running.results.get(timeout=LIMIT_S).frame.stamp_ns for _ in range(2)]
    assert stamps == [1, 11]
    statistics = running.scheduler.statistics()
    assert statistics["frames_received"] == 11 and statistics["frames_dropped"] == 9
    assert statistics["frames_ok"] == 2 and statistics["descriptions"] == 4


def test_a_question_joins_a_decode_that_is_going_on(run: Callable, make_frame: Callable,
                                                    make_pipeline: Callable) -> None:
    running = run(pipeline={"description_tokens": 60, "answer_tokens": 4})
    frame = make_frame(4)
    running.hold()
    running.scheduler.submit_frame(frame)
    running.wait_until_held()
    before = running.steps
    answer, steps = running.ask("What is region 2?", frame, "q"), queue.Queue()
    answer.add_done_callback(lambda _: steps.put(running.steps))  # on the worker, before it goes on
    running.release()
    assert answer.result(LIMIT_S).status is Status.OK
    # One step was at rest when the question came; it joins at the next and needs at most its tokens, not the frame's.
    assert steps.get(timeout=LIMIT_S) - before <= 1 + 4
    alone = make_pipeline(answer_tokens=4).ask(Conversation("c", frame), Question("What is region 2?", "q"))
    assert answer.result().text == alone.text
    together = running.results.get(timeout=LIMIT_S)
    apart = make_pipeline(description_tokens=60).describe(frame)
    assert [d.text for d in together.descriptions] == [d.text for d in apart.descriptions]


def test_questions_past_the_queue_are_overloaded_and_all_others_answered(run: Callable, make_frame: Callable) -> None:
    running = run(queue_length=5, pipeline={"question_rows": 2, "answer_tokens": 3}, conversations=2000)
    frame = make_frame(2)
    running.hold()
    first = running.ask("What is region 1?", frame)
    running.wait_until_held()
    futures = [running.ask("What is region 2?", frame) for _ in range(1000)]
    overloaded = [future for future in futures if future.done()]
    assert len(overloaded) == 995
    assert {future.result().status for future in overloaded} == {Status.OVERLOADED}
    assert "5 questions" in overloaded[0].result().error
    running.release()
    assert {future.result(LIMIT_S).status for future in [first, *futures[:5]]} == {Status.OK}
    statistics = running.scheduler.statistics()
    assert statistics["answers_overloaded"] == 995 and statistics["answers_ok"] == 6
    assert statistics["questions_open"] == 0


def test_cancel_stops_a_live_question_within_a_step_and_a_waiting_one(run: Callable, make_frame: Callable) -> None:
    running = run(pipeline={"question_rows": 1, "answer_tokens": 400})
    frame, pieces = make_frame(2), queue.Queue()
    live = running.ask("What is region 1?", frame, "live", on_text=pieces.put)
    waiting = running.ask("What is region 2?", frame, "waiting")
    pieces.get(timeout=LIMIT_S)
    running.hold()
    running.wait_until_held()
    before = running.steps
    assert running.scheduler.cancel("live") and running.scheduler.cancel("waiting")
    assert not running.scheduler.cancel("nobody")
    running.release()
    assert waiting.result(LIMIT_S).status is Status.CANCELED
    answer = live.result(LIMIT_S)
    assert answer.status is Status.CANCELED and answer.text
    assert running.steps - before <= 2
    assert not running.scheduler.cancel("live")


def test_a_timeout_answers_with_the_partial_text(run: Callable, make_frame: Callable) -> None:
    running = run(pipeline={"answer_tokens": 400}, answer_timeout_s=0.3)
    held = queue.Queue()

    def slow_listener(piece: str) -> None:
        held.put(piece)
        threading.Event().wait(0.05)

    answer = running.ask("What is region 1?", make_frame(2), "q", on_text=slow_listener).result(LIMIT_S)
    assert answer.status is Status.TIMEOUT and "time" in answer.error
    assert answer.text.startswith(held.get_nowait())
    assert running.scheduler.statistics()["answers_timeout"] == 1


def test_a_question_that_waits_too_long_times_out_in_the_queue(run: Callable, make_frame: Callable) -> None:
    running = run(pipeline={"question_rows": 1, "answer_tokens": 400})
    running.hold()
    running.ask("What is region 1?", make_frame(2), "first")
    running.wait_until_held()
    running.scheduler.config = dataclasses.replace(running.scheduler.config, answer_timeout_s=0.01)
    late = running.ask("What is region 1?", make_frame(2), "late")
    threading.Event().wait(0.02)  # the deadline itself has to pass
    running.release()
    assert late.result(LIMIT_S).status is Status.TIMEOUT
    running.scheduler.cancel("first")


def test_a_conversation_keeps_its_frame_and_its_rounds(run: Callable, make_frame: Callable,
                                                      make_pipeline: Callable) -> None:
    running, frame = run(), make_frame(["cup", "track-7"])
    first = running.ask("What is region track-7?", frame).result(LIMIT_S)
    assert first.status is Status.OK and first.conversation_id and first.frame is frame
    other = make_frame(9, seed=4)
    second = running.ask("And region cup?", other, conversation_id=first.conversation_id).result(LIMIT_S)
    assert second.frame is frame and second.conversation_id == first.conversation_id
    alone, pipeline = Conversation("c", frame), make_pipeline()
    assert pipeline.ask(alone, Question("What is region track-7?", "a")).text == first.text
    assert pipeline.ask(alone, Question("And region cup?", "b")).text == second.text


@pytest.mark.slow
def test_a_conversation_of_200_questions_keeps_answering_in_full(run: Callable, make_frame: Callable) -> None:
    running, frame = run(pipeline={"answer_tokens": 40}), make_frame(3)
    answers = [running.ask("What is region 1?", frame).result(LIMIT_S)]
    for number in range(1, 200):
        answers.append(running.ask(f"And region {1 + number % 3}?", None,
                                   conversation_id=answers[0].conversation_id).result(LIMIT_S))
    assert {answer.status for answer in answers} == {Status.OK}
    # What ends at a limit ends at its own, not at the context's.
    assert {answer.error for answer in answers} <= {"", "the answer was cut after 40 tokens"}
    statistics = running.scheduler.statistics()
    assert 100 < statistics["rounds_dropped"] < 200
    assert statistics["answers_ok"] == 200


def test_a_closed_conversation_leaves_nothing_in_the_cache(run: Callable, make_frame: Callable) -> None:
    running, sizes = run(conversations=2), []
    for number in range(30):
        running.ask("What is region 1?", make_frame(2, seed=number % 2)).result(LIMIT_S)
        sizes.append(running.scheduler.statistics()["cache_bytes"])
    assert max(sizes[10:]) <= max(sizes[:10]), "the cache grew with conversations that are closed"


def test_two_questions_of_one_conversation_are_served_in_turn(run: Callable, make_frame: Callable,
                                                              make_pipeline: Callable) -> None:
    running, frame = run(), make_frame(3)
    opened = running.ask("What is region 1?", frame).result(LIMIT_S)
    running.hold()
    both = [running.ask(text, None, conversation_id=opened.conversation_id)
            for text in ("And 2 more?", "And region 3?")]
    running.release()
    texts = [future.result(LIMIT_S).text for future in both]
    alone, pipeline = Conversation("c", frame), make_pipeline()
    expected = [pipeline.ask(alone, Question(text, "q")).text for text in
                ("What is region 1?", "And 2 more?", "And region 3?")]
    assert [opened.text, *texts] == expected


def test_what_cannot_be_asked_says_why(run: Callable, make_frame: Callable) -> None:
    running, frame = run(), make_frame(2)
    unknown = running.ask("What?", frame, conversation_id="no-such").result(LIMIT_S)
    assert unknown.status is Status.INVALID and "'no-such'" in unknown.error
    endless = running.ask("What?", frame, conversation_id="x" * 100_000).result(LIMIT_S)
    assert endless.status is Status.INVALID and "100000 characters" in endless.error and len(endless.error) < 300
    assert running.ask("What?", None).result(LIMIT_S).status is Status.NO_FRAME
    assert running.ask("What is region 9?", frame).result(LIMIT_S).status is Status.UNKNOWN_REGION
    assert running.ask("", frame).result(LIMIT_S).status is Status.INVALID
    running.hold()
    running.ask("What is region 1?", frame, "same")
    twice = running.ask("What is region 1?", frame, "same").result(LIMIT_S)
    assert twice.status is Status.INVALID and "'same'" in twice.error
    running.release()
    assert running.ask("What is region 1?", frame).result(LIMIT_S).status is Status.OK


@pytest.mark.parametrize(("text", "status"), [("What is region 9?", Status.UNKNOWN_REGION), ("", Status.INVALID)])
def test_the_boxes_of_a_refused_question_leave_its_conversation(run: Callable, make_frame: Callable, text: str,
                                                                status: Status) -> None:
    running, frame = run(), make_frame(2)
    drawn = dataclasses.replace(frame.regions[0], id="mine"), dataclasses.replace(frame.regions[1], id="other")
    more = {"conversation_id": running.ask("What is region 1?", frame).result(LIMIT_S).conversation_id}
    running.hold()
    refused = running.ask(text, None, draw=lambda _: drawn[:1], **more)
    waiting = running.ask("What is region other?", None, draw=lambda _: drawn[1:], **more)
    running.release()
    assert refused.result(LIMIT_S).status is status
    answer = waiting.result(LIMIT_S)
    assert answer.status is Status.OK and [region.id for region in answer.frame.regions] == ["1", "2", "other"]


def test_the_conversation_unused_for_longest_is_closed(run: Callable, make_frame: Callable) -> None:
    running, frame = run(conversations=2), make_frame(2)
    ids = [running.ask("What is region 1?", frame).result(LIMIT_S).conversation_id for _ in range(2)]
    running.ask("And region 2?", None, conversation_id=ids[0]).result(LIMIT_S)
    running.ask("What is region 1?", frame).result(LIMIT_S)
    assert running.ask("More?", None, conversation_id=ids[0]).result(LIMIT_S).status is Status.OK
    assert running.ask("More?", None, conversation_id=ids[1]).result(LIMIT_S).status is Status.INVALID


def test_a_listener_that_is_gone_ends_its_question_and_nothing_else(run: Callable, make_frame: Callable) -> None:
    running, frame = run(pipeline={"answer_tokens": 400}), make_frame(2)

    def gone(piece: str) -> None:
        raise ConnectionError("the client left")

    answer = running.ask("What is region 1?", frame, on_text=gone).result(LIMIT_S)
    assert answer.status is Status.CANCELED and "the client left" in answer.error
    assert running.describe(frame).result(LIMIT_S).status is Status.OK


def test_describe_once_describes_that_frame_and_says_what_is_wrong_with_it(run: Callable, make_frame: Callable) -> None:
    running, frame = run(), make_frame(3, stamp_ns=5)
    result = running.describe(frame).result(LIMIT_S)
    assert result.frame is frame and len(result.descriptions) == 3
    assert set(result.timings) == {"preprocess", "vision", "language"}
    bad = dataclasses.replace(frame, regions=(dataclasses.replace(frame.regions[0], box=(3.0, 3.0, 1.0, 9.0)),))
    result = running.describe(bad).result(LIMIT_S)
    assert result.status is Status.INVALID and "3 3 1 9" in result.error
    assert running.results.empty()
    statistics = running.scheduler.statistics()
    assert [statistics[f"frames_{name}"] for name in ("received", "ok", "invalid")] == [2, 1, 1]


@pytest.mark.parametrize("limits", [{"queue_length": 0}, {"conversations": 0}, {"answer_timeout_s": 0.0},
                                    {"description_timeout_s": float("nan")}])
def test_a_limit_that_makes_no_sense_is_refused_by_name(limits: dict) -> None:
    name, value = next(iter(limits.items()))
    with pytest.raises(ValueError, match=f"{name} is {value}"):
        SchedulerConfig(**limits)
