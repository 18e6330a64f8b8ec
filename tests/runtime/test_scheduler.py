from __future__ import annotations

import dataclasses
import queue
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future

import pytest
import torch

from ros_gpt4roi.runtime.pipeline import Pipeline
from ros_gpt4roi.runtime.region_text import RegionText
from ros_gpt4roi.runtime.request import Conversation, DescriptionRequest, Question
from ros_gpt4roi.runtime.scheduler import Scheduler, SchedulerConfig
from ros_gpt4roi.runtime.types import Frame, FrameDescriptions, Status

LIMIT_S = 60.0  # no test takes this long; a hang ends here


class Running:
    """A scheduler with everything it says collected, and a brake: while held, the worker rests between two steps."""

    def __init__(self, pipeline: Pipeline, config: SchedulerConfig):
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
        self.scheduler = Scheduler(pipeline, config, self.results.put)
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


@pytest.fixture
def run(make_pipeline: Callable[..., Pipeline]) -> Iterator[Callable[..., Running]]:
    """Start a scheduler over the tiny model; keywords are SchedulerConfig's, or `pipeline` for the pipeline's."""
    started: list[Running] = []

    def start(pipeline: dict | None = None, **limits) -> Running:
        started.append(Running(make_pipeline(**(pipeline or {})), SchedulerConfig(**limits)))
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
