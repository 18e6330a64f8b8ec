"""A model on a server: what is asked of it, how its texts come back, and what becomes of requests when it fails."""
from __future__ import annotations

import base64
import io
import json
import logging
import shutil
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chat_server import LIMIT_S, TEXT, ChatServer, Handler, until, words
from PIL import Image

from ros_gpt4roi.configuration import ConfigError
from ros_gpt4roi.runtime.language_stage import DecodingConfig
from ros_gpt4roi.runtime.pipeline_config import PipelineConfig
from ros_gpt4roi.runtime.remote.options import KEY_VARIABLE, ServerOptions
from ros_gpt4roi.runtime.remote.pipeline import RemotePipeline
from ros_gpt4roi.runtime.request import Conversation, Question
from ros_gpt4roi.runtime.scheduler import Scheduler, SchedulerConfig
from ros_gpt4roi.runtime.types import Answer, Frame, Region, Status


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


# --- what is asked ---------------------------------------------------------------------------------------------------

def test_texts_about_a_frame_begin_alike_and_end_in_their_own_question(server: ChatServer,
                                                                       connect: Callable[..., RemotePipeline]) -> None:
    pipeline, frame = connect(picture="png"), picture(size=(100, 130))
    described = pipeline.describe(frame)
    assert described.status is Status.OK and [d.text for d in described.descriptions] == [TEXT] * 3
    assert described.model_version == f"qwen@127.0.0.1:{server.port}" and described.pixels is not None
    contents = [body["messages"][0]["content"] for body in server.bodies]
    assert len(contents) == 3 and len({content[0]["image_url"]["url"] for content in contents}) == 1
    asked = sorted(content[1]["text"] for content in contents)
    for number, text in enumerate(asked, 1):
        head, _, question = text.rpartition("```\n")
        assert f'region {number} {{"bbox_2d": ' in question and question.startswith("Describe ")
        assert head.count("bbox_2d") == 3 and asked[0].startswith(text[:text.rindex("Describe ")])
    kind, data = contents[0][0]["image_url"]["url"].split(",")
    sent = Image.open(io.BytesIO(base64.b64decode(data)))
    assert kind == "data:image/png;base64" and sent.size[0] % 32 == sent.size[1] % 32 == 0
    body = server.bodies[0]
    assert body["max_tokens"] == 16 and body["temperature"] == 0 and body["stream"] is True


def test_the_pixel_budget_bounds_what_is_sent(server: ChatServer, connect: Callable[..., RemotePipeline]) -> None:
    small = replace(PipelineConfig().vision, max_pixels=64 * 64)
    assert ask(connect(vision=small), frame=picture(size=(480, 640))).status is Status.OK
    url = server.bodies[-1]["messages"][0]["content"][0]["image_url"]["url"]
    width, height = Image.open(io.BytesIO(base64.b64decode(url.split(",")[1]))).size
    assert width * height <= 64 * 64 and url.startswith("data:image/jpeg;")


def test_follow_ups_send_the_rounds_and_drawn_boxes_over_the_same_picture(
        server: ChatServer, connect: Callable[..., RemotePipeline]) -> None:
    pipeline, conversation = connect(), Conversation("talk", picture())
    assert pipeline.ask(conversation, Question("What is region r2?")).text == TEXT
    conversation.frame = conversation.frame.with_regions((Region("mine", (1.0, 2.0, 40.0, 50.0)),))
    assert pipeline.ask(conversation, Question("Is region mine left of region r2?")).text == TEXT
    first, second = (body["messages"] for body in server.bodies)
    assert [message["role"] for message in second] == ["user", "assistant", "user"]
    assert second[0]["content"][0] == first[0]["content"][0], "the very same picture"
    assert second[1]["content"] == TEXT
    last = second[2]["content"][0]["text"]
    assert 'region 4 {"bbox_2d": ' in last and last.endswith("left of region 2?"), "said once where it is"


def test_a_long_conversation_leaves_out_its_oldest_rounds(server: ChatServer,
                                                          connect: Callable[..., RemotePipeline]) -> None:
    pipeline, conversation = connect(), Conversation("talk", picture())
    conversation.rounds = [(f"round {number} " + "x" * 3000, "yes") for number in range(10)]
    assert pipeline.ask(conversation, Question("Why?")).status is Status.OK
    asked = json.dumps(server.bodies[-1]["messages"])
    assert "round 4 " not in asked and "round 5 " in asked and len(conversation.rounds) == 6
    assert server.bodies[-1]["messages"][0]["content"][0]["type"] == "image_url"


def test_what_may_not_be_written_is_refused_before_anything_is_sent(server: ChatServer,
                                                                    connect: Callable[..., RemotePipeline]) -> None:
    pipeline = connect()
    for text, status in (("<|im_start|>system", Status.INVALID), ("What is region 9?", Status.UNKNOWN_REGION),
                         ("", Status.INVALID), ("<region1>", Status.INVALID)):
        assert ask(pipeline, text).status is status
    assert pipeline.embed(picture()).status is Status.INVALID and not server.bodies


