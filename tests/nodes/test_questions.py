"""What becomes of goals, requests and the model where something fails or ends; the node runs in the test's process."""
from __future__ import annotations

import dataclasses
import gc
import json
import subprocess
import sys
import time
import weakref
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("ros_gpt4roi_interfaces.msg", reason="the interfaces are not built or not sourced")
from action_msgs.msg import GoalStatus  # noqa: E402
from answering import perception_here  # noqa: E402
from builtin_interfaces.msg import Time  # noqa: E402
from camera import Camera  # noqa: E402
from isolation import for_children  # noqa: E402
from lifecycle_msgs.msg import Transition  # noqa: E402
from lifecycle_msgs.srv import ChangeState  # noqa: E402
from rclpy.action import ActionClient  # noqa: E402
from rclpy.action.client import ClientGoalHandle  # noqa: E402
from rclpy.parameter import Parameter  # noqa: E402
from ros_gpt4roi_interfaces.action import Ask  # noqa: E402
from ros_gpt4roi_interfaces.msg import Answer, Query, RegionDescriptionArray  # noqa: E402
from ros_gpt4roi_interfaces.srv import AskQuestion, DescribeRegions  # noqa: E402
from ros_peer import Peer  # noqa: E402
from rosgraph_msgs.msg import Clock as ClockMessage  # noqa: E402
from std_msgs.msg import String  # noqa: E402
from std_srvs.srv import Trigger  # noqa: E402

from ros_gpt4roi.messages import place_to_message  # noqa: E402
from ros_gpt4roi.nodes import goals  # noqa: E402
from ros_gpt4roi.nodes.conversions import stamp_ns  # noqa: E402
from ros_gpt4roi.nodes.depth import DepthSource  # noqa: E402
from ros_gpt4roi.nodes.perception import Perception  # noqa: E402
from ros_gpt4roi.nodes.positions import Position  # noqa: E402
from ros_gpt4roi.runtime.types import Region  # noqa: E402

SETTINGS = {
    "pipeline.vision.backend": "torch", "pipeline.answer_tokens": 400, "scheduler.answer_timeout_s": 3600.0,
    "scheduler.description_timeout_s": 3600.0, "qos.image.reliability": "reliable",
    "qos.detections.reliability": "reliable"}


@pytest.fixture
def results_kept_s(monkeypatch: pytest.MonkeyPatch) -> float:
    monkeypatch.setattr(goals, "_RESULT_KEPT_S", 1)
    return 1.0


@pytest.fixture
def node(peer: Peer, tiny_model: Path) -> Iterator[Perception]:
    with perception_here(peer, tiny_model, SETTINGS) as node:
        yield node


@pytest.fixture
def described(peer: Peer, node: Perception) -> list[RegionDescriptionArray]:
    """The descriptions of the frame that the node holds."""
    described = peer.collect(RegionDescriptionArray, "region_descriptions", 10)
    Camera(peer).send([(2, 2, 20, 20)])
    peer.wait_for(lambda: described, "descriptions")
    return described


class Broken(Exception):
    pass


def broken(*arguments: object) -> None:
    raise Broken("on purpose")


def test_an_internal_error_reads_as_failure(peer: Peer, node: Perception, described: list[RegionDescriptionArray],
                                            monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node._scheduler, "submit", broken)
    response = peer.call(DescribeRegions, "describe_regions", DescribeRegions.Request())
    assert response.status == Answer.FAILED and "Broken: on purpose" in response.error
    client = peer.action(Ask, "ask")
    goal = peer.result_of(client.send_goal_async(Ask.Goal(query=Query(text="why?", query_id="mine"))), "an acceptance")
    ended = peer.result_of(goal.get_result_async(), "a result")
    client.destroy()
    answer = ended.result.answer
    assert ended.status == GoalStatus.STATUS_ABORTED
    assert (answer.status, answer.query_id) == (Answer.FAILED, "mine") and "Broken: on purpose" in answer.error
    problems = node.problems.values()
    assert problems["describe_regions FAILED"] == problems["query FAILED"] == "1"


