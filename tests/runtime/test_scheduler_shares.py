"""How questions and frames share the worker while a camera brings frames faster than they can be encoded."""
from __future__ import annotations

from collections.abc import Callable

import pytest
from scheduler_fixtures import (  # noqa: F401
    LIMIT_S,
    run_fixture,
)

from ros_gpt4roi.runtime.pipeline import Pipeline
from ros_gpt4roi.runtime.request import DescriptionRequest, Question
from ros_gpt4roi.runtime.types import Status

ENCODING_S = 5.0  # of a frame, where a decode step takes 1 s


@pytest.mark.parametrize("for_watch", [False, True])
@pytest.mark.parametrize("question_s", [0.0, ENCODING_S])
def test_frames_take_at_most_half_of_the_worker_from_a_question_and_get_their_turn(
        run: Callable, make_frame: Callable, monkeypatch: pytest.MonkeyPatch, for_watch: bool,
        question_s: float) -> None:
    now, happened = 0.0, []
    begin, step = Pipeline.begin, Pipeline.step

    def timed_begin(pipeline: Pipeline, request: Question | DescriptionRequest) -> None:
        nonlocal now
        of_frame = isinstance(request, DescriptionRequest)
        now += ENCODING_S if of_frame else question_s
        happened.append("frame" if of_frame else "question")
        begin(pipeline, request)

    def timed_step(pipeline: Pipeline) -> list:
        nonlocal now
        now += 1.0
        happened.append("step")
        running.scheduler.submit_frame(frame)
        done = step(pipeline)
        happened.extend("answered" for request in done if isinstance(request, Question))
        return done

    monkeypatch.setattr(Pipeline, "begin", timed_begin)
    monkeypatch.setattr(Pipeline, "step", timed_step)
    # All texts of a frame but the first are kept, so that it is done in one step.
    running = run(pipeline={"answer_tokens": 40, "reuse_distance": 1.0, "reuse_age_s": 3600.0}, clock=lambda: now,
                  answer_timeout_s=1e9, description_timeout_s=1e9)
    frame = make_frame(2)
    running.scheduler.submit_frame(frame)
    running.results.get(timeout=LIMIT_S)
    answer = running.ask("What is region 1?", frame, for_watch=for_watch).result(LIMIT_S)
    assert answer.status is Status.OK
    meanwhile = happened[happened.index("question") + 1:happened.index("answered")]
    decoding = "".join({"frame": "F", "step": "."}[event] for event in meanwhile)
    before, *between, last = decoding.split("F")
    # The last frame may have ended just before the question began, whose own encoding is no decoding of it.
    waited = 4 if not for_watch or not question_s else 0
    assert len(before) in (waited, waited + 1), decoding
    assert len(between) >= 3 and {len(steps) for steps in between} == {int(ENCODING_S)}, decoding
    assert len(last) <= ENCODING_S
