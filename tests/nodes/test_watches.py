"""Watches over DDS: what is told of them, how they end, and how many there may be; the node runs in this process."""
from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ros_gpt4roi_interfaces.msg", reason="the interfaces are not built or not sourced")
from action_msgs.msg import GoalStatus  # noqa: E402
from answering import BOXES, perception_here  # noqa: E402
from builtin_interfaces.msg import Duration  # noqa: E402
from camera import HEIGHT, WIDTH, Camera  # noqa: E402
from diagnostic_msgs.msg import DiagnosticArray  # noqa: E402
from rclpy.action import ActionClient  # noqa: E402
from rclpy.action.client import ClientGoalHandle  # noqa: E402
from ros_gpt4roi_interfaces.action import Ask, Watch  # noqa: E402
from ros_gpt4roi_interfaces.msg import Answer, Query, Region, RegionDescriptionArray  # noqa: E402
from ros_peer import WAIT_S, Peer  # noqa: E402
from std_msgs.msg import Header  # noqa: E402

from ros_gpt4roi.messages import box_to_message  # noqa: E402
from ros_gpt4roi.nodes.perception import Perception  # noqa: E402

SETTINGS = {
    "pipeline.vision.backend": "torch", "pipeline.answer_tokens": 30, "pipeline.description_tokens": 8,
    "scheduler.answer_timeout_s": 3600.0, "scheduler.description_timeout_s": 3600.0,
    "qos.image.reliability": "reliable", "qos.detections.reliability": "reliable",
    "watch.max": 2, "watch.every_n_frames": 1}


@pytest.fixture
def node(peer: Peer, tiny_model: Path) -> Iterator[Perception]:
    with perception_here(peer, tiny_model, SETTINGS) as node:
        yield node


@pytest.fixture
def camera(peer: Peer, node: Perception) -> Camera:
    return Camera(peer)


@pytest.fixture
def client(peer: Peer, node: Perception) -> Iterator[ActionClient]:
    client = peer.action(Watch, "watch")
    # Feedback that is sent before its reader is found is lost.
    peer.wait_for(lambda: peer.node.count_publishers("/watch/_action/feedback"), "the feedback")
    yield client
    client.destroy()


class Watching:
    """A goal, with the changes that it has told."""

    def __init__(self, peer: Peer, client: ActionClient, text: str, **fields: Any) -> None:
        query = {name: fields.pop(name) for name in ("query_id", "format", "boxes", "header") if name in fields}
        self.peer, self.changes = peer, []
        goal = Watch.Goal(query=Query(text=text, **query), **fields)
        sent = client.send_goal_async(goal, lambda message: self.changes.append(message.feedback))
        self.goal: ClientGoalHandle = peer.result_of(sent, "an acceptance")
        self._result = self.goal.get_result_async()

    @property
    def ended(self) -> bool:
        return self._result.done()

    def result(self) -> tuple[int, Watch.Result]:
        """The goal's status and result, once it has ended."""
        ended = self.peer.result_of(self._result, "the end of a watch")
        return ended.status, ended.result

    def cancel(self) -> tuple[int, Watch.Result]:
        self.goal.cancel_goal_async()
        return self.result()

    def told(self, count: int) -> Watch.Feedback:
        """The change of that number, once it has come."""
        self.peer.wait_for(lambda: len(self.changes) >= count or self.ended, f"change {count}")
        assert len(self.changes) == count, self.changes
        return self.changes[-1]


def send(camera: Camera, boxes: Sequence = BOXES, shade: int = 0) -> Header:
    """A frame of one colour: the same picture each time."""
    return camera.send(boxes, changes={"data": bytes([shade]) * (WIDTH * HEIGHT * 3)})


def arrived(peer: Peer, node: Perception, header: Header) -> None:
    """Waits until the node has this frame with its regions."""
    def there() -> bool:
        frame = node._frames.newest()
        return frame is not None and frame.header == header
    peer.wait_for(there, "the frame")


def asked(node: Perception) -> float:
    """How many questions of watches have been answered."""
    statistics: dict[str, float] = node._scheduler.statistics()
    return sum(count for name, count in statistics.items() if name.startswith("watch_answers"))