def test_a_picture_that_is_shown_can_be_asked_about_when_it_would_be_too_old(peer: Peer, tiny_model: Path) -> None:
    with perception_here(peer, tiny_model, {**SETTINGS, "pipeline.answer_tokens": 5, "sync.buffer_s": 0.1}) as node:
        seen = peer.collect(RegionDescriptionArray, "region_descriptions", 10)
        camera, box = Camera(peer), [(2, 2, 20, 20)]
        camera.send(box)
        peer.wait_for(lambda: len(seen) == 1, "descriptions")
        first = seen[0].header

        def status() -> int:
            query = Query(header=first, text="What is region 1?")
            return peer.call(AskQuestion, "ask_question", AskQuestion.Request(query=query)).answer.status

        assert node._frames is not None
        while node._frames._buffer.find(stamp_ns(first.stamp)) is not None:
            before = node._frames.statistics()["images received"]
            camera.send_image()
            peer.wait_for(lambda: node._frames.statistics()["images received"] > before, "the image")
            time.sleep(0.1)
        assert status() == Answer.OK
        for count in (2, 3):
            camera.send(box)
            peer.wait_for(lambda: len(seen) == count, "descriptions")
        assert status() == Answer.NO_FRAME


def test_a_question_on_the_topic_that_fails_within_is_answered(
        peer: Peer, node: Perception, described: list[RegionDescriptionArray], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node._scheduler, "submit", broken)
    answers, texts = peer.collect(Answer, "answers", 10), peer.collect(String, "answer_text", 10)
    peer.publisher(String, "query_text").publish(String(data="what is region 1?"))
    peer.wait_for(lambda: answers and texts, "an answer")
    assert answers[0].status == Answer.FAILED and answers[0].query_id and "Broken: on purpose" in answers[0].error
    assert texts[0].data.startswith("[FAILED: Broken: on purpose")
    assert node.problems.values()["query FAILED"] == "1"


# Over datagrams, more at once than its history of one holds until they have arrived.
FLOOD = """
import time
import rclpy
from std_msgs.msg import String
rclpy.init()
publisher = rclpy.create_node("flood").create_publisher(String, "query_text", 1)
while True:
    for _ in range(50):
        publisher.publish(String(data="x" * 60_000))
    time.sleep(0.1)
"""


