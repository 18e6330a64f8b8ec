"""The perception node in its own process on real DDS, with a model of random weights.

What it says is nonsense; to whom, about what and when must be right.
"""
from __future__ import annotations

import time

import numpy as np
import pytest

pytest.importorskip("ros_gpt4roi_interfaces.msg", reason="the interfaces are not built or not sourced")
from action_msgs.msg import GoalStatus  # noqa: E402
from builtin_interfaces.msg import Time  # noqa: E402
from camera import HEIGHT, WIDTH, Camera  # noqa: E402
from diagnostic_msgs.msg import DiagnosticArray  # noqa: E402
from lifecycle_msgs.srv import GetState  # noqa: E402
from perception_fixtures import (  # noqa: F401, E402
    ANSWER_TOKENS,
    BOXES,
    QUEUE,
    Asker,
    ask_fixture,
    camera_fixture,
    described,
    descriptions_fixture,
    diagnostics_fixture,
    node_fixture,
    query_goal,
)
from rcl_interfaces.msg import Parameter as ParameterMessage  # noqa: E402
from rcl_interfaces.msg import ParameterType, ParameterValue  # noqa: E402
from rcl_interfaces.srv import SetParameters  # noqa: E402
from rclpy.qos import QoSProfile, qos_profile_sensor_data  # noqa: E402
from ros_gpt4roi_interfaces.action import Ask  # noqa: E402
from ros_gpt4roi_interfaces.msg import Answer, Query, Region, RegionDescriptionArray  # noqa: E402
from ros_gpt4roi_interfaces.srv import DescribeRegions  # noqa: E402
from ros_peer import Peer, Process  # noqa: E402
from sensor_msgs.msg import CompressedImage, Image  # noqa: E402
from std_msgs.msg import Header, String  # noqa: E402

from ros_gpt4roi.image_messages import MessageImage  # noqa: E402
from ros_gpt4roi.messages import box_to_message  # noqa: E402


@pytest.mark.parametrize("boxes_first", [False, True])
def test_every_region_is_described_under_the_images_header(peer: Peer, camera: Camera, boxes_first: bool,
                                                           descriptions: list[RegionDescriptionArray]) -> None:
    header = camera.send(BOXES, boxes_first=boxes_first)
    message = described(peer, descriptions, header)
    assert [d.region.id for d in message.descriptions] == ["1", "2"]
    assert [d.region.bbox for d in message.descriptions] == [box_to_message(box) for box in BOXES]
    assert all(d.text and 0 < d.confidence <= 1 and not d.reused for d in message.descriptions)
    stages = {time.stage: time.duration.sec + time.duration.nanosec * 1e-9 for time in message.stage_times}
    assert {"vision", "language"} <= set(stages) and all(seconds > 0 for seconds in stages.values())


def test_a_frame_without_detections_has_no_descriptions(peer: Peer, camera: Camera,
                                                        descriptions: list[RegionDescriptionArray]) -> None:
    assert not described(peer, descriptions, camera.send(())).descriptions


@pytest.mark.slow
def test_a_conversation_of_200_questions_keeps_answering_in_full(peer: Peer, camera: Camera, ask: Asker,
                                                                 descriptions: list[RegionDescriptionArray],
                                                                 diagnostics: list[DiagnosticArray]) -> None:
    header = camera.send(BOXES)
    described(peer, descriptions, header)
    _, first = ask()
    for number in range(1, 200):
        status, answer = ask(f"and region {1 + number % 2}?", conversation_id=first.conversation_id)
        assert status == GoalStatus.STATUS_SUCCEEDED and answer.status == Answer.OK
        assert answer.error in ("", f"the answer was cut after {ANSWER_TOKENS} tokens"), number
        assert answer.header == header
    values = {pair.key: pair.value for pair in peer.wait_for(
        lambda: next((m for m in diagnostics[-1:] if "rounds_dropped" in str(m)), None), "statistics").status[0].values}
    assert float(values["rounds_dropped"]) > 0


