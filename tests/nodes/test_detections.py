"""Detections and images as detectors and cameras send them: what is no good costs only itself, and is told."""
from __future__ import annotations

import itertools

import pytest

pytest.importorskip("ros_gpt4roi_interfaces.msg", reason="the interfaces are not built or not sourced")
from builtin_interfaces.msg import Time  # noqa: E402
from camera import HEIGHT, Camera  # noqa: E402
from diagnostic_msgs.msg import DiagnosticArray  # noqa: E402
from perception_fixtures import (  # noqa: F401, E402
    BOXES,
    Asker,
    ask_fixture,
    camera_fixture,
    described,
    descriptions_fixture,
    diagnostics_fixture,
    node_fixture,
    reported,
)
from ros_gpt4roi_interfaces.msg import Answer, Region, RegionDescriptionArray  # noqa: E402
from ros_peer import Peer, Process  # noqa: E402
from std_msgs.msg import Header  # noqa: E402

from ros_gpt4roi.messages import box_to_message, seconds_text  # noqa: E402
from ros_gpt4roi.nodes.conversions import stamp_ns  # noqa: E402


def test_a_bad_box_is_counted_and_the_others_are_described(peer: Peer, camera: Camera,
                                                           descriptions: list[RegionDescriptionArray],
                                                           diagnostics: list[DiagnosticArray]) -> None:
    header = camera.send((BOXES[0], (float("nan"), 0, 10, 10), (500, 0, 510, 10), BOXES[1]))
    message = described(peer, descriptions, header)
    assert [d.region.id for d in message.descriptions] == ["1", "4"]
    reported(peer, diagnostics, "box refused", "505", "outside")


@pytest.mark.parametrize("bad, word", [((30, 10, 30 + 1e-5, 40), "too thin"), ((-1e39, 10, 1e39, 40), "beyond")])
def test_a_box_that_the_network_can_not_hold_costs_only_itself(peer: Peer, camera: Camera, ask: Asker, bad: tuple,
                                                               word: str, descriptions: list[RegionDescriptionArray],
                                                               diagnostics: list[DiagnosticArray]) -> None:
    message = described(peer, descriptions, camera.send((BOXES[0], bad, BOXES[1])))
    assert [(d.region.id, bool(d.text)) for d in message.descriptions] == [("1", True), ("3", True)]
    reported(peer, diagnostics, "box refused", word)
    assert ask("what is region 3?")[1].status == Answer.OK
    drawn = Region(id="thin", bbox=box_to_message(bad))
    _, answer = ask("what is region thin?", boxes=[drawn])
    assert answer.status == Answer.INVALID and word in answer.error
    assert ask("what is region 3?")[1].status == Answer.OK


def test_detections_of_one_id_are_told_apart_with_one_warning(peer: Peer, node: Process, camera: Camera, ask: Asker,
                                                              descriptions: list[RegionDescriptionArray],
                                                              diagnostics: list[DiagnosticArray]) -> None:
    for _ in range(2):
        message = described(peer, descriptions, camera.send(BOXES, ids=["cup", "cup"]))
        assert [(d.region.id, bool(d.text)) for d in message.descriptions] == [("cup", True), ("cup 2", True)]
    assert ask("is region cup left of region cup 2?")[1].status == Answer.OK
    reported(peer, diagnostics, "detection ids repeat", "'cup'", "'cup 2'")
    assert node.output().count("detection ids repeat") == 1


def test_normalised_boxes_are_refused_with_the_reason(peer: Peer, camera: Camera,
                                                      descriptions: list[RegionDescriptionArray],
                                                      diagnostics: list[DiagnosticArray]) -> None:
    assert not described(peer, descriptions, camera.send([(0.1, 0.2, 0.5, 0.9)])).descriptions
    reported(peer, diagnostics, "box refused", "normalised", "detections.width")


