"""The client: what can be asked of the perception node, and listened to."""

from __future__ import annotations

import copy
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.qos import QoSProfile, qos_profile_sensor_data
from ros_gpt4roi_interfaces.action import Watch
from ros_gpt4roi_interfaces.msg import Answer, Correction, Query, Region, RegionDescriptionArray
from ros_gpt4roi_interfaces.srv import DescribeRegions, FindEvidence
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from ..messages import Place, place_to_message
from .connection import ClientError, NodeState, Reply
from .requests import AskReply, ReadyReply, ServiceReply
from .spinner import Spinner
from .watch import WatchReply

#: Answer.status in words.
STATUS_NAMES: dict[int, str] = {getattr(Answer, name): name for name in (
    "OK", "CANCELED", "TIMEOUT", "NO_FRAME", "UNKNOWN_REGION", "OVERLOADED", "INVALID", "FAILED")}
_SPUN_S = 5.0  # beyond a request's own limit: by then, a node that is spun has ended it
_DEPTH = 10
_MOST_CHANGES = 256
_END_WATCHES_S = 2.0

T = TypeVar("T")

def status_name(answer: Answer) -> str:
    """An answer's status in words."""
    return STATUS_NAMES.get(answer.status, str(answer.status))


class Client:
    """A connection to the perception node, in a node of the caller's or in one of its own.

    Close it, or use it as a context manager.

    Args:
        node: A node of the caller's, who spins it; while the client waits for something and the node is in no
            executor, the client spins it. None: a node of the client's own, in a ROS context and a thread of its own,
            which takes ROS arguments from the command line.
        name: Of the client's own node.
        namespace: Where the perception node's topics are, such as "/robot1"; by default the client node's.
        connect_limit_s: How long a request waits for a perception node before it ends with a NoNodeError.
        check: Called ten times a second by the thread that waits for something; what it raises ends the wait. For flags
            that signal handlers set, and processes that must not have ended.

    Attributes:
        node: The node. A thread that isn't spinning it must expect a KeyboardInterrupt within rclpy, if it uses it.
    """

    def __init__(self, node: Node | None = None, *, name: str = "gpt4roi_client", namespace: str = "",
                 connect_limit_s: float = 10.0, check: Callable[[], None] = lambda: None) -> None:
        self._connect_limit_s = connect_limit_s
        self._spinner = Spinner(node, name, namespace, check)
        self._connection = self._spinner.connection
        self.node = self._spinner.node

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the client and its watches; what else is open ends with a ClientError. A second call does nothing.

        In a callback it returns at once, and does not wait until the node has ended the watches.
        """
        watches = [] if self._spinner.closed else [
            reply for reply in list(self._connection.open) if isinstance(reply, WatchReply) and reply.cancel()]
        self._spinner.close(lambda: all(reply.done() for reply in watches), _END_WATCHES_S)

    # Asking

    def ask(self, question: str | Query, *, on_text: Callable[[str], None] = lambda piece: None,
            conversation_id: str = "", boxes: Sequence[Place] = (), header: Header | None = None,
            limit_s: float = 60.0) -> Answer:
        """Asks, and waits for the answer.

        An exception that ends the wait, such as a KeyboardInterrupt, cancels the question.

        Args:
            question: In words; "region 2" speaks of a region. Or a whole `Query`, to which the other arguments are
                added.
            on_text: Receives each piece of the answer as it comes.
            conversation_id: The conversation that it continues, of an earlier answer; empty opens a new one.
            boxes: Regions beside the detections: (x1, y1, x2, y2), a point (x, y) or an outline of three or more (x, y)
                in pixels of the image, a mask of its pixels, bool [H, W], or a `Region`.
            header: Of the image that is asked about; None: the newest.
            limit_s: Most seconds until the answer.

        Returns:
            The answer, also one whose status isn't OK.

        Raises:
            NoNodeError: There is no perception node to ask.
            ClientError: The answer did not come.
        """
        return self._result(self.ask_async(question, on_text=on_text, conversation_id=conversation_id, boxes=boxes,
                                           header=header, limit_s=limit_s), limit_s)

    def ask_async(self, question: str | Query, *, on_text: Callable[[str], None] = lambda piece: None,
                  conversation_id: str = "", boxes: Sequence[Place] = (),
                  header: Header | None = None, limit_s: float = 60.0) -> AskReply:
        """As `ask`, but returns at once with what the answer will come to; `cancel()` stops it within one token."""
        query = _query(question, boxes)
        query.conversation_id = conversation_id or query.conversation_id
        query.header = header if header is not None else query.header
        reply = AskReply(self._connection, query, on_text, limit_s, self._connect_limit_s)
        self._begin(reply)
        return reply

    def watch(self, question: str | Query, *, boxes: Sequence[Place] = (), every_n_frames: int = 0,
              limit_s: float = 86400.0) -> Iterator[Watch.Feedback]:
        """Has a question asked again about newer and newer frames: its first answer, then each that is another.

        Leaving the loop ends the watch. So does the node where its client is not spun for `watch.lease_s` seconds: in a
        node of the caller's that is in no executor, while the caller is busy with a change. Of a reader who is slow,
        the oldest changes are dropped beyond 256.

        Args:
            question: As in `ask`.
            boxes: As in `ask`; they are drawn on every frame at the same place.
            every_n_frames: Asks about every n-th frame that comes with regions; 0: as often as the node does by itself.
            limit_s: Seconds until the watch ends by itself; or earlier, by the node's own limit (`watch.timeout_s`).

        Yields:
            The change: `before` and `answer`, each under the header of its own frame. A status other than OK, such as
            UNKNOWN_REGION where a region has gone, is an answer, too.

        Raises:
            NoNodeError: There is no perception node.
            ClientError: The watch was refused, or the node has ended it.
        """
        changes: deque[Watch.Feedback] = deque(maxlen=_MOST_CHANGES)
        reply = self.watch_async(question, on_change=changes.append, boxes=boxes, every_n_frames=every_n_frames,
                                 limit_s=limit_s)
        try:
            while not reply.done() or changes:
                self.wait_for(lambda: bool(changes) or reply.done(), reply.limit_s + _SPUN_S,
                              "an answer that changes")
                if changes:
                    yield changes.popleft()
            answer = reply.result().answer
            if reply.aborted:
                raise ClientError(f"watch {reply.query.text[:80]!r}: {status_name(answer)}: {answer.error}")
        finally:
            if reply.cancel():
                self.wait_for(reply.done, _SPUN_S, "the end of a watch")

    def watch_async(self, question: str | Query, *, on_change: Callable[[Watch.Feedback], None],
                    boxes: Sequence[Place] = (), every_n_frames: int = 0,
                    limit_s: float = 86400.0) -> WatchReply:
        """As `watch`, but returns at once with what the watch will come to, and calls a function with each change.

        `cancel()` ends the watch.
        """
        reply = WatchReply(self._connection, _query(question, boxes), on_change, every_n_frames, limit_s,
                           self._connect_limit_s)
        self._begin(reply)
        return reply

    def describe(self, boxes: Sequence[Place] = (), *, header: Header | None = None,
                 limit_s: float = 60.0) -> Any:
        """Has boxes described, and waits for it.

        Args:
            boxes: As in `ask`; none: the newest detections.
            header: Of the image that they are of; None: the newest.
            limit_s: Most seconds until the response.

        Returns:
            A `DescribeRegions.Response`, also one whose status isn't OK.

        Raises:
            NoNodeError: There is no perception node.
            ClientError: The response did not come.
        """
        return self._result(self.describe_async(boxes, header=header, limit_s=limit_s), limit_s)

    def describe_async(self, boxes: Sequence[Place] = (), *, header: Header | None = None,
                       limit_s: float = 60.0) -> ServiceReply:
        """As `describe`, but returns at once with what the response will come to."""
        request = DescribeRegions.Request(header=header or Header(), boxes=[place_to_message(box) for box in boxes])
        return self._call("describe", f"description of {len(boxes) or 'all'} regions", request,
                          DescribeRegions.Response(status=Answer.CANCELED, error="cancelled"), limit_s)

    def find_evidence(self, region: str | Place, *, header: Header | None = None, most: int = 0,
                      limit_s: float = 60.0) -> Any:
        """Finds the training records that a region resembles most, and waits for it: why the model says what it says.

        Args:
            region: Id of a region of the frame, or a box on it as in `ask`.
            header: Of the frame; None: the newest.
            most: How many records; 0: as many as the node usually gives.
            limit_s: Most seconds until the response.

        Returns:
            A `FindEvidence.Response`, also one whose status isn't OK, such as of a node that has no records.

        Raises:
            NoNodeError: There is no perception node.
            ClientError: The response did not come.
        """
        return self._result(self.find_evidence_async(region, header=header, most=most, limit_s=limit_s), limit_s)

    def find_evidence_async(self, region: str | Place, *, header: Header | None = None, most: int = 0,
                            limit_s: float = 60.0) -> ServiceReply:
        """As `find_evidence`, but returns at once with what the response will come to."""
        place = Region(id=region) if isinstance(region, str) else place_to_message(region)
        request = FindEvidence.Request(header=header or Header(), region=place, most=most)
        return self._call("evidence", "evidence of a region", request,
                          FindEvidence.Response(status=Answer.CANCELED, error="cancelled"), limit_s)

    def correct(self, correction: Correction, limit_s: float = 0.0) -> bool:
        """Publishes what a person says about a description or an answer, on `corrections`, under the present time.

        Args:
            correction: What is said.
            limit_s: So long it waits for somebody who listens, such as the recorder; 0: it does not wait, and is lost
                where nobody has been found yet.

        Returns:
            Whether anybody listens.

        Raises:
            ClientError: Nobody listens, after `limit_s`.
        """
        self._check_open()
        publisher = self._connection.corrections
        if limit_s:
            self.wait_for(lambda: publisher.get_subscription_count() > 0, limit_s,
                          f"a subscriber of {self.topic_name('corrections')}, such as the recorder")
        correction.time = Clock(clock_type=ClockType.SYSTEM_TIME).now().to_msg()
        heard: bool = publisher.get_subscription_count() > 0
        publisher.publish(correction)
        return heard

    @property
    def repeats(self) -> int:
        """How many times a request was sent again because nothing came of it."""
        return self._connection.repeats

    # Listening

    def descriptions(self, limit_s: float = 10.0) -> Iterator[RegionDescriptionArray]:
        """The descriptions of one frame after the other, as they come; a reader who is slow misses frames.

        Raises:
            ClientError: None came for `limit_s` seconds.
        """
        newest: deque[RegionDescriptionArray] = deque(maxlen=1)
        stop = self.on_descriptions(newest.append)
        try:
            while True:
                self.wait_for(lambda: bool(newest), limit_s, "descriptions of another frame")
                yield newest.popleft()
        finally:
            stop()

    def on_descriptions(self, callback: Callable[[RegionDescriptionArray], None]) -> Callable[[], None]:
        """Has a function called with the descriptions of every frame. Returns a function that ends it."""
        return self.listen(RegionDescriptionArray, "region_descriptions", callback)

    def on_answers(self, callback: Callable[[Answer], None]) -> Callable[[], None]:
        """Has a function called with every answer, whoever asked. Returns a function that ends it."""
        return self.listen(Answer, "answers", callback)

    def on_annotated_image(self, callback: Callable[[Image], None]) -> Callable[[], None]:
        """Has a function called with pictures of what is described, rgb8. Returns a function that ends it."""
        return self.listen(Image, "annotated_image", callback, qos_profile_sensor_data)

    def on_state(self, callback: Callable[[NodeState], None]) -> Callable[[], None]:
        """Has a function called once a second with the node's state. Returns a function that ends it."""
        listeners = self._connection.state_listeners
        listeners.append(callback)
        return lambda: listeners.remove(callback) if callback in listeners else None

    def listen(self, kind: type, topic: str, callback: Callable[[Any], None],
               qos: QoSProfile | int = _DEPTH) -> Callable[[], None]:
        """Has a function called with every message of a topic. Returns a function that ends it.

        Args:
            kind: The message type.
            topic: The topic's name; a relative one is of the perception node's namespace.
            callback: Receives each message where the node is spun.
            qos: Profile or depth of the subscription.
        """
        name = topic if topic.startswith("/") else self._connection.name(topic)
        made: list[Any] = []

        def receive(message: Any) -> None:  # rclpy can't read the signature of a built-in such as `list.append`
            callback(message)

        def begin() -> None:
            made.append(self.node.create_subscription(kind, name, receive, qos, callback_group=self._connection.group))

        def end() -> None:
            if made:
                self.node.destroy_subscription(made.pop())

        self._check_open()
        self._connection.call(begin)
        return lambda: self._connection.call(end)

    def topic_name(self, topic: str) -> str:
        """The absolute name of a topic beside the perception node's."""
        return self._connection.name(topic)

    @property
    def namespace(self) -> str:
        """Where the perception node's topics are."""
        return self._connection.name("").rstrip("/") or "/"

    @property
    def state(self) -> NodeState | None:
        """The last state of the node; None while there is none. `state.received_s` says how old it is."""
        return self._connection.state

    # Waiting

    def wait_for_node(self, limit_s: float) -> None:
        """Waits until a perception node answers.

        Raises:
            NoNodeError: None does within `limit_s` seconds; or at once, where it can't load its model.
        """
        ready = ReadyReply(self._connection, limit_s)
        self._begin(ready)
        self._result(ready, limit_s)

    def wait_for(self, condition: Callable[[], object], limit_s: float, what: str) -> None:
        """Waits for a condition that something which is received brings about.

        Args:
            condition: Called whenever something was received, and ten times a second.
            limit_s: Most seconds until it holds.
            what: What is waited for, for the error.

        Raises:
            ClientError: It does not hold after `limit_s` seconds.
            RuntimeError: It was called where the node is spun, in a callback: nothing could be received.
        """
        self._spinner.wait_for(condition, limit_s, what)

    def _call(self, service: str, what: str, request: Any, canceled: Any, limit_s: float) -> ServiceReply:
        reply = ServiceReply(self._connection, what, service, request, canceled, limit_s, self._connect_limit_s)
        self._begin(reply)
        return reply

    def _begin(self, reply: Reply[Any]) -> None:
        self._check_open()
        reply.add_done_callback(self._spinner.notify)
        self._connection.begin(reply)

    def _check_open(self) -> None:
        if self._spinner.closed:
            raise ClientError("the client is closed")

    def _result(self, reply: Reply[T], limit_s: float) -> T:
        try:
            self.wait_for(reply.done, limit_s + _SPUN_S, f"a reply (does the executor of node {self.node.get_name()} "
                                                         "spin, in another thread?)")
        except BaseException:
            reply.cancel()
            raise
        return reply.result()


def _query(question: str | Query, boxes: Sequence[Place]) -> Query:
    query = Query(text=question) if isinstance(question, str) else copy.copy(question)
    query.query_id = query.query_id or uuid.uuid4().hex
    query.boxes = [*query.boxes, *map(place_to_message, boxes)]
    return query
