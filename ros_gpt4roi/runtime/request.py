"""What is asked of the model.

One object a request: a node hands it in, the scheduler orders it, the generator writes its texts, and its future gives
the node the result. A `Question` has one text, a `DescriptionRequest` one for each region that is described anew.
"""
from __future__ import annotations

import logging
import math
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Hashable
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, NamedTuple, Protocol, TypeVar

import numpy as np
import torch

from ..configuration import Configuration, setting
from ..model.picture import Pictures
from ..model.qwen3_vl import AnyVisionOutput
from .adapter_folder import Adapter
from .kv_cache import Prompt
from .pointing import Pointed
from .region_text import RegionText
from .reuse import Described
from .texts import Text
from .types import Answer, Frame, FrameDescriptions, Region, Status

logger = logging.getLogger(__name__)


class Refused(Exception):
    """A request that goes no further.

    Args:
        status: The status that its result carries.
        reason: Why, in words for the asker.
    """

    def __init__(self, status: Status, reason: str):
        super().__init__(reason)
        self.status = status


@dataclass(frozen=True)
class Sampling(Configuration):
    """How the next token is chosen."""

    temperature: float = setting(0.0, "Randomness of the choice of tokens; 0 always takes the likeliest.", at_least=0)
    top_p: float = setting(1.0, "Of the likeliest tokens, those that together have this probability are drawn from.",
                           more_than=0, at_most=1)
    seed: int = setting(0, "Seed of the choices.", at_least=0)


class TokenChoice(NamedTuple):
    """A token that was taken, and what it was taken from.

    Attributes:
        token: Its id.
        probability: Its probability under the model, 0 to 1.
        likeliest: The ids of the likeliest tokens at its place and their probabilities, the likeliest first.
    """

    token: int
    probability: float
    likeliest: list[tuple[int, float]]


@dataclass(eq=False)
class Sequence(Text[int]):
    """One text that the local generator writes: a row of its batch. What was generated are token ids.

    Attributes:
        prompt: Token ids of the prompt.
        embed: Gives the prompt's embeddings [L, D]; called when the sequence joins the batch.
        sampling: How tokens are chosen.
        draft: Token ids of an earlier text, tried ahead (prompt lookup decoding).
        cache_key: Name under which keys and values of prompt and text are kept when the text is complete.
        picture: Where pictures stand in the prompt, for a model with multi-axis rotary positions; None: a token's
            place is its position.
        top_k: So many of the likeliest tokens at each place are kept in `choices`; 0 keeps nothing.
        choices: Every token taken, the one that ended the text among them, where `top_k` is above 0.
        slots: Where its tokens lie in the cache; int64. The generator's own, as the following ones.
        suffix: Embeddings [n, D] of the prompt's tokens that are still to be fed.
        pending: The token that was chosen last and is fed next.
        random: Source of random numbers, where tokens are drawn.
    """

    prompt: Prompt
    embed: Callable[[], torch.Tensor]
    sampling: Sampling = Sampling()
    draft: tuple[int, ...] = ()
    cache_key: Hashable | None = None
    picture: Pictures | None = None
    top_k: int = field(default=0, init=False)
    choices: list[TokenChoice] = field(default_factory=list, init=False)
    slots: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64), init=False)
    suffix: torch.Tensor | None = field(default=None, init=False)
    pending: int = field(default=-1, init=False)
    random: torch.Generator | None = field(default=None, init=False)


@dataclass(eq=False)
class Conversation:
    """Rounds about one frame.

    Attributes:
        id: Its name; unique among those that are open.
        frame: What it is about, with the regions that have joined it.
        rounds: (question, answer) in the model's words, oldest first.
        subject: The id of the region that "it" and "this" mean: the last that was asserted; empty where several were.
        adapter: What the rounds were answered with.
    """

    id: str
    frame: Frame
    rounds: list[tuple[str, str]] = field(default_factory=list)
    subject: str = ""
    adapter: Adapter | None = None
    _joining: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    def add_regions(self, make: Callable[[Frame], tuple[Region, ...]]) -> tuple[Region, ...]:
        """Let regions join the frame, from any thread: those that people draw, and those that an answer finds.

        Args:
            make: Gives them, under ids that the frame has not. What it raises goes on.

        Returns:
            What it gave.
        """
        with self._joining:
            if added := make(self.frame):
                self.frame = self.frame.with_regions(added)
        return added

    def remove_regions(self, ids: Collection[str]) -> None:
        """Take regions that have joined the frame out of it."""
        with self._joining:
            self.frame = self.frame.without_regions(ids)


