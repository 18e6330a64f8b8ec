"""Watches: a question is asked again about newer and newer frames, and each change of its answer is told."""
from __future__ import annotations

import math
import time
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass, field
from functools import partial

import rclpy
from rclpy.action.server import ServerGoalHandle
from rclpy.callback_groups import CallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.executors import Executor
from rclpy.lifecycle import LifecycleNode
from ros_gpt4roi_interfaces.action import Watch
from ros_gpt4roi_interfaces.msg import Answer as AnswerMessage
from ros_gpt4roi_interfaces.msg import Query
from unique_identifier_msgs.msg import UUID

from ros_gpt4roi import messages
from ros_gpt4roi.configuration import Configuration, setting
from ros_gpt4roi.runtime.request import Question, Refused
from ros_gpt4roi.runtime.types import Answer, Frame, Status

from .conversions import NANOSECONDS
from .diagnostics import Problems
from .goals import OpenRequests, goal_name, serve_action
from .process import shown

# An answer like any other: what is watched for may be just this.
_EXPECTED = (Status.OK, Status.UNKNOWN_REGION)
_LOOK_S = 1.0  # how often clients are looked for that have gone
_RENEWALS = 100  # of many watches at once


@dataclass(frozen=True)
class WatchParameters(Configuration):
    """Questions that are asked again and again."""

    max: int = setting(8, "Watches at the same time; more are OVERLOADED.", at_least=0)
    every_n_frames: int = setting(10, "A watch that does not say otherwise asks about every n-th frame that comes with "
                                      "regions.", at_least=1)
    timeout_s: float = setting(3600.0, "A watch ends by itself after so long, or earlier where it says so.",
                               more_than=0, at_most=604800, unit="seconds")
    lease_s: float = setting(30.0, "A watch that its client has begun to renew, on `watch_renewals`, ends when it has "
                                   "not done so for this long.", at_least=1, unit="seconds")


@dataclass(eq=False)
class _Watch:
    """One goal.

    Attributes:
        every: It asks about every n-th frame.
        frames: How many have come since it asked.
        ended: Gives the final answer, and whether all went well.
        question: What it has asked and has no answer to.
        meaning: What counts of the last answer, `message`; None before the first one.
        lease_end_s: When its client counts as gone, by `time.monotonic`.
    """

    goal: ServerGoalHandle
    every: int
    frames: int
    executor: Executor
    ended: rclpy.task.Future
    question: Question | None = None
    meaning: tuple[object, ...] | None = None
    message: AnswerMessage = field(default_factory=AnswerMessage)
    asked: int = 0
    changes: int = 0
    lease_end_s: float = math.inf

    @property
    def query(self) -> Query:
        return self.goal.request.query


