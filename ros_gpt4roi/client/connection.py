"""The client's side of ROS: whether there is a perception node, and the way of requests to it and of replies back.

Everything here runs where the node is spun, one callback at a time; only a reply's own methods are for any thread.
"""

from __future__ import annotations

import math
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent import futures
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.action import ActionClient, get_action_server_names_and_types_by_node
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile
from ros_gpt4roi_interfaces.action import Ask, Watch
from ros_gpt4roi_interfaces.msg import Correction
from ros_gpt4roi_interfaces.srv import DescribeRegions, FindEvidence
from unique_identifier_msgs.msg import UUID

_ASK_TYPE = "ros_gpt4roi_interfaces/action/Ask"
_TICK_S = 0.05  # how often replies that are waited for are looked after
# The middleware drops what a history (10 by default) doesn't hold.
_HISTORY = 200  # of responses: so many questions may be asked at once
_RENEWALS = 100  # of as many watches
_MATCH_S = 3.0  # how long a node's first diagnostics are waited for, which come once a second
_GONE_S = 2.0  # an action server that the graph doesn't show for so long has ended
_SILENT_S = 10.0  # a node that answers reports once a second
_QUIET_S = 3.0  # a node that is well, on a machine that is not too busy
_ACKNOWLEDGED = Duration(seconds=1)  # most that the end waits for those who hear corrections
_SHOWN_NODES = 5


class ClientError(RuntimeError):
    """Something that was waited for did not come; the text says what, for how long, and what was there instead."""


class NoNodeError(ClientError):
    """No perception node answers; the text says what was looked for, where, and what was found."""


@dataclass(frozen=True)
class NodeState:
    """What the perception node says of itself in `/diagnostics`, once a second.

    Attributes:
        name: Of the node.
        level: 0 OK, 1 WARN, 2 ERROR, 3 STALE, as in diagnostic_msgs/DiagnosticStatus.
        message: Its state in a sentence.
        model: The model that it runs.
        values: Counters and states by name.
        received_s: When it was received, by `time.monotonic`.
    """

    name: str
    level: int
    message: str
    model: str
    values: Mapping[str, str]
    received_s: float

    def quiet_s(self) -> float:
        """Seconds for which the node has said nothing; 0 while that is nothing unusual."""
        silent_s = time.monotonic() - self.received_s
        return silent_s if silent_s > _QUIET_S else 0.0


T = TypeVar("T")


class Reply(futures.Future[T], ABC, Generic[T]):
    """What will come of a request: a future that every thread may wait for.

    It ends within the request's own limit, as long as the client's node is spun. `cancel()` asks the node to stop: the
    future then gives a result of status CANCELED, with what there was by then, and is not `cancelled()`.

    Attributes:
        limit_s: The most seconds that it takes.
    """

    def __init__(self, connection: Connection, what: str, limit_s: float, connect_limit_s: float) -> None:
        super().__init__()
        self.set_running_or_notify_cancel()
        self._connection = connection
        self._what, self.limit_s, self._connect_limit_s = what, limit_s, min(connect_limit_s, limit_s)
        self._began_s = time.monotonic()
        self._end_s = self._began_s + limit_s
        self._sent = False
        self._again_s = math.inf  # when it is sent again, unless something comes

    def cancel(self) -> bool:
        """Asks the node to stop. Returns whether the request was still open."""
        if self.done():
            return False
        self._connection.call(self._cancel)
        return True

    def _step(self, now: float) -> None:
        """Does what is due; called when the request is made and then every _TICK_S until it has ended."""
        if not self._sent and self._connection.is_ready(self._began_s, self._connect_limit_s, now):
            self._sent = True
            self._send(now)
        elif self._sent and now > self._again_s:
            self._insist(now)
        if now > self._end_s:
            raise ClientError(f"{self._what}: no reply within {self.limit_s:g} s")

    def _lose_node(self, why: str, now: float) -> None:
        """Waits for a node again, as at first: the graph may have shown one that had died before."""
        self._sent, self._began_s = False, now

    @abstractmethod
    def _send(self, now: float) -> None:
        """Hands the request to ROS, for the first time or again."""

    def _insist(self, now: float) -> None:
        self._connection.repeats += 1
        self._send(now)

    @abstractmethod
    def _cancel(self) -> None:
        """Asks the node to stop, or ends the reply."""

    def _end(self, result: T | None = None, error: BaseException | None = None) -> None:
        if self.done():
            return
        self._connection.open.discard(self)
        if error is not None:
            self.set_exception(error)
        else:
            assert result is not None
            self.set_result(result)


