"""The perception node with a Qwen3-VL folder of transformers: nonsense words, all ways of asking."""
from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("ros_gpt4roi_interfaces.msg", reason="the interfaces are not built or not sourced")
from camera import Camera  # noqa: E402
from perception_fixtures import (  # noqa: F401, E402
    BOXES,
    Asker,
    ask_fixture,
    camera_fixture,
    described,
    descriptions_fixture,
)
from ros_gpt4roi_interfaces.msg import Answer, Region, RegionDescriptionArray  # noqa: E402
from ros_peer import Peer, Process  # noqa: E402

from ros_gpt4roi.messages import box_to_message  # noqa: E402


@pytest.fixture(scope="module", name="node")
def node_fixture(peer: Peer, tiny_qwen: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    process = Process(
        "perception", tmp_path_factory.mktemp("log") / "perception.log", model=tiny_qwen,
        qos__image__reliability="reliable", qos__detections__reliability="reliable",
        pipeline__description_tokens=12, pipeline__answer_tokens=24,
        scheduler__answer_timeout_s=3600.0, scheduler__description_timeout_s=3600.0)
    peer.watch(process)
    yield process
    assert process.running, f"the node has ended:\n{process.output()}"
    assert process.stop() == 0
    assert "Traceback" not in process.output(), process.output()


def test_descriptions_streamed_answers_follow_ups_and_drawn_boxes(peer: Peer, camera: Camera, ask: Asker,
                                                                 tiny_qwen: Path,
                                                                 descriptions: list[RegionDescriptionArray]) -> None:
    header = camera.send(BOXES)
    message = described(peer, descriptions, header)
    assert [d.region.bbox for d in message.descriptions] == [box_to_message(box) for box in BOXES]
    assert all(d.text for d in message.descriptions) and message.model_version.startswith(f"{tiny_qwen.name}@")
    grown: list[str] = []
    _, first = ask("what is region 2?", grown)
    assert first.status == Answer.OK and first.text and first.header == header
    assert len(set(grown)) > 1 and all(first.text.startswith(text) for text in grown)
    drawn = Region(id="mine", bbox=box_to_message((5, 5, 25, 30)))
    _, second = ask("what is this?", conversation_id=first.conversation_id, boxes=[drawn])
    assert second.status == Answer.OK and second.text and second.conversation_id == first.conversation_id
    _, third = ask("and region mine?", conversation_id=first.conversation_id)
    assert third.status == Answer.OK and third.header == header
    _, unknown = ask("what is region 9?")
    assert unknown.status == Answer.UNKNOWN_REGION