def test_a_region_that_goes_and_comes_back_is_told(peer: Peer, node: Perception, camera: Camera,
                                                   client: ActionClient) -> None:
    watching = Watching(peer, client, "what is region 2?", query_id="mine")
    first_header = send(camera)
    first = watching.told(1)
    assert first.before == Answer() and (first.answer.status, first.answer.header) == (Answer.OK, first_header)
    assert first.answer.text and list(first.answer.region_ids) == ["2"] and first.answer.query_id == "mine"
    assert first.answer.conversation_id == ""
    held_header = first_header
    for count in range(2, 5):  # what stays the same is not told
        held_header = send(camera)
        peer.wait_for(lambda: asked(node) == count, "an answer")
    gone_header = send(camera, BOXES[:1])
    gone = watching.told(2)
    assert (gone.before.text, gone.before.header) == (first.answer.text, held_header)
    assert (gone.answer.status, gone.answer.header, gone.answer.text) == (Answer.UNKNOWN_REGION, gone_header, "")
    assert "'2'" in gone.answer.error
    send(camera, ())  # no detection at all is none of region 2 either
    peer.wait_for(lambda: asked(node) == 6, "an answer")
    back_header = send(camera)
    back = watching.told(3)
    assert (back.before.status, back.answer.text) == (Answer.UNKNOWN_REGION, first.answer.text)
    status, result = watching.cancel()
    assert status == GoalStatus.STATUS_CANCELED
    assert (result.answer.text, result.answer.header) == (first.answer.text, back_header)
    assert (result.asked, result.changes) == (7, 2) and len(watching.changes) == 3
    assert not node._scheduler.statistics()["conversations"]
    assert not [problem for problem in node.problems.values() if "watch" in problem or "query" in problem]


def test_another_text_of_the_same_question_is_told_whatever_the_format(peer: Peer, node: Perception, camera: Camera,
                                                                       client: ActionClient) -> None:
    ask, described = peer.action(Ask, "ask"), peer.collect(RegionDescriptionArray, "region_descriptions", 10)

    def answer_about(shade: int) -> str:
        header = send(camera, shade=shade)
        peer.wait_for(lambda: described and described[-1].header == header, "descriptions")
        goal = Ask.Goal(query=Query(text="what is region 1?", header=header))
        accepted = peer.result_of(ask.send_goal_async(goal), "an acceptance")
        return peer.result_of(accepted.get_result_async(), "a result").result.answer.text

    said = {shade: answer_about(shade) for shade in (0, 60, 120, 180, 255)}
    ask.destroy()
    one, other = next((a, b) for a in said for b in said if said[a] != said[b])
    plain, as_json = (Watching(peer, client, "what is region 1?", format=form) for form in ("", "json"))
    for count, shade in enumerate((one, other), start=1):
        for _ in range(2):
            before = asked(node)
            send(camera, shade=shade)
            peer.wait_for(lambda: asked(node) == before + 2, "two answers")
        assert plain.told(count).answer.text == said[shade]
        assert f'"answer": "{said[shade]}"' in as_json.told(count).answer.text
    assert plain.cancel()[1].changes == as_json.cancel()[1].changes == 1


