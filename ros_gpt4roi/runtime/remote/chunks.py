"""What a server sends, read: the events of a text that grows, and its refusals."""
from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...printable import printable
from ..types import Status

if TYPE_CHECKING:
    import httpx2

LONGEST_EVENT = 1 << 16  # bytes
MOST_TEXT = 1 << 20  # bytes that a server may send for one text
MOST_REFUSAL = 1 << 14  # bytes of a refusal that are read
_SHOWN = 300  # characters of the server's own words
_DATA = re.compile(r"base64|[A-Za-z0-9+/]{80}")  # a picture, or a part of one
_SENT_AGAIN = 24  # characters of what was sent, by which it is known


class ServerError(Exception):
    """A text that the server has not written to its end.

    Args:
        status: What becomes of the text.
        reason: Why, in words for people; nothing of what was sent.
        gone: Whether the server cannot be reached, or only what stands in front of it.
    """

    def __init__(self, status: Status, reason: str, gone: bool = False):
        super().__init__(reason)
        self.status, self.gone = status, gone


@dataclass(frozen=True)
class Piece:
    """What an event adds to a text.

    Attributes:
        text: May be empty.
        probabilities: Of its tokens, where the server says them.
        ended: Whether the text ends with it.
        cut: Whether it ends because it has as many tokens as it may.
        filtered: Whether it ends because the server withholds what follows.
    """

    text: str
    probabilities: tuple[float, ...] = ()
    ended: bool = False
    cut: bool = False
    filtered: bool = False


def read_event(data: str) -> Piece:
    """Read one event.

    Args:
        data: The event's, a JSON object of OpenAI's `chat.completion.chunk`.

    Raises:
        ServerError: It is none, or tells of an error.
    """
    event = _json(data)
    if isinstance(event, dict) and event.get("error"):
        raise ServerError(Status.FAILED, f"the server failed in the middle of a text: {server_words(event)}")
    try:
        choices = event["choices"]
        if not choices:  # such as the last one, which counts tokens
            return Piece("")
        choice = choices[0]
        text, finish = (choice.get("delta") or {}).get("content") or "", choice.get("finish_reason")
        if not isinstance(text, str):
            raise TypeError
        return Piece(_whole(text), _probabilities(choice.get("logprobs")), finish is not None, finish == "length",
                     finish == "content_filter")
    except (KeyError, IndexError, TypeError, AttributeError, OverflowError):
        raise ServerError(Status.FAILED, "the server sent an event that is no part of a text, expected OpenAI's "
                                         "chat.completion.chunk") from None


def _json(data: str) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        raise ServerError(Status.FAILED, f"the server sent an event of {len(data)} characters that is no JSON"
                          ) from None


def _whole(text: str) -> str:
    """A text as it can be sent on: JSON may hold halves of characters, and a message of ROS ends at a zero."""
    return text.encode("utf-8", "replace").decode().replace("\0", "")


def _probabilities(logprobs: Any) -> tuple[float, ...]:
    given = [entry.get("logprob") for entry in (logprobs or {}).get("content") or ()]
    return tuple(math.exp(min(0.0, value)) for value in given if isinstance(value, (int, float)))


def server_words(content: Any, sent: Iterable[str] = ()) -> str:
    """A server's own words for an error, as far as they say nothing of what was sent.

    Args:
        content: The JSON value or the text that it sent.
        sent: Texts of the request.
    """
    found = content
    for key in ("error", "message", "detail"):
        if isinstance(found, dict) and key in found:
            found = found[key]
    words = " ".join((found if isinstance(found, str) else json.dumps(found, ensure_ascii=False)).split())
    repeated = any(part and part in words for text in sent for part in _parts(text))
    if repeated or _DATA.search(words):
        return "its words repeat what was sent, and are left out"
    return printable(words, _SHOWN) or "it does not say why"


def _parts(text: str) -> list[str]:
    text = " ".join(text.split())
    return [text[start:start + _SENT_AGAIN] for start in range(0, len(text), _SENT_AGAIN)
            if len(text) < _SENT_AGAIN or start + _SENT_AGAIN <= len(text)]


def retry_seconds(header: str) -> float | None:
    """The seconds of a Retry-After; None where it says none, or a date, by a clock that need not be ours."""
    return float(header) if header.isdecimal() and len(header) < 7 else None


async def content_of(response: httpx2.Response, most: int) -> Any:
    """A short answer, as far as it may be long: a JSON value, else text."""
    received = b""
    async for part in response.aiter_raw():
        received += part[:most - len(received)]
        if len(received) >= most:
            break
    try:
        return json.loads(received)
    except (ValueError, RecursionError):
        return received.decode("utf-8", "replace")
