"""What can be asked of the perception node: an answer, a service, or only whether it is ready."""

from __future__ import annotations

import math
import time
from abc import abstractmethod
from collections.abc import Callable
from typing import Any, TypeVar

from rclpy.action.client import ClientGoalHandle
from ros_gpt4roi_interfaces.action import Ask
from ros_gpt4roi_interfaces.msg import Answer, Query

from .connection import ClientError, Connection, Reply

T = TypeVar("T")

_REPEAT_S, _LONGEST_REPEAT_S = 1.0, 8.0  # without an acceptance, a question is sent again after 1, 2, 4, 8, 8 ... s
_SERVICE_AGAIN_S = 5.0  # a service, which accepts nothing before its response comes, is called again after 5, 10 ... s
_CANCEL_S = 5.0  # for the result of a goal that is cancelled; an answer ends within one token


class ReadyReply(Reply[bool]):
    """True, once the perception node answers."""

    def __init__(self, connection: Connection, limit_s: float) -> None:
        super().__init__(connection, "a perception node", limit_s, limit_s)

    def _send(self, now: float) -> None:
        self._end(True)

    def _cancel(self) -> None:
        self._end(False)


class GoalReply(Reply[T]):
    """The result of an action's goal, which goes on until it has ended by itself or was cancelled."""

    _result_again_s = 10.0  # a result may take long, but the response that brings it may also be lost

    def __init__(self, connection: Connection, what: str, query: Query, limit_s: float, connect_limit_s: float) -> None:
        super().__init__(connection, what, limit_s, connect_limit_s)
        self.query = query
        self._goals: list[ClientGoalHandle] = []  # accepted; more than one where an acceptance came late
        self._attempts = 0
        self._repeat_s = _REPEAT_S
        self._cancelled_s = math.inf

    @abstractmethod
    def _send_goal(self) -> Any:
        """Sends the goal; returns rclpy's future of its handle."""

    @abstractmethod
    def _answered(self, response: Any) -> None:
        """Ends with the response that brings the result."""

    @abstractmethod
    def _canceled(self, why: str) -> T:
        """The result that stands for one that did not come after all was cancelled."""

    def _step(self, now: float) -> None:
        super()._step(now)
        if now > self._cancelled_s + _CANCEL_S:
            self._end(self._canceled(f"the node did not confirm it within {_CANCEL_S:g} s"))

    def _insist(self, now: float) -> None:
        if self._goals:
            self._ask_for_result(self._goals[0])
        elif self._cancelled_s == math.inf:
            super()._insist(now)

    def _lose_node(self, why: str, now: float) -> None:
        if self._goals:  # it has begun to answer
            raise ClientError(f"{self._what}: the perception node has gone: {why}")
        super()._lose_node(why, now)
        self._connection.repeats += 1

    def _send(self, now: float) -> None:
        self._again_s = now + self._repeat_s
        self._repeat_s = min(2 * self._repeat_s, _LONGEST_REPEAT_S)
        self._send_goal().add_done_callback(lambda done: self._guarded(self._accepted, done.result()))
        self._attempts += 1

    def _accepted(self, goal: ClientGoalHandle) -> None:
        if not goal.accepted:
            raise ClientError(f"{self._what} was refused by the action server")
        self._take(goal)

    def _take(self, goal: ClientGoalHandle) -> None:
        if self._cancelled_s < math.inf or self.done():
            goal.cancel_goal_async()
        if not self.done():
            self._goals.append(goal)
            self._ask_for_result(goal)

    def _ask_for_result(self, goal: ClientGoalHandle) -> None:
        self._again_s = time.monotonic() + self._result_again_s
        goal.get_result_async().add_done_callback(lambda done: self._guarded(self._answered, done.result()))

    def _guarded(self, take: Callable[[Any], None], value: Any) -> None:
        try:
            take(value)
        except Exception as error:
            self._end(error=error)

    def _cancel(self) -> None:
        self._cancelled_s = time.monotonic()
        self._withdraw()
        if not self._sent:
            self._end(self._canceled("it was not sent yet"))

    def _withdraw(self) -> None:
        for goal in self._goals:
            goal.cancel_goal_async()

    def _end(self, result: T | None = None, error: BaseException | None = None) -> None:
        if error is not None and not self.done():
            self._withdraw()
        super()._end(result, error)


class AskReply(GoalReply[Answer]):
    """The answer to a question.

    Attributes:
        query: What is asked.
        text: Of the answer, so far.
    """

    def __init__(self, connection: Connection, query: Query, on_text: Callable[[str], None], limit_s: float,
                 connect_limit_s: float) -> None:
        super().__init__(connection, f"question {query.text[:80]!r}", query, limit_s, connect_limit_s)
        self.text = ""
        self._on_text = on_text

    def _send_goal(self) -> Any:
        goal = Ask.Goal(query=self.query, attempt=self._attempts)
        return self._connection.ask.send_goal_async(goal, lambda message: self._grow(message.feedback.text))

    def _answered(self, response: Any) -> None:
        if self.done():
            return
        answer = response.result.answer
        if answer.query_id != self.query.query_id:  # a response's defaults, which say OK: the goal is unknown
            raise ClientError(f"{self._what}: the node does not know of it any more; it may have been restarted")
        if self.query.format in ("", "text"):
            self._grow(answer.text)  # what feedback has not brought
        self._end(answer)

    def _grow(self, text: str) -> None:
        if self.done() or len(text) <= len(self.text) or not text.startswith(self.text):
            return
        piece, self.text = text[len(self.text):], text
        try:
            self._on_text(piece)
        except Exception as error:  # the caller's own
            self._end(error=error)

    def _canceled(self, why: str) -> Answer:
        return Answer(status=Answer.CANCELED, query_id=self.query.query_id, text=self.text, error=f"cancelled; {why}",
                      conversation_id=self.query.conversation_id, header=self.query.header)


class ServiceReply(Reply[Any]):
    """The response of a service of the node.

    Args:
        connection: To the node.
        what: What is asked for, for errors.
        service: Its name among the connection's clients.
        request: What is sent.
        canceled: The response that stands for one that nobody waits for any more.
        limit_s: Most seconds until the response.
        connect_limit_s: Most seconds until the node answers at all.
    """

    def __init__(self, connection: Connection, what: str, service: str, request: Any, canceled: Any, limit_s: float,
                 connect_limit_s: float) -> None:
        super().__init__(connection, what, limit_s, connect_limit_s)
        self._service, self._request, self._canceled = service, request, canceled
        self._repeat_s = _SERVICE_AGAIN_S

    def _send(self, now: float) -> None:
        self._again_s = now + self._repeat_s
        self._repeat_s *= 2
        client = getattr(self._connection, self._service)  # another one, once the node has come again
        client.call_async(self._request).add_done_callback(lambda done: self._end(done.result()))

    def _cancel(self) -> None:
        self._end(self._canceled)
