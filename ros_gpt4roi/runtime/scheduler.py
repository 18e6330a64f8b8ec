"""One worker in front of a pipeline: newest frame wins, questions first, queues bounded, nobody without an answer."""
from __future__ import annotations

import logging
import threading
import time
import uuid
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, replace

from ..configuration import Configuration, setting
from .jobs import AnswerJob, Conversation, DescriptionJob
from .pipeline import Pipeline, Refused, refusal_answer
from .types import Answer, Frame, FrameDescriptions, Question, Status

logger = logging.getLogger(__name__)
_IDLE_WAIT_S = 0.5  # how long an idle worker sleeps before it looks at deadlines and at `stop` by itself
_NAME_SHOWN = 64  # characters of a caller's name for something that an error repeats


@dataclass(frozen=True)
class SchedulerConfig(Configuration):
    """Limits of what is asked at the same time."""

    queue_length: int = setting(16, "Questions, and likewise pictures of describe_regions, that may wait; more are "
                                    "OVERLOADED.", at_least=1)
    answer_timeout_s: float = setting(30.0, "Time limit of an answer, from when the question came.", more_than=0,
                                      unit="seconds")
    description_timeout_s: float = setting(30.0, "Time limit of a frame's descriptions.", more_than=0, unit="seconds")
    conversations: int = setting(32, "Conversations that are remembered; for a new one, the one unused for longest is "
                                     "closed.", at_least=1)


@dataclass(eq=False)
class _Query:
    """An accepted question. `job` is there once it decodes."""

    question: Question
    conversation: Conversation
    future: Future[Answer]
    deadline: float
    cancelled: bool = False
    job: AnswerJob | None = None


@dataclass(eq=False)
class _Picture:
    """A frame to describe: for `describe_once` with a future, else for on_descriptions."""

    frame: Frame
    future: Future[FrameDescriptions] | None = None
    deadline: float = 0.0
    job: DescriptionJob | None = None