# --- how it comes back -----------------------------------------------------------------------------------------------

def test_an_answer_grows_with_its_confidence_and_what_it_finds(server: ChatServer,
                                                              connect: Callable[..., RemotePipeline]) -> None:
    def found(handler: Handler, body: dict[str, Any]) -> None:
        handler.begin()
        for text, chance in (('[{"bbox_2d": [700, ', -0.5), ('800, 950, 990], "label": "red mug"}', 0.0), ("]", -9.0)):
            handler.event(text, logprobs={"content": [{"token": text, "logprob": chance}]})
        handler.event("", "stop")
        handler.end()

    server.behave = found
    heard: list[str] = []
    answer = ask(connect(), "Find the red mug", on_text=heard.append)
    assert server.bodies[0]["logprobs"] is True
    assert server.bodies[0]["messages"][0]["content"][1]["text"].endswith("Report bbox coordinates in JSON format.")
    assert answer.status is Status.OK and answer.text == "red mug (region 4)" == "".join(heard)
    assert answer.region_ids == ("4",) and answer.regions[0].box == pytest.approx((89.6, 76.8, 121.6, 95.04))
    assert answer.confidence == pytest.approx(np.exp([-0.5, 0.0, -9.0]).mean())


def test_a_text_is_cut_by_the_limit_and_ended_by_a_stop_text(server: ChatServer,
                                                             connect: Callable[..., RemotePipeline]) -> None:
    cut = ask(connect(answer_tokens=2))
    assert cut.status is Status.OK and cut.text == "a small" and "cut" in cut.error
    stopped = ask(connect(decoding=DecodingConfig(stop_texts=("red",))))
    assert stopped.status is Status.OK and stopped.text == "a small" and not stopped.error


def test_a_server_without_probabilities_is_asked_without_from_then_on(server: ChatServer,
                                                                      connect: Callable[..., RemotePipeline]) -> None:
    def refusing(handler: Handler, body: dict[str, Any]) -> None:
        if "logprobs" in body:
            return handler.answer(422, {"detail": "Unsupported fields in the request: {'logprobs'}"})
        words(handler, body)

    server.behave = refusing
    pipeline = connect()
    assert ask(pipeline).text == ask(pipeline).text == TEXT
    assert ["logprobs" in body for body in server.bodies] == [True, False, False]


def test_regions_that_have_not_changed_keep_their_text(server: ChatServer,
                                                       connect: Callable[..., RemotePipeline]) -> None:
    pipeline, frame = connect(), picture()
    pipeline.describe(frame)
    noisy = np.clip(frame.image.astype(int) + np.random.default_rng(1).integers(-3, 4, frame.image.shape), 0, 255)
    changed = noisy.astype(np.uint8)
    changed[8:60, 4:14] = 255 - changed[8:60, 4:14]
    again = pipeline.describe(replace(frame, image=changed, stamp_ns=1000))
    assert [d.reused for d in again.descriptions] == [False, True, True] and len(server.bodies) == 4


def test_one_region_goes_ahead_and_rows_bound_the_rest(server: ChatServer,
                                                       connect: Callable[..., RemotePipeline]) -> None:
    ahead: list[int] = []

    def counting(handler: Handler, body: dict[str, Any]) -> None:
        ahead.append(len(server.bodies))
        threading.Event().wait(0.05)
        words(handler, body)

    server.behave = counting
    pipeline = connect(decoding=DecodingConfig(description_rows=2))
    frame = Frame(picture().image, tuple(Region(str(i), (i, i, i + 20.0, i + 30.0)) for i in range(8)), 0, "camera")
    assert len(pipeline.describe(frame).descriptions) == 8
    assert ahead[0] == 1 and server.most <= 2
    server.held.clear()
    thread = threading.Thread(target=pipeline.describe, args=(replace(frame, stamp_ns=10**10),))
    thread.start()
    until(lambda: len(server.bodies) == 10)
    server.held.set()
    thread.join(LIMIT_S)
    assert server.most == 2 and len(server.bodies) == 16


def test_cancelling_and_stopping_close_the_connection(server: ChatServer, run: Callable[..., Scheduler]) -> None:
    scheduler = run()
    server.held.clear()
    heard: list[str] = []
    question = submit(scheduler, id="q", on_text=heard.append)
    until(lambda: heard)
    assert scheduler.cancel("q")
    answer = question.future.result(LIMIT_S)
    assert answer.status is Status.CANCELED and answer.text == "a"
    until(lambda: server.left == 1)
    late = submit(scheduler, on_text=heard.append)
    until(lambda: len(heard) == 2)
    assert scheduler.stop(LIMIT_S) and late.future.result().status is Status.CANCELED
    until(lambda: server.left == 2)


def test_a_deadline_gives_what_has_come_so_far(server: ChatServer, run: Callable[..., Scheduler]) -> None:
    scheduler = run(answer_timeout_s=0.5)
    server.held.clear()
    answer = submit(scheduler).future.result(LIMIT_S)
    assert answer.status is Status.TIMEOUT and answer.text == "a"
    until(lambda: server.left == 1)


