"""What a page may send to the web console's server."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, TypeAdapter, ValidationError
from ros_gpt4roi_interfaces.msg import Correction, Region
from std_msgs.msg import Header

from ros_gpt4roi.messages import box_to_message

_MOST_BOXES = 16
_Text = Annotated[str, StringConstraints(max_length=4000)]
_Name = Annotated[str, StringConstraints(max_length=200)]
_Stamp = Annotated[str, StringConstraints(pattern=r"^\d{1,10}\.\d{9}$")]
_Coordinate = Annotated[float, Field(ge=-1e6, le=1e6)]


class CommandError(ValueError):
    """A message of a page that can't be carried out; the text names the field, its value and what was expected."""


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class Box(_Message):
    """A region that a person has drawn, or that something was said about."""

    id: _Name = ""
    box: tuple[_Coordinate, _Coordinate, _Coordinate, _Coordinate]

    def as_region(self) -> Region:
        """The message."""
        return Region(id=self.id, bbox=box_to_message(self.box))


class Hello(_Message):
    """The first message: who comes in."""

    type: Literal["hello"]
    token: _Text = ""


class Ask(_Message):
    """A question; `ask` is the page's own name for it."""

    type: Literal["ask"]
    ask: _Name
    text: _Text
    conversation: _Name = ""
    stamp: _Stamp | Literal[""] = ""
    boxes: list[Box] = Field(default_factory=list, max_length=_MOST_BOXES)


class Cancel(_Message):
    """An answer that nobody wants any more."""

    type: Literal["cancel"]
    ask: _Name


class Watch(_Message):
    """A question that is asked again and again; `watch` is the page's own name for it."""

    type: Literal["watch"]
    watch: _Name
    text: _Text
    boxes: list[Box] = Field(default_factory=list, max_length=_MOST_BOXES)


class Unwatch(_Message):
    """A watch that is to end."""

    type: Literal["unwatch"]
    watch: _Name


class Talk(_Message):
    """The button to talk is pressed or released; between them, binary messages hold 16-bit PCM of one channel."""

    type: Literal["talk"]
    on: bool
    rate: Annotated[int, Field(ge=4000, le=384_000)] = 16_000


class Pong(_Message):
    """The ping before a picture has come."""

    type: Literal["pong"]
    frame: int


class Acknowledge(_Message):
    """A picture has come."""

    type: Literal["ack"]
    frame: int


class Correct(_Message):
    """What a person says about a description or an answer."""

    type: Literal["correct"]
    about: _Name
    kind: Literal["description", "answer"]
    verdict: Literal["right", "wrong"]
    stamp: _Stamp
    frame_id: _Name = ""
    regions: list[Box] = Field(default_factory=list, max_length=_MOST_BOXES)
    conversation: _Name = ""
    query_id: _Name = ""
    question: _Text = ""
    said: _Text = ""
    right: _Text = ""
    who: _Name = ""

    def as_correction(self) -> Correction:
        """The message, without its time."""
        return Correction(
            header=header_of(self.stamp, self.frame_id),
            kind=Correction.DESCRIPTION if self.kind == "description" else Correction.ANSWER,
            verdict=Correction.RIGHT if self.verdict == "right" else Correction.WRONG,
            regions=[region.as_region() for region in self.regions], conversation_id=self.conversation,
            query_id=self.query_id, question=self.question, said=self.said, right=self.right, who=self.who)


class Explain(_Message):
    """Which training records a region resembles; `about` is the page's own name for the question."""

    type: Literal["explain"]
    about: _Name
    stamp: _Stamp
    frame_id: _Name = ""
    region: Box


Command = Hello | Ask | Cancel | Watch | Unwatch | Talk | Pong | Acknowledge | Correct | Explain
_ADAPTER: TypeAdapter[Command] = TypeAdapter(Annotated[Command, Field(discriminator="type")])


def read_command(data: str | bytes) -> Command:
    """Reads a page's message.

    Raises:
        CommandError: It is none.
    """
    try:
        return _ADAPTER.validate_json(data)
    except ValidationError as error:
        shown = (f"{'.'.join(map(str, item['loc'])) or 'message'}: {item['msg']} (got {item['input']!r:.60})"
                 for item in error.errors()[:3])
        raise CommandError("; ".join(shown)) from None


def header_of(stamp: str, frame_id: str = "") -> Header:
    """The header of a frame that a page named by its stamp."""
    if not re.fullmatch(r"\d+\.\d{9}", stamp):
        return Header()
    header = Header(frame_id=frame_id)
    seconds, _, nanoseconds = stamp.partition(".")
    header.stamp.sec, header.stamp.nanosec = min(int(seconds), 2**31 - 1), int(nanoseconds)
    return header
