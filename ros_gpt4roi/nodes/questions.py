"""Questions and requests on their way from messages to the scheduler, and answers on their way back."""
from __future__ import annotations

import math
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable
from concurrent import futures
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple, TypeVar, cast

import rclpy
from rclpy.action import ActionServer, CancelResponse, GoalResponse
from rclpy.action.server import ServerGoalHandle
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.executors import Executor
from rclpy.lifecycle import LifecycleNode
from rclpy.node import Node
from rclpy.qos import QoSProfile
from ros_gpt4roi_interfaces.action import Ask
from ros_gpt4roi_interfaces.msg import Answer as AnswerMessage
from ros_gpt4roi_interfaces.msg import Query, Region
from ros_gpt4roi_interfaces.srv import AskQuestion, DescribeRegions
from std_msgs.msg import Header, String

from ros_gpt4roi.messages import stamp_text
from ros_gpt4roi.runtime.request import DescriptionRequest, Question, Refused
from ros_gpt4roi.runtime.scheduler import Scheduler
from ros_gpt4roi.runtime.types import Answer, Frame, Status
from ros_gpt4roi.runtime.types import Region as RuntimeRegion

from .clicks import Clicks
from .conversions import (
    NO_POSITIONS,
    Positions,
    answer_as_text,
    answer_to_message,
    descriptions_to_message,
    regions_from_messages,
    stamp_ns,
)
from .depth import DepthSource
from .diagnostics import Problems
from .frame_source import FrameSource
from .process import shown
from .text_questions import TextQuestions

_RESULT_KEPT_S = 60  # for a client that asks for its result late; a goal's memory is freed after it
# The middleware drops what a history (10 by default) doesn't hold, and nobody would ever know.
_HISTORY = 200  # of answers and of each service
_REMEMBERED = 256  # queries whose repetitions get the same answer
_SHOWN_REFUSALS = 3
_FORMATS = ("", "text", "json")
_DRAIN_POLL_S = 0.05
_LINGER_S = 0.5  # after the last result: for clients that ask for theirs just now, and for the middleware to send it


Result = TypeVar("Result")


async def _finished(future: futures.Future[Result], executor: Executor | None) -> Result:
    """Awaits the worker's future in a coroutine of the executor."""
    if executor is None:
        raise RuntimeError("the node was taken from its executor in the middle of a request")
    bridge = rclpy.task.Future(executor=executor)
    # Runs on the worker's thread: only the executor's own thread may resume the coroutine.
    future.add_done_callback(lambda done: executor.create_task(bridge.set_result, done.result()))
    return cast(Result, await bridge)


class _OnSystemTime:
    """A node whose clock is the machine's: action servers keep results, and stamp goals, by their node's clock.

    With use_sim_time, ROS time may stand still, so that results are kept for ever, or jump, so that they go at once. A
    steady clock would do neither, but goals are stamped by the same clock, and its stamps mean nothing to a client.
    """

    def __init__(self, node: Node) -> None:
        self._node, self._clock = node, Clock(clock_type=ClockType.SYSTEM_TIME)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._node, name)

    def get_clock(self) -> Clock:
        return self._clock


class _Asked(NamedTuple):
    """A query that came over the action: the name of its goal, and the answer to come."""

    goal: str
    answer: futures.Future[AnswerMessage]


