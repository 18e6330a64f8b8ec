"""`load_model` and `rollback`: a model takes over while the node works, a worse one does not, the old one returns."""
from __future__ import annotations

import gc
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("ros_gpt4roi_interfaces.msg", reason="the interfaces are not built or not sourced")
import torch  # noqa: E402
from answering import BOXES, perception_here  # noqa: E402
from builtin_interfaces.msg import Time  # noqa: E402
from camera import Camera  # noqa: E402
from PIL import Image  # noqa: E402
from ros_gpt4roi_interfaces.action import Ask  # noqa: E402
from ros_gpt4roi_interfaces.msg import Answer, Query, RegionDescriptionArray  # noqa: E402
from ros_gpt4roi_interfaces.srv import AskQuestion, LoadModel  # noqa: E402
from ros_peer import Peer  # noqa: E402
from std_msgs.msg import Header  # noqa: E402
from std_srvs.srv import Trigger  # noqa: E402

from ros_gpt4roi.model.checkpoint import load_checkpoint, save_checkpoint  # noqa: E402
from ros_gpt4roi.nodes import model_swap  # noqa: E402
from ros_gpt4roi.nodes.perception import Perception  # noqa: E402
from ros_gpt4roi.runtime.pipeline import Pipeline, PipelineConfig  # noqa: E402
from ros_gpt4roi.runtime.probes import Probe, read_probes  # noqa: E402
from ros_gpt4roi.runtime.request import Conversation, Question  # noqa: E402
from ros_gpt4roi.runtime.vision_stage import VisionOptions  # noqa: E402

_TOKENS = 12
_SETTINGS = {"pipeline.vision.backend": "torch", "pipeline.answer_tokens": _TOKENS, "pipeline.description_tokens": 8,
             "qos.image.reliability": "reliable", "qos.detections.reliability": "reliable",
             "scheduler.answer_timeout_s": 600.0, "scheduler.description_timeout_s": 600.0}
FIRST = Time(sec=1000, nanosec=33_000_000)  # of the camera
_QUESTIONS = "What is region 1?", "What is region 2?", "Why?"


