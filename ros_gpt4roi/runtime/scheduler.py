"""One worker in front of a pipeline: newest frame wins, questions first, queues bounded, nobody without an answer."""
from __future__ import annotations

import logging
import math
import threading
import time
import uuid
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace

from .pipeline import Pipeline
from .request import Conversation, DescriptionRequest, Question, Refused
from .scheduler_config import SchedulerConfig as SchedulerConfig
from .types import Answer, Frame, FrameDescriptions, Region, Status

logger = logging.getLogger(__name__)
_IDLE_WAIT_S = 0.5  # how long an idle worker sleeps before it looks at deadlines and at `stop` by itself
_REFUSED = (Status.INVALID, Status.UNKNOWN_REGION)  # before a token of the answer
_DEFAULTS = SchedulerConfig()
_NAME_SHOWN = 64  # characters of a caller's name for something that an error repeats


class Scheduler:
    """Owns the pipeline while it runs: nobody else may call it between `start` and `stop`.

    Questions are served in the order they came, before frames, and join a decode that is going on at its next step; two
    of one conversation are served one after the other. Those of watches come next, one at a time, in one of the rows in
    which frames are described, so that neither keeps the other waiting for ever. Frames handed in while one is being
    described are dropped and counted, but for the newest. While a question is being decoded, be it a watch's, the next
    frame waits until as long has passed since the last one was encoded as encoding it took, not counting what the
    questions of people took to begin: frames slow an answer at most about twofold, and always get their turn. The
    methods are safe from any thread.
    """

    def __init__(self, pipeline: Pipeline, config: SchedulerConfig = _DEFAULTS,
                 on_descriptions: Callable[[FrameDescriptions], None] = lambda result: None,
                 clock: Callable[[], float] = time.monotonic):
        """Make a scheduler that does not run yet.

        Args:
            pipeline: What serves the requests.
            config: Limits.
            on_descriptions: Receives the result of every frame of `submit_frame` on the worker's thread, the
                unsuccessful ones too (see `status`), and must return at once.
            clock: A steady clock, in seconds.
        """
        self._pipeline, self.config, self._on_descriptions, self._clock = pipeline, config, on_descriptions, clock
        self._changed = threading.Condition()
        self._worker: threading.Thread | None = None
        self._running = False
        # Shared state, under _changed.
        self._questions: deque[Question] = deque()
        self._frames: deque[DescriptionRequest] = deque()  # somebody waits for each of these
        self._beginning: Question | DescriptionRequest | None = None  # in the pipeline's hands, not yet live
        self._newest: DescriptionRequest | None = None  # nobody does for this one: it is replaced by a newer
        self._frame: Frame | None = None  # the last of the stream
        self._open: dict[str, Question] = {}  # by id: those that wait and those that are decoded
        self._conversations: OrderedDict[str, Conversation] = OrderedDict()
        self._closed: list[str] = []  # conversations, whose caches the worker has still to give back
        self._replacement: tuple[Pipeline, Future[Pipeline]] | None = None
        self._counts: Counter[str] = Counter()
        self._frame_due = -math.inf  # when the next frame may begin beside a question; the worker's own

    # --- from any thread -----------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the worker.

        Raises:
            RuntimeError: It runs already.
        """
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
        with self._changed:
            requests = [*self._pipeline.live, *self._questions, *self._frames]
            if self._beginning is not None and self._beginning not in requests:
                requests.append(self._beginning)
            self._questions.clear()
            self._frames.clear()
            self._counts["frames_dropped"] += self._newest is not None
            self._newest = None
        self._end_all(requests, Status.CANCELED if ended else Status.FAILED, reason)
        if ended:
            self._pipeline.abandon()
            self._replace()
        return ended

    def replace(self, pipeline: Pipeline) -> Future[Pipeline]:
        """Let another pipeline serve what comes, once all that has begun is done.

        What waits is served by the new one. Open conversations end, since what was said in them is the old model's: to
        go on with one is INVALID. Where frames come, the new one describes the last of them first, on the calling
        thread: of the next, it then keeps what holds still, as the old one would have.

        Args:
            pipeline: Nothing else uses it.

        Returns:
            Gives the pipeline that served before, with nothing in its caches. Cancelled while it waits for what has
            begun, it lets that pipeline serve on.
        """
        if (frame := self._frame) is not None:
            pipeline.prepare(frame)
        replaced: Future[Pipeline] = Future()
        with self._changed:
            if self._replacement is not None and not self._replacement[1].cancelled():
                raise RuntimeError("a pipeline is being replaced already")
            self._replacement = pipeline, replaced
            running = self._running
            self._changed.notify_all()
        if not running:
            self._replace()
        return replaced

    def submit_frame(self, frame: Frame) -> None:
        """Hand in the newest frame of a stream; one that still waits is dropped and counted."""
        with self._changed:
            self._counts["frames_received"] += 1
            self._counts["frames_dropped"] += self._newest is not None or not self._running
            self._newest, self._frame = None, frame
            if self._running:
                self._newest = DescriptionRequest(frame=frame)
                self._newest.future.add_done_callback(lambda done: self._on_descriptions(done.result()))
            self._changed.notify_all()

    def submit(self, request: Question | DescriptionRequest) -> None:
        """Hand in a request: the request's future gives the result, also of one that cannot be served.

        A question without a conversation id opens a conversation about its frame; with one, that conversation's frame
        is meant. A description is of this very frame, and is served before the newest of `submit_frame`.
        """
        refused: Refused | None = None
        with self._changed:
            try:
                if isinstance(request, Question):
                    self._counts[f"{_whose(request)}questions_received"] += 1
                    self._accept_question(request)
                else:
                    self._counts["frames_received"] += 1
                    self._accept_frame(request)
                self._changed.notify_all()
            except Refused as refusal:
                refused = refusal
        if refused is not None:
            self._finish(request, request.refusal(refused.status, str(refused)))

    def _accept_frame(self, request: DescriptionRequest) -> None:
        if not self._running:
            raise Refused(Status.FAILED, "the scheduler does not run")
        if len(self._frames) >= self.config.queue_length:
            raise Refused(Status.OVERLOADED, f"{self.config.queue_length} frames wait already")
        request.deadline = self._clock() + self.config.description_timeout_s
        self._frames.append(request)

    def _accept_question(self, question: Question) -> None:
        question.id = question.id or uuid.uuid4().hex
        if not self._running:
            raise Refused(Status.FAILED, "the scheduler does not run")
        if question.id in self._open:
            raise Refused(Status.INVALID, f"query id {_short(question.id)} is in use, expected a new one")
        # Whoever hands in those of watches has at most one of each that waits.
        if not question.for_watch and self._waiting() >= self.config.queue_length:
            raise Refused(Status.OVERLOADED, f"{self.config.queue_length} questions wait already")
        question.conversation = self._conversation(question)
        question.deadline = self._clock() + self.config.answer_timeout_s
        self._open[question.id] = question
        self._questions.append(question)

    def _conversation(self, question: Question) -> Conversation:
        """The one that a question continues, or a new one."""
        if question.conversation_id:
            conversation = self._conversations.get(question.conversation_id)
            if conversation is None:
                raise Refused(Status.INVALID, f"conversation {_short(question.conversation_id)} is unknown or was "
                                              "closed, as all are by a change of the model; expected an open one, or "
                                              "none to open one")
            if question.draw is not None:
                self._add_regions(conversation, question, question.draw)
            self._conversations.move_to_end(conversation.id)
            return conversation
        if question.frame is None:
            raise Refused(Status.NO_FRAME, "there is no frame to ask about yet")
        frame = question.frame
        if question.draw is not None:  # drawn ones first: of equal scores, the first are shown
            drawn = question.draw(frame)
            frame, question.drawn = replace(frame, regions=drawn + frame.regions), tuple(region.id for region in drawn)
        if question.for_watch:
            return Conversation("", frame)
        if len(self._conversations) >= self.config.conversations:  # close the one that was unused for longest
            busy = {other.conversation.id for other in self._open.values() if other.conversation is not None}
            idle = next((name for name in self._conversations if name not in busy), None)
            if idle is None:
                raise Refused(Status.OVERLOADED, f"{self.config.conversations} conversations are busy")
            del self._conversations[idle]
            self._closed.append(idle)
        conversation = Conversation(uuid.uuid4().hex, frame)
        self._conversations[conversation.id] = conversation
        return conversation

    def _add_regions(self, conversation: Conversation, question: Question,
                     draw: Callable[[Frame], tuple[Region, ...]]) -> None:
        """Let the regions that come with a question join its conversation's, which keep their ids and places."""
        most = self._pipeline.model_config.prompt.max_regions

        def drawn(frame: Frame) -> tuple[Region, ...]:
            regions = draw(frame)
            if (added := frame.added + len(regions)) > most:
                raise Refused(Status.INVALID, f"conversation {_short(conversation.id)} would have {added} boxes beside "
                                              f"those that it began with, expected at most {most}")
            return regions

        question.drawn = tuple(region.id for region in conversation.add_regions(drawn))

    def _waiting(self) -> int:
        return sum(not question.for_watch for question in self._questions)

    def is_open(self, conversation_id: str) -> bool:
        """Whether a conversation can be continued."""
        with self._changed:
            return conversation_id in self._conversations

    def cancel(self, query_id: str) -> bool:
        """Stop a question within one decode step; False where none of that id is open."""
        with self._changed:
            question = self._open.get(query_id)
            if question is None:
                return False
            question.cancelled = True
            self._changed.notify_all()
            return True

    def statistics(self) -> dict[str, float]:
        """Counters since construction and the present state, for diagnostics."""
        with self._changed:
            numbers = {name: float(count) for name, count in sorted(self._counts.items())}
            waiting = self._waiting()
            numbers |= {"questions_waiting": float(waiting), "questions_open": float(len(self._open)),
                        "watch_questions_waiting": float(len(self._questions) - waiting),
                        "conversations": float(len(self._conversations)),
                        "worker_alive": float(self._worker is not None and self._worker.is_alive())}
        return numbers | self._pipeline.statistics()

    @property
    def pipeline(self) -> Pipeline:
        """What serves; other threads may use its adapters, its version and what troubles it only."""
        return self._pipeline

    @property
    def model_version(self) -> str:
        """Which model serves, with which adapter."""
        return self._pipeline.version_of(self._pipeline.adapters.serving)

    # --- the worker ----------------------------------------------------------------------------------------------

    def _work(self) -> None:
        while self._running:
            try:
                self._end_what_is_over()
                if self._replacement is not None and not self._pipeline.live:
                    self._replace()
                while self._replacement is None and self._running and (request := self._next()) is not None:
                    self._begin(request)
                if not self._pipeline.live:
                    self._sleep()
                    continue
                for request in self._pipeline.step():
                    self._finish(request)
            except Exception as error:  # out of memory, a driver's error: answer, clear up, go on
                logger.exception("the worker failed and is restarted")
                self._recover(error)

    def _replace(self) -> None:
        with self._changed:
            if self._replacement is None:
                return
            (pipeline, replaced), self._replacement = self._replacement, None
            if not replaced.set_running_or_notify_cancel():
                return
            old, self._pipeline = self._pipeline, pipeline
            waiting = [question for question in self._questions if question.conversation_id]
            for question in waiting:
                self._questions.remove(question)
            opening = {question.conversation.id for question in self._questions if question.conversation is not None}
            for name in self._conversations.keys() - opening:
                del self._conversations[name]
            self._closed.clear()
            self._counts["models_replaced"] += 1
        for question in waiting:
            self._finish(question, question.refusal(Status.INVALID, f"conversation {_short(question.conversation_id)} "
                                                    "was closed: the model was replaced; ask without an id"))
        old.reset()
        replaced.set_result(old)

    def _sleep(self) -> None:
        with self._changed:
            if self._running and not (self._questions or self._frames or self._newest):
                self._changed.wait(_IDLE_WAIT_S)

    def _end_what_is_over(self) -> None:
        """End what was cancelled or has had its time, and give back the caches of closed conversations."""
        now = self._clock()
        with self._changed:
            queued: list[Question | DescriptionRequest] = [*self._questions, *self._frames]
            waiting = [request for request in queued if request.over(now)]
            for request in waiting:
                self._questions.remove(request) if isinstance(request, Question) else self._frames.remove(request)
            closed, self._closed = self._closed, []
        for request in waiting:
            self._finish(request, request.refusal(*request.why_over))
        for request in self._pipeline.live:
            if request.over(now):
                request.end(*request.why_over)
        for conversation_id in closed:
            self._pipeline.forget_conversation(conversation_id)

    def _next(self) -> Question | DescriptionRequest | None:
        """What may begin: questions in order, as many as rows, one a conversation; one of a watch; a frame, if due."""
        live = [request for request in self._pipeline.live if isinstance(request, Question)]
        questions = [question for question in live if not question.for_watch]
        busy = {question.conversation.id for question in questions if question.conversation is not None}
        row_free = len(questions) < self._pipeline.config.decoding.question_rows
        watch_free = len(questions) == len(live)
        with self._changed:
            for question in sorted(self._questions, key=lambda question: question.for_watch):
                assert question.conversation is not None
                if watch_free if question.for_watch else row_free and question.conversation.id not in busy:
                    self._questions.remove(question)
                    return question
            if len(live) < len(self._pipeline.live) or (live and self._clock() < self._frame_due):
                return None  # a frame is being described, or frames have had their share
            if self._frames:
                return self._frames.popleft()
            request, self._newest = self._newest, None
        if request is not None:
            request.deadline = self._clock() + self.config.description_timeout_s
        return request

    def _begin(self, request: Question | DescriptionRequest) -> None:
        self._beginning, began = request, self._clock()
        try:
            self._pipeline.begin(request)
        except Refused as refusal:
            self._finish(request, request.refusal(refusal.status, str(refusal)))
        except Exception as error:  # the worker's; this request is nowhere else any more
            self._finish(request, request.refusal(Status.FAILED, _failure(error)))
            raise
        finally:
            self._beginning, now = None, self._clock()
            if isinstance(request, DescriptionRequest):
                self._frame_due = now + (now - began)
            elif not request.for_watch:  # which may have encoded a frame itself, and has got no token for it
                self._frame_due += now - began

    def _finish(self, request: Question | DescriptionRequest, result: Answer | FrameDescriptions | None = None) -> None:
        """Count a request that is done and hand out its result, or the one given."""
        result = result if result is not None else request.result
        assert result is not None
        request.result = result
        with self._changed:
            if isinstance(request, Question):
                if self._open.get(request.id) is request:
                    del self._open[request.id]
                self._counts[f"{_whose(request)}answers_{result.status.name.lower()}"] += 1
                # What joined the conversation with it leaves with it. No other round can speak of these regions yet.
                if result.status in _REFUSED and request.conversation_id and request.conversation and request.drawn:
                    request.conversation.remove_regions(request.drawn)
            elif isinstance(result, FrameDescriptions):
                self._counts[f"frames_{result.status.name.lower()}"] += 1
                self._counts["descriptions"] += len(result.descriptions)
                self._counts["descriptions_reused"] += sum(d.reused for d in result.descriptions)
        request.resolve()

    def _recover(self, error: Exception) -> None:
        with self._changed:
            self._counts["worker_restarts"] += 1
        failed = list(self._pipeline.live)
        try:
            self._pipeline.reset()
        except Exception:  # the device may be gone for good: every request then fails by itself, with its reason
            logger.exception("clearing up after the failure failed as well")
        self._end_all(failed, Status.FAILED, _failure(error))  # whoever learns of it finds the memory given back

    def _end_all(self, requests: list[Question | DescriptionRequest], status: Status, reason: str) -> None:
        for request in requests:
            request.end(status, reason)
            self._finish(request, request.refusal(status, reason))


def _whose(question: Question) -> str:
    """What the names of a question's counters begin with."""
    return "watch_" if question.for_watch else ""


def _failure(error: Exception) -> str:
    return f"the worker failed: {type(error).__name__}: {error}"


def _short(name: str) -> str:
    """A name for an error message: it comes from outside and may be of any length."""
    return repr(name if len(name) <= _NAME_SHOWN else f"{name[:_NAME_SHOWN]}… ({len(name)} characters)")