def test_answers_stream_and_carry_the_frames_header(peer: Peer, camera: Camera, ask: Asker,
                                                    descriptions: list[RegionDescriptionArray]) -> None:
    header = camera.send(BOXES)
    described(peer, descriptions, header)
    answers, texts = peer.collect(Answer, "answers", 10), peer.collect(String, "answer_text", 10)
    feedback: list[str] = []
    status, answer = ask("what is left of region 2?", feedback, query_id="mine")
    assert status == GoalStatus.STATUS_SUCCEEDED and answer.status == Answer.OK
    assert answer.header == header and answer.query_id == "mine" and answer.conversation_id
    assert answer.text and 0 < answer.confidence <= 1
    assert len(feedback) > 3
    assert all(later.startswith(earlier) for earlier, later in zip(feedback, feedback[1:]))
    assert answer.text.startswith(feedback[-1].rstrip())
    peer.wait_for(lambda: answers and texts, "the answer on the topics")
    assert answers[0] == answer and texts[0].data == answer.text


def test_a_follow_up_stays_on_the_frame_it_began_on(peer: Peer, camera: Camera, ask: Asker,
                                                    descriptions: list[RegionDescriptionArray]) -> None:
    first = camera.send(BOXES)
    described(peer, descriptions, first)
    _, opening = ask()
    described(peer, descriptions, camera.send(BOXES[:1]))
    _, follow_up = ask("and region 2?", conversation_id=opening.conversation_id)
    assert follow_up.status == Answer.OK and follow_up.header == first
    assert follow_up.conversation_id == opening.conversation_id
    gone = Header(stamp=Time(sec=4, nanosec=5))  # of a frame that is not held any more
    _, follow_up = ask("and region 2?", conversation_id=opening.conversation_id, header=gone)
    assert follow_up.status == Answer.OK and follow_up.header == first
    _, fresh = ask("and region 2?")
    assert fresh.status == Answer.UNKNOWN_REGION, "the newest frame has one region only"


def test_the_log_holds_neither_questions_nor_answers(peer: Peer, camera: Camera, ask: Asker, node: Process,
                                                     descriptions: list[RegionDescriptionArray]) -> None:
    described(peer, descriptions, camera.send(BOXES))
    status, answer = ask("is the antimacassar of region 1 heliotrope?")
    assert status == GoalStatus.STATUS_SUCCEEDED and len(answer.text) > 20
    log = node.output()
    assert "is ready" in log and "antimacassar" not in log and answer.text[:20] not in log


def test_a_question_may_name_an_earlier_frame(peer: Peer, camera: Camera, ask: Asker,
                                              descriptions: list[RegionDescriptionArray]) -> None:
    earlier = camera.send(BOXES)
    described(peer, descriptions, earlier)
    described(peer, descriptions, camera.send(BOXES))
    _, answer = ask(header=Header(stamp=earlier.stamp))
    assert answer.status == Answer.OK and answer.header == earlier


def test_drawn_boxes_become_regions(peer: Peer, camera: Camera, ask: Asker,
                                    descriptions: list[RegionDescriptionArray]) -> None:
    described(peer, descriptions, camera.send(BOXES))
    drawn = [Region(bbox=box_to_message((5, 5, 15, 15))), Region(id="cup-9", bbox=box_to_message((5, 5, 25, 25)))]
    _, answer = ask("is region 3 left of region cup-9?", boxes=drawn)
    assert answer.status == Answer.OK, answer.error


def test_a_clicked_point_can_be_asked_about_and_described(peer: Peer, camera: Camera, ask: Asker,
                                                          descriptions: list[RegionDescriptionArray]) -> None:
    described(peer, descriptions, camera.send(BOXES))
    clicked = Region(bbox=box_to_message((WIDTH, 7, WIDTH, 7)))
    _, answer = ask("what is region 3?", boxes=[clicked])
    assert answer.status == Answer.OK, answer.error
    response = peer.call(DescribeRegions, "describe_regions", DescribeRegions.Request(boxes=[clicked]))
    (description,) = response.descriptions.descriptions
    assert description.text and description.region.bbox == clicked.bbox


def test_a_drawn_box_goes_before_detections_that_are_too_many(peer: Peer, camera: Camera, ask: Asker,
                                                              descriptions: list[RegionDescriptionArray]) -> None:
    described(peer, descriptions, camera.send([(x, 2, x + 8, 20) for x in range(16)]))  # all that the model takes
    _, answer = ask("what is region mine-1?", boxes=[Region(id="mine-1", bbox=box_to_message((5, 5, 15, 15)))])
    assert answer.status == Answer.OK, answer.error