class Questions:
    """The ways to ask, `ask`, `ask_question`, `query_text`, `describe_regions` and clicks, and the `answers` to them.

    is_active: whether the node takes work. follow_up_s: see `TextQuestions`. No callback waits: the action and the
    services are coroutines. texts: the topic's own part.
    """

    def __init__(self, node: LifecycleNode, frames: FrameSource, depth: DepthSource, scheduler: Scheduler,
                 problems: Problems, is_active: Callable[[], bool], follow_up_s: float) -> None:
        self._node = node
        self._frames = frames
        self._depth = depth
        self._scheduler = scheduler
        self._problems = problems
        self._is_active = is_active
        self._open = 0  # goals and requests without a result
        self._last_result_s = -math.inf
        self._goals_received = self._goals_accepted = self._goals_repeated = 0
        self._asked: OrderedDict[str, _Asked] = OrderedDict()  # by query id, the newest ones
        self._answers = node.create_publisher(AnswerMessage, "answers", _HISTORY)
        self._answer_texts = node.create_publisher(String, "answer_text", _HISTORY)
        # Reentrant, since a coroutine holds its group while it awaits the worker.
        group = ReentrantCallbackGroup()
        history = QoSProfile(depth=_HISTORY)
        self._action = ActionServer(_OnSystemTime(node), Ask, "ask", self._on_goal, cancel_callback=self._on_cancel,
                                    goal_callback=self._on_goal_request,
                                    handle_accepted_callback=self._on_accepted,
                                    callback_group=group, result_timeout=_RESULT_KEPT_S,
                                    goal_service_qos_profile=history, result_service_qos_profile=history,
                                    cancel_service_qos_profile=history)
        self._services = [
            node.create_service(AskQuestion, "ask_question", self._on_question, qos_profile=history,
                                callback_group=group),
            node.create_service(DescribeRegions, "describe_regions", self._on_describe, callback_group=group)]
        self._clicks = Clicks(node, frames, depth, scheduler, self._publish, is_active)
        self.texts = TextQuestions(node, scheduler, self._submit, self._publish, follow_up_s)

    def destroy(self) -> None:
        """Takes the interfaces back."""
        self._action.destroy()
        for service in self._services:
            self._node.destroy_service(service)
        self._clicks.destroy()
        self.texts.destroy()
        self._node.destroy_publisher(self._answers)
        self._node.destroy_publisher(self._answer_texts)
        # The action's server and this object hold each other, and an executor may hold the server for longer: neither
        # may keep a model.
        del self._frames, self._depth, self._scheduler

    def drain(self, limit_s: float) -> None:
        """Spins the node's executor until every open goal and request has its result; the scheduler has stopped.

        It may be called from a callback: what is in that callback's group waits, these interfaces do not.
        """
        executor, end = self._node.executor, time.monotonic() + limit_s
        while (executor is not None and (now := time.monotonic()) < end
               and (self._open or now - self._last_result_s < _LINGER_S)):
            try:
                # From 7.1.9 on, rclpy refuses `spin_once` within a callback, but not what that calls.
                getattr(executor, "_spin_once_impl", executor.spin_once)(_DRAIN_POLL_S)
            except Exception as error:  # of whatever callback: it must not keep the others from their results
                self._problems.report("callback failed", shown(error))
                time.sleep(_DRAIN_POLL_S)  # where it is the executor's own, the next comes at once
        if self._open:
            self._problems.report("request without a result", f"{self._open} at the end, after {limit_s:.0f} s")

    def statistics(self) -> dict[str, int]:
        """Counters since the start."""
        return {"goals received": self._goals_received,
                "goals whose acceptance was lost": self._goals_received - self._goals_accepted,
                "goals repeated": self._goals_repeated}

    # The ways in

    def _on_goal_request(self, request: Ask.Goal) -> GoalResponse:
        self._goals_received += 1
        return GoalResponse.ACCEPT

    def _on_accepted(self, goal: ServerGoalHandle) -> None:
        # Not called where the acceptance could not be sent: rclpy leaves such a goal alone.
        self._goals_accepted += 1
        self._open += 1
        goal.execute()

    async def _on_goal(self, goal: ServerGoalHandle) -> Ask.Result:
        query = goal.request.query
        try:
            if (earlier := self._earlier(goal)) is not None:
                self._goals_repeated += 1
                message = await _finished(earlier.answer, self._node.executor)
            else:
                asked = self._remember(query.query_id, _goal_name(goal))
                try:
                    answer = await self._answer(goal)
                except Exception as error:  # rclpy would respond with a result's defaults, which say OK
                    answer = Answer(Status.FAILED, "", shown(error), conversation_id=query.conversation_id,
                                    query_id=_goal_name(goal))
                message = self._publish(replace(answer, query_id=query.query_id or answer.query_id), query.format)
                asked.answer.set_result(message)
            if message.status == Status.OK:
                goal.succeed()
            elif message.status == Status.CANCELED and goal.is_cancel_requested:
                goal.canceled()
            else:
                goal.abort()
        finally:
            self._close_one()
        return Ask.Result(answer=message)

    def _remember(self, query_id: str, goal_name: str) -> _Asked:
        asked = _Asked(goal_name, futures.Future())
        if query_id:
            self._asked[query_id] = asked
            self._asked.move_to_end(query_id)
            if len(self._asked) > _REMEMBERED:
                self._asked.popitem(last=False)
        return asked

    def _earlier(self, goal: ServerGoalHandle) -> _Asked | None:
        """What a goal repeats, because its asker has got no acceptance of it."""
        return self._asked.get(goal.request.query.query_id) if goal.request.attempt else None

    async def _answer(self, goal: ServerGoalHandle) -> Answer:
        text = ""

        def on_text(piece: str) -> None:  # on the worker's thread
            nonlocal text
            text += piece
            goal.publish_feedback(Ask.Feedback(text=text))

        submitted = self._submit(goal.request.query, _goal_name(goal), on_text).future
        if goal.is_cancel_requested:  # before there was anything to cancel
            self._scheduler.cancel(_goal_name(goal))
        return await _finished(submitted, self._node.executor)

    def _on_cancel(self, goal: ServerGoalHandle) -> CancelResponse:
        earlier = self._earlier(goal)
        self._scheduler.cancel(_goal_name(goal) if earlier is None else earlier.goal)
        return CancelResponse.ACCEPT

    async def _on_question(self, request: AskQuestion.Request, response: AskQuestion.Response) -> AskQuestion.Response:
        query, name = request.query, uuid.uuid4().hex
        self._open += 1
        try:
            answer = await _finished(self._submit(query, name).future, self._node.executor)
        except Exception as error:  # a response's defaults say OK
            answer = Answer(Status.FAILED, "", shown(error), conversation_id=query.conversation_id)
        finally:
            self._close_one()
        response.answer = self._publish(replace(answer, query_id=query.query_id or name), query.format)
        return response

    async def _on_describe(self, request: DescribeRegions.Request,
                           response: DescribeRegions.Response) -> DescribeRegions.Response:
        self._open += 1
        try:
            response = await self._describe(request, response)
        except Exception as error:  # a response's defaults say OK
            response = DescribeRegions.Response(status=int(Status.FAILED), error=shown(error))
        finally:
            self._close_one()
        if response.status != Status.OK:
            self._problems.report(f"describe_regions {Status(response.status).name}", response.error)
        return response

    async def _describe(self, request: DescribeRegions.Request,
                        response: DescribeRegions.Response) -> DescribeRegions.Response:
        try:
            self._check_active()
            frame = self._frame(request.header)
            if frame is None:
                raise Refused(Status.NO_FRAME, "no image has arrived yet")
            if request.boxes:
                frame = replace(frame, regions=_drawn(replace(frame, regions=()), request.boxes))
            elif not frame.regions:
                raise Refused(Status.INVALID, f"no boxes are given and the frame of {frame.stamp_ns} ns has no "
                                               "detections")
        except Refused as refused:
            response.status, response.error = int(refused.status), str(refused)
        else:
            described = DescriptionRequest(frame=frame)
            self._scheduler.submit(described)
            result = await _finished(described.future, self._node.executor)
            response.status, response.error = int(result.status), result.error
            response.descriptions = descriptions_to_message(
                result, self._depth.positions(result.frame, result.frame.regions))
        return response

    # The common way

    def _close_one(self) -> None:
        self._open -= 1
        self._last_result_s = time.monotonic()

    def _submit(self, query: Query, query_id: str, on_text: Callable[[str], None] | None = None) -> Question:
        """The question, with its answer to come; one that is refused has come already."""
        self._clicks.on_question(query.text)
        question = Question(query.text, query_id, query.conversation_id, on_text)
        try:
            self._check_active()
            if query.format not in _FORMATS:
                raise Refused(Status.INVALID, f"format is {query.format[:40]!r}, expected text or json")
            frame = self._frame(query.header)
            if query.boxes:
                if frame is None and not query.conversation_id:
                    raise Refused(Status.NO_FRAME, "boxes are given but no image has arrived yet")
                question.draw = partial(_drawn, boxes=query.boxes)
            question.frame = frame
            if frame is not None:
                self._depth.hold(frame)  # by the time of the answer it may be too old to be kept otherwise
            self._scheduler.submit(question)
        except Refused as refused:
            _refuse(question, refused.status, str(refused))
        except Exception as error:  # whoever asks waits for an answer
            _refuse(question, Status.FAILED, shown(error))
        return question

    def _check_active(self) -> None:
        if not self._is_active():
            raise Refused(Status.FAILED, f"node {self._node.get_name()} is not active")

    def _frame(self, header: Header) -> Frame | None:
        """The frame a header speaks of; None where it asks for the newest and there is none."""
        stamp = stamp_ns(header.stamp)
        if stamp == 0:
            return self._frames.newest()
        frame = self._frames.find(stamp)
        if frame is None:
            newest = self._frames.newest()
            held = "none is held" if newest is None else f"the newest with boxes is of {newest.stamp_ns} ns"
            raise Refused(Status.NO_FRAME, f"no frame of stamp {stamp_text(header.stamp)} s is held; {held}")
        return frame

    def _positions(self, answer: Answer) -> Positions:
        named = {*answer.region_ids, *answer.evidence_ids}
        if answer.frame is None or not named:
            return NO_POSITIONS
        return self._depth.positions(answer.frame, [region for region in answer.frame.regions if region.id in named])

    def _publish(self, answer: Answer, text_format: str = "") -> AnswerMessage:
        """Publishes an answer, from whichever thread has it, and counts what was not served."""
        if answer.status == Status.OK and answer.error:
            self._problems.report("answer cut", answer.error)
        elif answer.status not in (Status.OK, Status.CANCELED):
            self._problems.report(f"query {answer.status.name}", answer.error)
        message = AnswerMessage(query_id=answer.query_id, status=int(Status.FAILED), error="the answer made no message")
        try:
            message = answer_to_message(answer, text_format, self._positions(answer))
            self._answers.publish(message)
            self._answer_texts.publish(String(data=answer_as_text(answer)))
        except Exception as error:  # a future, whose callback this may be, would keep it to itself
            self._problems.report("answer not published", shown(error))
        return message


def _refuse(question: Question, status: Status, error: str) -> None:
    question.result = question.refusal(status, error)
    question.resolve()


def _goal_name(goal: ServerGoalHandle) -> str:
    """The runtime's name for a goal's question; the asker's own id need not be unique."""
    return bytes(goal.goal_id.uuid).hex()


def _drawn(frame: Frame, boxes: list[Region]) -> tuple[RuntimeRegion, ...]:
    """The regions that an asker has drawn on a frame, beside its own."""
    height, width = frame.image.shape[:2]
    regions, refusals = regions_from_messages(boxes, frame.regions, width, height)
    if refusals:  # an operator's box, unlike a detector's, is missed at once when it is left out
        more = f" (and {len(refusals) - _SHOWN_REFUSALS} more)" if len(refusals) > _SHOWN_REFUSALS else ""
        raise Refused(Status.INVALID, "; ".join(refusals[:_SHOWN_REFUSALS]) + more)
    return regions
