"""Boxes and points that stand in a model's text: what it has found in the picture, with the words for it.

`region_words` has the forms and where they are from. A text is read as far as it goes: of one that is cut, or that is
still being written, all complete boxes are found.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from .region_words import BOX_KEY, GRID, LABEL_KEY, POINT_KEY

Corners = tuple[float, float, float, float]

_LONGEST = 1000  # characters of an object; what is longer is a text of another kind
_LONGEST_LABEL = 100
_STRING = r'"(?:[^"\\]|\\.)*"'
_OBJECT = re.compile(rf'\{{\s*(?=")(?:[^{{}}"]|{_STRING})*\}}', re.DOTALL)
_NUMBER = r"-?\d{1,6}(?:\.\d{1,6})?"
_PAIR = re.compile(rf"\(\s?({_NUMBER}),\s?({_NUMBER})\s?\),?\s?\(\s?({_NUMBER}),\s?({_NUMBER})\s?\)")
_START = re.compile(r"(?P<fence>```(?:json)?\s*)?(?:(?P<list>\[\s*)(?=[\]{])|(?=\{))|(?P<pair>\()")
_NEXT = re.compile(r"\s*,?\s*(?=\{)")
_LIST_END, _FENCE_END = re.compile(r"\s*\]"), re.compile(r"\s*```")
# What may yet become one of these.
_OBJECT_BEGUN = re.compile(rf'\{{\s*(?="|\Z)(?:[^{{}}"]|{_STRING})*(?:"(?:[^"\\]|\\.)*\\?)?\Z', re.DOTALL)
_START_BEGUN = re.compile(r"(?:`{1,2}|```(?:j(?:s(?:on?)?)?)?\s*(?:\[\s*)?|\[\s*|\([-\d\s,.()]{0,40})\Z")
_MORE_BEGUN = re.compile(r"\s*(?:,\s*|`{0,2})\Z")
# Of what was cut: what begins an object, a box that was complete, and a first key that no box's object begins with.
_CUT = re.compile(r"```\w|(?:```)?\s*,?\s*[\[{]|\s*,?\s*\Z")
_CUT_PLACE = re.compile(rf'"(?:{BOX_KEY}|{POINT_KEY})"\s*:\s*\[[^\[\]]*\]')
_OTHER_KEY = re.compile(rf'\{{\s*"(?!(?:{BOX_KEY}|{POINT_KEY}|{LABEL_KEY})")[^"]*"\s*:')


@dataclass(frozen=True)
class Found:
    """A thing that a text gives a place to.

    Attributes:
        corners: x1 y1 x2 y2 in units of the picture, the part of the box that is in it, or x y x y of a point; None
            where what is given is no place in the picture.
        label: What the text calls it; may be empty.
        details: What else is said of it, as names and values.
        written: How the text gives it, for people; cut where it is long.
    """

    corners: Corners | None
    label: str
    details: tuple[tuple[str, str], ...]
    written: str


@dataclass(frozen=True)
class FoundThings:
    """Things that stand together in a text.

    Attributes:
        things: In their order; none where the text gives an empty list.
        listed: Whether they are a list, rather than one thing within a sentence.
        more: How many more there are, beyond the limit.
    """

    things: tuple[Found, ...]
    listed: bool
    more: int = 0


Part = str | FoundThings


def read_grounding(text: str, most: int) -> tuple[list[Part], str]:
    """Read a text in which things have boxes or points.

    Args:
        text: The model's, perhaps as far as it is written.
        most: So many things are read; the others are counted.

    Returns:
        The text in parts, words as they are and things, in their order; and its end, where that may become another
        part by what follows. The parts stay the same whatever follows.
    """
    parts: list[Part] = []
    done = place = count = 0  # up to where the text is in parts; where to look on; how many things there are
    while (start := _START.search(text, place)) is not None:
        read = _read_pair if start["pair"] else _read_block
        block = read(text, start, most - count)
        if block is None:
            place = start.end() + (not start["pair"])
            continue
        things, end, closed = block
        parts.append(text[done:start.start()])
        if things is not None:
            parts.append(things)
            count += len(things.things)
        if not closed:
            return [part for part in parts if part], text[end:]
        done = place = end
    begun = _START_BEGUN.search(text, max(place, len(text) - _LONGEST))
    end = begun.start() if begun else len(text)
    return [part for part in (*parts, text[done:end]) if part], text[end:]


def read_to_end(text: str, most: int) -> list[Part]:
    """The parts of a text that nothing follows: of its end the box, or the words; half an object is neither.

    Args:
        text: The model's.
        most: As `read_grounding` has it.
    """
    parts, end = read_grounding(text, most)
    last = parts[-1] if parts else ""
    before = last if isinstance(last, FoundThings) else None
    if before is not None and before.more:  # the end is what is counted
        return parts
    if (place := _CUT_PLACE.search(end)) and (found := _thing(f"{{{place[0]}}}")):
        if before is not None:
            return [*parts[:-1], FoundThings((*before.things, found), True)]
        return [*parts, FoundThings((found,)[:most], True, int(most < 1))]
    dropped = _CUT.match(end) and not _OTHER_KEY.search(end)
    return parts if dropped else [*parts, end]


# What stands from a place on: things (None where none is complete yet), where they end, and whether they do.
_Block = tuple[FoundThings | None, int, bool]


def _read_pair(text: str, start: re.Match[str], most: int) -> _Block | None:
    """Two corners in brackets, such as "(120, 80), (410, 620)"; None where there are none."""
    written = _PAIR.match(text, start.start())
    if written is None:
        return (None, start.start(), False) if _START_BEGUN.match(text, start.start()) else None
    found = Found(_corners([float(number) for number in written.groups()], 4), "", (), written[0])
    return FoundThings((found,)[:most], False, int(most < 1)), written.end(), True


def _read_block(text: str, start: re.Match[str], most: int) -> _Block | None:
    """JSON objects with boxes, by themselves, in a list or in a code block; None where the first is none of these."""
    things: list[Found] = []
    begin = end = kept = start.end()
    more = 0
    while (written := _OBJECT.match(text, begin, begin + _LONGEST)) is not None:
        found = _thing(written[0])
        if found is None and not (start["list"] and (things or more)):
            break
        end = written.end()
        if len(things) < most:
            things.append(found or Found(None, "", (), written[0][:_LONGEST_LABEL]))
            kept = end
        else:
            more += 1
        if (following := _NEXT.match(text, end)) is None:
            break
        begin = following.end()
    begun = written is None and len(text) - begin < _LONGEST and _OBJECT_BEGUN.match(text, begin)
    if not (things or more or start["list"] and text.startswith("]", end)):
        return (None, start.start(), False) if begun else None
    listed = bool(start["list"] or start["fence"] or len(things) + more > 1)
    closed = False
    for opened, closing in ((start["list"], _LIST_END), (start["fence"], _FENCE_END)):
        if opened and not begun:
            ending = closing.match(text, end)
            closed, end = ending is not None, ending.end() if ending else end
            if not closed:
                break
    closed = closed or not (begun or _MORE_BEGUN.match(text, end))
    return FoundThings(tuple(things), listed, more), end if closed or not more else kept, closed


@lru_cache(512)  # a text that grows is read again with each token
def _thing(written: str) -> Found | None:
    """The thing of a JSON object; None where it gives no box and no point."""
    try:
        fields = json.loads(written, parse_int=float, strict=False)  # no whole number is too long for a float
    except (ValueError, RecursionError):
        return None
    key = next((key for key in (BOX_KEY, POINT_KEY) if key in fields), None)
    if key is None:
        return None
    label = fields.get(LABEL_KEY)
    details = [(name.replace("_", " "), value if isinstance(value, str) else f"{value:g}")
               for name, value in fields.items()
               if name not in (BOX_KEY, POINT_KEY, LABEL_KEY) and isinstance(value, (str, float))]
    return Found(_corners(fields[key], 4 if key == BOX_KEY else 2), _words(label) if isinstance(label, str) else "",
                 tuple((_words(name), _words(value)) for name, value in details), written[:_LONGEST_LABEL])


def _words(text: str) -> str:
    """On one line, and not too long."""
    words = " ".join(text.split())
    return words if len(words) <= _LONGEST_LABEL else words[:_LONGEST_LABEL] + "…"


def _corners(given: Any, count: int) -> Corners | None:
    """The place of four numbers of a box, or of two of a point; None where they are none in the picture."""
    if not (isinstance(given, list) and len(given) == count
            and all(isinstance(number, float) and not math.isnan(number) for number in given)):
        return None
    if count == 2:
        x, y = (number / GRID for number in given)
        return (x, y, x, y) if 0 <= x <= 1 and 0 <= y <= 1 else None
    x1, y1, x2, y2 = (min(max(number, 0.0), float(GRID)) / GRID for number in given)
    return (x1, y1, x2, y2) if x1 < x2 and y1 < y2 else None
