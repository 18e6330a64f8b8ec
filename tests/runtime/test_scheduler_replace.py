"""A pipeline is replaced between two frames: what began ends on the old one, what waits is served by the new one."""
from __future__ import annotations

import dataclasses
from collections.abc import Callable
from queue import Empty

import pytest
from scheduler_fixtures import LIMIT_S, Running, run_fixture  # noqa: F401

from ros_gpt4roi.runtime.pipeline import Pipeline
from ros_gpt4roi.runtime.types import Status


def named(pipeline: Pipeline, version: str) -> Pipeline:
    pipeline.version = version
    return pipeline


def test_what_began_ends_on_the_old_one_and_what_waits_goes_to_the_new_one(
        run: Callable[..., Running], make_pipeline: Callable, make_frame: Callable) -> None:
    running = run({"question_rows": 1})
    named(running.pipeline, "old")
    running.hold()
    begun = running.ask("What is region 1?", make_frame(2))
    running.wait_until_held()
    waiting = running.ask("What is region 2?", make_frame(2, seed=2))
    new = named(make_pipeline(), "new")
    replaced = running.scheduler.replace(new)
    with pytest.raises(RuntimeError, match="being replaced"):
        running.scheduler.replace(new)
    assert not replaced.done() and running.scheduler.model_version == "old"
    running.release()
    assert begun.result(LIMIT_S).model_version == "old"
    answer = waiting.result(LIMIT_S)
    assert (answer.status, answer.model_version) == (Status.OK, "new")
    assert replaced.result(LIMIT_S) is running.pipeline and running.pipeline.statistics()["cache_bytes"] == 0


def test_one_that_is_withdrawn_while_it_waits_does_not_come(run: Callable[..., Running], make_pipeline: Callable,
                                                            make_frame: Callable) -> None:
    running = run()
    named(running.pipeline, "old")
    running.hold()
    begun = running.ask("What is region 1?", make_frame(2))
    running.wait_until_held()
    for name in ("withdrawn", "withdrawn, too"):
        assert running.scheduler.replace(named(make_pipeline(), name)).cancel()
    running.release()
    assert begun.result(LIMIT_S).model_version == "old"
    answer = running.ask("What is region 2?", make_frame(2, seed=2)).result(LIMIT_S)
    assert (answer.status, answer.model_version) == (Status.OK, "old")
    assert running.scheduler.replace(named(make_pipeline(), "later")).result(LIMIT_S) is running.pipeline


def test_a_frame_that_is_described_is_not_cut(run: Callable[..., Running], make_pipeline: Callable,
                                              make_frame: Callable) -> None:
    running = run()
    named(running.pipeline, "old")
    running.hold()
    running.scheduler.submit_frame(make_frame(4))
    running.wait_until_held()
    replaced = running.scheduler.replace(named(make_pipeline(), "new"))
    running.scheduler.submit_frame(make_frame(4, seed=3))
    running.release()
    results = [running.results.get(timeout=LIMIT_S) for _ in range(2)]
    assert [(r.status, len(r.descriptions), r.model_version) for r in results] == [
        (Status.OK, 4, "old"), (Status.OK, 4, "new")]
    assert replaced.result(LIMIT_S) is running.pipeline
    with pytest.raises(Empty):
        running.results.get_nowait()


def test_conversations_of_the_old_one_are_told(run: Callable[..., Running], make_pipeline: Callable,
                                               make_frame: Callable) -> None:
    running = run()
    first = running.ask("What is region 1?", make_frame(2)).result(LIMIT_S)
    running.hold()
    running.ask("What is region 2?", make_frame(2, seed=5))
    running.wait_until_held()
    running.release()
    running.scheduler.replace(named(make_pipeline(), "new")).result(LIMIT_S)
    assert not running.scheduler.is_open(first.conversation_id)
    answer = running.ask("And region 2?", None, conversation_id=first.conversation_id).result(LIMIT_S)
    assert answer.status is Status.INVALID and "change of the model" in answer.error
    again = running.ask("What is region 1?", make_frame(2)).result(LIMIT_S)
    assert (again.text, again.model_version) == (first.text, "new")  # of the same weights


def test_a_scheduler_that_does_not_run_takes_it_at_once(run: Callable[..., Running], make_pipeline: Callable) -> None:
    running = run()
    assert running.scheduler.stop(LIMIT_S)
    new = named(make_pipeline(), "new")
    assert running.scheduler.replace(new).result(0) is running.pipeline
    assert running.scheduler.model_version == "new"


def test_the_new_one_knows_the_last_frame_when_it_takes_over(run: Callable[..., Running], make_pipeline: Callable,
                                                             make_frame: Callable) -> None:
    running = run({"reuse_distance": 0.5})
    frame = make_frame(4)
    running.scheduler.submit_frame(frame)
    old = running.results.get(timeout=LIMIT_S)
    running.scheduler.replace(named(make_pipeline(reuse_distance=0.5), "new")).result(LIMIT_S)
    running.scheduler.submit_frame(dataclasses.replace(frame, stamp_ns=frame.stamp_ns + 1))
    new = running.results.get(timeout=LIMIT_S)
    assert new.model_version == "new" and not any(description.reused for description in old.descriptions)
    assert len(new.descriptions) == 4 and all(description.reused for description in new.descriptions)