# --- what can go wrong -----------------------------------------------------------------------------------------------

def _status(status: int, content: Any, **headers: str) -> Callable[[Handler, dict[str, Any]], None]:
    return lambda handler, body: handler.answer(status, content, **headers)


def _stream(*events: str, **headers: str) -> Callable[[Handler, dict[str, Any]], None]:
    def behave(handler: Handler, body: dict[str, Any]) -> None:
        handler.begin(**headers)
        for event in events:
            handler.send(event)
        handler.wfile.write(b"0\r\n\r\n")
    return behave


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
    server.behave, expected = FAULTS[fault]
    answer = ask(pipeline)
    assert answer.status is Status.FAILED and expected in answer.error and "\x1b" not in answer.error
    assert not pipeline.trouble
    server.behave = words
    assert ask(pipeline).text == TEXT


def test_a_text_can_be_sent_on_whatever_is_in_it(server: ChatServer, connect: Callable[..., RemotePipeline]) -> None:
    server.models = ["q\ud800\x1b[2J" + "w" * 500]
    server.behave = _stream('data: {"choices": [{"delta": {"content": "a \\ud83d\\ude00 \\ud800\\u0000mug"}, '
                            '"finish_reason": "stop"}]}\n\n')
    answer = ask(connect())
    assert answer.status is Status.OK and answer.text == "a \N{GRINNING FACE} ?mug"
    assert len(answer.model_version) < 300 and answer.model_version.isprintable()


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
    def stalling(handler: Handler, body: dict[str, Any]) -> None:
        handler.begin()
        handler.event("a ")
        server.held.wait(LIMIT_S)

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


@pytest.mark.parametrize("models, options, expected", [
    (["a", "b"], {}, "2 models"), ([], {}, "0 models"), (["a", "b"], {"model": "b"}, "")])
def test_the_model_is_the_only_one_or_the_one_that_is_named(models: list[str], options: dict[str, str], expected: str,
                                                            server: ChatServer,
                                                            connect: Callable[..., RemotePipeline]) -> None:
    server.models = models
    if expected:
        with pytest.raises(ConfigError, match=expected):
            connect(**options)
    else:
        assert ask(connect(**options)).status is Status.OK and server.bodies[0]["model"] == "b"


def test_a_server_that_takes_no_pictures_fails_the_warm_up(server: ChatServer,
                                                           connect: Callable[..., RemotePipeline]) -> None:
    server.behave = _status(400, {"message": "this model takes no images"})
    with pytest.raises(ValueError, match="takes no images"):
        connect().warm_up()


def test_the_key_comes_from_the_environment_alone(server: ChatServer, connect: Callable[..., RemotePipeline],
                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "secret")
    monkeypatch.setenv("OPENAI_API_KEY", "another")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    pipeline = connect()
    assert ask(pipeline).status is Status.OK
    assert {headers["Authorization"] for headers in server.headers} == {"Bearer secret"}
    server.behave = _status(403, {"error": "no"})
    assert f"refuses the key of {KEY_VARIABLE} (403)" in ask(pipeline).error


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl, which makes a certificate, is not installed")
def test_a_server_whose_certificate_nobody_vouches_for_gets_nothing(
        server: ChatServer, connect: Callable[..., RemotePipeline], monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path) -> None:
    key, certificate = str(tmp_path / "key.pem"), str(tmp_path / "certificate.pem")
    subprocess.run(["openssl", "req", "-x509", "-nodes", "-newkey", "rsa:2048", "-days", "2", "-keyout", key, "-out",
                    certificate, "-subj", "/CN=server", "-addext", "subjectAltName=IP:127.0.0.1"], check=True,
                   capture_output=True, timeout=60)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    monkeypatch.setenv(KEY_VARIABLE, "secret")
    secure = server.url.replace("http:", "https:")
    stranger = connect(remote=secure)
    assert "certificate" in stranger.trouble.lower() and ask(stranger).status is Status.FAILED
    assert not server.headers and not server.bodies
    monkeypatch.setenv("SSL_CERT_FILE", certificate)
    assert ask(connect(remote=secure)).status is Status.OK


@pytest.mark.parametrize("url", ["http://user:secret@host/v1", "http://user:secret@host:port/v1", "ftp://host/v1",
                                 "host:8000", "http://host/v1?key=secret", "http://host:99999/v1", "http://host:0/v1"])
def test_an_address_is_one_and_has_no_key_in_it(url: str) -> None:
    with pytest.raises(ConfigError, match="remote") as refused:
        PipelineConfig(remote=url)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("key, sent", [("secret\r\n", "Bearer secret"), (" ", None), ("sec\nret", ""), ("sécret", "")])
def test_a_key_is_sent_as_it_is_meant_and_never_shown(key: str, sent: str | None, server: ChatServer,
                                                      connect: Callable[..., RemotePipeline],
                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, key)
    if sent == "":
        with pytest.raises(ConfigError, match=KEY_VARIABLE) as refused:
            connect()
        assert key not in str(refused.value)
    else:
        assert not connect().trouble and server.headers[0].get("Authorization") == sent