@pytest.fixture(scope="module", name="models")
def models_fixture(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The tiny model, one of other weights whose probes are its own answers, and the tiny one without any."""
    folder = tmp_path_factory.mktemp("swapped")
    first = Path(shutil.copytree(tiny_model, folder / "first"))
    loaded = load_checkpoint(tiny_model)
    torch.manual_seed(3)
    with torch.no_grad():
        for weight in loaded.model.language.model.parameters():
            weight.add_(torch.randn_like(weight) * weight.std())
    second = folder / "second"
    save_checkpoint(loaded.model, loaded.tokenizer, second)
    (second / "probes").mkdir()
    Image.new("RGB", (64, 48), (90, 120, 30)).save(second / "probes" / "0.png")
    entry = {"image": "0.png", "boxes": BOXES, "questions": [{"text": text, "answers": ["?"]} for text in _QUESTIONS]}
    (second / "probes" / "probes.json").write_text(json.dumps({"probes": [entry]}))
    pipeline = Pipeline.open(second, PipelineConfig(vision=VisionOptions("torch"), answer_tokens=_TOKENS))
    for probe, question in zip(read_probes(second), entry["questions"], strict=True):
        question["answers"] = [pipeline.ask(Conversation("", probe.frame), Question(probe.text)).text]
    (second / "probes" / "probes.json").write_text(json.dumps({"probes": [entry]}))
    return {"first": first, "second": second}


@pytest.fixture(name="node")
def node_fixture(peer: Peer, models: dict[str, Path]) -> Iterator[Perception]:
    with perception_here(peer, models["first"], _SETTINGS) as node:
        yield node


@pytest.fixture(name="camera")
def camera_fixture(peer: Peer, node: Perception) -> Camera:
    camera = Camera(peer)
    described = peer.collect(RegionDescriptionArray, "region_descriptions", 10)
    camera.send(list(BOXES))
    peer.wait_for(lambda: described, "descriptions")
    return camera


def ask(peer: Peer, conversation: str = "", stamp: Time = FIRST) -> Answer:
    """Asks about the frame of a stamp, by default the camera's first."""
    query = Query(text="What is region 1?", conversation_id=conversation, header=Header(stamp=stamp))
    return peer.call(AskQuestion, "ask_question", AskQuestion.Request(query=query)).answer


def pipelines() -> int:
    """How many are in memory."""
    return sum(type(thing) is Pipeline for thing in gc.get_objects())


def load(peer: Peer, model: object, dry_run: bool = False) -> LoadModel.Response:
    return peer.call(LoadModel, "load_model", LoadModel.Request(model=str(model), dry_run=dry_run))


def test_a_better_model_takes_over_a_worse_one_does_not_and_the_old_one_comes_back(
        peer: Peer, camera: Camera, models: dict[str, Path]) -> None:
    assert not peer.call(Trigger, "rollback", Trigger.Request()).success  # there was none before
    before = ask(peer)
    assert before.status == Answer.OK and before.model_version.startswith("first@")

    gc.collect()
    loaded = pipelines()
    tried = load(peer, models["second"], dry_run=True)
    assert pipelines() == loaded  # its memory is given back
    assert tried.success and (tried.probes, tried.right_new) == (3, 3) and tried.right_running < 3
    assert tried.model_version == before.model_version == ask(peer).model_version  # nothing has changed

    done = load(peer, models["second"])
    after = ask(peer)
    assert done.success and done.model_version == after.model_version != before.model_version
    assert after.status == Answer.OK and after.text != before.text
    described = peer.collect(RegionDescriptionArray, "region_descriptions", 10)
    camera.send(list(BOXES))
    assert peer.wait_for(lambda: described, "descriptions")[0].model_version == after.model_version
    told = ask(peer, before.conversation_id)
    assert told.status == Answer.INVALID and "change of the model" in told.error

    loaded = pipelines()
    worse = load(peer, models["first"])
    assert pipelines() == loaded
    assert not worse.success and "is worse: " in worse.message and "swap.max_loss" in worse.message
    assert ask(peer).text == after.text

    assert peer.call(Trigger, "rollback", Trigger.Request()).success
    back = ask(peer)
    assert (back.text, back.model_version) == (before.text, before.model_version)
    assert peer.call(Trigger, "rollback", Trigger.Request()).success  # a second one takes back the first
    assert ask(peer).text == after.text


@pytest.mark.parametrize(("what", "message"), [
    ("missing", "expected a folder or an installed model"), ("cut", "model.safetensors"), ("probes", "probes.json"),
    ("architecture", "architecture"), ("gone", "gone"), ("card", "is worse by its card: .* 0.100 less is right"),
    ("large", "MiB are free beside the model that runs; .* deactivate and clean up")])
def test_a_folder_that_is_none_leaves_the_model_that_runs(
        peer: Peer, camera: Camera, models: dict[str, Path], tmp_path: Path, what: str, message: str,
        monkeypatch: pytest.MonkeyPatch) -> None:
    before = ask(peer)
    folder = Path(shutil.copytree(models["second"], tmp_path / what)) if what != "missing" else tmp_path / what
    if what == "cut":
        weights = folder / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-100])
    elif what == "probes":
        (folder / "probes" / "probes.json").write_text("{}")
    elif what == "architecture":  # whose weights are those of another one
        config = json.loads((folder / "config.json").read_text())
        config["model"]["regions"]["hidden"] *= 2
        (folder / "config.json").write_text(json.dumps(config))
    elif what == "gone":  # while it is read
        def read_and_remove(read: Path) -> list[Probe]:
            probes = read_probes(read)
            if read == folder:
                shutil.rmtree(folder)
            return probes

        monkeypatch.setattr(model_swap, "read_probes", read_and_remove)
    elif what == "card":
        (folder / "card.json").write_text('{"old": {"before": 0.9, "after": 0.8}}')
    elif what == "large":
        monkeypatch.setattr(model_swap, "free_memory", lambda device: 1000)
    response = load(peer, folder)
    assert not response.success and re.search(message, response.message), response.message
    assert response.model_version in ("", before.model_version)
    assert (again := ask(peer)).text == before.text and again.model_version == before.model_version