class Scheduler:
    """Owns the pipeline while it runs: nobody else may call it between `start` and `stop`.

    Questions are served in the order they came, before frames, and join a decode that is going on at its next step; two
    of one conversation are served one after the other. Frames handed in while one is being described are dropped and
    counted, but for the newest. on_descriptions receives every frame's result on the worker's thread, the unsuccessful
    ones too (see `status`), and must return at once. The methods are safe from any thread.
    """

    def __init__(self, pipeline: Pipeline, config: SchedulerConfig = SchedulerConfig(),
                 on_descriptions: Callable[[FrameDescriptions], None] = lambda result: None):
        self._pipeline, self.config, self._on_descriptions = pipeline, config, on_descriptions
        self._changed = threading.Condition()
        self._worker: threading.Thread | None = None
        self._running = False
        # Shared state, under _changed.
        self._waiting: deque[_Query] = deque()
        self._open: dict[str, _Query] = {}  # by query id: waiting and live
        self._newest: Frame | None = None
        self._once: deque[_Picture] = deque()
        self._conversations: OrderedDict[str, Conversation] = OrderedDict()
        self._counts: Counter[str] = Counter()
        # The worker's own.
        self._live: list[_Query] = []
        self._picture: _Picture | None = None

    # --- from any thread -----------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the worker. Raises RuntimeError where it runs already."""
        with self._changed:
            if self._worker is not None and self._worker.is_alive():
                raise RuntimeError("the scheduler runs already")
            self._running = True
            self._worker = threading.Thread(target=self._work, name="gpt4roi-worker", daemon=True)
            self._worker.start()

    def stop(self, timeout_s: float = 10.0) -> bool:
        """Stop within one step; what is open is answered CANCELED. False where the worker did not end in time."""
        with self._changed:
            self._running = False
            self._changed.notify_all()
            worker = self._worker
        if worker is not None:
            worker.join(timeout_s)
        ended = worker is None or not worker.is_alive()
        reason = "the scheduler was stopped" if ended else f"the worker did not stop within {timeout_s} s"
        self._answer_open(Status.CANCELED if ended else Status.FAILED, reason, also_waiting=True)
        return ended

    def submit_frame(self, frame: Frame) -> None:
        """Hand in the newest frame; one that still waits is dropped and counted."""
        with self._changed:
            self._counts["frames_received"] += 1
            self._counts["frames_dropped"] += self._newest is not None or not self._running
            self._newest = frame if self._running else None
            self._changed.notify_all()

    def describe_once(self, frame: Frame) -> Future[FrameDescriptions]:
        """Describe this very frame, before the newest one. The future never raises: see the result's status."""
        future = _uncancellable()
        with self._changed:
            status, reason = None, ""
            if not self._running:
                status, reason = Status.FAILED, "the scheduler does not run"
            elif len(self._once) >= self.config.queue_length:
                status, reason = Status.OVERLOADED, f"{self.config.queue_length} frames wait already"
            else:
                self._once.append(_Picture(frame, future, time.monotonic() + self.config.description_timeout_s))
                self._changed.notify_all()
        if status is not None:
            _resolve(future, FrameDescriptions(frame, (), status=status, error=reason))
        return future

    def submit_question(self, question: Question, frame: Frame | None) -> Future[Answer]:
        """Ask. An empty conversation id opens a conversation about `frame`; with an id, its own frame is meant.

        The future never raises: a question that cannot be asked resolves to an Answer that says why.
        """
        future = _uncancellable()
        if not question.query_id:
            question = replace(question, query_id=uuid.uuid4().hex)
        with self._changed:
            self._counts["questions_received"] += 1
            refusal = self._accept(question, frame, future)
            self._changed.notify_all()
        if refusal is not None:
            self._finish_question(future, refusal)
        return future

    def _accept(self, question: Question, frame: Frame | None, future: Future[Answer]) -> Answer | None:
        def refuse(status: Status, reason: str) -> Answer:
            return refusal_answer(question, status, reason)

        if not self._running:
            return refuse(Status.FAILED, "the scheduler does not run")
        if question.query_id in self._open:
            return refuse(Status.INVALID, f"query id {_short(question.query_id)} is in use, expected a new one")
        if question.timeout_s is not None and not question.timeout_s > 0:
            return refuse(Status.INVALID, f"timeout is {question.timeout_s}, expected more than 0 seconds")
        if len(self._waiting) >= self.config.queue_length:
            return refuse(Status.OVERLOADED, f"{self.config.queue_length} questions wait already")
        if question.conversation_id:
            conversation = self._conversations.get(question.conversation_id)
            if conversation is None:
                return refuse(Status.INVALID, f"conversation {_short(question.conversation_id)} is unknown or was "
                                              "closed, expected an open one, or none to open one")
            self._conversations.move_to_end(conversation.id)
        elif frame is None:
            return refuse(Status.NO_FRAME, "there is no frame to ask about yet")
        else:
            if not self._make_room():
                return refuse(Status.OVERLOADED, f"{self.config.conversations} conversations are busy")
            conversation = Conversation(uuid.uuid4().hex, frame)
            self._conversations[conversation.id] = conversation
        limit = self.config.answer_timeout_s
        timeout = limit if question.timeout_s is None else min(limit, question.timeout_s)
        query = _Query(question, conversation, future, time.monotonic() + timeout)
        self._open[question.query_id] = query
        self._waiting.append(query)
        return None

    def _make_room(self) -> bool:
        """Close the conversation unused for longest if there are too many; False where all are busy."""
        if len(self._conversations) < self.config.conversations:
            return True
        busy = {query.conversation.id for query in self._open.values()}
        idle = next((name for name in self._conversations if name not in busy), None)
        if idle is not None:
            del self._conversations[idle]
        return idle is not None

    def cancel(self, query_id: str) -> bool:
        """Stop a question within one decode step; False where none of that id is open."""
        with self._changed:
            query = self._open.get(query_id)
            if query is None:
                return False
            query.cancelled = True
            self._changed.notify_all()
            return True

    def statistics(self) -> dict[str, float]:
        """Counters since construction and the present state, for diagnostics."""
        with self._changed:
            numbers = {name: float(count) for name, count in sorted(self._counts.items())}
            numbers |= {"questions_waiting": float(len(self._waiting)), "questions_open": float(len(self._open)),
                        "conversations": float(len(self._conversations)),
                        "worker_alive": float(self._worker is not None and self._worker.is_alive())}
        return numbers | self._pipeline.statistics()

    # --- the worker ----------------------------------------------------------------------------------------------

    def _work(self) -> None:
        while self._running:
            try:
                self._begin()
                if self._live or self._picture:
                    self._pipeline.step()
                    self._collect()
                else:
                    self._sleep()
            except Exception as error:  # out of memory, a driver's error: answer, clear up, go on
                logger.exception("the worker failed and is restarted")
                self._recover(error)

    def _sleep(self) -> None:
        with self._changed:
            if self._running and not (self._waiting or self._once or self._newest):
                self._changed.wait(_IDLE_WAIT_S)

    def _begin(self) -> None:
        """Let what may start join the batch, and ask what is over its limits to leave."""
        now = time.monotonic()
        with self._changed:
            expired = [query for query in self._waiting if query.cancelled or now > query.deadline]
            for query in expired:
                self._waiting.remove(query)
            starting = self._next_questions()
            late = [picture for picture in self._once if now > picture.deadline]
            for picture in late:
                self._once.remove(picture)
        for query in expired:
            self._close(query, *_why(query))
        for picture in late:
            self._finish_picture(picture, FrameDescriptions(picture.frame, (), status=Status.TIMEOUT,
                                                            error="timed out before it began"))
        for query in self._live:
            if query.cancelled or now > query.deadline:
                query.job.end(*_why(query))
        for query in starting:
            self._live.append(query)  # before the work: a failure in it must find the query
            try:
                query.job = self._pipeline.begin_answer(query.conversation, query.question)
            except Refused as refusal:
                self._live.remove(query)
                self._close(query, refusal.status, str(refusal))
        self._begin_picture(now)

    def _next_questions(self) -> list[_Query]:
        """Waiting questions that may start: in order, as many as there are rows, one a conversation."""
        busy = {query.conversation.id for query in self._live}
        room = self._pipeline.config.decoding.question_rows - len(self._live)
        starting = []
        for query in list(self._waiting):
            if len(starting) >= room:
                break
            if query.conversation.id not in busy:
                busy.add(query.conversation.id)
                self._waiting.remove(query)
                starting.append(query)
        return starting

    def _begin_picture(self, now: float) -> None:
        if self._picture is not None:
            if self._picture.job is not None and now > self._picture.deadline:
                self._picture.job.end(Status.TIMEOUT, "the time for a frame's descriptions was over")
            return
        with self._changed:
            if self._once:
                self._picture = self._once.popleft()
            elif self._newest is not None:
                self._picture = _Picture(self._newest, None, now + self.config.description_timeout_s)
                self._newest = None
        if self._picture is not None:
            try:
                self._picture.job = self._pipeline.begin_description(self._picture.frame)
            except Refused as refusal:
                picture, self._picture = self._picture, None
                self._finish_picture(picture, FrameDescriptions(picture.frame, (), status=refusal.status,
                                                                error=str(refusal)))

    def _collect(self) -> None:
        """Stream what is new and hand out what is done."""
        for query in list(self._live):
            query.job.poll()
            if query.job.done:
                self._live.remove(query)
                with self._changed:
                    self._open.pop(query.question.query_id, None)
                self._finish_question(query.future, query.job.result())
        if self._picture is not None:
            self._picture.job.poll()
            if self._picture.job.done:
                picture, self._picture = self._picture, None
                self._finish_picture(picture, picture.job.result())

    def _recover(self, error: Exception) -> None:
        with self._changed:
            self._counts["worker_restarts"] += 1
        self._answer_open(Status.FAILED, f"the worker failed: {type(error).__name__}: {error}", also_waiting=False)
        try:
            self._pipeline.reset()
        except Exception:  # the device may be gone for good: every request then fails by itself, with its reason
            logger.exception("clearing up after the failure failed as well")

    def _answer_open(self, status: Status, reason: str, also_waiting: bool) -> None:
        """Answer what is live, and what waits too when the scheduler stops."""
        live, self._live = self._live, []
        picture, self._picture = self._picture, None
        pictures = [picture] if picture is not None else []
        with self._changed:
            if also_waiting:
                live += self._waiting
                pictures += self._once
                self._waiting.clear()
                self._once.clear()
                self._newest = None
        for query in live:
            if query.job is not None:
                query.job.end(status, reason)
            self._close(query, status, reason)
        for picture in pictures:
            if picture.job is not None:
                picture.job.end(status, reason)
            self._finish_picture(picture, FrameDescriptions(picture.frame, (), status=status, error=reason))

    def _close(self, query: _Query, status: Status, reason: str) -> None:
        """Answer a query whose job will not be asked for its result."""
        with self._changed:
            self._open.pop(query.question.query_id, None)
        partial = query.job.partial_text if query.job is not None else ""
        answer = refusal_answer(query.question, status, reason, query.conversation)
        self._finish_question(query.future, replace(answer, text=partial))

    def _finish_question(self, future: Future[Answer], answer: Answer) -> None:
        with self._changed:
            self._counts[f"answers_{answer.status.name.lower()}"] += 1
        _resolve(future, answer)

    def _finish_picture(self, picture: _Picture, result: FrameDescriptions) -> None:
        with self._changed:
            self._counts[f"frames_{result.status.name.lower()}"] += 1
            self._counts["descriptions"] += len(result.descriptions)
            self._counts["descriptions_reused"] += sum(d.reused for d in result.descriptions)
        if picture.future is not None:
            _resolve(picture.future, result)
            return
        try:
            self._on_descriptions(result)
        except Exception:  # the listener's own; it must not take the worker down
            logger.exception("the listener for descriptions failed")


def _why(query: _Query) -> tuple[Status, str]:
    if query.cancelled:
        return Status.CANCELED, "cancelled by the caller"
    return Status.TIMEOUT, "the time for the answer was over"


def _short(name: str) -> str:
    """A name for an error message: it comes from outside and may be of any length."""
    return repr(name if len(name) <= _NAME_SHOWN else f"{name[:_NAME_SHOWN]}… ({len(name)} characters)")


def _uncancellable() -> Future:
    future: Future = Future()
    future.set_running_or_notify_cancel()  # it is cancelled by query id, so that the worker knows
    return future


def _resolve(future: Future, result: object) -> None:
    try:
        future.set_result(result)
    except InvalidStateError:  # `stop` has answered for a worker that was stuck
        logger.warning("a result came after its request had been answered")
