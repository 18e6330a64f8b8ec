"""Adapters of a node that works: one is switched by the parameter, one comes by `load_model`, and goes again."""
from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("ros_gpt4roi_interfaces.msg", reason="the interfaces are not built or not sourced")
from answering import BOXES, perception_here  # noqa: E402
from builtin_interfaces.msg import Time  # noqa: E402
from camera import Camera  # noqa: E402
from PIL import Image  # noqa: E402
from rcl_interfaces.msg import SetParametersResult  # noqa: E402
from rcl_interfaces.srv import GetParameters, SetParameters  # noqa: E402
from rclpy.parameter import Parameter  # noqa: E402
from ros_gpt4roi_interfaces.msg import Answer, Query, RegionDescriptionArray  # noqa: E402
from ros_gpt4roi_interfaces.srv import AskQuestion, LoadModel  # noqa: E402
from ros_peer import Peer  # noqa: E402
from std_msgs.msg import Header  # noqa: E402
from std_srvs.srv import Trigger  # noqa: E402

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "runtime"))
from adapter_fixtures import write_adapter  # noqa: E402

from ros_gpt4roi.model.checkpoint import load_checkpoint  # noqa: E402
from ros_gpt4roi.nodes.perception import Perception  # noqa: E402

FIRST = Time(sec=1000, nanosec=33_000_000)  # of the camera