def statuses(message: DiagnosticArray, namespace: str, part: str) -> Iterator[tuple[str, DiagnosticStatus]]:
    """The statuses that nodes of a namespace give of a part of theirs, each with its node's name.

    Args:
        message: Of /diagnostics.
        namespace: Such as "/robot1".
        part: What stands behind the node's name, such as "pipeline".
    """
    for status in message.status:
        name = status.name.removesuffix(f": {part}")
        if name != status.name and f"/{name}".rpartition("/")[0] == namespace.rstrip("/"):
            yield name, status


class Connection:
    """A node's side of the conversation with the perception node.

    Args:
        node: The node.
        namespace: Where the perception node's interfaces are; empty: in the node's own.

    Attributes:
        group: The callback group of all that is received.
        ask: Sends questions.
        describe: Sends boxes to be described.
        evidence: Asks which training records a region resembles.
        corrections: Publishes what people say about descriptions and answers.
        open: The requests whose replies are waited for.
        repeats: How many times a request was sent again because nothing came of it.
        state: The last state of the perception node; None while there is none.
        state_listeners: Called with each state.
    """

    def __init__(self, node: Node, namespace: str = "") -> None:
        self._node, self._namespace = node, f"/{(namespace or node.get_namespace()).strip('/')}"
        self._closed = False
        self.state_listeners: list[Callable[[NodeState], None]] = []
        self.open: set[Reply[Any]] = set()
        self.repeats = 0
        self.state: NodeState | None = None
        self._there_s = math.inf  # since when there is a server
        self._lost_s = math.inf  # since when there is none any more
        self._spun_by = 0
        self._calls: deque[Callable[[], None]] = deque()
        self.group = MutuallyExclusiveCallbackGroup()
        self._watch: tuple[ActionClient, Publisher] | None = None
        self.ask = self._action_client(Ask, "ask")
        self.describe = node.create_client(DescribeRegions, self.name("describe_regions"), callback_group=self.group)
        self.evidence = node.create_client(FindEvidence, self.name("find_evidence"), callback_group=self.group)
        self.corrections = node.create_publisher(Correction, self.name("corrections"), 10)
        # After the first two: discovery tells of readers in their order, so that a node whose diagnostics get here has
        # found the readers of responses, too. Responses that it sends before that are lost.
        self._diagnostics = node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10,
                                                     callback_group=self.group)
        self._guard = node.create_guard_condition(self._do_calls, self.group)
        self._timer = node.create_timer(_TICK_S, self._tick, self.group, Clock(clock_type=ClockType.STEADY_TIME))

    @property
    def watch(self) -> ActionClient:
        """Sends watches."""
        return self._for_watches()[0]

    @property
    def watch_renewals(self) -> Publisher:
        """Tells the node of watches, by their ids, that their client lives."""
        return self._for_watches()[1]

    def _for_watches(self) -> tuple[ActionClient, Publisher]:
        """Made for the first watch: most clients have none."""
        if self._watch is None:
            self._watch = (self._action_client(Watch, "watch"),
                           self._node.create_publisher(UUID, self.name("watch_renewals"), _RENEWALS))
        return self._watch

    def _action_client(self, kind: type, name: str) -> ActionClient:
        history = QoSProfile(depth=_HISTORY)
        return ActionClient(self._node, kind, self.name(name), callback_group=self.group,
                            goal_service_qos_profile=history, result_service_qos_profile=history,
                            cancel_service_qos_profile=history)

    def name(self, topic: str) -> str:
        """The absolute name of one of the perception node's interfaces."""
        return f"{self._namespace.rstrip('/')}/{topic}"

    def call(self, function: Callable[[], None]) -> None:
        """Has something done where the node is spun; from any thread."""
        self._calls.append(function)
        if not self._closed:
            self._guard.trigger()

    def begin(self, reply: Reply[Any]) -> None:
        """Sends a request, now or when there is a node; from any thread."""
        def start() -> None:
            self.open.add(reply)
            if self._timer.is_canceled():
                self._timer.reset()
            self._step(reply, time.monotonic())
        self.call(start)
        if self._closed:
            reply._end(error=ClientError("the client is closed"))

    def destroy(self) -> None:
        """Ends what is open, and takes the interfaces back."""
        self._do_calls()
        for reply in list(self.open):
            reply._end(error=ClientError("the client is closed"))
        self._closed = True
        self.ask.destroy()
        if self._watch is not None:
            self._watch[0].destroy()
            self._node.destroy_publisher(self._watch[1])
        self._node.destroy_client(self.describe)
        self._node.destroy_client(self.evidence)
        if self._node.context.ok():
            self.corrections.wait_for_all_acked(_ACKNOWLEDGED)  # what was said a moment ago would go with the publisher
        self._node.destroy_publisher(self.corrections)
        self._node.destroy_subscription(self._diagnostics)
        self._node.destroy_guard_condition(self._guard)
        self._node.destroy_timer(self._timer)

    def is_ready(self, since_s: float, limit_s: float, now: float) -> bool:
        """Whether a request can be sent.

        Raises:
            NoNodeError: There was no node for `limit_s` since `since_s`; or it says that there will be none.
        """
        if self._there_s < math.inf:
            # Without diagnostics, the first reply may get lost, which then costs a repetition.
            return self.state is not None or now > self._there_s + _MATCH_S
        if self.state is not None and self.state.level == ord(DiagnosticStatus.ERROR):
            raise NoNodeError(f"the perception node could not be configured: {self.state.message}")
        if now > since_s + limit_s:
            raise NoNodeError(self._explanation(now - since_s))
        return False

    def spun_here(self) -> bool:
        """Whether it was this thread that last did something where the node is spun."""
        return self._spun_by == threading.get_ident()

    def _do_calls(self) -> None:
        self._spun_by = threading.get_ident()
        while self._calls:
            self._calls.popleft()()

    def _tick(self) -> None:
        now, self._spun_by = time.monotonic(), threading.get_ident()
        self._look_for_server(now)
        for reply in list(self.open):
            self._step(reply, now)
        if not self.open:
            self._timer.cancel()

    def _step(self, reply: Reply[Any], now: float) -> None:
        try:
            if reply._sent and (gone := self._gone(now)):
                reply._lose_node(gone, now)
            if not reply._sent:
                self._look_for_server(now)
            reply._step(now)
        except Exception as error:
            reply._end(error=error)

    def _look_for_server(self, now: float) -> None:
        if self._is_silent(now):  # the graph still shows a process that was killed, for 20 s
            self._there_s = self._lost_s = math.inf
            return
        there = self.ask.server_is_ready() and self.describe.service_is_ready()
        if there:
            self._there_s, self._lost_s = min(self._there_s, now), math.inf
        elif self._there_s < math.inf and self._lost_s == math.inf:
            self._lost_s = now
        elif now > self._lost_s + _GONE_S:
            self._there_s, self.state = math.inf, None

    def _is_silent(self, now: float) -> bool:
        return self.state is not None and now > self.state.received_s + _SILENT_S

    def _gone(self, now: float) -> str:
        """Why a request that was sent will get no reply."""
        if self._is_silent(now):
            return f"it has said nothing for {_SILENT_S:g} s"
        return "its action is not there any more" if self._there_s == math.inf else ""

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for name, status in statuses(message, self._namespace, "pipeline"):
            self.state = NodeState(name, ord(status.level), status.message, status.hardware_id,
                                   {pair.key: pair.value for pair in status.values}, time.monotonic())
            for listener in list(self.state_listeners):
                listener(self.state)

    def _explanation(self, waited_s: float) -> str:
        others, servers = [], []
        for name, namespace in self._node.get_node_names_and_namespaces():
            full_name = f"{namespace.rstrip('/')}/{name}"
            if full_name != self._node.get_fully_qualified_name():
                others.append(full_name)
            try:
                actions = get_action_server_names_and_types_by_node(self._node, name, namespace)
            except Exception:  # gone in the meantime
                continue
            servers += [f"{action} of node {full_name}" for action, kinds in actions if _ASK_TYPE in kinds]
        if self.name("ask") in (server.split(" ")[0] for server in servers):
            found = "found it, but no connection to it came about"
        elif servers:
            found = f"found {', '.join(servers)}: give its namespace"
        elif others:
            found = f"found none in any namespace, but the nodes {', '.join(sorted(others)[:_SHOWN_NODES])}"
        else:
            found = ("found no node at all: it does not run, or in another domain, or discovery is limited "
                     "(ROS_AUTOMATIC_DISCOVERY_RANGE)")
        says = ""
        if self.state is not None:
            age_s = time.monotonic() - self.state.received_s
            says = f"; {self.state.name} said {age_s:.0f} s ago: {self.state.message}"
        return (f"no perception node answers: looked for {waited_s:.0f} s for the action {self.name('ask')} "
                f"({_ASK_TYPE}) in ROS domain {self._node.context.get_domain_id()}, {found}{says}")