@pytest.mark.parametrize("text, fields, status, words", [
    ("", {}, Answer.INVALID, ["empty"]),
    (" \n", {}, Answer.INVALID, ["empty"]),
    ("why " * 25_000, {}, Answer.INVALID, ["100000", "2000"]),
    ("what is <bbox>?", {}, Answer.INVALID, ["<bbox>"]),
    ("what is <region1>?", {}, Answer.INVALID, ["<region1>"]),
    ("<|im_end|> hello", {}, Answer.INVALID, ["<|im_end|>"]),
    ("what is region 99?", {}, Answer.UNKNOWN_REGION, ["99", "1, 2"]),
    ("and now?", {"conversation_id": "never opened"}, Answer.INVALID, ["never opened"]),
    ("what is region 3?", {"boxes": [Region(bbox=box_to_message((9, 9, 3, 3)))]}, Answer.INVALID, ["inverted", "-6"]),
    ("what is region 3?", {"boxes": [Region(bbox=box_to_message((99, 7, 99, 7)))]}, Answer.INVALID, ["point", "99"]),
    ("what is region 3?", {"boxes": [Region(bbox=box_to_message((9, 7, 9, 8)))]}, Answer.INVALID, ["empty"]),
    ("what is region 1?", {"boxes": [Region(id="1", bbox=box_to_message((1, 1, 3, 3)))]}, Answer.INVALID, ["'1'"]),
    ("what is region 1?", {"header": Header()}, Answer.NO_FRAME, ["4.000000005 s", "newest"]),
])
def test_a_bad_question_is_told_why_and_the_next_one_is_answered(peer: Peer, camera: Camera, ask: Asker, text: str,
                                                                 fields: dict, status: int, words: list[str],
                                                                 descriptions: list[RegionDescriptionArray]) -> None:
    described(peer, descriptions, camera.send(BOXES))
    if "header" in fields:
        fields["header"].stamp.sec, fields["header"].stamp.nanosec = 4, 5
    goal_status, answer = ask(text, **fields)
    assert answer.status == status and goal_status == GoalStatus.STATUS_ABORTED
    for word in words:
        assert word in answer.error
    assert ask()[1].status == Answer.OK


def test_boxes_join_a_conversation(peer: Peer, camera: Camera, ask: Asker,
                                   descriptions: list[RegionDescriptionArray]) -> None:
    header = described(peer, descriptions, camera.send(BOXES)).header
    _, opening = ask()
    described(peer, descriptions, camera.send(BOXES[:1]))  # the conversation stays on its frame
    more = {"conversation_id": opening.conversation_id}
    _, answer = ask("and what is this?", **more, boxes=[Region(bbox=box_to_message((5, 5, 15, 15)))])
    assert (answer.status, answer.header, list(answer.region_ids)) == (Answer.OK, header, ["3"])
    assert answer.regions[0].bbox == box_to_message((5, 5, 15, 15))
    _, answer = ask("what is region mine?", **more, boxes=[Region(id="mine", bbox=box_to_message((9, 9, 9, 9)))])
    assert list(answer.region_ids) == ["mine"] and answer.regions[0].bbox.size_x == 0
    for name in ("1", "3", "mine"):  # in later rounds, too, under the same ids
        _, answer = ask(f"what is region {name}?", **more)
        assert (answer.status, list(answer.region_ids)) == (Answer.OK, [name])
    _, answer = ask("what is this?", **more, boxes=[Region(id="3", bbox=box_to_message((5, 5, 15, 15)))])
    assert answer.status == Answer.INVALID and "'3'" in answer.error
    _, answer = ask("what is region 4?", **more)
    assert answer.status == Answer.UNKNOWN_REGION
    for boxes in (15, 1):  # beside those two, 14 are as many as the model takes
        _, answer = ask("and now?", **more, boxes=[Region(bbox=box_to_message((i, 5, 40, 40))) for i in range(boxes)])
        assert (answer.status == Answer.OK) == (boxes == 1)
    assert "16" in ask("and now?", **more, boxes=[Region(bbox=box_to_message((i, 5, 40, 40))) for i in range(14)]
                       )[1].error