@pytest.fixture(scope="module", name="folders")
def folders_fixture(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Three adapters; the last has a probe that neither of them answers rightly. Two more are of no use."""
    folder = tmp_path_factory.mktemp("adapters")
    language = load_checkpoint(tiny_model).model.language
    for seed, name in enumerate(("kitchen", "workshop", "taught")):
        write_adapter(folder / name, language, seed, strength=0.5)
    write_adapter(folder / "loud", language, strength=1e37)  # finite weights, and outputs that are not
    (folder / "taught" / "probes").mkdir()
    Image.new("RGB", (64, 48), (90, 120, 30)).save(folder / "taught" / "probes" / "0.png")
    (folder / "taught" / "probes" / "probes.json").write_text(json.dumps({"probes": [{
        "image": "0.png", "boxes": BOXES, "questions": [{"text": "What is region 1?", "answers": ["?"]}]}]}))
    damaged = Path(shutil.copytree(folder / "taught", folder / "damaged")) / "adapter_model.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-9])
    return {path.name: path for path in folder.iterdir()}


SETTINGS = {"pipeline.vision.backend": "torch", "pipeline.answer_tokens": 12, "pipeline.description_tokens": 8,
            "qos.image.reliability": "reliable", "qos.detections.reliability": "reliable",
            "scheduler.answer_timeout_s": 600.0, "scheduler.description_timeout_s": 600.0}


@pytest.fixture(name="node")
def node_fixture(peer: Peer, tiny_model: Path, folders: dict[str, Path]) -> Iterator[Perception]:
    settings = SETTINGS | {"pipeline.adapters": [str(folders[name]) for name in ("kitchen", "workshop")],
                           "pipeline.adapter": "kitchen"}
    with perception_here(peer, tiny_model, settings) as node:
        yield node


def set_parameter(peer: Peer, name: str, value: object) -> SetParametersResult:
    request = SetParameters.Request(parameters=[Parameter(name, value=value).to_parameter_msg()])
    return peer.call(SetParameters, "perception/set_parameters", request).results[0]


def parameter(peer: Peer) -> str:
    request = GetParameters.Request(names=["pipeline.adapter"])
    return str(peer.call(GetParameters, "perception/get_parameters", request).values[0].string_value)


def ask(peer: Peer, conversation: str = "", stamp: Time = FIRST) -> Answer:
    query = Query(text="What is region 1?", conversation_id=conversation, header=Header(stamp=stamp))
    answer = peer.call(AskQuestion, "ask_question", AskQuestion.Request(query=query)).answer
    assert answer.status == Answer.OK, answer.error
    return answer


def adapter_of(message: Answer | RegionDescriptionArray) -> str:
    """The name in a model version such as tiny@…+kitchen@…; empty where there is none."""
    _, _, adapter = message.model_version.partition("+")
    return adapter.partition("@")[0]


def test_the_parameter_switches_and_load_model_brings_another(peer: Peer, node: Perception,
                                                              folders: dict[str, Path]) -> None:
    described = peer.collect(RegionDescriptionArray, "region_descriptions", 10)
    camera = Camera(peer)
    camera.send(list(BOXES))
    assert adapter_of(peer.wait_for(lambda: described, "descriptions")[0]) == "kitchen"
    kitchen = ask(peer)
    assert adapter_of(kitchen) == "kitchen"

    refused = set_parameter(peer, "pipeline.adapter", "garden")
    assert not refused.successful and "expected the name of one that is loaded (kitchen, workshop)" in refused.reason
    assert "taken at configure" in set_parameter(peer, "pipeline.adapters", [""]).reason
    assert set_parameter(peer, "pipeline.adapter", "workshop").successful
    workshop = ask(peer)
    assert adapter_of(workshop) == "workshop" and workshop.text != kitchen.text
    assert adapter_of(ask(peer, kitchen.conversation_id)) == "kitchen", "a conversation goes on as it began"
    described.clear()
    camera.send(list(BOXES))
    assert adapter_of(peer.wait_for(lambda: described, "descriptions")[0]) == "workshop"

    assert set_parameter(peer, "pipeline.adapter", "").successful
    bare = ask(peer)
    assert adapter_of(bare) == "" and bare.text not in (kitchen.text, workshop.text)

    def load(name: str, dry_run: bool = False) -> LoadModel.Response:
        return peer.call(LoadModel, "load_model", LoadModel.Request(model=str(folders[name]), dry_run=dry_run))

    tried = load("taught", dry_run=True)
    assert tried.success and tried.probes == 1 and "+taught@" in tried.message, tried.message
    assert ask(peer).model_version == bare.model_version == tried.model_version
    loud = load("loud")
    assert not loud.success and "+loud@" not in ask(peer).model_version, loud.message
    assert "loud@" in loud.message and "not finite" in loud.message
    damaged = load("damaged")
    assert not damaged.success and "truncated" in damaged.message and ask(peer).text == bare.text
    taken = load("taught")
    assert taken.success and taken.model_version == ask(peer).model_version and "+taught@" in taken.model_version
    assert parameter(peer) == "taught"
    assert set_parameter(peer, "pipeline.adapter", "taught").successful  # it has a name like the others now
    assert peer.call(Trigger, "rollback", Trigger.Request()).success
    assert ask(peer).model_version == bare.model_version and parameter(peer) == ""
    assert peer.call(Trigger, "rollback", Trigger.Request()).success
    assert adapter_of(ask(peer)) == "taught" == parameter(peer)
    assert adapter_of(ask(peer, kitchen.conversation_id)) == "kitchen"


def test_the_parameter_follows_what_is_brought_until_the_next_configure(
        peer: Peer, node: Perception, tiny_model: Path, tmp_path: Path, folders: dict[str, Path]) -> None:
    other = shutil.copytree(tiny_model, tmp_path / "other")
    for folder, name in ((folders["taught"], "taught"), (other, "")):
        brought = peer.call(LoadModel, "load_model", LoadModel.Request(model=str(folder)))
        assert brought.success and parameter(peer) == name, brought.message
    assert peer.call(Trigger, "rollback", Trigger.Request()).success and parameter(peer) == "taught"
    node.trigger_deactivate()
    node.trigger_cleanup()
    assert parameter(peer) == "kitchen", "which can be loaded"
    node.trigger_configure()
    node.trigger_activate()
    Camera(peer).send(list(BOXES))
    peer.wait_for(lambda: adapter_of(ask(peer, stamp=Time())) == "kitchen", "the node's return")


def test_while_the_fallback_serves_adapters_wait_for_their_model(peer: Peer, tiny_model: Path, tmp_path: Path,
                                                                 folders: dict[str, Path]) -> None:
    fallback = shutil.copytree(tiny_model, tmp_path / "fallback")
    settings = SETTINGS | {"pipeline.adapters": [str(folders["kitchen"])], "fallback_model": str(fallback),
                           "fallback.latency_s": 1e-6, "fallback.patience_s": 0.0}
    with perception_here(peer, tiny_model, settings):
        Camera(peer).send(list(BOXES))
        peer.wait_for(lambda: ask(peer, stamp=Time()).model_version.startswith("fallback@"), "the fallback")
        taught = peer.call(LoadModel, "load_model", LoadModel.Request(model=str(folders["taught"])))
        assert not taught.success and "the model that does not serve now: fallback@" in taught.message, taught.message
        assert set_parameter(peer, "pipeline.adapter", "kitchen").successful  # it serves once its model is back
        assert adapter_of(ask(peer)) == ""