def test_every_n_th_frame_is_asked_about_and_drawn_boxes_with_each(peer: Peer, node: Perception, camera: Camera,
                                                                   client: ActionClient) -> None:
    mine = Region(id="mine", bbox=box_to_message((5, 5, 15, 15)))
    # Of a stale frame, which plays no part.
    watching = Watching(peer, client, "what is this?", every_n_frames=3, boxes=[mine], header=Header(frame_id="x"))
    for count in range(1, 8):
        header = send(camera)
        arrived(peer, node, header)
        peer.wait_for(lambda: asked(node) == (count + 2) // 3, "an answer about frames 1, 4 and 7")
    _, result = watching.cancel()
    assert (result.asked, result.answer.header) == (3, header)
    assert watching.changes[0].answer.regions[0].id == "mine"


def test_a_watch_ends_in_time_with_and_without_frames(peer: Peer, node: Perception, camera: Camera,
                                                      client: ActionClient) -> None:
    began = time.monotonic()
    status, result = Watching(peer, client, "what is region 1?", timeout=Duration(nanosec=300_000_000)).result()
    assert time.monotonic() - began >= 0.3
    assert (status, result.answer.status, result.asked) == (GoalStatus.STATUS_ABORTED, Answer.NO_FRAME, 0)
    assert "no frame" in result.answer.error
    for timeout_s in (1, 60):  # a busy machine may have no answer within the first
        watching = Watching(peer, client, "what is region 1?", timeout=Duration(sec=timeout_s))
        send(camera)
        status, result = watching.result()
        if watching.changes:
            break
    assert (status, result.answer.status) == (GoalStatus.STATUS_SUCCEEDED, Answer.OK)
    assert result.answer.text == watching.changes[-1].answer.text and result.asked >= 1


def test_what_can_not_be_watched_ends_at_once_with_the_reason(peer: Peer, node: Perception, camera: Camera,
                                                              client: ActionClient) -> None:
    first, second = (Watching(peer, client, "what is region 1?") for _ in range(2))
    status, result = Watching(peer, client, "what is region 1?").result()
    assert (status, result.answer.status) == (GoalStatus.STATUS_ABORTED, Answer.OVERLOADED)
    assert "2 watches" in result.answer.error and "watch.max" in result.answer.error
    assert first.cancel()[1].answer.status == Answer.CANCELED  # it has no answer yet
    empty = Watching(peer, client, " ")
    send(camera)
    status, result = empty.result()
    assert (status, result.answer.status) == (GoalStatus.STATUS_ABORTED, Answer.INVALID)
    assert "empty" in result.answer.error and not empty.changes
    assert second.told(1).answer.status == Answer.OK
    _, result = Watching(peer, client, "what?", timeout=Duration(sec=-2)).result()
    assert result.answer.status == Answer.INVALID and "-2 s" in result.answer.error
    reports = peer.collect(DiagnosticArray, "/diagnostics", 10)
    peer.wait_for(lambda: reports, "a report")
    values = {pair.key: pair.value for pair in reports[-1].status[0].values}
    assert values["watches"] == "1" and values["watch OVERLOADED"] == "1"
    second.cancel()
    peer.wait_for(lambda: node._questions.statistics()["watches"] == 0, "no watch")


def test_a_watch_waits_for_its_answer_before_it_asks_again(peer: Peer, node: Perception, camera: Camera,
                                                           client: ActionClient) -> None:
    watching = Watching(peer, client, "what is region 1?")
    step, free = node._scheduler._pipeline.step, threading.Event()

    def braked() -> list:
        assert free.wait(WAIT_S)
        return step()

    node._scheduler._pipeline.step = braked
    try:
        for _ in range(5):
            arrived(peer, node, send(camera))
        assert node._scheduler.statistics()["watch_questions_received"] == 1
    finally:
        free.set()
    watching.told(1)
    send(camera)
    peer.wait_for(lambda: asked(node) == 2, "the second answer")
    watching.cancel()


def test_a_watch_that_nobody_listens_to_any_more_ends(peer: Peer, node: Perception, camera: Camera) -> None:
    client = peer.action(Watch, "watch")
    watching = Watching(peer, client, "what is region 1?")
    send(camera)
    watching.told(1)
    client.destroy()
    topic = "/watch/_action/feedback"
    peer.wait_for(lambda: peer.node.count_subscribers(topic) == 0, "the end of the feedback's reader")
    arrived(peer, node, send(camera))
    peer.wait_for(lambda: node._questions.statistics()["watches"] == 0, "its end")
    assert asked(node) == 1


@pytest.mark.parametrize("transition", ["deactivate", "cleanup", "shutdown"])
def test_every_watch_ends_with_the_nodes_work(peer: Peer, node: Perception, camera: Camera, client: ActionClient,
                                              transition: str) -> None:
    told, silent = Watching(peer, client, "what is region 1?"), Watching(peer, client, "what is region 2?")
    send(camera, BOXES[:1])
    first = told.told(1)
    silent.told(1)
    if transition == "shutdown":
        node.trigger_shutdown()
    else:
        node.trigger_deactivate()
        if transition == "cleanup":
            node.trigger_cleanup()
    for watching in (told, silent):
        status, result = watching.result()
        assert (status, result.answer.status) == (GoalStatus.STATUS_ABORTED, Answer.CANCELED)
        assert "not active any more" in result.answer.error and result.asked == 1
    assert told.result()[1].answer.text == first.answer.text
    if transition == "deactivate":
        status, result = Watching(peer, client, "what is region 1?").result()
        assert (status, result.answer.status) == (GoalStatus.STATUS_ABORTED, Answer.FAILED)
        assert "not active" in result.answer.error
        node.trigger_activate()
        again = Watching(peer, client, "what is region 1?")
        send(camera)
        assert again.told(1).answer.status == Answer.OK
        again.cancel()