@dataclass(frozen=True, eq=False)
class EncodedFrame:
    """A frame after the vision stage.

    Attributes:
        frame: The frame.
        shown: The regions that the model sees, in the order of their places.
        omitted: The regions beyond the model's limit.
        refused: Why boxes of the frame could not be used; a text for each.
        points: Places, from 1, of the regions that are points.
        vision: Image tokens [1, T, D] and region embeddings [1, N, K, D].
        boxes: Of the regions that the model sees, x1 y1 x2 y2 in units of the image, float32 [N, 4].
        vision_key: Names the vision output of the frame, or of its base, to the prefix cache.
        region_keys: The same of each region, int64 [N]: what conversations have added differs between them.
        text: Translates between region ids and places.
        seconds: How long preprocessing and vision stage took.
    """

    frame: Frame
    shown: tuple[Region, ...]
    omitted: tuple[Region, ...]
    refused: tuple[str, ...]
    points: frozenset[int]
    vision: AnyVisionOutput
    boxes: np.ndarray
    vision_key: int
    region_keys: np.ndarray
    text: RegionText
    seconds: dict[str, float]


class AnswerReader(Protocol):
    """What turns a model's words about a frame into a reader's."""

    def to_user(self, text: str) -> str:
        """The model's text as people read it."""

    def unfinished(self, text: str) -> int:
        """How many last characters of a model's text may yet become something else by what follows."""

    def asserted(self, question: str, answer: str, meant: str = "",
                 complete: bool = True) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The ids of the regions that an answer asserts, and of those that it names as evidence."""


Result = TypeVar("Result", Answer, FrameDescriptions)


def _uncancellable() -> Future[Any]:
    future: Future[Any] = Future()
    future.set_running_or_notify_cancel()  # a request is cancelled by its id, so that the worker knows
    return future


@dataclass(eq=False, kw_only=True)
class Request(ABC, Generic[Result]):
    """What both kinds of requests have.

    Attributes:
        frame: What it is about.
        adapter: What it is served with, once it has begun; until then, what a first question asks for.
        deadline: When its time is over, by `time.monotonic`.
        cancelled: Whether its asker has taken it back.
        future: Gives the result. It never raises: a result says by its status what became of the request.
        encoded: The frame after the vision stage, once the request has begun.
        began: When it began to be decoded, by `time.perf_counter`.
        sequences: The texts that are written for it, each a `Text`.
        result: What came of it, once it is done.
        what: Its result in words.
    """

    what: ClassVar[str]
    frame: Frame | None = None
    adapter: Adapter | None = None
    deadline: float = math.inf
    cancelled: bool = False
    future: Future[Result] = field(default_factory=_uncancellable, init=False)
    encoded: EncodedFrame | None = field(default=None, init=False)
    began: float = field(default_factory=time.perf_counter, init=False)
    sequences: list[Any] = field(default_factory=list, init=False)
    result: Result | None = field(default=None, init=False)

    @property
    def done(self) -> bool:
        """Whether all texts have ended."""
        return all(sequence.status is not None for sequence in self.sequences)

    @property
    def status(self) -> Status:
        """That of the first text that did not end by itself, else OK."""
        return next((s.status for s in self.sequences if s.status not in (None, Status.OK)), Status.OK)

    @property
    def error(self) -> str:
        """Why it ended early."""
        return next((s.error for s in self.sequences if s.status not in (None, Status.OK)), "")

    def over(self, now: float) -> bool:
        """Whether it was cancelled, or its time is over at `now`."""
        return self.cancelled or now > self.deadline

    @property
    def why_over(self) -> tuple[Status, str]:
        """How it ends where it is over, and why."""
        if self.cancelled:
            return Status.CANCELED, "cancelled by the caller"
        return Status.TIMEOUT, f"the time for {self.what} was over"

    def end(self, status: Status, error: str) -> None:
        """Stop within one step; what was generated stays."""
        for sequence in self.sequences:
            sequence.end(status, error)

    @abstractmethod
    def refusal(self, status: Status, error: str) -> Result:
        """The result of a request that gets none from the model."""

    def resolve(self) -> None:
        """Hand the result to whoever waits for it."""
        assert self.result is not None
        try:
            self.future.set_result(self.result)
        except InvalidStateError:  # a scheduler that stopped has answered for a worker that was stuck
            logger.warning("a result came after its request had been answered")


@dataclass(eq=False)
class Question(Request[Answer]):
    """A question about a frame, or the next one of a conversation.

    Attributes:
        text: In a user's words; "region <id>" speaks of a region.
        id: Names it for `Scheduler.cancel`. The scheduler makes one up where there is none.
        conversation_id: The conversation it continues; empty opens one about `frame`.
        draw: Makes the regions that come with the question, given the conversation's frame; they join its regions.
            Called while the question is handed in; it may raise Refused.
        for_watch: Whether a watch asks it and nobody waits for it: it is served behind other questions, one at a time,
            and opens no conversation that could go on.
        on_text: Receives the answer as it grows, piece by piece, on the worker's thread: it must return at once.
        conversation: What `conversation_id` names; set by whoever keeps the conversations.
        subject: The id of the region that "it" and "this" mean in it, such as one that was clicked on. Where it is
            empty, it becomes that of the one region that came with the question, else the conversation's.
        drawn: The ids of the regions that came with it.
        asked: The question in the model's words, once it has begun.
        reader: Turns the model's words into a reader's, once it has begun.
        points_nowhere: Whether it was refused because it speaks of "this", and nothing is pointed at.
    """

    what: ClassVar[str] = "the answer"
    text: str
    id: str = ""
    conversation_id: str = ""
    on_text: Callable[[str], None] | None = None
    draw: Callable[[Frame], tuple[Region, ...]] | None = None
    for_watch: bool = False
    conversation: Conversation | None = None
    subject: str = ""
    drawn: tuple[str, ...] = field(default=(), init=False)
    asked: str = field(default="", init=False)
    reader: AnswerReader | None = field(default=None, init=False)
    points_nowhere: bool = field(default=False, init=False)

    def pointed(self) -> Pointed:
        """What it points at: what came with it, else what was asserted last, else the frame's only region."""
        conversation, encoded, shown = self.conversation, self.encoded, bool(self.subject or self.drawn)
        assert conversation is not None and encoded is not None
        ids = (self.subject,) if self.subject else self.drawn
        if not shown:
            self.subject = conversation.subject
        elif len(ids) == 1:
            self.subject = ids[0]
        if not ids:
            only = encoded.shown if len(encoded.shown) == 1 and not encoded.omitted else ()
            ids = (conversation.subject,) if conversation.subject else tuple(region.id for region in only)
        return Pointed(ids, shown, bool(conversation.rounds))

    def refusal(self, status: Status, error: str) -> Answer:
        """The answer to a question that has no complete one: the text so far, and why there is no more."""
        conversation = self.conversation
        return Answer(status, self.sequences[0].text if self.sequences else "", error, (), (),
                      conversation.id if conversation else self.conversation_id, self.id,
                      conversation.frame if conversation else None)


@dataclass(eq=False)
class DescriptionRequest(Request[FrameDescriptions]):
    """Descriptions of all regions of a frame.

    Attributes:
        embeddings_only: Whether the regions' embeddings are wanted and nothing is to be said of them.
        kept: For each region shown, the earlier description that still holds, or None.
    """

    what: ClassVar[str] = "a frame's descriptions"
    embeddings_only: bool = False
    kept: list[Described | None] = field(default_factory=list, init=False)

    def refusal(self, status: Status, error: str) -> FrameDescriptions:
        """No descriptions, and why."""
        if self.frame is None:
            raise ValueError("a request for descriptions without a frame")
        return FrameDescriptions(self.frame, (), status=status, error=error)