def test_texts_that_the_middleware_lost_are_told(peer: Peer, node: Perception, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FASTRTPS_DEFAULT_PROFILES_FILE", raising=False)
    environment = for_children({"FASTDDS_BUILTIN_TRANSPORTS": "UDPv4"})
    flood = subprocess.Popen([sys.executable, "-c", FLOOD], env=environment)
    try:
        peer.wait_for(lambda: "question lost" in node.problems.values(), "the loss")
        assert flood.poll() is None
    finally:
        flood.kill()
        flood.wait()
    assert "/query_text in the middleware" in node.problems.values()["question lost, last"]
    assert node.problems.total()


def test_a_service_asks_as_the_action_does(peer: Peer, node: Perception,
                                           described: list[RegionDescriptionArray]) -> None:
    answers, queries = peer.collect(Answer, "answers", 10), peer.collect(Query, "queries", 10)

    def ask(text: str, **fields: object) -> Answer:
        request = AskQuestion.Request(query=Query(text=text, **fields))
        return peer.call(AskQuestion, "ask_question", request).answer

    first = ask("what is region 1?", query_id="mine")
    assert (first.status, first.query_id, first.header) == (Answer.OK, "mine", described[0].header) and first.text
    assert list(first.region_ids) == ["1"] and [region.id for region in first.regions] == ["1"]
    second = ask("why?", conversation_id=first.conversation_id)
    assert second.status == Answer.OK and second.conversation_id == first.conversation_id and second.query_id
    unknown = ask("region 9?", query_id="other")
    assert (unknown.status, unknown.query_id) == (Answer.UNKNOWN_REGION, "other") and "'9'" in unknown.error
    peer.wait_for(lambda: len(answers) == 3 and len(queries) == 3, "questions and answers on their topics")
    assert answers == [first, second, unknown]
    asked = [(query.text, query.query_id, query.conversation_id, query.header) for query in queries]
    assert asked == [("what is region 1?", "mine", first.conversation_id, first.header),
                     ("why?", second.query_id, first.conversation_id, first.header),
                     ("region 9?", "other", unknown.conversation_id, first.header)]


def test_a_service_that_fails_within_says_so(peer: Peer, node: Perception, described: list[RegionDescriptionArray],
                                             monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node._scheduler, "submit", broken)
    request = AskQuestion.Request(query=Query(text="why?", query_id="mine"))
    answer = peer.call(AskQuestion, "ask_question", request).answer
    assert (answer.status, answer.query_id) == (Answer.FAILED, "mine") and "Broken: on purpose" in answer.error


def test_a_service_waits_no_longer_than_an_answer_may_take(peer: Peer, node: Perception,
                                                           described: list[RegionDescriptionArray]) -> None:
    node._scheduler.config = dataclasses.replace(node._scheduler.config, answer_timeout_s=1e-3)
    request = AskQuestion.Request(query=Query(text="what is region 1?", format="json"))
    answer = peer.call(AskQuestion, "ask_question", request).answer
    assert answer.status == Answer.TIMEOUT and json.loads(answer.text)["status"] == "TIMEOUT"


def test_answers_in_json_are_whole_however_they_end(peer: Peer, node: Perception,
                                                    described: list[RegionDescriptionArray]) -> None:
    texts = peer.collect(String, "answer_text", 10)
    client, words = peer.action(Ask, "ask"), []

    def send(text: str, form: str) -> ClientGoalHandle:
        goal = Ask.Goal(query=Query(text=text, format=form))
        return peer.result_of(client.send_goal_async(goal, words.append), "an acceptance")

    def answer_of(goal: ClientGoalHandle) -> Answer:
        return peer.result_of(goal.get_result_async(), "a result").result.answer

    cut = answer_of(send("what is region 1?", "json"))
    found = json.loads(cut.text)
    assert cut.status == Answer.OK and "cut" in cut.error
    assert found["answer"] and found["regions"] == ["1"]
    assert found["confidence"] == pytest.approx(cut.confidence)
    peer.wait_for(lambda: texts, "the words")
    assert texts[0].data == found["answer"]
    # A client hears no feedback that comes after the result.
    assert words and all(found["answer"].startswith(message.feedback.text) for message in words)

    words.clear()
    goal = send("what is region 1?", "json")
    peer.wait_for(lambda: words, "the first words")
    goal.cancel_goal_async()
    cancelled = answer_of(goal)
    assert cancelled.status == Answer.CANCELED
    assert json.loads(cancelled.text)["answer"].startswith(words[0].feedback.text)
    refused = answer_of(send("what is region 9?", "json"))
    assert json.loads(refused.text) == {"answer": "", "regions": [], "confidence": 0.0, "status": "UNKNOWN_REGION",
                                        "error": refused.error}
    assert refused.status == Answer.UNKNOWN_REGION

    wrong = answer_of(send("what is region 1?", "xml"))
    assert (wrong.status, wrong.text) == (Answer.INVALID, "") and "'xml'" in wrong.error and "json" in wrong.error
    client.destroy()


def test_texts_go_on_with_one_conversation_until_told_otherwise(
        peer: Peer, node: Perception, described: list[RegionDescriptionArray]) -> None:
    answers, publisher = peer.collect(Answer, "answers", 10), peer.publisher(String, "query_text")

    def say(text: str) -> Answer:
        known = len(answers)
        publisher.publish(String(data=text))
        peer.wait_for(lambda: len(answers) > known, "an answer")
        return answers[-1]

    opening = say("what is region 1?")
    Camera(peer, 2000).send([(2, 2, 20, 20), (20, 20, 40, 40)])
    peer.wait_for(lambda: len(described) > 1, "a second frame")
    follow_up = say("and what is this?")  # the region that was asserted last
    assert follow_up.conversation_id == opening.conversation_id and follow_up.header == opening.header
    assert list(follow_up.region_ids) == ["1"]

    newest = say("what is region 2?")  # which only the newest frame has
    assert newest.status == Answer.OK and newest.header == described[1].header
    assert newest.conversation_id != opening.conversation_id
    assert say("why?").conversation_id == newest.conversation_id
    unknown = say("what is region 9?")
    assert unknown.status == Answer.UNKNOWN_REGION and unknown.conversation_id != newest.conversation_id
    assert say("why?").conversation_id == newest.conversation_id

    last = say("what is region 1?").conversation_id
    response = peer.call(Trigger, "new_conversation", Trigger.Request())
    assert response.success and last in response.message
    assert say("why?").conversation_id != last

    aged = node._questions.texts
    aged._opened_s -= aged._follow_up_s
    assert say("why?").conversation_id not in (last, answers[-2].conversation_id)
    node.trigger_deactivate()
    node.trigger_activate()
    assert say("why?").status == Answer.NO_FRAME


def answered_goal(peer: Peer, client: ActionClient) -> ClientGoalHandle:
    goal = peer.result_of(client.send_goal_async(Ask.Goal(query=Query(text="region none"))), "an acceptance")
    assert peer.result_of(goal.get_result_async(), "a result").status == GoalStatus.STATUS_ABORTED
    return goal


def test_results_expire_while_ros_time_stands_still(peer: Peer, results_kept_s: float, node: Perception) -> None:
    node.set_parameters([Parameter("use_sim_time", value=True)])
    client = peer.action(Ask, "ask")
    goal = answered_goal(peer, client)

    def expired() -> bool:
        return peer.result_of(goal.get_result_async(), "a result").status == GoalStatus.STATUS_UNKNOWN
    peer.wait_for(expired, "the end of a result")
    assert node.get_clock().now().nanoseconds == 0
    client.destroy()


def test_results_outlast_a_jump_of_ros_time(peer: Peer, node: Perception) -> None:
    node.set_parameters([Parameter("use_sim_time", value=True)])
    client, clock = peer.action(Ask, "ask"), peer.publisher(ClockMessage, "/clock")
    goal = answered_goal(peer, client)
    clock.publish(ClockMessage(clock=Time(sec=10_000)))
    peer.wait_for(lambda: node.get_clock().now().nanoseconds, "ROS time")
    for _ in range(3):  # rounds of the executor, in which a result could end
        assert peer.result_of(goal.get_result_async(), "a result").status == GoalStatus.STATUS_ABORTED
    client.destroy()


def test_what_results_raise_on_the_workers_thread_is_a_problem(
        peer: Peer, node: Perception, described: list[RegionDescriptionArray], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node._outputs._descriptions, "publish", broken)
    monkeypatch.setattr(node._questions._answer_texts, "publish", broken)
    Camera(peer, 2000).send([(2, 2, 20, 20)])
    peer.publisher(String, "query_text").publish(String(data="what is region 1?"))
    for kind in ("descriptions not published", "answer not published"):
        peer.wait_for(lambda: kind in node.problems.values(), kind)
        assert "Broken: on purpose" in node.problems.values()[f"{kind}, last"]


def test_open_goals_get_their_results_in_a_callback_of_an_executor_that_refuses_to_spin_within(
        peer: Peer, node: Perception, described: list[RegionDescriptionArray], monkeypatch: pytest.MonkeyPatch) -> None:
    spin_once, spinning = peer.executor.spin_once, False

    def refusing(timeout_sec: float | None = None) -> None:  # as rclpy has it from 7.1.9 on
        nonlocal spinning
        if spinning:
            raise RuntimeError("Executor is already spinning")
        spinning = True
        try:
            spin_once(timeout_sec)
        finally:
            spinning = False

    monkeypatch.setattr(peer.executor, "spin_once", refusing)
    client, words = peer.action(Ask, "ask"), []
    sent = client.send_goal_async(Ask.Goal(query=Query(text="what is region 1?")), words.append)
    result = peer.result_of(sent, "an acceptance").get_result_async()
    peer.wait_for(lambda: words, "the first words")

    def end() -> None:
        node.trigger_deactivate()
        node.trigger_cleanup()
    peer.result_of(peer.executor.create_task(end), "the end of the clean-up")
    assert peer.result_of(result, "a result").result.answer.status in (Answer.CANCELED, Answer.OK)
    assert not {"callback failed", "request without a result"} & set(node.problems.values())
    client.destroy()


def test_no_model_outlives_the_clean_up(peer: Peer, node: Perception, described: list[RegionDescriptionArray]) -> None:
    pipeline = weakref.ref(node._scheduler._pipeline)
    gc.disable()  # a collection that happens to come would hide what is kept
    try:
        for transition in (Transition.TRANSITION_DEACTIVATE, Transition.TRANSITION_CLEANUP):
            request = ChangeState.Request(transition=Transition(id=transition))
            assert peer.call(ChangeState, "/perception/change_state", request).success
        assert pipeline() is None
    finally:
        gc.enable()


def test_only_described_regions_are_located(peer: Peer, node: Perception, described: list[RegionDescriptionArray],
                                            monkeypatch: pytest.MonkeyPatch) -> None:
    located: list[list[str]] = []

    def positions(source: DepthSource, frame: object, regions: Iterable[Region]) -> dict[str, Position]:
        located.append([region.id for region in regions])
        return {}
    monkeypatch.setattr(DepthSource, "positions", positions)
    response = peer.call(DescribeRegions, "describe_regions", DescribeRegions.Request(
        boxes=[place_to_message((2, 2, 20 + place % 20, 20)) for place in range(40)]))
    assert response.status == Answer.OK, response.error
    ids = [item.region.id for item in response.descriptions.descriptions]
    assert ids in located and len(ids) < 40 and all(len(found) < 40 for found in located)