def test_of_endless_detections_the_first_are_taken(peer: Peer, camera: Camera,
                                                   descriptions: list[RegionDescriptionArray],
                                                   diagnostics: list[DiagnosticArray]) -> None:
    message = described(peer, descriptions, camera.send(BOXES * 12_000))
    assert [d.region.id for d in message.descriptions] == [str(i) for i in range(1, 17)]  # all that the model takes
    reported(peer, diagnostics, "too many detections", "24000", "500", "detections.max")
    reported(peer, diagnostics, "region over the limit", "region '500'")


def test_names_from_outside_forge_no_line_of_the_log(peer: Peer, node: Process, camera: Camera, ask: Asker,
                                                     descriptions: list[RegionDescriptionArray],
                                                     diagnostics: list[DiagnosticArray]) -> None:
    name = "cup\n[ERROR] [1.0] [perception]: forged\x1b[2J"
    message = described(peer, descriptions, camera.send((BOXES[0], (500, 0, 510, 10)), ids=[name, f"{name}2"]))
    assert [d.region.id for d in message.descriptions] == [name]
    reported(peer, diagnostics, "box refused", "forged\\x1b[2J2")
    assert ask(f"what is region {name}? xyzzy")[1].status == Answer.OK
    assert "forged" in ask("what is region 77? xyzzy")[1].error
    reported(peer, diagnostics, "query UNKNOWN_REGION", "forged\\x1b[2J")
    output = node.output()
    assert "\x1b" not in output and not any(line.startswith("[ERROR] [1.0]") for line in output.splitlines())
    assert "xyzzy" not in output, "what people ask is nobody's business"


def test_boxes_of_other_stamps_than_the_images_are_told(peer: Peer, camera: Camera,
                                                        descriptions: list[RegionDescriptionArray],
                                                        diagnostics: list[DiagnosticArray]) -> None:
    header = camera.send(BOXES)
    described(peer, descriptions, header)
    seconds = itertools.count(5)

    def told() -> bool:  # one by one, since the node keeps the newest only; until the first has waited long enough
        camera.detect(Header(stamp=Time(sec=next(seconds))), BOXES)
        values = {pair.key: pair.value for pair in diagnostics[-1].status[0].values} if diagnostics else {}
        text = values.get("boxes without image, last", "")
        return f"newest is of {seconds_text(stamp_ns(header.stamp))} s" in text and "sync.slop_s" in text
    peer.wait_for(told, "boxes without image in /diagnostics")
    described(peer, descriptions, camera.send(BOXES))


def test_a_camera_that_begins_again_is_told_and_described(peer: Peer, camera: Camera,
                                                          descriptions: list[RegionDescriptionArray],
                                                          diagnostics: list[DiagnosticArray]) -> None:
    described(peer, descriptions, camera.send(BOXES))
    again = Camera(peer, first_second=10)
    described(peer, descriptions, again.send(BOXES))
    reported(peer, diagnostics, "clock set back", "10.033000000 s")
    described(peer, descriptions, camera.send(BOXES))


def test_one_frame_an_hour_ahead_costs_no_other(peer: Peer, camera: Camera, ask: Asker,
                                                descriptions: list[RegionDescriptionArray]) -> None:
    described(peer, descriptions, camera.send(BOXES))
    described(peer, descriptions, Camera(peer, first_second=5000).send(BOXES))
    header = camera.send(BOXES)
    described(peer, descriptions, header)
    assert ask()[1].header == header, "the newest frame is the one that came last"


@pytest.mark.parametrize("changes, words", [
    ({"encoding": "32FC7"}, ["'32FC7'"]), ({"step": 7}, ["step 7"]), ({"height": HEIGHT + 3}, ["data has"]),
    ({"width": 0}, ["0x"]),
])
def test_a_bad_image_is_refused_and_the_next_one_served(peer: Peer, camera: Camera, changes: dict, words: list[str],
                                                        descriptions: list[RegionDescriptionArray],
                                                        diagnostics: list[DiagnosticArray]) -> None:
    camera.send(BOXES, changes=changes)
    reported(peer, diagnostics, "image refused", *words)
    assert described(peer, descriptions, camera.send(BOXES)).descriptions
