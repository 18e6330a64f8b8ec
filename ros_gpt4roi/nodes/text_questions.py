"""Questions on the topic `query_text`, whose texts go on with one conversation."""
from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from typing import Any

from rclpy.node import Node
from ros_gpt4roi_interfaces.msg import Query
from std_msgs.msg import String
from std_srvs.srv import Trigger

from ros_gpt4roi.runtime.request import Question
from ros_gpt4roi.runtime.scheduler import Scheduler
from ros_gpt4roi.runtime.types import Answer, Status

from .diagnostics import Problems
from .topics import question_events

_REFUSED = (Status.UNKNOWN_REGION, Status.INVALID)
_HISTORY = 1000  # of questions, whose senders wait for nothing: what the middleware drops, nobody would ever know


class TextQuestions:
    """The topic `query_text`, and the service `new_conversation` that ends its conversation.

    A String does not say who sent it: all that is sent on the topic comes from one asker.

    Args:
        node: Has the topic and the service.
        scheduler: Keeps the conversations.
        submit: Hands in a query under a name.
        publish: Takes the answers, on any thread.
        on_new_conversation: Is called where `new_conversation` ends one.
        problems: Receives what the middleware lost.
        follow_up_s: For so long after its first question a conversation is continued; 0: each text opens one.
    """

    def __init__(self, node: Node, scheduler: Scheduler, submit: Callable[[Query, str], Question],
                 publish: Callable[[Answer], Any], on_new_conversation: Callable[[], None],
                 problems: Problems, follow_up_s: float) -> None:
        self._node, self._scheduler, self._submit, self._publish = node, scheduler, submit, publish
        self._on_ended, self._follow_up_s = on_new_conversation, follow_up_s
        self._conversation, self._opened_s = "", 0.0
        # What was asked once more in a conversation of its own, and when: it is gone on with unless it is refused.
        self._retries: list[tuple[Question, float]] = []
        self._texts = node.create_subscription(String, "query_text", self._on_text, _HISTORY,
                                                event_callbacks=question_events(node, "query_text", problems))
        self._service = node.create_service(Trigger, "new_conversation", self._on_new_conversation)

    def destroy(self) -> None:
        """Takes the interfaces back."""
        self._node.destroy_subscription(self._texts)
        self._node.destroy_service(self._service)
        del self._scheduler, self._submit, self._publish  # an executor may hold this for longer than a model may stay

    def forget(self) -> None:
        """The next text opens a conversation."""
        self._conversation, self._retries = "", []

    def _on_new_conversation(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self._adopt()
        response.success = True
        response.message = "the next text opens a conversation" + (
            f"; it does not go on with {self._conversation}" if self._conversation else "")
        self.forget()
        self._on_ended()
        return response

    def _on_text(self, message: String) -> None:
        self._adopt()
        known = self._conversation and time.monotonic() - self._opened_s < self._follow_up_s
        if not (known and self._scheduler.is_open(self._conversation)):
            self.forget()
        self._ask(message.data, self._conversation)

    def _adopt(self) -> None:
        """Takes the conversation of the last that was asked once more and not refused."""
        for question, asked_s in self._retries:
            if question.future.done() and question.future.result().status not in _REFUSED and question.conversation:
                self._conversation, self._opened_s = question.conversation.id, asked_s
        self._retries = [retry for retry in self._retries if not retry[0].future.done()]

    def _ask(self, text: str, conversation_id: str, again: bool = False) -> None:
        question = self._submit(Query(text=text, conversation_id=conversation_id), uuid.uuid4().hex)
        if again:
            self._retries.append((question, time.monotonic()))
        elif not conversation_id and question.conversation is not None:
            self._conversation, self._opened_s = question.conversation.id, time.monotonic()

        def on_answer(answer: Answer) -> None:  # on the worker's thread
            executor = self._node.executor
            if conversation_id and answer.status == Status.UNKNOWN_REGION and executor is not None:
                # It may be a region of the newest frame, which is what somebody sees who asks.
                executor.create_task(self._ask, text, "", True)
            else:
                self._publish(answer)

        question.future.add_done_callback(lambda done: on_answer(done.result()))
