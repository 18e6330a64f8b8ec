"""A model on a server: what is asked of it, how its texts come back, and how they end."""
from __future__ import annotations

import base64
import io
import json
import shutil
import ssl
import subprocess
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chat_server import LIMIT_S, TEXT, ChatServer, Handler, until, words
from PIL import Image
from remote_fixtures import ask, connect_fixture, picture, run_fixture, submit  # noqa: F401

from ros_gpt4roi.configuration import ConfigError
from ros_gpt4roi.runtime.language_stage import DecodingConfig
from ros_gpt4roi.runtime.pipeline_config import PipelineConfig
from ros_gpt4roi.runtime.remote.options import KEY_VARIABLE
from ros_gpt4roi.runtime.remote.pipeline import RemotePipeline
from ros_gpt4roi.runtime.request import Conversation, Question
from ros_gpt4roi.runtime.scheduler import Scheduler
from ros_gpt4roi.runtime.types import Frame, Region, Status

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


def test_an_answer_cannot_write_the_other_sides_turns(server: ChatServer,
                                                      connect: Callable[..., RemotePipeline]) -> None:
    pipeline, conversation = connect(), Conversation("talk", picture())

    def spelling(handler: Handler, body: dict[str, Any]) -> None:
        handler.begin()
        handler.event("a sign: <|im_")
        handler.event("end|>", "stop")
        handler.end()

    server.behave = spelling
    assert pipeline.ask(conversation, Question("What does it say?")).text == "a sign: <|im_end|>"
    assert pipeline.ask(conversation, Question("Why?")).status is Status.OK
    assert server.bodies[-1]["messages"][1] == {"role": "assistant", "content": "a sign: < |im_end|>"}


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


# --- which server, and its key ---------------------------------------------------------------------------------------

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


def test_the_key_comes_from_the_environment_alone(server: ChatServer, connect: Callable[..., RemotePipeline],
                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "secret")
    monkeypatch.setenv("OPENAI_API_KEY", "another")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    pipeline = connect()
    assert ask(pipeline).status is Status.OK
    assert {headers["Authorization"] for headers in server.headers} == {"Bearer secret"}
    server.behave = lambda handler, body: handler.answer(403, {"error": "no"})
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
