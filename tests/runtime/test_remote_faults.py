"""A server that misbehaves: what it costs, what is told of it, and how it is used again."""
from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from chat_server import LIMIT_S, TEXT, ChatServer, Handler, stalling, until, words
from remote_fixtures import ask, connect_fixture, picture, run_fixture, submit  # noqa: F401

from ros_gpt4roi.runtime.language_stage import DecodingConfig
from ros_gpt4roi.runtime.remote.options import KEY_VARIABLE
from ros_gpt4roi.runtime.remote.pipeline import RemotePipeline
from ros_gpt4roi.runtime.request import Conversation, Question
from ros_gpt4roi.runtime.scheduler import Scheduler
from ros_gpt4roi.runtime.types import Status


def _status(status: int, content: Any, **headers: str) -> Callable[[Handler, dict[str, Any]], None]:
    return lambda handler, body: handler.answer(status, content, **headers)


def _stream(*events: str, **headers: str) -> Callable[[Handler, dict[str, Any]], None]:
    def behave(handler: Handler, body: dict[str, Any]) -> None:
        handler.begin(**headers)
        for event in events:
            handler.send(event)
        handler.wfile.write(b"0\r\n\r\n")
    return behave


def is_trial(body: dict[str, Any]) -> bool:
    """Whether the server is asked whether it writes at all."""
    return bool(body["max_tokens"] == 1)