def test_cancelling_keeps_what_was_said(peer: Peer, camera: Camera, ask: Asker,
                                        descriptions: list[RegionDescriptionArray]) -> None:
    described(peer, descriptions, camera.send(BOXES))
    cancelled = False
    while not cancelled:  # a node that is faster than this process may have said it all
        feedback: list[str] = []
        goal = ask.send(Query(text="what is region 1?"), feedback)
        peer.wait_for(lambda: feedback, "the first words")
        response = peer.result_of(goal.cancel_goal_async(), "the cancel's acceptance")
        status, answer = ask.result(goal)
        cancelled = bool(response.goals_canceling) and status != GoalStatus.STATUS_SUCCEEDED
    assert status == GoalStatus.STATUS_CANCELED and answer.status == Answer.CANCELED
    assert answer.text and ask()[1].status == Answer.OK


def test_more_questions_than_the_queue_takes_are_all_answered(peer: Peer, camera: Camera, ask: Asker,
                                                              descriptions: list[RegionDescriptionArray]) -> None:
    described(peer, descriptions, camera.send(BOXES))
    # A client keeps 10 responses by default and loses the others of a burst.
    client = peer.action(Ask, "ask", goal_service_qos_profile=QoSProfile(depth=100),
                         result_service_qos_profile=QoSProfile(depth=100))
    sent = [client.send_goal_async(query_goal(Query(text="what is region 2?"))) for _ in range(40)]
    peer.wait_for(lambda: all(future.done() for future in sent), "40 acceptances")
    results = [future.result().get_result_async() for future in sent]
    peer.wait_for(lambda: all(future.done() for future in results), "40 answers")
    statuses = [future.result().result.answer.status for future in results]
    assert set(statuses) == {Answer.OK, Answer.OVERLOADED}
    assert statuses.count(Answer.OK) >= QUEUE
    errors = {f.result().result.answer.error for f in results if f.result().result.answer.status == Answer.OVERLOADED}
    assert all(str(QUEUE) in error for error in errors)


def test_a_plain_string_is_enough_to_ask(peer: Peer, camera: Camera,
                                         descriptions: list[RegionDescriptionArray]) -> None:
    described(peer, descriptions, camera.send(BOXES))
    texts = peer.collect(String, "answer_text", 10)
    publisher = peer.publisher(String, "query_text")
    publisher.publish(String(data="what is region 1?"))
    peer.wait_for(lambda: texts, "an answer")
    assert texts[0].data and "[" + "INVALID" not in texts[0].data
    publisher.publish(String(data="what is region 77?"))
    peer.wait_for(lambda: len(texts) > 1, "the second answer")
    assert texts[1].data.startswith("[UNKNOWN_REGION: ") and "77" in texts[1].data


def test_the_service_describes_the_newest_detections_or_given_boxes(peer: Peer, camera: Camera,
                                                                    descriptions: list[RegionDescriptionArray]) -> None:
    header = camera.send(BOXES)
    described(peer, descriptions, header)
    response = peer.call(DescribeRegions, "describe_regions", DescribeRegions.Request())
    assert response.status == Answer.OK and response.descriptions.header == header
    assert [d.region.id for d in response.descriptions.descriptions] == ["1", "2"]
    boxes = [Region(id="mine", bbox=box_to_message((5, 5, 15, 15)))]
    response = peer.call(DescribeRegions, "describe_regions", DescribeRegions.Request(boxes=boxes))
    assert [(d.region.id, bool(d.text)) for d in response.descriptions.descriptions] == [("mine", True)]


@pytest.mark.parametrize("request_, status, words", [
    (DescribeRegions.Request(boxes=[Region(bbox=box_to_message((99, 99, 120, 120)))]), Answer.INVALID, ["outside"]),
    (DescribeRegions.Request(header=Header(frame_id="x")), Answer.NO_FRAME, ["7.000000000"]),
])
def test_a_bad_request_is_told_why(peer: Peer, camera: Camera, request_: DescribeRegions.Request, status: int,
                                   words: list[str], descriptions: list[RegionDescriptionArray]) -> None:
    described(peer, descriptions, camera.send(BOXES))
    if request_.header.frame_id:
        request_.header.stamp.sec = 7
    response = peer.call(DescribeRegions, "describe_regions", request_)
    assert response.status == status and not response.descriptions.descriptions
    for word in words:
        assert word in response.error


