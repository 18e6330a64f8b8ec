"""Folded text, and where in an English sentence a region's name may stand."""
from __future__ import annotations

import re
import unicodedata

# What things do, as in "can 2 fit in 3?" and "does this move?".
VERBS = frozenset("""
    move moved hold fall fallen open close fit touch contain support belong need weigh cost stand lie lean block hang
    roll float break bend burn work changed gone reach cover""".split())
_BEFORE_NAME = frozenset("""
    is are was were do does did has have describe compare name about in to than from between behind beside near under
    above below around with and or what's where's see show find like pick take grab grasp choose select identify
    inspect examine check explain me up can could will would should touch hold contain
    support block cover reach""".split())
_BEFORE_OF = frozenset("left right front top side color colour kind type material size shape which".split())
_AFTER_NAME = frozenset("""
    and or is are was than left right in on behind near next closer further larger smaller bigger taller the a an from
    to look looks have has do does called made still both between above below under beside not with please
    up used for doing""".split()) | VERBS


def fold(text: str) -> tuple[str, list[int]]:
    """The text in compatibility form without case, and for each of its characters, and its end, the place in `text`.

    A letter is folded together with the marks that follow it, so that both ways to write it become one; so is a run of
    white space.
    """
    folded, places, start = [], [], 0
    while start < len(text):
        end = start + 1
        while end < len(text) and (unicodedata.combining(text[end]) or "\u1160" <= text[end] <= "\u11ff"
                                   or text[start].isspace() and text[end].isspace()):
            end += 1
        piece = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text[start:end]).casefold())
        piece = " " if piece.isspace() else piece
        folded.append(piece)
        places += [start] * len(piece)
        start = end
    return "".join(folded), [*places, len(text)]


def word_before(folded: str, place: int) -> str:
    """The word or mark that stands before a place; empty at the beginning."""
    found = re.search(r"(?:[^\W\d_]+(?:'[a-z]+)?|\S) ?$", folded[max(0, place - 40):place])
    return found[0].strip() if found else ""


def word_after(folded: str, place: int) -> str:
    """The word or mark that stands after a place; empty at the end."""
    found = re.match(r" ?([^\W\d_]+|\S)", folded[place:place + 40])
    return found[1] if found else ""


def begins_name(folded: str, place: int) -> bool:
    """Whether a region's name may begin at a place, by the word before it; what was blotted out is a name."""
    before = word_before(folded, place)
    if before == "of":
        return word_before(folded, place - len("of ")) in _BEFORE_OF
    return before in _BEFORE_NAME or before in ("", "\0") or before in ",:;(\"“‘"


def ends_name(folded: str, place: int) -> bool:
    """Whether a region's name may end at a place, by the word after it."""
    after = word_after(folded, place)
    return after in _AFTER_NAME or after in ("", "\0") or after in ".?!,;:)\"”’"
