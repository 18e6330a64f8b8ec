"""The perception node with a Qwen3-VL folder of transformers that always says the same: all ways of asking."""
from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("ros_gpt4roi_interfaces.msg", reason="the interfaces are not built or not sourced")
from camera import HEIGHT, WIDTH, Camera  # noqa: E402
from diagnostic_msgs.msg import DiagnosticArray  # noqa: E402
from perception_fixtures import (  # noqa: F401, E402
    BOXES,
    Asker,
    ask_fixture,
    camera_fixture,
    described,
    descriptions_fixture,
    diagnostics_fixture,
    reported,
)
from ros_gpt4roi_interfaces.msg import Answer, Region, RegionDescriptionArray  # noqa: E402
from ros_peer import Peer, Process  # noqa: E402

from ros_gpt4roi.messages import box_to_message, corners  # noqa: E402

# A mug that no detector has found, a cup that is region 2 (of BOXES), and a box that is none.
SAYS = ('```json\n[{"bbox_2d": [700, ', '850, 950, 1000], "label": "red mug"}, ', '{"bbox_2d": [470, 208, 937, 833]',
        ', "label": "cup"}, ', '{"bbox_2d": [900, 1, 2, 3], "label": "shelf"}]', "\n```")
SAID = "red mug (region {}), cup (region {}), shelf (no usable box)"
MUG = (0.7 * WIDTH, 0.85 * HEIGHT, 0.95 * WIDTH, HEIGHT)


@pytest.fixture(scope="module", name="folder")
def folder_fixture(make_qwen: Callable[..., Path]) -> Path:
    return make_qwen(says=SAYS)


@pytest.fixture(scope="module", name="node")
def node_fixture(peer: Peer, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    process = Process(
        "perception", tmp_path_factory.mktemp("log") / "perception.log", model=folder,
        qos__image__reliability="reliable", qos__detections__reliability="reliable",
        pipeline__description_tokens=12, pipeline__answer_tokens=24,
        scheduler__answer_timeout_s=3600.0, scheduler__description_timeout_s=3600.0)
    peer.watch(process)
    yield process
    assert process.running, f"the node has ended:\n{process.output()}"
    assert process.stop() == 0
    assert "Traceback" not in process.output(), process.output()


def test_descriptions_streamed_answers_follow_ups_and_drawn_boxes(peer: Peer, camera: Camera, ask: Asker,
                                                                 folder: Path,
                                                                 descriptions: list[RegionDescriptionArray]) -> None:
    header = camera.send(BOXES)
    message = described(peer, descriptions, header)
    assert [d.region.bbox for d in message.descriptions] == [box_to_message(box) for box in BOXES]
    assert all(d.text for d in message.descriptions) and message.model_version.startswith(f"{folder.name}@")
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


def test_what_no_detector_has_found_is_a_region_of_the_answer(
        peer: Peer, camera: Camera, ask: Asker, descriptions: list[RegionDescriptionArray],
        diagnostics: list[DiagnosticArray]) -> None:
    header = camera.send(BOXES)
    message = described(peer, descriptions, header)
    assert message.descriptions[0].text == "red mug, cup (region 2), shelf (no usable box)"
    grown: list[str] = []
    _, found = ask("Find the red mug", grown)
    assert found.status == Answer.OK and found.header == header and found.error == ""
    assert found.text == SAID.format(3, 2) and "red mug (region 3)" in grown, "nobody reads JSON"
    assert list(found.region_ids) == ["3", "2"] and [region.id for region in found.regions] == ["3", "2"]
    assert corners(found.regions[0].bbox) == pytest.approx(MUG) and found.regions[0].label == "red mug"
    assert corners(found.regions[1].bbox) == BOXES[1], "the detector's own box"
    _, about = ask("What colour is region 3?", conversation_id=found.conversation_id)
    assert about.status == Answer.OK and about.header == header and "3" in about.region_ids
    _, structured = ask("Find the red mug", conversation_id=found.conversation_id, format="json")
    assert json.loads(structured.text)["regions"] == ["3", "2"]
    reported(peer, diagnostics, "box of an answer refused", "900, 1, 2, 3")


def test_it_finds_things_in_a_frame_without_detections(peer: Peer, camera: Camera, ask: Asker,
                                                       descriptions: list[RegionDescriptionArray]) -> None:
    header = camera.send([])
    assert not described(peer, descriptions, header).descriptions
    _, found = ask("Find the red mug", header=header)
    assert found.status == Answer.OK and found.text == SAID.format(1, 2)
    assert corners(found.regions[0].bbox) == pytest.approx(MUG)