FAULTS = {
    "no JSON": (_stream("data: {nonsense\n\n"), "no JSON"),
    "deep JSON": (_stream("data: " + "[" * 30000 + "\n\n"), "no JSON"),
    "no text": (_stream('data: {"choices": [{"delta": {"content": 7}}]}\n\n'), "no part of a text"),
    "a list": (_stream("data: [1, 2]\n\n"), "no part of a text"),
    "an error event": (_stream('data: {"error": {"message": "out of blocks"}}\n\n'), "out of blocks"),
    "a long event": (_stream("data: " + "x" * 70000), "more than 65536 bytes"),
    "megabytes": (_stream(*['data: {"choices": [{"delta": {"content": "' + "y" * 60000 + '"}}]}\n\n'] * 40),
                  "more than 1048576 bytes"),
    "it breaks off": (_stream('data: {"choices": [{"delta": {"content": "a"}}]}\n\n'), "broke off"),
    "no events": (_status(200, {"choices": []}, Content_Type="application/json"), "no stream of events"),
    "compressed": (_stream("data: x\n\n", Content_Encoding="gzip"), "compressed"),
    "a wrong model": (_status(404, {"error": {"message": "The model `qwen` does not exist."}}), "does not exist"),
    "elsewhere": (_status(302, b"", Location="http://127.0.0.1:1/"), "is elsewhere (302)"),
    "a key": (_status(401, {"error": "Unauthorized"}), f"asks for a key (401), expected in {KEY_VARIABLE}"),
    "an error": (_status(500, b"<html>Internal\x1b[2J Server Error</html>"), "failed (500)"),
    "too long": (_status(400, {"message": "the prompt has 9000 tokens"}), "the prompt has 9000 tokens"),
    "a huge number": (_stream('data: {"choices": [{"delta": {"content": "a"}, "logprobs": {"content": '
                              '[{"logprob": -1' + "0" * 400 + "}]}}]}\n\n"), "no part of a text"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_failing_server_costs_only_the_text_and_says_why(fault: str, server: ChatServer,
                                                          connect: Callable[..., RemotePipeline]) -> None:
    pipeline = connect()
    behave, expected = FAULTS[fault]
    server.behave = lambda handler, body: (words if is_trial(body) else behave)(handler, body)
    answer = ask(pipeline)
    assert answer.status is Status.FAILED and expected in answer.error and "\x1b" not in answer.error
    assert not pipeline.trouble and sum(map(is_trial, server.bodies)) == 1
    server.behave = words
    assert ask(pipeline).text == TEXT


@pytest.mark.parametrize("fault", ["a wrong model", "a key", "an error", "no events", "elsewhere"])
def test_a_server_that_fails_whatever_it_is_asked_is_gone_until_it_writes_again(
        fault: str, server: ChatServer, connect: Callable[..., RemotePipeline]) -> None:
    pipeline = connect(retry_s=0.1)
    server.behave, expected = FAULTS[fault]
    assert pipeline.describe(picture(regions=3)).status is Status.FAILED
    assert expected in pipeline.trouble and sum(map(is_trial, server.bodies)) >= 1
    asked = len(server.bodies)
    until(lambda: len(server.bodies) > asked)  # its list of models is there all the time, and does not bring it back
    assert all(map(is_trial, server.bodies[asked:])) and expected in ask(pipeline).error
    server.behave = words
    until(lambda: not pipeline.trouble)
    assert ask(pipeline).text == TEXT and pipeline.statistics()["server_lost"] == 1


def test_a_trial_that_never_ends_holds_no_text_up(server: ChatServer, connect: Callable[..., RemotePipeline],
                                                  run: Callable[..., Scheduler]) -> None:
    def trickling(handler: Handler, body: dict[str, Any]) -> None:
        if not is_trial(body):
            handler.answer(500, b"out of blocks")
            return
        handler.begin()
        while not handler.server.held.wait(0.05):
            handler.event("")

    server.behave = trickling
    server.held.clear()
    pipeline = connect(stall_timeout_s=0.3, connect_timeout_s=0.3)
    answer = submit(run(pipeline, answer_timeout_s=10.0)).future.result(LIMIT_S)
    assert answer.status is Status.FAILED and "failed (500)" in answer.error
    assert "has sent nothing for 0.3 s" in pipeline.trouble


def test_a_key_that_a_server_repeats_is_not_told(server: ChatServer, connect: Callable[..., RemotePipeline],
                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "sk-of-this-robot-alone-0123456789")
    pipeline = connect()
    server.behave = lambda handler, body: handler.answer(
        401, {"error": {"message": f"Incorrect API key: {handler.headers['Authorization'].split()[1]}"}})
    answer = ask(pipeline)
    assert f"refuses the key of {KEY_VARIABLE} (401)" in answer.error and "sk-of" not in answer.error
    assert "sk-of" not in pipeline.trouble and f"refuses the key of {KEY_VARIABLE} (401)" in pipeline.trouble


def test_an_answer_that_the_server_withholds_has_failed_and_costs_no_other_region(
        server: ChatServer, connect: Callable[..., RemotePipeline]) -> None:
    def withholding(handler: Handler, body: dict[str, Any]) -> None:
        if "region 2" not in body["messages"][0]["content"][1]["text"].splitlines()[-1]:
            return words(handler, body)
        handler.begin()
        handler.event("The person ")
        handler.event("", "content_filter")
        handler.end()

    server.behave = withholding
    pipeline = connect()
    answer = ask(pipeline, "What is region r2?")
    assert answer.status is Status.FAILED and answer.text == "The person"
    assert "content filter" in answer.error and not pipeline.trouble and len(server.bodies) == 1
    frame = connect(describe="What is {region}?").describe(picture())
    assert frame.status is Status.OK and [d.region.id for d in frame.descriptions] == ["r1", "r3"]
    [refused] = frame.refused
    assert refused.startswith("region 'r2' has no text: the content filter of the server at 127.0.0.1:")


def test_a_text_can_be_sent_on_whatever_is_in_it(server: ChatServer, connect: Callable[..., RemotePipeline]) -> None:
    server.models = ["q\ud800\x1b[2J" + "w" * 500]
    server.behave = _stream('data: {"choices": [{"delta": {"content": "a \\ud83d\\ude00 \\ud800\\u0000mug"}, '
                            '"finish_reason": "stop"}]}\n\n')
    answer = ask(connect())
    assert answer.status is Status.OK and answer.text == "a \N{GRINNING FACE} ?mug"
    assert len(answer.model_version) < 300 and answer.model_version.isprintable()


def test_a_server_that_pours_pieces_out_takes_the_worker_one_reading_a_step(
        server: ChatServer, connect: Callable[..., RemotePipeline]) -> None:
    """Whoever reads a text that grows reads all of it: piece by piece, a long one would take minutes."""
    piece = 'data: {"choices": [{"delta": {"content": "("}}]}\n\n'
    server.behave = _stream(piece * 500, piece.replace("}}]", '}, "finish_reason": "stop"}]'))
    pipeline, heard = connect(), list[str]()
    question = Question("What is region r2?", conversation=Conversation("", picture()), on_text=heard.append)
    pipeline.begin(question)
    until(lambda: pipeline.server._news.qsize() == 501)
    assert pipeline.step() == [question] and question.result is not None
    assert heard == [question.result.text] == ["(" * 501]


def test_a_stream_that_does_not_end_behind_its_text_keeps_no_row(server: ChatServer,
                                                                 run: Callable[..., Scheduler],
                                                                 connect: Callable[..., RemotePipeline]) -> None:
    def behave(handler: Handler, body: dict[str, Any]) -> None:
        handler.begin()
        handler.event("a mug", "stop")
        while not ended.wait(0.02):
            handler.send(": still here\n\n")

    ended, server.behave = threading.Event(), behave
    scheduler = run(connect(decoding=DecodingConfig(question_rows=1)), answer_timeout_s=LIMIT_S)
    try:
        assert [submit(scheduler).future.result(LIMIT_S).status for _ in range(3)] == [Status.OK] * 3
    finally:
        ended.set()


def test_comments_alone_are_a_server_that_stalls(server: ChatServer, connect: Callable[..., RemotePipeline]) -> None:
    def behave(handler: Handler, body: dict[str, Any]) -> None:
        handler.begin()
        while not ended.wait(0.02):
            handler.send(": still here\n\n")

    ended, server.behave = threading.Event(), behave
    try:
        answer = ask(connect(stall_timeout_s=0.3, retry_s=LIMIT_S))
        assert answer.status is Status.TIMEOUT and "nothing for 0.3 s" in answer.error
    finally:
        ended.set()


def test_a_list_of_models_that_never_ends_is_waited_for_no_longer_than_a_text(
        server: ChatServer, connect: Callable[..., RemotePipeline]) -> None:
    ended = threading.Event()

    def slowly(handler: Handler) -> None:
        handler.begin()
        while not ended.wait(0.02):
            handler.send(" ")

    server.list_models = slowly
    try:
        assert "no answer in time" in connect(stall_timeout_s=0.2, connect_timeout_s=0.2, retry_s=LIMIT_S).trouble
    finally:
        ended.set()


@pytest.mark.parametrize("named", [True, False])
def test_a_server_that_has_another_model_now_is_asked_by_its_name(named: bool, server: ChatServer,
                                                                  connect: Callable[..., RemotePipeline]) -> None:
    def behave(handler: Handler, body: dict[str, Any]) -> None:
        if body["model"] in server.models:
            return words(handler, body)
        handler.answer(404, {"error": {"message": "The model does not exist."}})

    pipeline, server.behave = connect(**({"model": "qwen"} if named else {})), behave
    server.models = ["llama"]
    answer = ask(pipeline)
    if named:  # another one is not what was asked for
        assert answer.status is Status.FAILED and "has no model 'qwen'" in answer.error
    else:
        assert answer.text == TEXT and answer.model_version.startswith("llama@")
    server.models = []
    assert "does not exist" in (error := ask(pipeline).error) or "0 models" in error


def test_nothing_of_picture_or_question_is_in_errors_or_logs(server: ChatServer, caplog: pytest.LogCaptureFixture,
                                                             connect: Callable[..., RemotePipeline]) -> None:
    caplog.set_level(logging.DEBUG)
    pipeline = connect()

    def repeating(handler: Handler, body: dict[str, Any]) -> None:
        if is_trial(body):
            return words(handler, body)
        content = body["messages"][0]["content"]
        handler.answer(422, {"detail": [{"msg": "field required", "input": content[asked]}]})

    server.behave = repeating
    for asked in (0, 1):  # noqa: B007 (the server reads it)
        answer = ask(pipeline, "Where did the patient of room seven put the red pills?")
        assert answer.status is Status.FAILED and "left out" in answer.error
        assert "patient" not in answer.error and "base64" not in answer.error
    server.behave = words
    assert ask(pipeline, "Where did the patient of room seven put the red pills?").status is Status.OK
    logged = "\n".join(record.getMessage() for record in caplog.records)
    assert "patient" not in logged and "base64" not in logged


def test_a_busy_server_is_waited_for_as_it_asks_and_not_for_ever(server: ChatServer,
                                                                 connect: Callable[..., RemotePipeline]) -> None:
    came: list[float] = []

    def busy(handler: Handler, body: dict[str, Any]) -> None:
        came.append(time.monotonic())
        if len(came) < 2:
            return handler.answer(429, {"error": "too many requests"}, Retry_After="1")
        words(handler, body)

    server.behave = busy
    pipeline = connect()
    assert ask(pipeline).text == TEXT and came[1] - came[0] >= 1.0
    server.behave = _status(429, {"error": "too many requests"}, Retry_After="3600")
    answer = ask(pipeline)
    assert answer.status is Status.OVERLOADED and "3600" in answer.error and not pipeline.trouble


def test_a_busy_server_that_asks_not_to_wait_is_not_stormed(server: ChatServer,
                                                            connect: Callable[..., RemotePipeline]) -> None:
    server.behave = _status(429, {"error": "too many requests"}, Retry_After="0")
    assert ask(connect(busy_timeout_s=1.0)).status is Status.OVERLOADED
    assert len(server.bodies) < 5


def test_a_server_that_stalls_is_left_and_comes_back(server: ChatServer,
                                                     connect: Callable[..., RemotePipeline]) -> None:
    server.behave = stalling
    server.held.clear()
    pipeline = connect(stall_timeout_s=0.3, retry_s=0.1)
    answer = ask(pipeline)
    assert answer.status is Status.TIMEOUT and answer.text == "a" and "nothing for 0.3 s" in answer.error
    server.behave = words
    server.held.set()
    until(lambda: not pipeline.trouble)
    assert ask(pipeline).text == TEXT


def test_a_server_that_goes_is_told_at_once_and_comes_back_by_itself(server: ChatServer,
                                                                     connect: Callable[..., RemotePipeline]) -> None:
    pipeline = connect(retry_s=0.1)
    assert ask(pipeline).text == TEXT
    server.close()
    first, second = ask(pipeline), ask(pipeline)
    assert first.status is second.status is Status.FAILED
    assert "cannot be reached" in second.error or "closed the connection" in second.error
    assert pipeline.trouble and pipeline.statistics()["server_gone"] == 1
    again = ChatServer(server.port)
    try:
        until(lambda: not pipeline.trouble)
        assert ask(pipeline).text == TEXT and again.bodies
        assert pipeline.statistics()["server_lost"] == 1
    finally:
        again.close()


def test_a_server_that_is_not_there_yet_is_found_later(server: ChatServer,
                                                       connect: Callable[..., RemotePipeline]) -> None:
    server.close()
    pipeline = connect(retry_s=0.1)
    pipeline.warm_up()
    assert pipeline.trouble and ask(pipeline).status is Status.FAILED
    again = ChatServer(server.port)
    try:
        until(lambda: not pipeline.trouble)
        assert ask(pipeline).model_version.startswith("qwen@")
    finally:
        again.close()


def test_a_server_that_takes_no_pictures_fails_the_warm_up(server: ChatServer,
                                                           connect: Callable[..., RemotePipeline]) -> None:
    server.behave = _status(400, {"message": "this model takes no images"})
    with pytest.raises(ValueError, match="takes no images"):
        connect().warm_up()