class Watches:
    """The action `watch`. One thread, the executor's, owns it.

    A client that was killed takes nothing back: its watch ends when it is not renewed any more, or where it never was,
    as by stock tools, when nobody listens to the action's feedback any more.

    A watch asks about a frame when it comes, if enough have come since it asked last and that question is answered; so
    it has at most one question open, and none while no frames come.

    Args:
        node: Has the action.
        group: Reentrant.
        requests: The node's open requests.
        problems: Receives what goes wrong.
        check_active: Raises Refused where the node takes no work.
        ask: Hands in a query about a frame.
        cancel: Stops a question, by its id.
        to_message: Makes the message of an answer to a query.
        parameters: Limits.
    """

    def __init__(self, node: LifecycleNode, group: CallbackGroup, requests: OpenRequests, problems: Problems,
                 check_active: Callable[[], None], ask: Callable[[Query, Frame], Question],
                 cancel: Callable[[str], object], to_message: Callable[[Answer, Query], AnswerMessage],
                 parameters: WatchParameters) -> None:
        self._node, self._group, self._requests, self._problems = node, group, requests, problems
        self._check_active, self._ask, self._cancel, self._to_message = check_active, ask, cancel, to_message
        self._parameters = parameters
        self._clock = Clock(clock_type=ClockType.STEADY_TIME)
        self._watches: list[_Watch] = []
        self._feedback = f"{node.resolve_topic_name('watch')}/_action/feedback"
        self._action = serve_action(node, Watch, "watch", group, self._on_goal, self._on_cancel,
                                    on_accepted=requests.begin)
        self._renewals = node.create_subscription(UUID, "watch_renewals", self._on_renewal, _RENEWALS,
                                                  callback_group=group)
        self._looks = node.create_timer(_LOOK_S, self._end_abandoned, group, self._clock)

    def destroy(self) -> None:
        """Takes the action back."""
        self._action.destroy()
        self._node.destroy_subscription(self._renewals)
        self._node.destroy_timer(self._looks)
        del self._check_active, self._ask, self._cancel, self._to_message  # an executor may hold this for longer

    def on_frame(self, frame: Frame) -> None:
        """A frame has come with its regions."""
        self._end_abandoned()
        for watch in self._watches:
            watch.frames += 1
            if watch.question is None and watch.frames >= watch.every and not watch.ended.done():
                self._ask_about(watch, frame)

    def end_all(self, reason: str) -> None:
        """Ends every watch, with the answer that held until now as its text."""
        for watch in list(self._watches):
            self._end(watch, self._cut_off(watch, reason), succeeded=False)

    def statistics(self) -> dict[str, int]:
        """The present state."""
        return {"watches": len(self._watches)}

    # Clients that go away

    def _on_renewal(self, message: UUID) -> None:
        for watch in self._watches:
            if watch.goal.goal_id == message:
                watch.lease_end_s = time.monotonic() + self._parameters.lease_s

    def _end_abandoned(self) -> None:
        if not self._watches:
            return
        now, unheard = time.monotonic(), not self._node.count_subscribers(self._feedback)
        for watch in self._watches:
            if now > watch.lease_end_s:
                reason = f"its client has not renewed it for {self._parameters.lease_s:g} s"
                self._end(watch, self._cut_off(watch, reason), succeeded=False)
            elif unheard and watch.asked:  # before its first answer, the client may not have been discovered
                self._end(watch, self._cut_off(watch, "nobody listens any more"), succeeded=False)

    # A goal from its begin to its end

    async def _on_goal(self, goal: ServerGoalHandle) -> Watch.Result:
        result = Watch.Result()
        try:
            watch, timeout_s = self._admit(goal), self._timeout_s(goal)
            timer = self._node.create_timer(timeout_s, partial(self._on_timeout, watch), self._group, self._clock)
            self._watches.append(watch)
            try:
                if goal.is_cancel_requested:  # before there was anything to end
                    self._on_cancel(goal)
                result.answer, succeeded = await watch.ended
            finally:
                self._node.destroy_timer(timer)
                self._watches.remove(watch)
                if watch.question is not None:
                    self._cancel(watch.question.id)
            result.asked, result.changes = watch.asked, watch.changes
        except Exception as error:  # rclpy would respond with a result's defaults, which say OK
            status, text = (error.status, str(error)) if isinstance(error, Refused) else (Status.FAILED, shown(error))
            self._problems.report(f"watch {status.name}", text)
            result.answer, succeeded = AnswerMessage(status=int(status), error=text), False
        finally:
            self._requests.end()
        result.answer.query_id = _query_id(goal)
        if goal.is_cancel_requested:
            goal.canceled()
        elif succeeded:
            goal.succeed()
        else:
            goal.abort()
        return result

    def _admit(self, goal: ServerGoalHandle) -> _Watch:
        self._check_active()
        if len(self._watches) >= self._parameters.max:
            raise Refused(Status.OVERLOADED, f"{self._parameters.max} watches go on already (watch.max)")
        executor = self._node.executor
        if executor is None:
            raise RuntimeError("the node was taken from its executor")
        every = goal.request.every_n_frames or self._parameters.every_n_frames
        return _Watch(goal, every, every, executor, rclpy.task.Future(executor=executor))

    def _timeout_s(self, goal: ServerGoalHandle) -> float:
        asked = goal.request.timeout.sec + goal.request.timeout.nanosec / NANOSECONDS
        if asked < 0:
            raise Refused(Status.INVALID, f"timeout is {asked:g} s, expected at least 0")
        return min(asked or self._parameters.timeout_s, self._parameters.timeout_s)

    def _on_cancel(self, goal: ServerGoalHandle) -> None:
        for watch in self._watches:
            if watch.goal == goal:
                self._end(watch, self._last(watch, Status.CANCELED, "cancelled before the first answer"), True)

    def _on_timeout(self, watch: _Watch) -> None:
        if watch.question is not None:
            why = Status.TIMEOUT, "the time was over before the first answer"
        else:
            why = Status.NO_FRAME, "no frame with regions has come in the time of the watch"
        self._end(watch, self._last(watch, *why), succeeded=watch.asked > 0)

    def _last(self, watch: _Watch, status: Status, error: str) -> AnswerMessage:
        """The answer that held until now; where there was none, one that says why."""
        return watch.message if watch.asked else AnswerMessage(status=int(status), error=error)

    @staticmethod
    def _cut_off(watch: _Watch, reason: str) -> AnswerMessage:
        """The answer that held until now, CANCELED."""
        answer = copy(watch.message)
        answer.status, answer.error = AnswerMessage.CANCELED, f"the watch ended: {reason}"
        return answer

    def _end(self, watch: _Watch, answer: AnswerMessage, succeeded: bool) -> None:
        if not watch.ended.done():
            watch.ended.set_result((answer, succeeded))

    # A question and its answer

    def _ask_about(self, watch: _Watch, frame: Frame) -> None:
        watch.frames = 0
        question = watch.question = self._ask(watch.query, frame)
        question.future.add_done_callback(  # on the worker's thread
            lambda done: watch.executor.create_task(self._on_answer, watch, question, done.result()))

    def _on_answer(self, watch: _Watch, question: Question, answer: Answer) -> None:
        if watch.ended.done() or watch.question is not question:
            return
        watch.question = None
        watch.asked += 1
        if answer.status not in _EXPECTED:
            self._problems.report(f"watch {answer.status.name}", answer.error)
        message, meaning, before = self._to_message(answer, watch.query), messages.meaning(answer), watch.message
        message.query_id = _query_id(watch.goal)
        changed = meaning != watch.meaning
        watch.changes += changed and watch.asked > 1
        watch.meaning, watch.message = meaning, message
        if answer.status == Status.INVALID and watch.asked == 1:  # and would be with every frame
            self._end(watch, message, succeeded=False)
        elif changed:
            watch.goal.publish_feedback(Watch.Feedback(before=before, answer=message))


def _query_id(goal: ServerGoalHandle) -> str:
    return goal.request.query.query_id or goal_name(goal)
