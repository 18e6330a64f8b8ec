"""Questions and requests on their way from messages to the scheduler, and answers on their way back."""
from __future__ import annotations

import uuid
from collections import OrderedDict
from collections.abc import Callable
from concurrent import futures
from dataclasses import replace
from functools import partial
from typing import NamedTuple

from rclpy.action.server import ServerGoalHandle
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.lifecycle import LifecycleNode
from ros_gpt4roi_interfaces.action import Ask
from ros_gpt4roi_interfaces.msg import Answer as AnswerMessage
from ros_gpt4roi_interfaces.msg import Query, Region
from ros_gpt4roi_interfaces.srv import AskQuestion, DescribeRegions
from std_msgs.msg import Header, String

from ros_gpt4roi.messages import box_to_message, seconds_text, stamp_text
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
from .goals import HISTORY, OpenRequests, finished, goal_name, serve_action
from .process import shown
from .text_questions import TextQuestions
from .watches import Watches, WatchParameters

_REMEMBERED = 256  # queries whose repetitions get the same answer
_SHOWN_REFUSALS = 3
_FORMATS = ("", "text", "json")

class _Asked(NamedTuple):
    """A query that came over the action: the name of its goal, and the answer to come."""

    goal: str
    answer: futures.Future[AnswerMessage]


