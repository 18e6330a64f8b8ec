"""The remote pipeline against a real server: `transformers serve` with a tiny Qwen3-VL of random weights."""
from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

pytest.importorskip("openai", reason="transformers serve needs the package openai (requirements/dev.txt)")
sys.path.append(str(Path(__file__).resolve().parent.parent / "model"))
from chat_server import LIMIT_S, until  # noqa: E402
from remote_fixtures import picture  # noqa: E402
from served_model import serving, write_served  # noqa: E402
from transformers import AutoProcessor, Qwen3VLForConditionalGeneration  # noqa: E402

from ros_gpt4roi.runtime.pipeline_config import PipelineConfig  # noqa: E402
from ros_gpt4roi.runtime.remote.messages import RemotePrompts  # noqa: E402
from ros_gpt4roi.runtime.remote.options import ServerOptions  # noqa: E402
from ros_gpt4roi.runtime.remote.pipeline import RemotePipeline  # noqa: E402
from ros_gpt4roi.runtime.request import Conversation, Question  # noqa: E402
from ros_gpt4roi.runtime.scheduler import Scheduler  # noqa: E402
from ros_gpt4roi.runtime.types import Status  # noqa: E402

pytestmark = pytest.mark.slow
TOKENS = 10


@pytest.fixture(scope="module", name="folder")
def folder_fixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_served(tmp_path_factory.mktemp("served") / "tiny")


@pytest.fixture(scope="module", name="pipeline")
def pipeline_fixture(folder: Path) -> Iterator[RemotePipeline]:
    with serving(folder, folder.parent / "server.log") as url:
        pipeline = RemotePipeline.connect(PipelineConfig(
            remote=url, answer_tokens=TOKENS, description_tokens=TOKENS, reuse_distance=0.0,
            server=ServerOptions(model=str(folder), picture="png", stall_timeout_s=LIMIT_S)))
        pipeline.warm_up()
        yield pipeline
        pipeline.close()


def test_texts_are_those_of_transformers_for_the_same_conversation(folder: Path, pipeline: RemotePipeline) -> None:
    frame, heard = picture(), []
    conversation = Conversation("talk", frame)
    answer = pipeline.ask(conversation, Question("What is region r2?", on_text=heard.append))
    assert answer.status is Status.OK and answer.text == "".join(heard) and len(heard) > 1
    processor = AutoProcessor.from_pretrained(folder)
    network = Qwen3VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    encoded = pipeline.encoder.encode(frame)
    messages, _, _ = RemotePrompts(pipeline.model_config.prompt, encoded.boxes).messages(
        pipeline._picture(encoded), [("What is <region2>?", None)], encoded.points)
    messages[0]["content"][0] = {"type": "image", "url": messages[0]["content"][0]["image_url"]["url"]}
    inputs = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=True,
                                           return_tensors="pt")
    ids = network.generate(**inputs, do_sample=False, max_new_tokens=TOKENS)[0, inputs["input_ids"].shape[1]:]
    assert answer.text == processor.tokenizer.decode(ids, skip_special_tokens=True).strip()


def test_regions_follow_ups_and_cancelling(pipeline: RemotePipeline) -> None:
    described = pipeline.describe(picture(regions=3))
    assert described.status is Status.OK and len(described.descriptions) == 3
    scheduler = Scheduler(pipeline)
    scheduler.start()
    first = Question("What is region r1?", frame=picture())
    scheduler.submit(first)
    talk = first.future.result(LIMIT_S).conversation_id
    second = Question("And region r3?", conversation_id=talk)
    scheduler.submit(second)
    assert second.future.result(LIMIT_S).status is Status.OK
    heard: list[str] = []
    third = Question("Why?", "q", conversation_id=talk, on_text=heard.append)
    scheduler.submit(third)
    until(lambda: heard or third.future.done())
    scheduler.cancel("q")
    assert third.future.result(LIMIT_S).status in (Status.CANCELED, Status.OK)
    assert scheduler.stop(LIMIT_S)


def test_eight_robots_are_all_served_and_have_their_turn(pipeline: RemotePipeline) -> None:
    done: list[tuple[float, int]] = []

    def robot(number: int) -> None:
        own = RemotePipeline(pipeline.config)
        try:
            for turn in range(2):
                frame = picture(seed=10 * number + turn, regions=2)
                assert len(own.describe(frame).descriptions) == 2
                assert own.ask(Conversation("", frame), Question("What is region r1?")).status is Status.OK
                done.append((time.monotonic(), number))
        finally:
            own.close()

    robots = [threading.Thread(target=robot, args=(number,)) for number in range(8)]
    for thread in robots:
        thread.start()
    for thread in robots:
        thread.join(240)
    order = [number for _, number in sorted(done)]
    assert sorted(order) == sorted(2 * list(range(8))), "nothing is lost"
    assert len(set(order[:8])) >= 6, "no robot has both its turns before the others have one"