@pytest.mark.parametrize("qos", [qos_profile_sensor_data, QoSProfile(depth=1)], ids=["best effort", "reliable"])
def test_the_annotated_image_shows_the_regions(peer: Peer, camera: Camera, qos: QoSProfile,
                                               descriptions: list[RegionDescriptionArray]) -> None:
    images = peer.collect(Image, "annotated_image", qos)
    encoded = peer.collect(CompressedImage, "annotated_image/compressed", qos)

    def annotated() -> tuple[Image, CompressedImage] | None:
        # The node draws only for those who listen, and learns of a listener a little later than it of the node.
        described(peer, descriptions, camera.send(BOXES))
        return next(((image, other) for image in images for other in encoded if image.header == other.header), None)
    image, other = peer.wait_for(annotated, "an annotated image, raw and compressed")
    assert (image.width, image.encoding) == (WIDTH, "rgb8")
    assert image.height > HEIGHT  # long texts in so small a picture: they go into a legend below it
    pixels = np.frombuffer(image.data, np.uint8).reshape(image.height, WIDTH, 3)
    assert pixels[:HEIGHT].std() > 0 and pixels[HEIGHT:].std() > 0
    assert any(message.header == image.header for message in descriptions)
    same = np.asarray(MessageImage(other))
    assert same.shape == pixels.shape
    assert np.abs(same.mean(-1) - pixels.mean(-1)).mean() < 15  # jpeg, of noise


def test_it_is_told_what_runs_where_and_why(peer: Peer, node: Process, diagnostics: list[DiagnosticArray]) -> None:
    def placed() -> dict[str, str]:
        values = {pair.key: pair.value for pair in diagnostics[-1].status[0].values} if diagnostics else {}
        return values if "device" in values else {}
    values = peer.wait_for(placed, "where things run, in /diagnostics")
    assert values["device"].split(":")[0] in ("cpu", "cuda") and " auto: " in values["device"]
    assert values["vision stage"] == "torch: float32, asked for"
    assert values["language model"].split(":")[0] in ("int8", "bf16") and ": auto: " in values["language model"]
    assert f"; vision stage torch: float32, asked for; language model {values['language model']}" in node.output()


def test_a_parameter_is_not_changed_under_a_running_model(peer: Peer, node: Process) -> None:
    value = ParameterValue(type=ParameterType.PARAMETER_INTEGER, integer_value=5)
    response = peer.call(SetParameters, "/perception/set_parameters", SetParameters.Request(
        parameters=[ParameterMessage(name="pipeline.answer_tokens", value=value)]))
    assert not response.results[0].successful
    assert "pipeline.answer_tokens" in response.results[0].reason and "active" in response.results[0].reason


def test_descriptions_are_of_the_newest_frame(peer: Peer, camera: Camera,
                                              descriptions: list[RegionDescriptionArray]) -> None:
    """At 30 frames a second and a model that is busy all the time: no older than one inference plus two frames.

    Counted in frames, not timed: the next frame is sent when the node has taken the last one, so that a machine that
    stalls delays the frames and not the verdict. The worker is never idle, so an inference begins where the last one's
    result came out, and what it describes must be among the last two frames of that moment.
    """
    taken = peer.node.create_client(GetState, "/perception/get_state")
    peer.wait_for(taken.service_is_ready, "the node's services")
    period = 1 / 30
    numbers: dict[tuple[int, int], int] = {}  # stamp → number of the frame
    results: list[tuple[int, int]] = []  # frame described, frames taken when its description came
    seen = len(descriptions)
    while len(results) < 20:
        began = time.monotonic()
        stamp = camera.send(BOXES * 8).stamp
        numbers[(stamp.sec, stamp.nanosec)] = len(numbers)
        # The executor serves subscriptions before services: with the response, the frame has been handed over.
        response = taken.call_async(GetState.Request())
        peer.wait_for(lambda: response.done() and time.monotonic() - began >= period, "the node to take a frame",
                      poll_s=0.002)
        for message in descriptions[seen:]:
            number = numbers.get((message.header.stamp.sec, message.header.stamp.nanosec))
            if number is not None:
                results.append((number, len(numbers)))
        seen = len(descriptions)
    peer.node.destroy_client(taken)
    described_frames = [frame for frame, _ in results]
    assert described_frames == sorted(set(described_frames))
    assert len(numbers) > len(results) + 1, "the model kept up with the camera: it was not busy all the time"
    for (_, taken_before), (frame, _) in zip(results, results[1:]):
        newest = taken_before - 1
        assert frame >= newest - 2, f"frame {frame} was begun when frame {newest} had come: {results}"