def test_a_node_that_is_deactivated_meanwhile_keeps_its_model(
        peer: Peer, node: Perception, camera: Camera, models: dict[str, Path]) -> None:
    before = ask(peer)
    service = peer.node.create_client(LoadModel, "load_model")
    loading = service.call_async(LoadModel.Request(model=str(models["second"])))
    peer.wait_for(lambda: node._swap is not None and node._swap._busy.locked(), "the loading")
    node.trigger_deactivate()
    response = peer.result_of(loading, "a response")
    assert not response.success and re.search("is not active|CANCELED", response.message), response.message
    node.trigger_activate()
    camera.send(list(BOXES))
    peer.wait_for(lambda: ask(peer, stamp=Time()).model_version == before.model_version, "the model before")
    peer.node.destroy_client(service)


def test_questions_that_are_open_get_whole_answers(peer: Peer, camera: Camera, models: dict[str, Path]) -> None:
    action = peer.action(Ask, "ask")
    goals = [peer.result_of(action.send_goal_async(Ask.Goal(query=Query(text="What is region 2?"))), "a goal")
             for _ in range(12)]
    service = peer.node.create_client(LoadModel, "load_model")
    loading = service.call_async(LoadModel.Request(model=str(models["second"])))
    refused = service.call_async(LoadModel.Request(model=str(models["second"])))
    answers = [peer.result_of(goal.get_result_async(), "an answer").result.answer for goal in goals]
    assert {answer.status for answer in answers} == {Answer.OK}
    responses = [peer.result_of(future, "a response") for future in (loading, refused)]
    assert sorted(response.success for response in responses) == [False, True]
    assert any("another change of the model is under way" in response.message for response in responses)
    assert all(response.model_version for response in responses)
    peer.node.destroy_client(service)


def test_the_fallback_takes_over_from_a_model_that_was_brought_too(peer: Peer, models: dict[str, Path],
                                                                   tiny_model: Path, tmp_path: Path) -> None:
    brought = shutil.copytree(models["second"], tmp_path / "brought", ignore=shutil.ignore_patterns("probes"))
    slow = {"fallback_model": str(tiny_model), "fallback.latency_s": 1e-6, "fallback.patience_s": 0.0,
            "fallback.retry_s": 3600.0}  # too slow from its first answers on
    with perception_here(peer, models["first"], _SETTINGS | slow):
        camera, described = Camera(peer), peer.collect(RegionDescriptionArray, "region_descriptions", 10)
        camera.send(list(BOXES))
        peer.wait_for(lambda: described, "descriptions")

        def taken_over() -> object:
            """The version of the fallback, once it serves."""
            return peer.wait_for(lambda: next(
                (version for version in [ask(peer).model_version] if version.startswith("tiny@")), ""), "the fallback")

        fallback = taken_over()
        compared = load(peer, models["second"], dry_run=True)  # with whom its probes would be asked
        assert not compared.success and ask(peer).model_version == fallback
        assert "compared with the model that does not serve now: tiny@" in compared.message, compared.message
        assert load(peer, brought, dry_run=True).success and ask(peer).model_version == fallback
        done = load(peer, brought)
        assert done.success and done.model_version == ask(peer).model_version != fallback, done.message
        assert taken_over() == fallback
        assert peer.call(Trigger, "rollback", Trigger.Request()).success
        assert ask(peer).model_version == fallback, "the first is still too slow"
