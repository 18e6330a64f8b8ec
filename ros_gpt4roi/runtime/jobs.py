"""What is being decoded for one caller: the descriptions of a frame, or the answer to a question."""
from __future__ import annotations

import time
from collections.abc import Hashable
from dataclasses import dataclass, field

from ..model.gpt4roi import VisionOutput
from .language_stage import Finish, LanguageStage, Sequence
from .region_text import RegionText
from .reuse import Described, DescriptionReuse
from .types import Answer, Description, Frame, FrameDescriptions, Question, Region, Status

_ENDS = {Status.CANCELED: Finish.CANCELLED, Status.TIMEOUT: Finish.TIMEOUT, Status.FAILED: Finish.FAILED}


@dataclass(frozen=True, eq=False)
class EncodedFrame:
    """A frame after the vision stage. shown: the regions the model sees, in their places' order; omitted: the others.

    points: places, from 1, of the regions that are points. key names the vision output. seconds: how long preprocessing
    and vision stage took.
    """

    frame: Frame
    shown: tuple[Region, ...]
    omitted: tuple[Region, ...]
    points: frozenset[int]
    vision: VisionOutput
    key: Hashable
    text: RegionText
    seconds: dict[str, float]


@dataclass(eq=False)
class Conversation:
    """Rounds about one frame. rounds: (question, answer) in the model's words, oldest first."""

    id: str
    frame: Frame
    rounds: list[tuple[str, str]] = field(default_factory=list)


class _Job:
    """Sequences that belong to one caller. `poll` after every step; `done` when all of them have ended."""

    def __init__(self, sequences: list[Sequence], language: LanguageStage, text: RegionText):
        self.sequences = sequences
        self._streams = [language.stream(render=text.to_user, hold=RegionText.unfinished) for _ in sequences]
        self._seen = [0] * len(sequences)
        self._closed = [False] * len(sequences)
        self._status, self._error = Status.OK, ""

    @property
    def done(self) -> bool:
        return all(self._closed)

    def end(self, status: Status, error: str) -> None:
        """Stop within one step: CANCELED, TIMEOUT or FAILED. What was generated stays."""
        if not self.done and self._status is Status.OK:
            self._status, self._error = status, error
            for sequence in self.sequences:
                sequence.end(_ENDS[status])

    def poll(self) -> list[str]:
        """Bring the texts up to what was generated; the new text of each sequence."""
        new = [""] * len(self.sequences)
        for i, (sequence, stream) in enumerate(zip(self.sequences, self._streams)):
            final = sequence.finish is not None
            if self._closed[i] or (not final and len(sequence.generated) == self._seen[i]):
                continue
            self._seen[i], self._closed[i] = len(sequence.generated), final
            new[i] = stream.push(sequence.generated, final)
            if stream.stopped:
                sequence.end(Finish.STOP)
            if sequence.finish is Finish.FAILED and self._status is Status.OK:
                self._status, self._error = Status.FAILED, "the language model gave numbers that are not finite"
        return new


class DescriptionJob(_Job):
    """The descriptions of one frame. `kept` has the description that still holds for a region, by place, or None."""

    def __init__(self, encoded: EncodedFrame, kept: list[Described | None], sequences: list[Sequence],
                 language: LanguageStage, reuse: DescriptionReuse):
        super().__init__(sequences, language, encoded.text)
        self.encoded, self._kept, self._reuse = encoded, kept, reuse
        self._began, self._result = time.perf_counter(), None

    @property
    def frame(self) -> Frame:
        return self.encoded.frame

    def result(self) -> FrameDescriptions:
        """What was described; to be asked for once the job is done."""
        if self._result is None:
            seconds = {**self.encoded.seconds, "language": time.perf_counter() - self._began}
            self._result = FrameDescriptions(self.frame, tuple(self._descriptions()), seconds, self._status,
                                             self._error, self.encoded.omitted)
        return self._result

    def _descriptions(self) -> list[Description]:
        fresh = iter(zip(self.sequences, self._streams))
        descriptions = []
        embeddings = self.encoded.vision.region_embeddings[0]
        for region, kept, embedding in zip(self.encoded.shown, self._kept, embeddings):
            if kept is not None:
                descriptions.append(Description(region, kept.text, kept.confidence, reused=True))
                continue
            sequence, stream = next(fresh)
            if sequence.finish in (Finish.STOP, Finish.LENGTH):
                self._reuse.put(region.id, stream.text, sequence.confidence, tuple(sequence.generated), embedding,
                                self.frame.stamp_ns, self.encoded.text.mentioned(stream.raw))
            if sequence.finish in (Finish.STOP, Finish.LENGTH) or stream.text:
                descriptions.append(Description(region, stream.text, sequence.confidence))
        return descriptions


class AnswerJob(_Job):
    """The answer to one question of a conversation. asked: the question in the model's words."""

    def __init__(self, conversation: Conversation, question: Question, asked: str, encoded: EncodedFrame,
                 sequence: Sequence, language: LanguageStage):
        super().__init__([sequence], language, encoded.text)
        self.conversation, self.question, self.encoded = conversation, question, encoded
        self._asked, self._answer = asked, None

    @property
    def partial_text(self) -> str:
        return self._streams[0].text

    def poll(self) -> list[str]:
        new = super().poll()
        if new[0] and self.question.on_text is not None and self._status is Status.OK:
            try:
                self.question.on_text(new[0])
            except Exception as error:  # the listener's own; it must not take the worker down
                self.end(Status.CANCELED, f"the listener to query {self.question.query_id!r} failed: {error!r}")
        return new

    def result(self) -> Answer:
        """The answer; to be asked for once the job is done. A complete one becomes a round of the conversation."""
        if self._answer is None:
            sequence, stream = self.sequences[0], self._streams[0]
            error = self._error
            if self._status is Status.OK:
                self.conversation.rounds.append((self._asked, stream.raw.strip()))
                if sequence.finish is Finish.LENGTH:
                    error = f"the answer was cut after {len(sequence.generated)} tokens"
            self._answer = Answer(self._status, stream.text, error, self.encoded.text.mentioned(stream.raw),
                                  self.conversation.id, self.question.query_id, self.encoded.frame, sequence.confidence)
        return self._answer
