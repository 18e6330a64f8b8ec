"""A question that the perception node asks itself again and again."""

from __future__ import annotations

import math
import time
import uuid
from collections.abc import Callable
from typing import Any

from action_msgs.msg import GoalStatus
from builtin_interfaces.msg import Duration
from rclpy.action.client import ClientGoalHandle
from ros_gpt4roi_interfaces.action import Watch
from ros_gpt4roi_interfaces.msg import Answer, Query
from unique_identifier_msgs.msg import UUID

from ..messages import meaning
from .connection import ClientError, Connection, NoNodeError
from .requests import GoalReply

_RESULT_S = 10.0  # beyond the watch's own time, for its result
_RENEWAL_S = 2.0  # a node that hears of none for `watch.lease_s` takes the client for dead
_LONGEST_S = 2**31 - 1  # that a message can say


class WatchReply(GoalReply[Watch.Result]):
    """What a watch will have come to when it ends: a `Watch.Result`, with the answer that held at last.

    Attributes:
        query: What is asked.
        answer: The last answer that was told; None before the first one.
        aborted: Whether the node has ended it, or did not begin it; the result's answer says why.
    """

    _result_again_s = 60.0

    def __init__(self, connection: Connection, query: Query, on_change: Callable[[Watch.Feedback], None],
                 every_n_frames: int, limit_s: float, connect_limit_s: float) -> None:
        if not 0 <= every_n_frames < 2**32:
            raise ValueError(f"every_n_frames {every_n_frames}: expected 0 to {2**32 - 1}")
        super().__init__(connection, f"watch {query.text[:80]!r}", query, limit_s + _RESULT_S, connect_limit_s)
        self.answer: Answer | None = None
        self.aborted = False
        self._on_change, self._every_n_frames = on_change, every_n_frames
        # The same for each time that it is sent: a node that has it refuses another, and goes on with the one.
        self._goal_id = UUID(uuid=list(uuid.uuid4().bytes))
        self._renewal_s = -math.inf  # when it is due

    def _step(self, now: float) -> None:
        super()._step(now)
        if self._goals and now > self._renewal_s:
            self._renewal_s = now + _RENEWAL_S
            self._connection.watch_renewals.publish(self._goal_id)

    def _send(self, now: float) -> None:
        if self._connection.watch.server_is_ready():
            super()._send(now)
        elif now > self._began_s + self._connect_limit_s:
            raise NoNodeError(f"the perception node has no action {self._connection.name('watch')}")
        else:
            self._sent = False  # its interfaces have just been made, and are not matched yet

    def _send_goal(self) -> Any:
        left_s = min(max(self._end_s - _RESULT_S - time.monotonic(), 0.001), _LONGEST_S)
        goal = Watch.Goal(query=self.query, every_n_frames=self._every_n_frames,
                          timeout=Duration(sec=int(left_s), nanosec=int(left_s % 1 * 1e9)))
        return self._connection.watch.send_goal_async(goal, lambda message: self._tell(message.feedback), self._goal_id)

    def _accepted(self, goal: ClientGoalHandle) -> None:
        if goal.accepted or self._attempts == 1:
            super()._accepted(goal)
        elif not self._goals:  # the node has it already: its acceptance was lost
            self._take(goal)

    def _answered(self, response: Any) -> None:
        if self.done():
            return
        if response.status == GoalStatus.STATUS_UNKNOWN:
            raise ClientError(f"{self._what}: the node does not know of it any more; it may have been restarted")
        result = response.result
        self.aborted = response.status == GoalStatus.STATUS_ABORTED
        # Feedback may come behind the result, and is lost then. The text of JSON holds what is no change.
        if not self.aborted and result.asked and self.query.format in ("", "text") and (
                self.answer is None or meaning(result.answer) != meaning(self.answer)):
            self._tell(Watch.Feedback(before=self.answer or Answer(), answer=result.answer))
        self._end(result)

    def _tell(self, change: Watch.Feedback) -> None:
        if self.done():
            return
        self.answer = change.answer
        try:
            self._on_change(change)
        except Exception as error:  # the caller's own
            self._end(error=error)

    def _canceled(self, why: str) -> Watch.Result:
        return Watch.Result(answer=self.answer or Answer(status=Answer.CANCELED, query_id=self.query.query_id,
                                                         error=f"cancelled; {why}"))