class Questions:
    """The ways to ask, `ask`, `ask_question`, `query_text`, `describe_regions`, `watch` and clicks, and the answers.

    No callback waits: the actions and the services are coroutines.

    Args:
        node: Whose topics, services and actions they are.
        frames: The frames that can be asked about.
        depth: Gives regions their positions.
        scheduler: Takes the questions.
        problems: Counts what is refused, for `/diagnostics`.
        is_active: Whether the node takes work.
        follow_up_s: See `TextQuestions`.
        watches: Limits of the watches.
    """

    def __init__(self, node: LifecycleNode, frames: FrameSource, depth: DepthSource, scheduler: Scheduler,
                 problems: Problems, is_active: Callable[[], bool], follow_up_s: float,
                 watches: WatchParameters) -> None:
        self._node = node
        self._frames = frames
        self._depth = depth
        self._scheduler = scheduler
        self._problems = problems
        self._is_active = is_active
        self.requests = OpenRequests(node, problems)
        self._goals_received = self._goals_accepted = self._goals_repeated = 0
        self._asked: OrderedDict[str, _Asked] = OrderedDict()  # by query id, the newest ones
        self._queries = node.create_publisher(Query, "queries", HISTORY)
        self._answers = node.create_publisher(AnswerMessage, "answers", HISTORY)
        self._answer_texts = node.create_publisher(String, "answer_text", HISTORY)
        # Reentrant, since a coroutine holds its group while it awaits the worker.
        self.group = group = ReentrantCallbackGroup()
        self._action = serve_action(node, Ask, "ask", group, self._on_goal, self._on_cancel,
                                    on_request=self._count_received, on_accepted=self._count_accepted)
        self._services = [
            node.create_service(AskQuestion, "ask_question", self._on_question, qos_profile=HISTORY,
                                callback_group=group),
            node.create_service(DescribeRegions, "describe_regions", self._on_describe, callback_group=group)]
        self._clicks = Clicks(node, frames, depth, scheduler, self._publish, self._tell_click, problems, is_active)
        self.texts = TextQuestions(node, scheduler, self._submit, self._publish, self._clicks.forget, problems,
                                   follow_up_s)
        self.watches = Watches(node, group, self.requests, problems, self._check_active, self._submit_for_watch,
                               scheduler.cancel, lambda answer, query: self._to_message(answer, query.format), watches)

    def destroy(self) -> None:
        """Takes the interfaces back."""
        self._action.destroy()
        for service in self._services:
            self._node.destroy_service(service)
        self._clicks.destroy()
        self.texts.destroy()
        self.watches.destroy()
        for publisher in (self._queries, self._answers, self._answer_texts):
            self._node.destroy_publisher(publisher)
        # The action's server and this object hold each other, and an executor may hold the server for longer: neither
        # may keep a model.
        del self._frames, self._depth, self._scheduler

    def stop(self) -> None:
        """The node takes no work any more."""
        self.texts.forget()
        self.watches.end_all(f"node {self._node.get_name()} is not active any more")

    def statistics(self) -> dict[str, int]:
        """Counters since the start."""
        return {**self.watches.statistics(), "goals received": self._goals_received,
                "goals whose acceptance was lost": self._goals_received - self._goals_accepted,
                "goals repeated": self._goals_repeated}

    # The ways in

    def _count_received(self) -> None:
        self._goals_received += 1

    def _count_accepted(self) -> None:
        self._goals_accepted += 1
        self.requests.begin()

    async def _on_goal(self, goal: ServerGoalHandle) -> Ask.Result:
        query = goal.request.query
        try:
            if (earlier := self._earlier(goal)) is not None:
                self._goals_repeated += 1
                message = await finished(earlier.answer, self._node.executor)
            else:
                asked = self._remember(query.query_id, goal_name(goal))
                try:
                    answer = await self._answer(goal)
                except Exception as error:  # rclpy would respond with a result's defaults, which say OK
                    answer = Answer(Status.FAILED, "", shown(error), conversation_id=query.conversation_id,
                                    query_id=goal_name(goal))
                message = self._publish(replace(answer, query_id=query.query_id or answer.query_id), query.format)
                asked.answer.set_result(message)
            if message.status == Status.OK:
                goal.succeed()
            elif message.status == Status.CANCELED and goal.is_cancel_requested:
                goal.canceled()
            else:
                goal.abort()
        finally:
            self.requests.end()
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

        submitted = self._submit(goal.request.query, goal_name(goal), on_text).future
        if goal.is_cancel_requested:  # before there was anything to cancel
            self._scheduler.cancel(goal_name(goal))
        return await finished(submitted, self._node.executor)

    def _on_cancel(self, goal: ServerGoalHandle) -> None:
        earlier = self._earlier(goal)
        self._scheduler.cancel(goal_name(goal) if earlier is None else earlier.goal)

    async def _on_question(self, request: AskQuestion.Request, response: AskQuestion.Response) -> AskQuestion.Response:
        query, name = request.query, uuid.uuid4().hex
        with self.requests.one():
            try:
                answer = await finished(self._submit(query, name).future, self._node.executor)
            except Exception as error:  # a response's defaults say OK
                answer = Answer(Status.FAILED, "", shown(error), conversation_id=query.conversation_id)
        response.answer = self._publish(replace(answer, query_id=query.query_id or name), query.format)
        return response

    async def _on_describe(self, request: DescribeRegions.Request,
                           response: DescribeRegions.Response) -> DescribeRegions.Response:
        with self.requests.one():
            try:
                response = await self._describe(request, response)
            except Exception as error:  # a response's defaults say OK
                response = DescribeRegions.Response(status=int(Status.FAILED), error=shown(error))
        if response.status != Status.OK:
            self._problems.report(f"describe_regions {Status(response.status).name}", response.error)
        return response

    async def _describe(self, request: DescribeRegions.Request,
                        response: DescribeRegions.Response) -> DescribeRegions.Response:
        try:
            self._check_active()
            frame = self.frame(request.header)
            if frame is None:
                raise Refused(Status.NO_FRAME, "no image has arrived yet")
            if request.boxes:
                frame = replace(frame, regions=drawn_regions(replace(frame, regions=()), request.boxes))
            elif not frame.regions:
                raise Refused(Status.INVALID, "no boxes are given and the frame of "
                                               f"{seconds_text(frame.stamp_ns)} s has no detections")
        except Refused as refused:
            response.status, response.error = int(refused.status), str(refused)
        else:
            described = DescriptionRequest(frame=frame)
            self._scheduler.submit(described)
            result = await finished(described.future, self._node.executor)
            response.status, response.error = int(result.status), result.error
            response.descriptions = descriptions_to_message(
                result, self._depth.positions(result.frame, [item.region for item in result.descriptions]))
        return response

    # The common way

    def _submit(self, query: Query, query_id: str, on_text: Callable[[str], None] | None = None) -> Question:
        """The question, with its answer to come; one that is refused has come already."""
        question = Question(query.text, query_id, query.conversation_id, on_text)
        # A conversation stays on its frame, which may have left the buffer long ago: the header is not looked at.
        known = self._scheduler.is_open(query.conversation_id)
        question.future.add_done_callback(lambda done: self._clicks.on_answer(question, done.result()))
        self._hand_in(question, query, lambda: None if known else self.frame(query.header))
        self._tell(question, query)
        return question

    def _tell(self, question: Question, query: Query) -> None:
        """Publishes a question as its answer names it: actions and services pass by those who record."""
        conversation = question.conversation
        frame = conversation.frame if conversation is not None else question.frame
        header = frame.header if frame is not None and isinstance(frame.header, Header) else query.header
        self._queries.publish(Query(header=header, query_id=query.query_id or question.id, text=query.text,
                                    conversation_id=conversation.id if conversation is not None else "",
                                    boxes=query.boxes, format=query.format))

    def _tell_click(self, frame: Frame, region: RuntimeRegion, text: str, name: str) -> None:
        header = frame.header if isinstance(frame.header, Header) else Header()
        self._queries.publish(Query(header=header, query_id=name, text=text,
                                    boxes=[Region(id=region.id, bbox=box_to_message(region.box))]))

    def _submit_for_watch(self, query: Query, frame: Frame) -> Question:
        return self._hand_in(Question(query.text, for_watch=True), query, lambda: frame)

    def _hand_in(self, question: Question, query: Query, frame_of: Callable[[], Frame | None]) -> Question:
        try:
            self._check_active()
            if query.format not in _FORMATS:
                raise Refused(Status.INVALID, f"format is {query.format[:40]!r}, expected text or json")
            frame = frame_of()
            if query.boxes:
                if frame is None and not question.conversation_id:
                    raise Refused(Status.NO_FRAME, "boxes are given but no image has arrived yet")
                question.draw = partial(drawn_regions, boxes=query.boxes)
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

    def frame(self, header: Header) -> Frame | None:
        """The frame a header speaks of; None where it asks for the newest and there is none. Raises Refused."""
        stamp = stamp_ns(header.stamp)
        if stamp == 0:
            return self._frames.newest()
        frame = self._frames.find(stamp)
        if frame is None:
            newest = self._frames.newest()
            held = ("none is held" if newest is None else
                    f"the newest with boxes is of {seconds_text(newest.stamp_ns)} s")
            raise Refused(Status.NO_FRAME, f"no frame of stamp {stamp_text(header.stamp)} s is held; {held}")
        return frame

    def _positions(self, answer: Answer) -> Positions:
        if answer.frame is None or not answer.regions:
            return NO_POSITIONS
        return self._depth.positions(answer.frame, answer.regions)

    def _to_message(self, answer: Answer, text_format: str) -> AnswerMessage:
        for refusal in answer.refused:
            self._problems.report("box of an answer refused", refusal)
        return answer_to_message(answer, text_format, self._positions(answer))

    def _publish(self, answer: Answer, text_format: str = "") -> AnswerMessage:
        """Publishes an answer, from whichever thread has it, and counts what was not served."""
        if answer.status == Status.OK and answer.error:
            self._problems.report("answer cut", answer.error)
        elif answer.status not in (Status.OK, Status.CANCELED):
            self._problems.report(f"query {answer.status.name}", answer.error)
        message = AnswerMessage(query_id=answer.query_id, status=int(Status.FAILED), error="the answer made no message")
        try:
            message = self._to_message(answer, text_format)
            self._answers.publish(message)
            self._answer_texts.publish(String(data=answer_as_text(answer)))
        except Exception as error:  # a future, whose callback this may be, would keep it to itself
            self._problems.report("answer not published", shown(error))
        return message


def _refuse(question: Question, status: Status, error: str) -> None:
    question.result = question.refusal(status, error)
    question.resolve()


def drawn_regions(frame: Frame, boxes: list[Region]) -> tuple[RuntimeRegion, ...]:
    """The regions that an asker has drawn on a frame, beside its own."""
    height, width = frame.image.shape[:2]
    regions, refusals = regions_from_messages(boxes, frame.regions, width, height)
    if refusals:  # an operator's box, unlike a detector's, is missed at once when it is left out
        more = f" (and {len(refusals) - _SHOWN_REFUSALS} more)" if len(refusals) > _SHOWN_REFUSALS else ""
        raise Refused(Status.INVALID, "; ".join(refusals[:_SHOWN_REFUSALS]) + more)
    return regions
